//! Looks up many ids in ascending order, so that each page of the tables, which ascend as well, is read once at most.
//!
//! Millions of look-ups at random would each open a page, and wait for a disk where the pages of a large index are not in memory.

use super::entry::{BlobRow, ROW_BYTES};
use super::pack_set::PackNumber;
use super::scan::PageCursor;
use super::view::View;
use crate::repository::blob::BlobKind;
use crate::repository::id::Id;
use crate::scratch::ScratchError;

/// A blob that was found in an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundBlob {
    pub plain_length: u32,
    pub pack: PackNumber,
}

/// Looks ids up that come in ascending order.
pub struct SortedLookup<'a> {
    views: Vec<(&'a View, PageCursor<'a>)>,
}

impl<'a> SortedLookup<'a> {
    /// A look-up of `count` ids.
    pub(super) fn new(views: &'a [View], kind: BlobKind, count: u64) -> Self {
        Self { views: views.iter().map(|view| (view, view.segment().cursor(kind, count))).collect() }
    }

    /// The first copy of the blob; `None` when no index names it. An id that comes before one that was asked for earlier is not found.
    pub fn find(&mut self, id: &Id) -> Result<Option<FoundBlob>, ScratchError> {
        for (number, (view, cursor)) in self.views.iter_mut().enumerate() {
            let mut found = None;
            cursor.seek(id, |row: &[u8; ROW_BYTES]| {
                let blob = BlobRow::of_row(row);
                if found.is_none() && view.has_pack(blob.pack) {
                    let pack = PackNumber { view: number, pack: blob.pack };
                    found = Some(FoundBlob { plain_length: blob.plain_length(), pack });
                }
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}
