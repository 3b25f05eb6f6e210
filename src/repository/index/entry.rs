//! A blob and where it lies, as a row of the tables that an index is made of.
//!
//! One row serves both tables: that of blobs begins with the blob's id, that of packs with the pack's. Numbers are written high byte
//! first, so that rows sorted as bytes are sorted by what they mean.

use std::num::NonZeroU32;

use crate::repository::blob::{BlobKind, BlobLocation};
use crate::repository::id::Id;

/// Bytes of a row of the table of blobs: id, pack, offset, length, plain length.
pub(super) const BLOB_ROW_BYTES: usize = 2 * Id::LENGTH + 3 * 4;
/// Bytes of a row of the table of packs: pack, offset, kind, id, length, plain length.
pub(super) const PACK_ROW_BYTES: usize = BLOB_ROW_BYTES + 1;

/// A blob that an index names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::repository) struct Entry {
    pub(in crate::repository) id: Id,
    pub(in crate::repository) location: BlobLocation,
}

/// Puts parts one behind another.
fn row<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut row = [0; N];
    let mut at = 0;
    for part in parts {
        row[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    row
}

/// Takes the first `N` bytes off.
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

impl Entry {
    /// The row of the table of blobs.
    pub(super) fn to_row(self) -> [u8; BLOB_ROW_BYTES] {
        let BlobLocation { pack, offset, length, uncompressed_length } = self.location;
        // A blob that is not compressed has no plain length, and a compressed one is never empty.
        let plain = uncompressed_length.map_or(0, NonZeroU32::get);
        let numbers = [offset, length, plain].map(u32::to_be_bytes);
        row(&[self.id.as_bytes(), pack.as_bytes(), &numbers[0], &numbers[1], &numbers[2]])
    }

    /// What a row of the table of blobs says.
    pub(super) fn of_row(row: &[u8; BLOB_ROW_BYTES]) -> Self {
        let mut rest = &row[..];
        let (id, pack) = (Id::from_bytes(take(&mut rest)), Id::from_bytes(take(&mut rest)));
        let (offset, length, plain) = (number(&mut rest), number(&mut rest), number(&mut rest));
        Self { id, location: BlobLocation { pack, offset, length, uncompressed_length: NonZeroU32::new(plain) } }
    }

    /// The row of the table of packs.
    pub(super) fn to_pack_row(self, kind: BlobKind) -> [u8; PACK_ROW_BYTES] {
        let BlobLocation { pack, offset, length, uncompressed_length } = self.location;
        let plain = uncompressed_length.map_or(0, NonZeroU32::get);
        let numbers = [offset, length, plain].map(u32::to_be_bytes);
        let kind = [matches!(kind, BlobKind::Tree).into()];
        row(&[pack.as_bytes(), &numbers[0], &kind, self.id.as_bytes(), &numbers[1], &numbers[2]])
    }

    /// What a row of the table of packs says.
    pub(super) fn of_pack_row(row: &[u8; PACK_ROW_BYTES]) -> (BlobKind, Self) {
        let mut rest = &row[..];
        let pack = Id::from_bytes(take(&mut rest));
        let offset = number(&mut rest);
        let kind = if take(&mut rest) == [0] { BlobKind::Data } else { BlobKind::Tree };
        let id = Id::from_bytes(take(&mut rest));
        let (length, plain) = (number(&mut rest), number(&mut rest));
        let location = BlobLocation { pack, offset, length, uncompressed_length: NonZeroU32::new(plain) };
        (kind, Self { id, location })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_say_what_was_written(id: [u8; 32], pack: [u8; 32], offset: u32, length: u32, plain: Option<NonZeroU32>, tree: bool) {
            let location = BlobLocation { pack: Id::from_bytes(pack), offset, length, uncompressed_length: plain };
            let entry = Entry { id: Id::from_bytes(id), location };
            prop_assert_eq!(Entry::of_row(&entry.to_row()), entry);
            let kind = if tree { BlobKind::Tree } else { BlobKind::Data };
            prop_assert_eq!(Entry::of_pack_row(&entry.to_pack_row(kind)), (kind, entry));
        }
    }
}
