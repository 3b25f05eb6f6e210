//! Leases: a snapshot held for reading, as a descriptor and the ranges that matter.

use std::fs::File;
use std::sync::{Arc, Mutex};

use super::copies::check_here;
use super::pool::{Damaged, OwnedPool, check_sound};
use crate::pool::catalogue::Catalogue;
use crate::pool::locks::{OperationLocks, Pin};
use crate::pool::record::Snapshot;
use crate::pool::{Pool, PoolError};
use crate::types::{Access, LogicalBlockSize, Object, RangeStream, SnapshotId, VolumeSize};

/// A snapshot that cannot be deleted until this is dropped.
pub struct Lease {
    snapshot: Snapshot,
    file: File,
    // Dropped before the pool, on whose device it may lie.
    catalogue: Catalogue,
    pool: Arc<dyn Pool>,
    locks: OperationLocks,
    damaged: Arc<Mutex<Damaged>>,
    _pin: Pin,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("snapshot", &self.snapshot.id).finish_non_exhaustive()
    }
}

impl OwnedPool {
    /// Holds a snapshot for reading. Any number of leases may be held on one.
    ///
    /// # Errors
    /// [`PoolError::Missing`], [`PoolError::GivenUp`], [`PoolError::Busy`] (it is being deleted), [`PoolError::Io`].
    pub fn lease(&self, id: SnapshotId) -> Result<Lease, PoolError> {
        let object = Object::Snapshot(id);
        let pin = self.locks.pin(id)?;
        let snapshot = self.catalogue.snapshot(id)?.ok_or(PoolError::Missing(object))?;
        check_here(&snapshot)?;
        self.check_sound(object)?;
        let file = self.pool.open(object, Access::ReadOnly)?;
        Ok(Lease {
            snapshot,
            file,
            pool: Arc::clone(&self.pool),
            catalogue: self.catalogue.clone(),
            locks: self.locks.clone(),
            damaged: Arc::clone(&self.damaged),
            _pin: pin,
        })
    }
}

impl Lease {
    /// A read-only descriptor of the snapshot's bytes; only the first [`Lease::size`] of them are the snapshot's.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Size of the snapshot.
    pub fn size(&self) -> VolumeSize {
        self.snapshot.size
    }

    /// Logical block size of the snapshot.
    pub fn logical_block_size(&self) -> LogicalBlockSize {
        self.snapshot.logical_block_size
    }

    /// The snapshot's record.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The ranges that may hold anything but zeros, within the size.
    ///
    /// # Errors
    /// [`PoolError::Io`]; the stream may fail later.
    pub fn allocated(&self) -> Result<RangeStream, PoolError> {
        Ok(clipped(self.pool.allocated(self.snapshot.id)?, self.snapshot.size, None))
    }

    /// The ranges in which this snapshot may differ from `base`, a snapshot of the same volume; within the size. What lies
    /// beyond the end of a smaller base counts as zeros there. The base is held until the stream is dropped. It may have been
    /// deleted, if it was kept as an anchor: the answer is as exact as ever.
    ///
    /// # Errors
    /// [`PoolError::Missing`] when there is no such base; [`PoolError::Unsupported`] when it is of another volume, was cut before the pool,
    /// or a part of it, was put back to an earlier state or rebuilt, or
    /// was deleted and is younger than this one, in a pool that needs no more of a base than what tells of later changes;
    /// [`PoolError::Busy`], [`PoolError::Io`] (also when the data of the base is damaged); the stream may fail later.
    pub fn changed_since(&self, base: SnapshotId) -> Result<RangeStream, PoolError> {
        let object = Object::Snapshot(base);
        let pin = self.locks.pin(base)?;
        // The anchors last: a snapshot that becomes one meanwhile is found there.
        let record = match self.catalogue.snapshot(base)?.filter(Snapshot::is_here) {
            Some(snapshot) => snapshot,
            None => {
                let anchor = self.catalogue.anchor(self.snapshot.source, base)?;
                anchor.ok_or(PoolError::Missing(object))?.snapshot
            }
        };
        check_sound(&self.damaged, object)?;
        if record.source != self.snapshot.source {
            return Err(PoolError::Unsupported(format!("snapshot {base} is of another volume than {}", self.snapshot.id).into()));
        }
        if record.serial < self.catalogue.first_delta_base()? {
            return Err(PoolError::Unsupported(format!(
                "snapshot {base} was cut before a part of the pool was put back to an earlier state, its metadata was repaired or its \
                 records adopted: what changed since is not known"
            ).into()));
        }
        Ok(clipped(self.pool.changed(base, self.snapshot.id)?, self.snapshot.size, Some(pin)))
    }
}

/// The part of a stream within the size of a snapshot. Holds `pin` as long as it lives.
fn clipped(ranges: RangeStream, size: VolumeSize, pin: Option<Pin>) -> RangeStream {
    let whole = crate::types::ByteRange::new(0, size.bytes());
    Box::new(ranges.filter_map(move |range| {
        let _held = &pin;
        match (range, whole) {
            (Ok(range), Some(whole)) => range.intersection(whole).map(Ok),
            (Ok(_), None) => None,
            (Err(error), _) => Some(Err(error)),
        }
    }))
}
