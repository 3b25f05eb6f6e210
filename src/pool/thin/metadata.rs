//! Reading the pool's metadata while the pool is live.
//!
//! The kernel changes its B-trees in place of blocks that nothing refers to any more, so only a *metadata snapshot* may be walked: a
//! message makes the kernel keep everything that the metadata refer to at that moment, until another message lets go. While it is
//! kept, nothing that is deleted becomes free, and there is one at a time. Hence:
//!
//! * it is held for the walk alone: what the walk finds goes to scratch space ([`Found`]), and is told from there at whatever pace
//!   the caller likes. A slow reader holds up nobody and keeps no block from being freed;
//! * a second walk waits for the first, which has a deadline ([`WALK_DEADLINE`]), so a walk takes two deadlines at most;
//! * it is let go when the walk ends, whichever way ([`Held`] is dropped); what a dead process left is let go by the next owner
//!   ([`MetadataGate::sweep`]).
//!
//! The metadata device is read by direct I/O: the kernel's own cache of it is not the page cache.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::dm::DeviceMapper;
use crate::dm::DmError;
use crate::dm::DmName;
use crate::dm::PoolMessage;
use crate::dm::metadata::{BlockRun, MetadataFile, OutOfOrder, ThinMetadata, ThinMetadataError};
use crate::dm::units::DataBlockSize;
use crate::dm::{PoolMode, ThinPoolStatus};
use crate::pool::PoolError;
use crate::scratch::{Rows, RowsWriter, Scratch, ScratchError};
use crate::types::error::chain;
use crate::types::{ByteRange, RangeStream};

/// Longest time for which a metadata snapshot is held. The largest metadata that the kernel takes are 15.9 GiB; a disk that gives
/// 100 MB in a second is read in 170 s.
pub(super) const WALK_DEADLINE: Duration = Duration::from_secs(300);

/// Why a walk ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum WalkError {
    #[error(transparent)]
    Metadata(#[from] ThinMetadataError),
    #[error(transparent)]
    Order(#[from] OutOfOrder),
    #[error(transparent)]
    Scratch(#[from] ScratchError),
}

impl From<WalkError> for PoolError {
    fn from(error: WalkError) -> Self {
        let kind = match &error {
            WalkError::Metadata(ThinMetadataError::Interrupted) => io::ErrorKind::TimedOut,
            WalkError::Metadata(ThinMetadataError::Io { .. }) | WalkError::Scratch(_) => io::ErrorKind::Other,
            WalkError::Metadata(_) | WalkError::Order(_) => io::ErrorKind::InvalidData,
        };
        PoolError::io("read the pool's metadata", io::Error::new(kind, error))
    }
}

/// The one way to the metadata of a live pool.
pub(super) struct MetadataGate {
    dm: Arc<DeviceMapper>,
    pool: DmName,
    device: MetadataFile,
    one_at_a_time: Mutex<()>,
}

impl std::fmt::Debug for MetadataGate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetadataGate").field("pool", &self.pool).finish_non_exhaustive()
    }
}

/// A metadata snapshot, let go when this is dropped.
struct Held<'a> {
    gate: &'a MetadataGate,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.gate.release() {
            // Blocks that are freed from now on stay taken until the next walk or start lets it go.
            tracing::error!(pool = %self.gate.pool, error = %chain(&error), "a snapshot of the pool's metadata could not be released");
        }
    }
}

impl MetadataGate {
    /// The gate to the metadata of the active pool `pool`, which lie on `device`.
    pub(super) fn new(dm: Arc<DeviceMapper>, pool: DmName, device: File) -> io::Result<Self> {
        Ok(Self { dm, pool, device: MetadataFile::new(device)?, one_at_a_time: Mutex::new(()) })
    }

    /// Lets go of what a dead process may have held. To be called by the owner of the pool before its first walk.
    pub(super) fn sweep(&self) -> Result<(), PoolError> {
        let status = self.dm.thin_pool_status(&self.pool).map_err(|error| refused("ask for the status of the pool", error))?;
        if status.running().is_none_or(|state| state.held_root.is_none()) {
            return Ok(());
        }
        match self.release() {
            Ok(()) => {}
            // A pool that is read-only lets go of nothing, and its metadata is read as it is.
            Err(error) if self.is_at_rest() => {
                tracing::warn!(pool = %self.pool, error = %chain(&error), "a snapshot of the pool's metadata stays until the pool takes changes");
                return Ok(());
            }
            Err(error) => return Err(refused("release a snapshot of the pool's metadata", error)),
        }
        tracing::warn!(pool = %self.pool, "released a snapshot of the pool's metadata that an earlier process left");
        Ok(())
    }

