//! NodeExpandVolume: the file system grows to its device, which has grown in ControllerExpandVolume. A raw device has grown with it.

use std::path::PathBuf;

use csi_proto::csi::v1 as proto;

use crate::csi::error::{RequestError, no_such};
use crate::csi::validate::capability::{self, AccessType, Capability};
use crate::csi::validate::{self, path, size};
use crate::failpoint;
use crate::node::answer;
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::pool::record::PublicationKind;
use crate::types::{Access, CapacityRange, VolumeHandle, VolumeMode, VolumeSize};

use super::fields::{ACCESS_TYPE, CAPABILITY, STAGING_PATH, VOLUME_ID, VOLUME_PATH};
use super::presence::{MountedAt, fs_type_of};
use super::volume_on_node::VolumeOnNode;

pub(super) struct Checked {
    handle: Option<VolumeHandle>,
    path: PathBuf,
    range: CapacityRange,
    capability: Option<Capability>,
}

pub(super) fn check(request: proto::NodeExpandVolumeRequest) -> Result<Checked, RequestError> {
    let handle = validate::volume_handle(VOLUME_ID, &request.volume_id)?;
    let path = path::any(VOLUME_PATH, &request.volume_path)?;
    if !request.staging_target_path.is_empty() {
        path::absolute(STAGING_PATH, &request.staging_target_path)?;
    }
    let range = size::capacity(request.capacity_range.as_ref())?;
    let capability = request.volume_capability.as_ref().map(|entry| capability::capability(CAPABILITY, Some(entry)));
    validate::map("secrets", &request.secrets)?;
    Ok(Checked { handle, path, range, capability: capability.transpose()? })
}

pub(super) fn expand(layer: &NodeLayer, checked: Checked) -> Result<proto::NodeExpandVolumeResponse, CallError> {
    let locked = layer.lock_volume(VOLUME_ID, checked.handle.ok_or_else(|| no_such(VOLUME_ID))?)?;
    let volume = VolumeOnNode::look(layer, &locked.pool, locked.recorded)?;
    let size = volume.recorded.size;
    // The file system at the path; `None` for a raw device.
    let fs_type = match (volume.at(&checked.path), volume.record(&checked.path, PublicationKind::Staged)) {
        (MountedAt::Volume(entry), _) => fs_type_of(entry),
        (_, Some(record)) if record.mode == VolumeMode::Block => None,
        _ => {
            let reason = format!("the volume is not at {}", checked.path.display());
            return Err(RequestError::not_found(VOLUME_PATH, reason).into());
        }
    };
    let fits = |wanted: &AccessType| match (wanted, fs_type) {
        (AccessType::Block, None) => true,
        (AccessType::Mount { fs_type: wanted, .. }, Some(found)) => wanted.is_none_or(|wanted| wanted == found),
        (AccessType::Block, Some(_)) | (AccessType::Mount { .. }, None) => false,
    };
    if checked.capability.is_some_and(|capability| !fits(&capability.access_type)) {
        return Err(RequestError::invalid(ACCESS_TYPE, "does not match how the volume is used at this path").into());
    }
    let rounded = |bytes| VolumeSize::at_least(bytes);
    if checked.range.required().is_some_and(|required| rounded(required).map_or(true, |required| required > size)) {
        let reason = format!("must be at most {}, the size of the volume; expand it in the controller first", size.bytes());
        return Err(RequestError::out_of_range("capacity_range.required_bytes", reason).into());
    }
    if checked.range.limit().is_some_and(|limit| limit < size.bytes()) {
        let reason = format!("must not be less than {}, the size of the volume", size.bytes());
        return Err(RequestError::out_of_range("capacity_range.limit_bytes", reason).into());
    }
    if let (Some(fs_type), Some(attachment)) = (fs_type, &volume.attachment) {
        // Any mount that may write does: the asked-for path may be a read-only view.
        let writable = volume.mounts().find(|entry| entry.access() == Access::ReadWrite);
        let Some(entry) = writable else {
            return Err(RequestError::precondition(VOLUME_PATH, "the file system is mounted for readers only").into());
        };
        failpoint::around("node.grow", || layer.mounter.grow(&attachment.device, &entry.mount_point, fs_type))?;
    }
    Ok(proto::NodeExpandVolumeResponse { capacity_bytes: answer::size(size) })
}
