//! A blob and where it lies, and packs, as rows of the tables that an index is made of.

use std::num::NonZeroU32;

use crate::repository::blob::{BlobKind, BlobLocation, PackRecord};
use crate::repository::id::Id;
use crate::repository::pack::expected_bytes;
use crate::repository::row::{PLACE_BYTES, join, kind_byte, numbers_of, take, take_id, take_kind, take_lengths, take_number};

/// Bytes of a row of the table of blobs: id, number of the pack, offset, length, plain length. Those of a [`PackRow`] too.
pub(super) const ROW_BYTES: usize = Id::LENGTH + 4 + PLACE_BYTES;
/// Bytes of a row of the packs' contents: pack, offset, kind, id, length, plain length.
pub(super) const CONTENT_ROW_BYTES: usize = 2 * Id::LENGTH + PLACE_BYTES + 1;

/// A row of a segment.
pub(super) type Row = [u8; ROW_BYTES];

/// A blob that an index names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::repository) struct Entry {
    pub(in crate::repository) id: Id,
    pub(in crate::repository) location: BlobLocation,
}

/// A blob, and where it lies in the pack of that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlobRow {
    pub(super) id: Id,
    pub(super) pack: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
    pub(super) uncompressed_length: Option<NonZeroU32>,
}

impl BlobRow {
    pub(super) fn to_row(self) -> Row {
        let numbers = numbers_of(self.offset, self.length, self.uncompressed_length);
        join(&[self.id.as_bytes(), &self.pack.to_be_bytes(), numbers.as_flattened()])
    }

    pub(super) fn of_row(row: &Row) -> Self {
        let mut rest = &row[..];
        let (id, pack, offset) = (take_id(&mut rest), take_number(&mut rest), take_number(&mut rest));
        let (length, uncompressed_length) = take_lengths(&mut rest);
        Self { id, pack, offset, length, uncompressed_length }
    }

    /// Length of the blob's plain bytes.
    pub(super) fn plain_length(self) -> u32 {
        self.in_pack(self.id).location.plain_length()
    }

    /// With the pack's name.
    pub(super) fn in_pack(self, pack: Id) -> Entry {
        let Self { id, offset, length, uncompressed_length, .. } = self;
        Entry { id, location: BlobLocation { pack, offset, length, uncompressed_length } }
    }
}

/// A pack, as one index file names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackRow {
    pub(super) id: Id,
    /// Number of the index file among those of the segment.
    pub(super) file: u32,
    /// Number of its blobs.
    pub(super) blobs: u32,
    /// How long it must be to hold them.
    pub(super) bytes: u64,
}

impl PackRow {
    /// That of a pack in the index file of this number.
    pub(super) fn of(record: &PackRecord, file: u32) -> Self {
        let blobs = record.blobs.iter().map(|blob| (blob.length, blob.uncompressed_length));
        Self { id: record.id, file, blobs: record.blobs.len() as u32, bytes: expected_bytes(blobs) }
    }

    pub(super) fn to_row(self) -> Row {
        let numbers = [self.file, self.blobs].map(u32::to_be_bytes);
        join(&[self.id.as_bytes(), numbers.as_flattened(), &self.bytes.to_be_bytes()])
    }

    pub(super) fn of_row(row: &Row) -> Self {
        let mut rest = &row[..];
        let (id, file, blobs) = (take_id(&mut rest), take_number(&mut rest), take_number(&mut rest));
        Self { id, file, blobs, bytes: u64::from_be_bytes(take(&mut rest)) }
    }
}

impl Entry {
    /// The row of the packs' contents.
    pub(super) fn to_content_row(self, kind: BlobKind) -> [u8; CONTENT_ROW_BYTES] {
        let BlobLocation { pack, offset, length, uncompressed_length } = self.location;
        let [offset, length, plain] = numbers_of(offset, length, uncompressed_length);
        join(&[pack.as_bytes(), &offset, &kind_byte(kind), self.id.as_bytes(), &length, &plain])
    }

    /// What a row of the packs' contents says.
    pub(super) fn of_content_row(row: &[u8; CONTENT_ROW_BYTES]) -> (BlobKind, Self) {
        let mut rest = &row[..];
        let (pack, offset) = (take_id(&mut rest), take_number(&mut rest));
        let (kind, id) = (take_kind(&mut rest), take_id(&mut rest));
        let (length, uncompressed_length) = take_lengths(&mut rest);
        (kind, Self { id, location: BlobLocation { pack, offset, length, uncompressed_length } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_say_what_was_written(
            id: [u8; 32], pack: [u8; 32], number: u32, offset: u32, length: u32, plain: Option<NonZeroU32>, tree: bool, bytes: u64,
        ) {
            let (id, pack) = (Id::from_bytes(id), Id::from_bytes(pack));
            let blob = BlobRow { id, pack: number, offset, length, uncompressed_length: plain };
            prop_assert_eq!(BlobRow::of_row(&blob.to_row()), blob);
            let entry = blob.in_pack(pack);
            let kind = if tree { BlobKind::Tree } else { BlobKind::Data };
            prop_assert_eq!(Entry::of_content_row(&entry.to_content_row(kind)), (kind, entry));
            let row = PackRow { id: pack, file: number, blobs: length, bytes };
            prop_assert_eq!(PackRow::of_row(&row.to_row()), row);
        }
    }
}
