//! NodeUnstageVolume: unmount, detach, forget.
//!
//! In this order, so that a crash leaves a void record at most. What is not staged is a success, and a volume that does not exist
//! is not staged: the kubelet would ask for ever. A file system in use is an error.

use std::path::PathBuf;

use csi_proto::csi::v1 as proto;

use crate::csi::error::{CallError, RequestError};
use crate::csi::locks::{Hold, Key};
use crate::csi::node_layer::NodeLayer;
use crate::csi::validate::{self, path};
use crate::pool::record::PublicationKind;
use crate::types::VolumeHandle;

use super::situation::{At, Situation};
use super::{STAGING_PATH, VOLUME_ID, occupied};

pub(super) struct Checked {
    handle: Option<VolumeHandle>,
    path: PathBuf,
}

pub(super) fn check(_: &NodeLayer, request: proto::NodeUnstageVolumeRequest) -> Result<Checked, RequestError> {
    let handle = validate::volume_handle(VOLUME_ID, &request.volume_id)?;
    Ok(Checked { handle, path: path::absolute(STAGING_PATH, &request.staging_target_path)? })
}

pub(super) fn unstage(
    layer: &NodeLayer,
    Checked { handle, path }: Checked,
) -> Result<proto::NodeUnstageVolumeResponse, CallError> {
    let done = Ok(proto::NodeUnstageVolumeResponse {});
    let Some(handle) = handle else { return done };
    let pool = &layer.pool(VOLUME_ID, handle.pool)?;
    let _lock = layer.locks.take(VOLUME_ID, Key::Volume(handle), Hold::Exclusive)?;
    let Some(volume) = pool.volume(handle.volume)? else { return done };
    let situation = Situation::look(layer, pool, volume)?;

    let others = situation.live().filter(|record| record.path != path);
    let (staged, published): (Vec<_>, Vec<_>) = others.partition(|record| record.kind == PublicationKind::Staged);
    if let (true, Some(record)) = (staged.is_empty(), published.first()) {
        let reason = format!("is still published at {}", record.path.display());
        return Err(RequestError::precondition(VOLUME_ID, reason).into());
    }
    match situation.at(&path) {
        At::Other(entry) => return Err(occupied(STAGING_PATH, &path, &entry.source)),
        At::Volume(_) => situation.unmount(&path)?,
        At::Nothing => {}
    }
    if staged.is_empty() {
        let now = Situation::look(layer, pool, situation.volume.clone())?;
        if let Some(entry) = now.mounts().next() {
            let reason = format!("is still mounted at {}", entry.mount_point.display());
            return Err(RequestError::precondition(VOLUME_ID, reason).into());
        }
        now.detach()?;
    }
    situation.remove_record(&path)?;
    done
}
