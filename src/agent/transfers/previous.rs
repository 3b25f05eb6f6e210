//! The previous export of a volume to the same repository, as the catalogue knows it: what the next one may build upon.
//!
//! The catalogue's record says where to look and what to expect; the export itself compares that with what the repository holds
//! before it trusts any of it. Whatever is missing here makes the export a full one that says why, never a failed one.

use crate::blocks::{Blocks, BlocksError, SnapshotLease};
use crate::repository::Id;
use crate::transfer::{ChunkSize, FullReason, Parent};
use crate::types::{ExportRecord, SnapshotHandle, VolumeHandle, VolumeSize};

/// The last export of `volume` to the repository, or why there is none to build upon.
pub(super) async fn export(blocks: &dyn Blocks, volume: VolumeHandle, repository: Id) -> Result<ExportRecord, FullReason> {
    let recorded = blocks.last_export(volume, &repository.to_string()).await.map_err(unknown)?;
    recorded.ok_or(FullReason::NoParent)
}

/// The size of chunks for an export of a volume of `size`: what was asked for, else that of the volume's earlier exports, so that
/// they share chunks, else the default for its size. A volume that grew so much that its list would be too long begins anew.
pub(super) fn chunk_size(wanted: Option<ChunkSize>, previous: Option<&ExportRecord>, size: VolumeSize) -> ChunkSize {
    let as_before =
        || previous.and_then(|record| ChunkSize::new(record.chunk_size).ok()).filter(|chunk| chunk.fits(size.bytes()));
    wanted.or_else(as_before).unwrap_or_else(|| ChunkSize::for_volume(size.bytes()))
}

/// What the leased snapshot may build upon, given the previous export of its volume.
///
/// # Errors
/// Why what changed since that export is not known.
pub(super) async fn parent(lease: &dyn SnapshotLease, previous: &ExportRecord) -> Result<Parent, FullReason> {
    let snapshot = previous.repository_snapshot.parse();
    let snapshot = snapshot.map_err(|_| FullReason::ChangesUnknown("the record of it names no snapshot".to_owned()))?;
    let changed = lease.changed_since(previous.snapshot).await.map_err(unknown)?;
    let pool = lease.snapshot().handle.pool;
    Ok(Parent {
        snapshot,
        volume_handle: VolumeHandle { pool, volume: previous.volume }.to_string(),
        snapshot_handle: SnapshotHandle { pool, snapshot: previous.snapshot }.to_string(),
        size_bytes: previous.size.bytes(),
        changed,
    })
}

fn unknown(error: BlocksError) -> FullReason {
    FullReason::ChangesUnknown(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{SnapshotId, Timestamp, VolumeId};

    fn record(chunk_size: u64) -> ExportRecord {
        ExportRecord {
            repository: String::new(),
            volume: VolumeId::random(),
            snapshot: SnapshotId::random(),
            repository_snapshot: String::new(),
            size: VolumeSize::new(1 << 30).unwrap(),
            chunk_size,
            finished: Timestamp::now(),
        }
    }

    #[test]
    fn a_chain_keeps_its_chunk_size_unless_another_is_asked_for_or_the_list_grows_too_long() {
        let small = VolumeSize::new(1 << 30).unwrap();
        let chosen = |wanted, previous: Option<u64>, size| chunk_size(wanted, previous.map(record).as_ref(), size);
        assert_eq!(chosen(None, None, small), ChunkSize::MIN);
        assert_eq!(chosen(None, Some(1 << 20), small), ChunkSize::SMALL);
        assert_eq!(chosen(Some(ChunkSize::LARGE), Some(256 << 10), small), ChunkSize::LARGE);
        assert_eq!(chosen(None, Some(5), small), ChunkSize::MIN, "a record that makes no sense");
        assert_eq!(chosen(None, Some(1 << 20), VolumeSize::new(8 << 40).unwrap()), ChunkSize::SMALL);
        assert_eq!(chosen(None, Some(256 << 10), VolumeSize::MAX), ChunkSize::LARGE);
    }
}
