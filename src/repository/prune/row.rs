//! Copies of blobs as rows: sorted by blob, to find all copies of one, or by pack, to read a pack from its beginning to its end.

use crate::repository::blob::{BlobKind, BlobLocation, PackRecord, PackedBlob};
use crate::repository::id::Id;
use crate::repository::row::{
    PLACE_BYTES, join, kind_byte, numbers_of, take, take_id, take_kind, take_lengths, take_number, take_place,
};

/// Bytes of what tells blobs apart: id and kind.
pub(super) const BLOB_BYTES: usize = Id::LENGTH + 1;
/// Bytes of a row of either order.
pub(super) const ROW_BYTES: usize = BLOB_BYTES + Id::LENGTH + PLACE_BYTES;

/// A blob, whatever packs it lies in.
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
    join(&[id.as_bytes(), &kind_byte(kind)])
}

/// The blob that a key stands for.
pub(super) fn of_blob_key(key: &BlobKey) -> (BlobKind, Id) {
    let mut rest = &key[..];
    let id = take_id(&mut rest);
    (take_kind(&mut rest), id)
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

    fn numbers(&self) -> [[u8; 4]; 3] {
        numbers_of(self.location.offset, self.location.length, self.location.uncompressed_length)
    }

    /// Id, kind, pack, offset, length, plain length.
    pub(super) fn row_by_blob(&self) -> Row {
        join(&[&blob_key(self.kind, &self.id), self.location.pack.as_bytes(), self.numbers().as_flattened()])
    }

    pub(super) fn of_row_by_blob(row: &Row) -> Self {
        let mut rest = &row[..];
        let (kind, id) = of_blob_key(&take(&mut rest));
        let pack = take_id(&mut rest);
        Self { id, kind, location: take_place(pack, &mut rest) }
    }

    /// Pack, offset, id, kind, length, plain length.
    pub(super) fn row_by_pack(&self) -> Row {
        let [offset, length, plain] = self.numbers();
        join(&[self.location.pack.as_bytes(), &offset, &blob_key(self.kind, &self.id), &length, &plain])
    }

    pub(super) fn of_row_by_pack(row: &Row) -> Self {
        let mut rest = &row[..];
        let (pack, offset) = (take_id(&mut rest), take_number(&mut rest));
        let (kind, id) = of_blob_key(&take(&mut rest));
        let (length, uncompressed_length) = take_lengths(&mut rest);
        Self { id, kind, location: BlobLocation { pack, offset, length, uncompressed_length } }
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
