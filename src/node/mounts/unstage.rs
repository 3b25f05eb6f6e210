//! NodeUnstageVolume: unmount, detach, forget.
//!
//! By what is mounted and what the kernel has, whatever became of the pool (`teardown`). In this order, so that a crash leaves a void
//! record at most. What is not staged is a success, and a volume that does not exist is not staged: the kubelet would ask for ever. A
//! file system in use is an error. A device that somebody has open when all mounts are gone is unavailable: it is most likely looked at,
//! and the next call removes it.
//!
//! A volume that was filled as a raw device gives back the space that its zeros take, once, when nobody uses it any more: that goes on in the
//! background, and gives way to whatever wants the volume (`pool::owned::zeros`).
//!
//! Where the pool cannot say which other mounts are publications, the path is unmounted and the call refused until they are gone. So two
//! staging paths of one volume come off in either order.

use std::path::PathBuf;

use csi_proto::csi::v1 as proto;

use crate::csi::error::RequestError;
use crate::csi::locks::{Hold, Key};
use crate::csi::validate::{self, path};
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::pool::record::PublicationKind;
use crate::types::VolumeHandle;

use super::fields::{STAGING_PATH, VOLUME_ID};
use super::teardown::Teardown;

pub(super) struct Checked {
    handle: Option<VolumeHandle>,
    path: PathBuf,
}

pub(super) fn check(request: proto::NodeUnstageVolumeRequest) -> Result<Checked, RequestError> {
    let handle = validate::volume_handle(VOLUME_ID, &request.volume_id)?;
    Ok(Checked { handle, path: path::absolute(STAGING_PATH, &request.staging_target_path)? })
}

pub(super) fn unstage(
    layer: &NodeLayer,
    Checked { handle, path }: Checked,
) -> Result<proto::NodeUnstageVolumeResponse, CallError> {
    let done = Ok(proto::NodeUnstageVolumeResponse {});
    let Some(handle) = handle else { return done };
    let pool = layer.pool(VOLUME_ID, handle.pool).ok();
    let _lock = layer.locks.take(VOLUME_ID, Key::Volume(handle), Hold::Exclusive)?;
    let teardown = Teardown::look(layer, pool.as_deref(), handle)?;

    let others = teardown.live().filter(|record| record.path != path);
    let (staged, published): (Vec<_>, Vec<_>) = others.partition(|record| record.kind == PublicationKind::Staged);
    if let (true, Some(record)) = (staged.is_empty(), published.first()) {
        let reason = format!("is still published at {}", record.path.display());
        return Err(RequestError::precondition(VOLUME_ID, reason).into());
    }
    let is_last = staged.is_empty();
    teardown.unmount(STAGING_PATH, &path)?;
    if is_last {
        teardown.detach(VOLUME_ID)?;
    }
    teardown.forget(&path);
    if let (true, Some(pool)) = (is_last, &pool) {
        pool.give_zeros_back_soon(handle.volume);
    }
    done
}
