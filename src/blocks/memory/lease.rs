//! A snapshot in memory that is held for reading.

use std::fs::File;
use std::sync::Arc;

use super::state::{SharedState, Verb, failed, missing};
use crate::block::memory_file::{self, MemoryFile};
use crate::blocks::{BlocksError, LeasedSnapshot, SnapshotLease};
use crate::types::{Access, ByteRange, Object, RangeStream, SnapshotId, range};

/// A lease on a snapshot in memory.
#[derive(Debug)]
pub(super) struct MemoryLease {
    pub(super) state: SharedState,
    pub(super) record: LeasedSnapshot,
    pub(super) file: File,
    pub(super) held: Arc<MemoryFile>,
}

#[async_trait::async_trait]
impl SnapshotLease for MemoryLease {
    fn snapshot(&self) -> &LeasedSnapshot {
        &self.record
    }

    fn file(&self) -> &File {
        &self.file
    }

    async fn allocated(&self) -> Result<RangeStream, BlocksError> {
        self.state.lock().fail(Verb::Allocated)?;
        // By a descriptor of its own, whose position moves.
        let reader = self.held.open(Access::ReadOnly).map_err(failed)?;
        Ok(stream(memory_file::data_ranges(&reader).map_err(failed)?))
    }

    async fn changed_since(&self, base: SnapshotId) -> Result<RangeStream, BlocksError> {
        let mut state = self.state.lock();
        state.fail(Verb::ChangedSince)?;
        let object = Object::Snapshot(base);
        let stored = state.snapshots.get(&base).ok_or_else(|| missing(object))?;
        if stored.record.source != self.record.source {
            return Err(BlocksError::Unsupported(format!("{object} is of another volume than {}", self.record.handle)));
        }
        let before = stored.file.open(Access::ReadOnly).map_err(failed)?;
        let after = self.held.open(Access::ReadOnly).map_err(failed)?;
        Ok(stream(memory_file::differing(&before, &after).map_err(failed)?))
    }
}

fn stream(ranges: Vec<ByteRange>) -> RangeStream {
    Box::new(range::coalesce(ranges.into_iter().map(Ok)))
}
