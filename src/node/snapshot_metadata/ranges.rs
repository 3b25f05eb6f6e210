//! From handles to the ranges of a pool, with the leases that keep them true.

use std::sync::Arc;

use crate::csi::error::{RequestError, no_such};
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::pool::PoolError;
use crate::pool::owned::{Lease, OwnedPool};
use crate::pool::record::Snapshot;
use crate::types::{RangeStream, SnapshotHandle, SnapshotId, Timestamp};

use super::request::{BASE_ID, SNAPSHOT_ID, STARTING_OFFSET, SnapshotPair, TARGET_ID};

/// The answer of a pool. The snapshot is held until this is dropped.
pub(super) struct Ranges {
    /// As the pool lists them: `messages` checks their order.
    pub ranges: RangeStream,
    /// The snapshot that they are ranges of.
    pub lease: Lease,
    /// Its pool.
    pub pool: Arc<OwnedPool>,
}

/// The ranges of a snapshot that may hold anything but zeros.
pub(super) fn allocated(layer: &NodeLayer, snapshot: Option<SnapshotHandle>, start_bytes: u64) -> Result<Ranges, CallError> {
    let (pool, lease) = lease(layer, SNAPSHOT_ID, snapshot, start_bytes)?;
    let ranges = lease.allocated()?;
    Ok(Ranges { ranges, lease, pool })
}

/// The ranges in which the target may differ from the base.
/// A base of another volume or younger than the target is refused.
pub(super) fn delta(layer: &NodeLayer, pair: SnapshotPair, start_bytes: u64) -> Result<Ranges, CallError> {
    let (pool, lease) = lease(layer, TARGET_ID, pair.target, start_bytes)?;
    let base = pair.base.ok_or_else(|| no_such(BASE_ID))?;
    let ranges = changed_since(&pool, &lease, base.snapshot)?;
    Ok(Ranges { ranges, lease, pool })
}

fn lease(
    layer: &NodeLayer,
    field: &'static str,
    handle: Option<SnapshotHandle>,
    start_bytes: u64,
) -> Result<(Arc<OwnedPool>, Lease), CallError> {
    let handle = handle.ok_or_else(|| no_such(field))?;
    let pool = layer.pool(field, handle.pool)?;
    let lease = pool.lease(handle.snapshot).map_err(|error| missing(field, error))?;
    let size_bytes = lease.size().bytes();
    if start_bytes > size_bytes {
        let reason = format!("is {start_bytes}, beyond the end of the snapshot at {size_bytes}");
        return Err(RequestError::out_of_range(STARTING_OFFSET, reason).into());
    }
    Ok((pool, lease))
}

/// The record of a base: a snapshot, or one that was deleted and kept as an anchor.
fn base(pool: &OwnedPool, id: SnapshotId) -> Result<Snapshot, CallError> {
    if let Some(snapshot) = pool.snapshot(id)? {
        return Ok(snapshot);
    }
    // The anchors last: a snapshot that becomes one meanwhile is found there.
    let anchor = pool.anchors()?.into_iter().find(|anchor| anchor.snapshot.id == id);
    Ok(anchor.ok_or_else(no_base)?.snapshot)
}

/// What changed since a base.
fn changed_since(pool: &OwnedPool, target: &Lease, id: SnapshotId) -> Result<RangeStream, CallError> {
    if id == target.snapshot().id {
        return Ok(Box::new(std::iter::empty()));
    }
    let base = base(pool, id)?;
    if base.source != target.snapshot().source {
        return Err(RequestError::invalid(BASE_ID, "is of another volume than the target").into());
    }
    if age(&base) > age(target.snapshot()) {
        return Err(RequestError::invalid(BASE_ID, "is younger than the target; swap the two").into());
    }
    target.changed_since(id).map_err(|error| match error {
        // Deleted or evicted since it was looked at.
        PoolError::Missing(_) => no_base().into(),
        other => other.into(),
    })
}

/// By what the order of snapshots is told: their numbers, which clocks have no part in, then, for those that an older version
/// made without a number, the time of their cuts.
fn age(snapshot: &Snapshot) -> (u64, Timestamp) {
    (snapshot.serial, snapshot.created)
}

fn no_base() -> RequestError {
    RequestError::not_found(BASE_ID, "does not exist, so nothing is known of what changed since; read all allocated ranges")
}

fn missing(field: &'static str, error: PoolError) -> CallError {
    match error {
        PoolError::Missing(_) => no_such(field).into(),
        other => other.into(),
    }
}