    fn release(&self) -> Result<(), DmError> {
        self.dm.message(&self.pool, &PoolMessage::ReleaseMetadataSnap)
    }

    /// Whether the kernel changes the metadata no more: a pool that must be checked, say. Then they can be read as they are.
    fn is_at_rest(&self) -> bool {
        let status = self.dm.thin_pool_status(&self.pool);
        matches!(status, Ok(ThinPoolStatus::Running(state)) if state.mode == PoolMode::ReadOnly)
    }

    /// Runs `walk` over a metadata snapshot, or over the metadata of a pool that is read-only, which takes none.
    ///
    /// # Errors
    /// Those of `walk`; [`PoolError::Io`] when no snapshot can be taken.
    pub(super) fn walk<T>(&self, walk: impl FnOnce(&ThinMetadata<'_>) -> Result<T, WalkError>) -> Result<T, PoolError> {
        let turn = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        let end = Instant::now() + WALK_DEADLINE;
        let is_late = || Instant::now() >= end;
        match self.dm.message(&self.pool, &PoolMessage::ReserveMetadataSnap) {
            Ok(()) => {
                let _held = Held { gate: self, _turn: turn };
                let metadata = ThinMetadata::held(&self.device, &is_late).map_err(WalkError::from)?;
                Ok(walk(&metadata)?)
            }
            Err(_) if self.is_at_rest() => {
                let metadata = ThinMetadata::live(&self.device, &is_late).map_err(WalkError::from)?;
                Ok(walk(&metadata)?)
            }
            Err(error) => Err(refused("take a snapshot of the pool's metadata", error)),
        }
    }
}

fn refused(action: &str, error: DmError) -> PoolError {
    PoolError::io(action, io::Error::other(error))
}

/// Runs of blocks that a walk found, kept until they are told.
pub(super) struct Found {
    rows: RowsWriter<16>,
}

impl Found {
    pub(super) fn new() -> Self {
        Self { rows: RowsWriter::new(&Scratch::of_process()) }
    }

    pub(super) fn push(&mut self, run: BlockRun) -> Result<(), WalkError> {
        let mut row = [0; 16];
        row[..8].copy_from_slice(&run.begin().to_le_bytes());
        row[8..].copy_from_slice(&run.length().to_le_bytes());
        Ok(self.rows.push(&row)?)
    }

    /// The runs as ranges of bytes.
    pub(super) fn into_stream(self, block_size: DataBlockSize) -> Result<RangeStream, PoolError> {
        let rows = self.rows.finish().map_err(WalkError::from)?;
        Ok(Box::new(Told { rows, next: 0, block_bytes: block_size.bytes(), read: Vec::new().into_iter() }))
    }
}

/// What was found, read from scratch space in steps.
struct Told {
    rows: Rows<16>,
    next: u64,
    block_bytes: u64,
    read: std::vec::IntoIter<[u8; 16]>,
}

impl Told {
    /// Runs read at once: 16 KiB of them.
    const STEP: u64 = 1024;

    fn fill(&mut self) -> io::Result<()> {
        let first = self.next;
        let end = self.rows.len().min(first + Self::STEP);
        self.next = self.rows.len();
        self.read = self.rows.iter(first, end).collect::<Result<Vec<_>, _>>()?.into_iter();
        self.next = end;
        Ok(())
    }

    fn range(&self, row: [u8; 16]) -> io::Result<ByteRange> {
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&row[at..at + 8]);
            u64::from_le_bytes(bytes).checked_mul(self.block_bytes)
        };
        let range = number(0).zip(number(8)).and_then(|(offset, length)| ByteRange::new(offset, length));
        range.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a mapping lies beyond all addresses"))
    }
}

impl Iterator for Told {
    type Item = io::Result<ByteRange>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.read.next() {
                return Some(self.range(row));
            }
            if self.next >= self.rows.len() {
                return None;
            }
            // After an error there is nothing more.
            if let Err(error) = self.fill() {
                return Some(Err(error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_walk_found_is_told_in_bytes_and_in_order() {
        let mut found = Found::new();
        let expected: Vec<(u64, u64)> = (0..3000).map(|number| (number * 10, number % 7 + 1)).collect();
        for &(begin, length) in &expected {
            found.push(BlockRun::new(begin, length).unwrap()).unwrap();
        }
        let told = found.into_stream(DataBlockSize::MIN).unwrap();
        let told: Vec<(u64, u64)> = told.map(|range| range.unwrap()).map(|range| (range.offset(), range.length())).collect();
        let bytes: Vec<(u64, u64)> = expected.iter().map(|&(begin, length)| (begin << 16, length << 16)).collect();
        assert_eq!(told, bytes);
    }
}
