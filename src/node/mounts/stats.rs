//! NodeGetVolumeStats.
//!
//! A file system whose device does not answer hangs whoever looks at it. So the look has a deadline of its own, it takes no lock
//! that anything else needs, and while one hangs no second one is begun on the same volume. A file system that gave up after an error is an
//! error here: how full it is says nothing then, and health is not advertised.

use std::path::PathBuf;

use csi_proto::csi::v1 as proto;
use proto::volume_usage::Unit;

use crate::csi::call::detached;
use crate::csi::error::{Fault, RequestError, no_such};
use crate::csi::locks::{Hold, Key};
use crate::csi::validate::{self, path};
use crate::node::answer;
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::pool::record::PublicationKind;
use crate::types::{Access, VolumeHandle, VolumeMode};

use super::fields::{STAGING_PATH, VOLUME_ID, VOLUME_PATH};
use super::presence::{MountedAt, is_node};
use super::refusal::at_field;
use super::volume_on_node::{VolumeOnNode, expected_access};

pub(super) struct Checked {
    handle: Option<VolumeHandle>,
    path: PathBuf,
}

pub(super) fn check(request: proto::NodeGetVolumeStatsRequest) -> Result<Checked, RequestError> {
    let handle = validate::volume_handle(VOLUME_ID, &request.volume_id)?;
    if !request.staging_target_path.is_empty() {
        path::absolute(STAGING_PATH, &request.staging_target_path)?;
    }
    Ok(Checked { handle, path: path::any(VOLUME_PATH, &request.volume_path)? })
}

pub(super) async fn stats(layer: &NodeLayer, checked: Checked) -> Result<proto::NodeGetVolumeStatsResponse, CallError> {
    let handle = checked.handle.ok_or_else(|| no_such(VOLUME_ID))?;
    let hangs = || RequestError::deadline(VOLUME_PATH, "the file system does not answer; look at its device");
    // Held by the thread that looks. Pods that share a volume are asked about at once, so looks share; a look that hangs takes
    // the key for itself.
    let guard = layer.locks.take(VOLUME_ID, Key::Statistics(handle), Hold::Shared).map_err(|error| match error.fault {
        Fault::InFlight => hangs(),
        Fault::Invalid
        | Fault::Unsupported
        | Fault::OutOfRange
        | Fault::NotFound
        | Fault::PoolElsewhere
        | Fault::AlreadyExists
        | Fault::Precondition
        | Fault::Exhausted
        | Fault::Token
        | Fault::Deadline => error,
    })?;
    let worker = layer.clone();
    let look = detached(move || {
        let _guard = guard;
        look(&worker, handle, &checked.path)
    });
    match tokio::time::timeout(layer.statistics_timeout, look).await {
        Ok(result) => result,
        Err(_) => {
            layer.locks.close(&Key::Statistics(handle));
            Err(hangs().into())
        }
    }
}

fn look(layer: &NodeLayer, handle: VolumeHandle, path: &std::path::Path) -> Result<proto::NodeGetVolumeStatsResponse, CallError> {
    let (pool, recorded) = layer.volume(VOLUME_ID, handle)?;
    let volume = VolumeOnNode::look(layer, &pool, recorded)?;
    let not_here = || RequestError::not_found(VOLUME_PATH, format!("the volume is not at {}", path.display()));
    let is_raw = match (volume.at(path), volume.record(path, PublicationKind::Staged)) {
        (MountedAt::Volume(entry), _) => {
            let expected = volume.live().find(|record| record.path == path).map(expected_access);
            entry.check_usable(expected.unwrap_or(Access::ReadOnly))?;
            is_node(entry)
        }
        (_, Some(record)) if record.mode == VolumeMode::Block => true,
        _ => return Err(not_here().into()),
    };
    if is_raw {
        let total = answer::size(volume.recorded.size);
        let usage = proto::VolumeUsage { available: 0, total, used: 0, unit: Unit::Bytes.into() };
        return Ok(proto::NodeGetVolumeStatsResponse { usage: vec![usage] });
    }
    let confined = at_field(VOLUME_PATH, layer.root.resolve(path))?;
    let stats = layer.mounter.stats(&confined.target())?;
    let bytes = proto::VolumeUsage {
        available: answer::bytes(stats.available_bytes),
        total: answer::bytes(stats.total_bytes),
        used: answer::bytes(stats.used_bytes),
        unit: Unit::Bytes.into(),
    };
    let inodes = proto::VolumeUsage {
        available: answer::bytes(stats.available_inodes),
        total: answer::bytes(stats.total_inodes),
        used: answer::bytes(stats.total_inodes.saturating_sub(stats.available_inodes)),
        unit: Unit::Inodes.into(),
    };
    // Btrfs has no fixed number of inodes, and says 0.
    let usage = if stats.total_inodes == 0 { vec![bytes] } else { vec![bytes, inodes] };
    Ok(proto::NodeGetVolumeStatsResponse { usage })
}
