//! The index the other way round: which blobs lie in which pack.

use super::entry::{CONTENT_ROW_BYTES, Entry};
use crate::repository::blob::{BlobKind, PackRecord, PackedBlob};
use crate::scratch::{Scratch, ScratchError, SortedRows, Sorter};

/// Takes blobs in any order.
pub(super) struct Builder(Sorter<CONTENT_ROW_BYTES>);

impl Builder {
    pub(super) fn new(scratch: &Scratch) -> Self {
        Self(Sorter::new(scratch))
    }

    pub(super) fn add(&mut self, kind: BlobKind, entry: Entry) -> Result<(), ScratchError> {
        self.0.push(entry.to_content_row(kind))
    }

    pub(super) fn finish(self) -> Result<Packs, ScratchError> {
        self.0.finish().map(Packs)
    }
}

/// Packs that an index names, in ascending order of their ids.
#[derive(Debug)]
pub(in crate::repository) struct Packs(SortedRows<CONTENT_ROW_BYTES>);

impl Packs {
    /// Each pack with its blobs in the order in which they lie. An error is the last thing that comes.
    pub(in crate::repository) fn iter(&self) -> impl Iterator<Item = Result<PackRecord, ScratchError>> + '_ {
        let mut entries = self.0.iter().map(|row| row.map(|row| Entry::of_content_row(&row))).peekable();
        std::iter::from_fn(move || {
            let (kind, first) = match entries.next()? {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error)),
            };
            let id = first.location.pack;
            let mut blobs = vec![packed(kind, &first)];
            // An error comes next, and then is the last thing.
            while let Some(Ok((kind, entry))) =
                entries.next_if(|next| matches!(next, Ok((_, entry)) if entry.location.pack == id))
            {
                blobs.push(packed(kind, &entry));
            }
            Some(Ok(PackRecord { id, blobs }))
        })
    }
}

fn packed(kind: BlobKind, entry: &Entry) -> PackedBlob {
    let location = &entry.location;
    let (offset, length, uncompressed_length) = (location.offset, location.length, location.uncompressed_length);
    PackedBlob { id: entry.id, kind, offset, length, uncompressed_length }
}
