//! What an export may build upon: the last export of the volume to the same repository, as the catalogue knows it.
//!
//! The catalogue's record says where to look and what to expect; the export itself compares that with what the repository holds
//! before it trusts any of it. Whatever is missing here makes the export a full one that says why, never a failed one.

use std::sync::Arc;

use crate::pool::owned::{Lease, OwnedPool};
use crate::repository::Id;
use crate::transfer::{ChunkSize, FullReason, Parent};
use crate::types::{ExportRecord, PoolId, SnapshotHandle, VolumeHandle, VolumeId, VolumeSize};

use super::status;

/// The last export of `volume` to the repository, or why there is none to build upon.
pub(super) async fn last_export(pool: &Arc<OwnedPool>, repository: Id, volume: VolumeId) -> Result<ExportRecord, FullReason> {
    let pool = Arc::clone(pool);
    let found = tokio::task::spawn_blocking(move || pool.export(&repository.to_string(), volume)).await;
    match found {
        Ok(Ok(record)) => record.ok_or(FullReason::NoParent),
        Ok(Err(error)) => Err(FullReason::ChangesUnknown(status::chain(&error))),
        Err(error) => Err(FullReason::ChangesUnknown(error.to_string())),
    }
}

/// The size of chunks for an export of a volume of `size`: what was asked for, else that of the volume's earlier exports, so that
/// they share chunks, else the default for its size. A volume that grew so much that its list would be too long begins anew.
pub(super) fn chunk_size(wanted: Option<ChunkSize>, last: Option<&ExportRecord>, size: VolumeSize) -> ChunkSize {
    let as_before = || last.and_then(|record| ChunkSize::new(record.chunk_size).ok()).filter(|chunk| chunk.fits(size.bytes()));
    wanted.or_else(as_before).unwrap_or_else(|| ChunkSize::for_volume(size.bytes()))
}

/// What the leased snapshot may build upon, given the last export of its volume. Blocks.
///
/// # Errors
/// Why what changed since that export is not known.
pub(super) fn parent(pool: PoolId, lease: &Lease, last: &ExportRecord) -> Result<Parent, FullReason> {
    let snapshot = last.repository_snapshot.parse();
    let snapshot = snapshot.map_err(|_| FullReason::ChangesUnknown("the record of it names no snapshot".to_owned()))?;
    let changed = lease.changed_since(last.snapshot).map_err(|error| FullReason::ChangesUnknown(status::chain(&error)))?;
    Ok(Parent {
        snapshot,
        volume_handle: VolumeHandle { pool, volume: last.volume }.to_string(),
        snapshot_handle: SnapshotHandle { pool, snapshot: last.snapshot }.to_string(),
        size_bytes: last.size.bytes(),
        changed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{SnapshotId, Timestamp};

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
        let chosen = |wanted, last: Option<u64>, size| chunk_size(wanted, last.map(record).as_ref(), size);
        assert_eq!(chosen(None, None, small), ChunkSize::MIN);
        assert_eq!(chosen(None, Some(1 << 20), small), ChunkSize::SMALL);
        assert_eq!(chosen(Some(ChunkSize::LARGE), Some(256 << 10), small), ChunkSize::LARGE);
        assert_eq!(chosen(None, Some(5), small), ChunkSize::MIN, "a record that makes no sense");
        assert_eq!(chosen(None, Some(1 << 20), VolumeSize::new(8 << 40).unwrap()), ChunkSize::SMALL);
        assert_eq!(chosen(None, Some(256 << 10), VolumeSize::MAX), ChunkSize::LARGE);
    }
}
