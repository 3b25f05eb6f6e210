//! From handles to the ranges of a pool, with the leases that keep them true.

use crate::csi::error::{CallError, RequestError};
use crate::csi::node_layer::{NodeLayer, no_such};
use crate::pool::PoolError;
use crate::pool::owned::{Lease, OwnedPool};
use crate::pool::record::Snapshot;
use crate::types::{RangeStream, SnapshotHandle, SnapshotId};

use super::request::{BASE_ID, Pair, SNAPSHOT_ID, STARTING_OFFSET, TARGET_ID};

/// The answer of a pool. The snapshot is held until this is dropped.
pub(super) struct Ranges {
    /// As the pool made them: nothing is relied on that was not checked.
    pub ranges: RangeStream,
    /// The snapshot that they are ranges of.
    pub lease: Lease,
}

/// The ranges of a snapshot that may hold anything but zeros.
///
/// # Errors
/// Not found, out of range, or whatever the pool reports.
pub(super) fn allocated(layer: &NodeLayer, snapshot: Option<SnapshotHandle>, start_bytes: u64) -> Result<Ranges, CallError> {
    let (_, lease) = lease(layer, SNAPSHOT_ID, snapshot, start_bytes)?;
    let ranges = lease.allocated()?;
    Ok(Ranges { ranges, lease })
}

/// The ranges in which the target may differ from the base.
///
/// # Errors
/// Not found, out of range, invalid (another volume, a younger base), or whatever the pool reports.
pub(super) fn delta(layer: &NodeLayer, pair: Pair, start_bytes: u64) -> Result<Ranges, CallError> {
    let (pool, lease) = lease(layer, TARGET_ID, pair.target, start_bytes)?;
    let base = pair.base.ok_or_else(|| no_such(BASE_ID))?;
    let ranges = changed_since(pool, &lease, base.snapshot)?;
    Ok(Ranges { ranges, lease })
}

fn lease<'a>(
    layer: &'a NodeLayer,
    field: &'static str,
    handle: Option<SnapshotHandle>,
    start_bytes: u64,
) -> Result<(&'a OwnedPool, Lease), CallError> {
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

/// The record of a base: the one place that decides what can be one.
fn base(pool: &OwnedPool, id: SnapshotId) -> Result<Snapshot, CallError> {
    Ok(pool.snapshot(id)?.ok_or_else(no_base)?)
}

/// What changed since a base.
///
/// The age of a snapshot is the time of its cut, by the clock of the node. A clock that was set back can make an older base
/// look younger, which is refused: the client makes a full copy, and never a wrong one.
fn changed_since(pool: &OwnedPool, target: &Lease, id: SnapshotId) -> Result<RangeStream, CallError> {
    if id == target.snapshot().id {
        return Ok(Box::new(std::iter::empty()));
    }
    let base = base(pool, id)?;
    if base.source != target.snapshot().source {
        return Err(RequestError::invalid(BASE_ID, "is of another volume than the target").into());
    }
    if base.created > target.snapshot().created {
        return Err(RequestError::invalid(BASE_ID, "is younger than the target; exchange the two").into());
    }
    target.changed_since(id).map_err(|error| match error {
        // Deleted since it was looked at.
        PoolError::Missing(_) => no_base().into(),
        other => other.into(),
    })
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
