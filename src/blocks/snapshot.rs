//! A snapshot that is held for reading.

use std::fs::File;
use std::io;

use super::error::BlocksError;
use crate::block::FileSource;
use crate::types::{
    KubernetesNames, LogicalBlockSize, RangeStream, SnapshotHandle, SnapshotId, Timestamp, VolumeHandle, VolumeMode, VolumeSize,
};

/// What a snapshot is, as it was at the cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasedSnapshot {
    /// The snapshot.
    pub handle: SnapshotHandle,
    /// The volume it was cut from.
    pub source: VolumeHandle,
    /// Size of the volume at the cut.
    pub size: VolumeSize,
    /// Logical block size.
    pub logical_block_size: LogicalBlockSize,
    /// Mode of the volume.
    pub mode: VolumeMode,
    /// Whether the volume had never been formatted, nor given out for writing: it holds nothing.
    pub is_unformatted: bool,
    /// When it was cut.
    pub created: Timestamp,
    /// What Kubernetes calls it and its volume.
    pub kubernetes: KubernetesNames,
}

/// A snapshot that cannot be deleted until this is dropped.
#[async_trait::async_trait]
pub trait SnapshotLease: Send + Sync {
    /// What it is.
    fn snapshot(&self) -> &LeasedSnapshot;

    /// A read-only descriptor of its bytes, of which only the first [`LeasedSnapshot::size`] are the snapshot's.
    fn file(&self) -> &File;

    /// The ranges that may hold anything but zeros, within the size.
    ///
    /// # Errors
    /// [`BlocksError`] when they cannot be told; the stream may fail later.
    async fn allocated(&self) -> Result<RangeStream, BlocksError>;

    /// The ranges in which it may differ from `base`, an older snapshot of the same volume, which may have been deleted; within the
    /// size. May say more than changed, never less. What lies beyond the end of a smaller base counts as zeros there.
    ///
    /// # Errors
    /// [`BlocksError`] when nothing exact is known; the stream may fail later.
    async fn changed_since(&self, base: SnapshotId) -> Result<RangeStream, BlocksError>;
}

impl dyn SnapshotLease {
    /// The snapshot's bytes.
    ///
    /// # Errors
    /// Whatever the system reports of the descriptor.
    pub fn source(&self) -> io::Result<FileSource> {
        let snapshot = self.snapshot();
        FileSource::new(self.file().try_clone()?, snapshot.size.bytes(), snapshot.logical_block_size)
    }
}
