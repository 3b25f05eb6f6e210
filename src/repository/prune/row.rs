//! Copies of blobs as rows: sorted by blob, to find all copies of one, or by pack, to read a pack from its beginning to its end.

use zerocopy::big_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, Unaligned, transmute};

use crate::repository::blob::{BlobKind, BlobLocation, PackRecord, PackedBlob};
use crate::repository::id::Id;
use crate::repository::row::{KindByte, Lengths};

/// Bytes of a blob key: kind and id.
pub(super) const BLOB_BYTES: usize = size_of::<BlobKeyRow>();
/// Bytes of a row of either order.
pub(super) const ROW_BYTES: usize = size_of::<RowByBlob>();

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct BlobKeyRow {
    id: Id,
    kind: KindByte,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct RowByBlob {
    blob: BlobKeyRow,
    pack: Id,
    offset: U32,
    lengths: Lengths,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct RowByPack {
    pack: Id,
    offset: U32,
    blob: BlobKeyRow,
    lengths: Lengths,
}

/// A blob, without the pack that it lies in.
pub(super) type BlobKey = [u8; BLOB_BYTES];
/// A copy of a blob.
pub(super) type Row = [u8; ROW_BYTES];

/// One of the copies of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlobCopy {
    pub(super) id: Id,
    pub(super) kind: BlobKind,
    pub(super) location: BlobLocation,
}

pub(super) fn blob_key(kind: BlobKind, id: &Id) -> BlobKey {
    transmute!(BlobKeyRow { id: *id, kind: kind.into() })
}

/// The blob that a key stands for.
pub(super) fn of_blob_key(key: &BlobKey) -> (BlobKind, Id) {
    let BlobKeyRow { id, kind } = transmute!(*key);
    (kind.into(), id)
}

impl BlobCopy {
    pub(super) fn of(pack: &PackRecord, blob: &PackedBlob) -> Self {
        let (offset, length, uncompressed_length) = (blob.offset, blob.length, blob.uncompressed_length);
        Self { id: blob.id, kind: blob.kind, location: BlobLocation { pack: pack.id, offset, length, uncompressed_length } }
    }

    pub(super) fn packed(&self) -> PackedBlob {
        let BlobLocation { offset, length, uncompressed_length, .. } = self.location;
        PackedBlob { id: self.id, kind: self.kind, offset, length, uncompressed_length }
    }

    fn of_parts(BlobKeyRow { id, kind }: BlobKeyRow, pack: Id, offset: U32, lengths: Lengths) -> Self {
        let (length, uncompressed_length) = (lengths.sealed(), lengths.uncompressed());
        Self { id, kind: kind.into(), location: BlobLocation { pack, offset: offset.get(), length, uncompressed_length } }
    }

    fn parts(&self) -> (BlobKeyRow, Id, U32, Lengths) {
        let BlobLocation { pack, offset, length, uncompressed_length } = self.location;
        let blob = BlobKeyRow { id: self.id, kind: self.kind.into() };
        (blob, pack, offset.into(), Lengths::new(length, uncompressed_length))
    }

    /// The row of the table that is sorted by blob.
    pub(super) fn row_by_blob(&self) -> Row {
        let (blob, pack, offset, lengths) = self.parts();
        transmute!(RowByBlob { blob, pack, offset, lengths })
    }

    pub(super) fn of_row_by_blob(row: &Row) -> Self {
        let RowByBlob { blob, pack, offset, lengths } = transmute!(*row);
        Self::of_parts(blob, pack, offset, lengths)
    }

    /// The row of the table that is sorted by pack.
    pub(super) fn row_by_pack(&self) -> Row {
        let (blob, pack, offset, lengths) = self.parts();
        transmute!(RowByPack { pack, offset, blob, lengths })
    }

    pub(super) fn of_row_by_pack(row: &Row) -> Self {
        let RowByPack { pack, offset, blob, lengths } = transmute!(*row);
        Self::of_parts(blob, pack, offset, lengths)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_say_what_was_written(id: [u8; 32], pack: [u8; 32], offset: u32, length: u32, plain: Option<NonZeroU32>, tree: bool) {
            let kind = if tree { BlobKind::Tree } else { BlobKind::Data };
            let location = BlobLocation { pack: Id::from_bytes(pack), offset, length, uncompressed_length: plain };
            let copy = BlobCopy { id: Id::from_bytes(id), kind, location };
            prop_assert_eq!(BlobCopy::of_row_by_blob(&copy.row_by_blob()), copy);
            prop_assert_eq!(BlobCopy::of_row_by_pack(&copy.row_by_pack()), copy);
        }
    }
}
