//! DeleteVolume.
//!
//! A volume that is staged or published in this boot, or whose device is mounted anywhere, is not deleted. What an
//! interrupted NodeStage or a reboot left (a device nobody uses, records that are void) is cleared away first.

use csi_proto::csi::v1 as proto;

use crate::csi::error::RequestError;
use crate::csi::locks::{Hold, Key};
use crate::csi::validate;
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::node::mounts::VolumeOnNode;
use crate::types::VolumeHandle;

const VOLUME_ID: &str = "volume_id";

pub(super) fn check(request: proto::DeleteVolumeRequest) -> Result<Option<VolumeHandle>, RequestError> {
    validate::map("secrets", &request.secrets)?;
    validate::volume_handle(VOLUME_ID, &request.volume_id)
}

pub(super) fn delete(layer: &NodeLayer, handle: Option<VolumeHandle>) -> Result<proto::DeleteVolumeResponse, CallError> {
    let done = proto::DeleteVolumeResponse {};
    let Some(handle) = handle else { return Ok(done) };
    let pool = layer.pool(VOLUME_ID, handle.pool)?;
    let _lock = layer.locks.take(VOLUME_ID, Key::Volume(handle), Hold::Exclusive)?;
    // Also what is out of sight already: an earlier deletion may have been interrupted.
    let Some(volume) = pool.volume(handle.volume)? else {
        pool.delete_volume(handle.volume)?;
        return Ok(done);
    };
    let volume = VolumeOnNode::look(layer, &pool, volume)?;
    if let Some(path) = volume.first_use() {
        let reason = format!("is in use at {}; unpublish and unstage it first", path.display());
        return Err(RequestError::precondition(VOLUME_ID, reason).into());
    }
    volume.clear_void_records()?;
    volume.detach()?;
    pool.delete_volume(handle.volume)?;
    Ok(done)
}
