//! Rows of tables, packed into bytes: parts one behind another, numbers high byte first, so that rows sorted as bytes are sorted by what
//! they mean. A blob's place in a pack is packed here for all of them.

use std::num::NonZeroU32;

use super::blob::{BlobKind, BlobLocation};
use super::id::Id;

/// Bytes of a blob's place but for the pack: offset, length, plain length.
pub(super) const PLACE_BYTES: usize = 3 * 4;

/// Puts parts one behind another.
pub(super) fn join<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut row = [0; N];
    let mut at = 0;
    for part in parts {
        row[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    row
}

/// Takes the first `N` bytes off.
pub(super) fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let mut taken = [0; N];
    let (first, rest) = bytes.split_at(N.min(bytes.len()));
    taken[..first.len()].copy_from_slice(first);
    *bytes = rest;
    taken
}

/// Takes a number off.
pub(super) fn take_number(bytes: &mut &[u8]) -> u32 {
    u32::from_be_bytes(take(bytes))
}

/// Takes an id off.
pub(super) fn take_id(bytes: &mut &[u8]) -> Id {
    Id::from_bytes(take(bytes))
}

/// The byte that stands for a kind.
pub(super) fn kind_byte(kind: BlobKind) -> [u8; 1] {
    [matches!(kind, BlobKind::Tree).into()]
}

/// Takes a kind off.
pub(super) fn take_kind(bytes: &mut &[u8]) -> BlobKind {
    if take(bytes) == [0] { BlobKind::Data } else { BlobKind::Tree }
}

/// Offset, length and plain length of a blob.
pub(super) fn numbers_of(offset: u32, length: u32, plain: Option<NonZeroU32>) -> [[u8; 4]; 3] {
    // A blob that is not compressed has no plain length, and a compressed one is never empty.
    [offset, length, plain.map_or(0, NonZeroU32::get)].map(u32::to_be_bytes)
}

/// Takes the numbers off that follow one another, of a blob in `pack`.
pub(super) fn take_place(pack: Id, bytes: &mut &[u8]) -> BlobLocation {
    let offset = take_number(bytes);
    let (length, uncompressed_length) = take_lengths(bytes);
    BlobLocation { pack, offset, length, uncompressed_length }
}

/// Takes length and plain length off.
pub(super) fn take_lengths(bytes: &mut &[u8]) -> (u32, Option<NonZeroU32>) {
    let (length, plain) = (take_number(bytes), take_number(bytes));
    (length, NonZeroU32::new(plain))
}
