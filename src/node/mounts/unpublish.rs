//! NodeUnpublishVolume: unmount, remove the target, forget.
//!
//! By what is mounted, whatever became of the pool (`teardown`). What is not mounted is a success, and its empty target goes all the
//! same. Nothing is ever removed but an empty file or directory.

use std::path::PathBuf;

use csi_proto::csi::v1 as proto;

use crate::csi::error::RequestError;
use crate::csi::locks::{Hold, Key};
use crate::csi::validate::{self, path};
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::types::VolumeHandle;

use super::fields::{TARGET_PATH, VOLUME_ID};
use super::target;
use super::teardown::Teardown;

pub(super) struct Checked {
    handle: Option<VolumeHandle>,
    path: PathBuf,
}

pub(super) fn check(request: proto::NodeUnpublishVolumeRequest) -> Result<Checked, RequestError> {
    let handle = validate::volume_handle(VOLUME_ID, &request.volume_id)?;
    Ok(Checked { handle, path: path::absolute(TARGET_PATH, &request.target_path)? })
}

pub(super) fn unpublish(
    layer: &NodeLayer,
    Checked { handle, path }: Checked,
) -> Result<proto::NodeUnpublishVolumeResponse, CallError> {
    let done = Ok(proto::NodeUnpublishVolumeResponse {});
    let Some(handle) = handle else { return done };
    let pool = layer.pool(VOLUME_ID, handle.pool).ok();
    let _lock = layer.locks.take(VOLUME_ID, Key::Volume(handle), Hold::Exclusive)?;
    let teardown = Teardown::look(layer, pool.as_deref(), handle)?;
    teardown.unmount(TARGET_PATH, &path)?;
    target::remove(layer, &path)?;
    teardown.forget(&path);
    done
}
