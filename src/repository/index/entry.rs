//! A blob and where it lies, and packs, as rows of the tables that an index is made of.

use std::num::NonZeroU32;

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, Unaligned, transmute};

use crate::repository::blob::{BlobKind, BlobLocation, PackRecord};
use crate::repository::id::Id;
use crate::repository::pack::expected_bytes;
use crate::repository::row::{KindByte, Lengths};

/// Bytes of a row of the table of blobs, and of one of the table of packs.
pub(super) const ROW_BYTES: usize = size_of::<BlobLayout>();
/// Bytes of a row of the packs' contents.
pub(super) const CONTENT_ROW_BYTES: usize = size_of::<ContentLayout>();

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct BlobLayout {
    id: Id,
    pack: U32,
    offset: U32,
    lengths: Lengths,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct PackLayout {
    id: Id,
    file: U32,
    blobs: U32,
    bytes: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct ContentLayout {
    pack: Id,
    offset: U32,
    kind: KindByte,
    id: Id,
    lengths: Lengths,
}

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
        let Self { id, pack, offset, length, uncompressed_length } = self;
        let lengths = Lengths::new(length, uncompressed_length);
        transmute!(BlobLayout { id, pack: pack.into(), offset: offset.into(), lengths })
    }

    pub(super) fn of_row(row: &Row) -> Self {
        let BlobLayout { id, pack, offset, lengths } = transmute!(*row);
        let (length, uncompressed_length) = (lengths.sealed(), lengths.uncompressed());
        Self { id, pack: pack.get(), offset: offset.get(), length, uncompressed_length }
    }

    /// Length of the blob's plain bytes.
    pub(super) fn plain_length(self) -> u32 {
        self.in_pack(self.id).location.plain_length()
    }

    /// The blob with the name of its pack.
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
    /// How long the pack must be to hold them.
    pub(super) bytes: u64,
}

impl PackRow {
    /// The row of a pack in the index file of this number.
    pub(super) fn of(record: &PackRecord, file: u32) -> Self {
        let blobs = record.blobs.iter().map(|blob| (blob.length, blob.uncompressed_length));
        Self { id: record.id, file, blobs: record.blobs.len() as u32, bytes: expected_bytes(blobs) }
    }

    pub(super) fn to_row(self) -> Row {
        let Self { id, file, blobs, bytes } = self;
        transmute!(PackLayout { id, file: file.into(), blobs: blobs.into(), bytes: bytes.into() })
    }

    pub(super) fn of_row(row: &Row) -> Self {
        let PackLayout { id, file, blobs, bytes } = transmute!(*row);
        Self { id, file: file.get(), blobs: blobs.get(), bytes: bytes.get() }
    }
}

impl Entry {
    /// The row of the packs' contents.
    pub(super) fn to_content_row(self, kind: BlobKind) -> [u8; CONTENT_ROW_BYTES] {
        let BlobLocation { pack, offset, length, uncompressed_length } = self.location;
        let lengths = Lengths::new(length, uncompressed_length);
        transmute!(ContentLayout { pack, offset: offset.into(), kind: kind.into(), id: self.id, lengths })
    }

    /// What a row of the packs' contents says.
    pub(super) fn of_content_row(row: &[u8; CONTENT_ROW_BYTES]) -> (BlobKind, Self) {
        let ContentLayout { pack, offset, kind, id, lengths } = transmute!(*row);
        let (length, uncompressed_length) = (lengths.sealed(), lengths.uncompressed());
        (kind.into(), Self { id, location: BlobLocation { pack, offset: offset.get(), length, uncompressed_length } })
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
