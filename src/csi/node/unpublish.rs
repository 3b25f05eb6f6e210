//! NodeUnpublishVolume: unmount, remove the target, forget.
//!
//! What is not mounted is a success, and its empty target goes all the same. Nothing is ever removed but an empty file or
//! directory.

use std::path::PathBuf;

use csi_proto::csi::v1 as proto;

use crate::csi::error::{CallError, RequestError};
use crate::csi::locks::{Hold, Key};
use crate::csi::node_layer::NodeLayer;
use crate::csi::validate::{self, path};
use crate::types::VolumeHandle;

use super::situation::{At, Situation};
use super::{TARGET_PATH, VOLUME_ID, occupied, remove_target};

pub(super) struct Checked {
    handle: Option<VolumeHandle>,
    path: PathBuf,
}

pub(super) fn check(_: &NodeLayer, request: proto::NodeUnpublishVolumeRequest) -> Result<Checked, RequestError> {
    let handle = validate::volume_handle(VOLUME_ID, &request.volume_id)?;
    Ok(Checked { handle, path: path::absolute(TARGET_PATH, &request.target_path)? })
}

pub(super) fn unpublish(
    layer: &NodeLayer,
    Checked { handle, path }: Checked,
) -> Result<proto::NodeUnpublishVolumeResponse, CallError> {
    let done = Ok(proto::NodeUnpublishVolumeResponse {});
    let Some(handle) = handle else { return done };
    let pool = &layer.pool(VOLUME_ID, handle.pool)?;
    let _lock = layer.locks.take(VOLUME_ID, Key::Volume(handle), Hold::Exclusive)?;
    let Some(volume) = pool.volume(handle.volume)? else { return done };
    let situation = Situation::look(layer, pool, volume)?;
    match situation.at(&path) {
        At::Other(entry) => return Err(occupied(TARGET_PATH, &path, &entry.source)),
        At::Volume(_) => situation.unmount(&path)?,
        At::Nothing => {}
    }
    remove_target(layer, &path)?;
    situation.remove_record(&path)?;
    done
}
