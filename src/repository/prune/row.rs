//! Copies of blobs as rows: sorted by blob, to find all copies of one, or by pack, to read a pack from its beginning to its end.

use std::num::NonZeroU32;

use crate::repository::blob::{BlobKind, BlobLocation, PackRecord, PackedBlob};
use crate::repository::id::Id;

/// Bytes of what tells blobs apart: id and kind.
pub(super) const BLOB_BYTES: usize = Id::LENGTH + 1;
/// Bytes of a row of either order.
pub(super) const ROW_BYTES: usize = BLOB_BYTES + Id::LENGTH + 3 * 4;

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
    let mut key = [0; BLOB_BYTES];
    key[..Id::LENGTH].copy_from_slice(id.as_bytes());
    key[Id::LENGTH] = matches!(kind, BlobKind::Tree).into();
    key
}

/// The blob that a key stands for.
pub(super) fn of_blob_key(key: &BlobKey) -> (BlobKind, Id) {
    let mut rest = &key[..];
    let id = Id::from_bytes(take(&mut rest));
    (if rest == [0] { BlobKind::Data } else { BlobKind::Tree }, id)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let mut taken = [0; N];
    let (first, rest) = bytes.split_at(N.min(bytes.len()));
    taken[..first.len()].copy_from_slice(first);
    *bytes = rest;
    taken
}

fn number(bytes: &mut &[u8]) -> u32 {
    u32::from_be_bytes(take(bytes))
}

fn row(parts: &[&[u8]]) -> Row {
    let mut row = [0; ROW_BYTES];
    let mut at = 0;
    for part in parts {
        row[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    row
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
        // A blob that is not compressed has no plain length, and a compressed one is never empty.
        let plain = self.location.uncompressed_length.map_or(0, NonZeroU32::get);
        [self.location.offset, self.location.length, plain].map(u32::to_be_bytes)
    }

    /// Id, kind, pack, offset, length, plain length.
    pub(super) fn row_by_blob(&self) -> Row {
        let [offset, length, plain] = self.numbers();
        row(&[&blob_key(self.kind, &self.id), self.location.pack.as_bytes(), &offset, &length, &plain])
    }

    pub(super) fn of_row_by_blob(row: &Row) -> Self {
        let mut rest = &row[..];
        let (kind, id) = of_blob_key(&take(&mut rest));
        let pack = Id::from_bytes(take(&mut rest));
        let (offset, length, plain) = (number(&mut rest), number(&mut rest), number(&mut rest));
        Self { id, kind, location: BlobLocation { pack, offset, length, uncompressed_length: NonZeroU32::new(plain) } }
    }

    /// Pack, offset, id, kind, length, plain length.
    pub(super) fn row_by_pack(&self) -> Row {
        let [offset, length, plain] = self.numbers();
        row(&[self.location.pack.as_bytes(), &offset, &blob_key(self.kind, &self.id), &length, &plain])
    }

    pub(super) fn of_row_by_pack(row: &Row) -> Self {
        let mut rest = &row[..];
        let pack = Id::from_bytes(take(&mut rest));
        let offset = number(&mut rest);
        let (kind, id) = of_blob_key(&take(&mut rest));
        let (length, plain) = (number(&mut rest), number(&mut rest));
        Self { id, kind, location: BlobLocation { pack, offset, length, uncompressed_length: NonZeroU32::new(plain) } }
    }
}

#[cfg(test)]
mod tests {
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
