//! Refusals that several calls give.

use std::path::Path;

use crate::csi::error::RequestError;
use crate::csi::validate::capability::{Capability, serves};
use crate::mount::MountError;
use crate::node::error::CallError;
use crate::pool::record::Volume;
use crate::types::VolumeMode;

use super::fields::{ACCESS_MODE, ACCESS_TYPE, MOUNT_FLAGS};

/// A path of a request that cannot be resolved is refused by its `field`.
pub(super) fn at_field<T>(field: &'static str, resolved: Result<T, MountError>) -> Result<T, CallError> {
    resolved.map_err(|error| match error {
        MountError::Path { reason, .. } => RequestError::invalid(field, reason).into(),
        MountError::NotFound(path) => RequestError::precondition(field, format!("{} does not exist", path.display())).into(),
        error => error.into(),
    })
}

/// Mount flags that cannot be given are refused by their field.
pub(super) fn at_mount_flags(mounted: Result<(), MountError>) -> Result<(), CallError> {
    mounted.map_err(|error| match error {
        MountError::Option(_) | MountError::OptionRefused { .. } => RequestError::invalid(MOUNT_FLAGS, error.to_string()).into(),
        error => error.into(),
    })
}

/// Something else is mounted at `path`.
pub(super) fn occupied(field: &'static str, path: &Path, by: &Path) -> CallError {
    RequestError::precondition(field, format!("{} is mounted at {}, and is not this volume", by.display(), path.display())).into()
}

/// Refuses a capability that the volume was not made for.
pub(super) fn check_capability(volume: &Volume, capability: &Capability) -> Result<(), RequestError> {
    if !serves(&volume.access_modes, capability.access_mode) {
        return Err(RequestError::precondition(ACCESS_MODE, "asks for more access than the volume was created with"));
    }
    if !capability.access_type.fits(volume.mode) {
        let made = match volume.mode {
            VolumeMode::Block => "a raw block device".to_owned(),
            VolumeMode::Filesystem(fs_type) => format!("a file system of type {fs_type}"),
        };
        return Err(RequestError::precondition(ACCESS_TYPE, format!("does not match: the volume is {made}")));
    }
    Ok(())
}
