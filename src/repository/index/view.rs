//! The visible part of a segment: the rows of index files that the store still has, and of packs that were not taken out of sight.

use std::collections::HashSet;
use std::sync::Arc;

use super::entry::PackRow;
use super::segment::Segment;
use crate::repository::blob::BlobKind;
use crate::repository::id::Id;
use crate::scratch::ScratchError;

/// A segment, of which some packs are visible.
#[derive(Debug, Clone)]
pub(super) struct View {
    segment: Arc<Segment>,
    /// A bit for each pack.
    live: Vec<u64>,
    live_files: Vec<Id>,
    live_blobs: u64,
}

impl View {
    /// Makes the packs visible that the index files name for which `is_live` holds.
    pub(super) fn new(segment: Arc<Segment>, is_live: impl Fn(&Id) -> bool) -> Result<Self, ScratchError> {
        let files: Vec<bool> = segment.files().iter().map(&is_live).collect();
        let live_files = segment.files().iter().copied().filter(&is_live).collect();
        let live = vec![0; segment.packs().div_ceil(64) as usize];
        let mut view = Self { segment, live, live_files, live_blobs: 0 };
        view.keep(|_, pack| files.get(pack.file as usize).copied().unwrap_or_default())?;
        Ok(view)
    }

    /// Takes all rows out of sight whose packs are among `packs`.
    ///
    /// # Errors
    /// The view is then as before.
    pub(super) fn without_packs(&mut self, packs: &HashSet<Id>) -> Result<(), ScratchError> {
        let before = self.clone();
        self.keep(|number, pack| before.has_pack(number) && !packs.contains(&pack.id))
    }

    fn keep(&mut self, is_live: impl Fn(u32, &PackRow) -> bool) -> Result<(), ScratchError> {
        let (mut live, mut live_blobs, mut number) = (vec![0_u64; self.live.len()], 0, 0_u32);
        self.segment.each_pack(|pack| {
            if is_live(number, &pack) {
                live[number as usize / 64] |= 1 << (number % 64);
                live_blobs += u64::from(pack.blobs);
            }
            number += 1;
        })?;
        (self.live, self.live_blobs) = (live, live_blobs);
        Ok(())
    }

    pub(super) fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Whether the rows of the pack of that number are visible.
    pub(super) fn has_pack(&self, number: u32) -> bool {
        self.live.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// The index files whose rows are visible.
    pub(super) fn live_files(&self) -> impl Iterator<Item = Id> + '_ {
        self.live_files.iter().copied()
    }

    /// Number of visible blobs, counted as often as index files name them.
    pub(super) fn live_blobs(&self) -> u64 {
        self.live_blobs
    }

    /// Number of rows, visible or not.
    pub(super) fn rows(&self) -> u64 {
        self.segment.len(BlobKind::Data) + self.segment.len(BlobKind::Tree)
    }

    /// Gives `visit` the visible packs.
    pub(super) fn each_pack(&self, mut visit: impl FnMut(PackRow)) -> Result<(), ScratchError> {
        self.each_numbered_pack(|_, pack| visit(pack))
    }

    /// As [`View::each_pack`], with the pack's number in the segment.
    pub(super) fn each_numbered_pack(&self, mut visit: impl FnMut(u32, PackRow)) -> Result<(), ScratchError> {
        let mut number = 0;
        self.segment.each_pack(|pack| {
            if self.has_pack(number) {
                visit(number, pack);
            }
            number += 1;
        })
    }
}
