//! Where the tables of a segment lie in its file, which follows from the numbers of their rows.

use super::entry::ROW_BYTES;
use super::page::{PAYLOAD_BYTES, Payload};
use crate::repository::id::Id;

/// Names the layout: another one needs another magic.
pub(super) const MAGIC: &[u8; 8] = b"wlindex1";
pub(super) const ROWS_OF_PAGE: u64 = (PAYLOAD_BYTES / ROW_BYTES) as u64;
pub(super) const FILES_OF_PAGE: u64 = (PAYLOAD_BYTES / Id::LENGTH) as u64;
pub(super) const FENCE_BYTES: usize = 4;
pub(super) const FENCES_OF_PAGE: u64 = (PAYLOAD_BYTES / FENCE_BYTES) as u64;

/// Where a table of rows lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) first_page: u64,
    pub(super) rows: u64,
}

impl Section {
    pub(super) fn pages(self, rows_of_page: u64) -> u64 {
        self.rows.div_ceil(rows_of_page)
    }
}

/// Sections as the numbers of rows say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) files: Section,
    pub(super) packs: Section,
    pub(super) data: Section,
    pub(super) trees: Section,
    pub(super) data_fences: Section,
    pub(super) tree_fences: Section,
    /// Number of pages in all.
    pub(super) pages: u64,
}

impl Layout {
    /// `None` for numbers that no file can have.
    pub(super) fn of([files, packs, data, trees]: [u64; 4]) -> Option<Self> {
        // Numbers of packs and files have 32 bits, and so many blobs fill no file system.
        if files > u64::from(u32::MAX) || packs > u64::from(u32::MAX) || data > 1 << 48 || trees > 1 << 48 {
            return None;
        }
        let mut next = 1;
        let mut section = |rows: u64, rows_of_page: u64| {
            let section = Section { first_page: next, rows };
            next += section.pages(rows_of_page);
            section
        };
        let (files, packs) = (section(files, FILES_OF_PAGE), section(packs, ROWS_OF_PAGE));
        let (data, trees) = (section(data, ROWS_OF_PAGE), section(trees, ROWS_OF_PAGE));
        let data_fences = section(data.pages(ROWS_OF_PAGE), FENCES_OF_PAGE);
        let tree_fences = section(trees.pages(ROWS_OF_PAGE), FENCES_OF_PAGE);
        Some(Self { files, packs, data, trees, data_fences, tree_fences, pages: next })
    }

    /// What the first page says.
    pub(super) fn parse(header: &Payload) -> Option<Self> {
        let counts = header.strip_prefix(MAGIC)?.first_chunk::<32>()?;
        let (counts, _) = counts.as_chunks::<8>();
        Self::of([0, 1, 2, 3].map(|at| u64::from_be_bytes(counts[at])))
    }

    pub(super) fn header(&self) -> Vec<u8> {
        let counts = [self.files, self.packs, self.data, self.trees].map(|section| section.rows.to_be_bytes());
        [&MAGIC[..], counts.as_flattened()].concat()
    }
}
