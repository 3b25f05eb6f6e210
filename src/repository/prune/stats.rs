//! Counts of a prune, and the blobs that snapshots need and that do not exist.

use super::decide::{Action, Pack};
use super::row::{BlobCopy, BlobKey, ROW_BYTES, of_blob_key};
use crate::repository::blob::BlobKind;
use crate::repository::id::Id;
use crate::scratch::{ScratchError, SortedRows};

/// Missing blobs that are named one by one.
const NAMED_MISSING: usize = 10;

/// What a prune found and did, or would do. Counts are of objects, `bytes_…` of their sizes.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct PruneStats {
    /// Packs that index files name.
    pub packs: u64,
    /// Those of `packs` that stay.
    pub packs_kept: u64,
    /// Those of `packs` of which something is copied before they go.
    pub packs_repacked: u64,
    /// Those of `packs` that go as they are.
    pub packs_removed: u64,
    /// Those of `packs` that are gone, not whole, or known to be damaged, and of which nothing is needed that no sound pack has.
    pub packs_damaged: u64,
    /// Those of `packs` that are known to be damaged, and of which snapshots need what no sound pack has.
    pub packs_doubted: u64,
    /// Packs that no index file names.
    pub packs_unnamed: u64,
    /// Blobs that are copied.
    pub blobs_copied: u64,
    /// Bytes that snapshots need, each blob counted once.
    pub bytes_used: u64,
    /// Bytes that they do not need, and second copies of what they do.
    pub bytes_unused: u64,
    /// Bytes of `blobs_copied`.
    pub bytes_copied: u64,
    /// Bytes of `packs_unnamed`.
    pub bytes_unnamed: u64,
    /// Bytes that are freed, less what the copies take.
    pub bytes_freed: u64,
    /// Those of `bytes_unused` that stay.
    pub bytes_unused_kept: u64,
    pub index_files: u64,
    /// Those of `index_files` whose place others take.
    pub index_files_superseded: u64,
    /// Packs that were to go, and that a snapshot stored meanwhile needs.
    pub packs_rescued: u64,
}

impl PruneStats {
    pub(super) fn of(packs: &[Pack], copies: &SortedRows<ROW_BYTES>) -> Result<Self, ScratchError> {
        let mut stats = Self { packs: packs.len() as u64, blobs_copied: copies.len(), ..Self::default() };
        for row in copies.iter() {
            stats.bytes_copied += u64::from(BlobCopy::of_row_by_pack(&row?).location.length);
        }
        let mut going = 0;
        for pack in packs {
            stats.bytes_used += pack.used();
            stats.bytes_unused += pack.unused();
            stats.packs_damaged += u64::from(!pack.is_whole() || pack.is_doubted && pack.action == Action::Remove);
            stats.packs_doubted += u64::from(pack.is_doubted && pack.action == Action::Keep);
            match pack.action {
                Action::Keep => {
                    stats.packs_kept += 1;
                    stats.bytes_unused_kept += pack.unused();
                }
                Action::Repack => stats.packs_repacked += 1,
                Action::Remove => stats.packs_removed += 1,
            }
            if pack.action != Action::Keep {
                going += pack.stored.unwrap_or_default();
            }
        }
        stats.bytes_freed = going.saturating_sub(stats.bytes_copied);
        Ok(stats)
    }

    /// True when there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.packs_repacked + self.packs_removed + self.packs_unnamed + self.index_files_superseded == 0
    }
}

/// Blobs that snapshots need and that do not exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing {
    pub blobs: u64,
    /// The first ten, and what is known of each.
    pub named: Vec<String>,
}

impl Missing {
    pub(super) fn is_empty(&self) -> bool {
        self.blobs == 0
    }

    fn name(&mut self, text: impl FnOnce() -> String) {
        self.blobs += 1;
        if self.named.len() < NAMED_MISSING {
            self.named.push(text());
        }
    }

    pub(super) fn add(&mut self, key: &BlobKey) {
        let (kind, id): (BlobKind, Id) = of_blob_key(key);
        self.name(|| format!("{kind} blob {id}, in no index"));
    }

    pub(super) fn add_in_pack(&mut self, copy: &BlobCopy) {
        self.name(|| {
            format!(
                "{} blob {}, in pack {}, which is absent or not as long as it must be",
                copy.kind, copy.id, copy.location.pack
            )
        });
    }
}
