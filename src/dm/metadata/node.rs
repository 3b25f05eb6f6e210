//! A node of a B-tree: its checks, and what it holds.
//!
//! 32 bytes of header, room for `max` keys of 8 bytes, then as many values. Inner nodes have block numbers as values; leaves what the
//! tree maps to. The key of a child in its parent is a lower bound of what is in the child.

use super::blocks::{BLOCK_BYTES, MetadataBlock};
use super::check::u32_at;
use super::error::MetadataError;

const HEADER: usize = 32;
const INNER: u32 = 1;
const LEAF: u32 = 2;
const KEY: usize = 8;
/// Bytes of a value of an inner node.
pub(super) const POINTER: usize = 8;

/// Bits of a mapping that are its time; those above are the data block.
pub(super) const TIME_BITS: u32 = 24;

/// Bytes of a value in the leaves of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueSize {
    /// Of a mapping, or of the root of a device's tree.
    Number,
    /// Of a device's details.
    Details,
    /// Of an entry of a space map's index.
    Index,
}

impl ValueSize {
    const fn bytes(self) -> usize {
        match self {
            Self::Number => 8,
            Self::Details => 24,
            Self::Index => 16,
        }
    }
}

/// Where a node is, and what is demanded of it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) block: MetadataBlock,
    /// Steps down from here to a leaf.
    pub(super) level: u8,
    /// Only the root of a tree may be empty, and only as a leaf.
    pub(super) is_root: bool,
    /// No key is below this.
    pub(super) low: u64,
    /// All keys are below this.
    pub(super) high: u64,
}

/// A node whose header and keys were checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<'b> {
    keys: &'b [[u8; KEY]],
    values: &'b [u8],
}

impl<'b> Node<'b> {
    /// Checks everything but the checksum and the location.
    pub(super) fn check(bytes: &'b [u8; BLOCK_BYTES], place: Place, leaves: ValueSize) -> Result<Self, MetadataError> {
        let damaged = |what| Err(MetadataError::damaged(place.block, what));
        let is_inner = place.level > 0;
        if u32_at(bytes, 4) != if is_inner { INNER } else { LEAF } {
            return damaged("it is at another height than its tree");
        }
        let (count, max, size) = header(bytes);
        if size != if is_inner { POINTER } else { leaves.bytes() } {
            return damaged("its values have another size than those of its tree");
        }
        if count > max || max > (BLOCK_BYTES - HEADER) / (KEY + size) {
            return damaged("it has more entries than there is room for");
        }
        let node = Self::of(bytes);
        let (Some(first), Some(last)) = (node.keys.first(), node.keys.last()) else {
            return if is_inner || !place.is_root { damaged("it is empty") } else { Ok(node) };
        };
        if u64::from_le_bytes(*first) < place.low || u64::from_le_bytes(*last) >= place.high {
            return damaged("it has keys outside of what its parent says");
        }
        if !node.keys.is_sorted_by(|one, next| u64::from_le_bytes(*one) < u64::from_le_bytes(*next)) {
            return damaged("its keys do not ascend");
        }
        Ok(node)
    }

    /// The node that was checked before.
    pub(super) fn of(bytes: &'b [u8; BLOCK_BYTES]) -> Self {
        let (count, max, size) = header(bytes);
        let keys = bytes.get(HEADER..HEADER + KEY * count).unwrap_or_default();
        let values = bytes.get(HEADER + KEY * max..).and_then(|rest| rest.get(..size * count)).unwrap_or_default();
        Self { keys: keys.as_chunks().0, values }
    }

    pub(super) const fn count(&self) -> usize {
        self.keys.len()
    }

    /// All keys, little-endian.
    pub(super) const fn keys(&self) -> &'b [[u8; KEY]] {
        self.keys
    }

    /// All values of a node whose values are numbers, little-endian.
    pub(super) const fn numbers(&self) -> &'b [[u8; POINTER]] {
        self.values.as_chunks().0
    }

    /// All values of a leaf with details.
    pub(super) const fn details(&self) -> &'b [[u8; 24]] {
        self.values.as_chunks().0
    }

    /// All values of a leaf of a space map's index.
    pub(super) const fn index_entries(&self) -> &'b [[u8; 16]] {
        self.values.as_chunks().0
    }

    /// A key; zero when there are fewer.
    pub(super) fn key(&self, index: usize) -> u64 {
        self.keys.get(index).copied().map(u64::from_le_bytes).unwrap_or_default()
    }

    /// A value of a node whose values are numbers; zero, which is never a pointer, when there are fewer.
    pub(super) fn number(&self, index: usize) -> u64 {
        self.numbers().get(index).copied().map(u64::from_le_bytes).unwrap_or_default()
    }

    /// How many entries have keys below `end`.
    pub(super) fn count_below(&self, end: u64) -> usize {
        match self.keys.last() {
            Some(last) if u64::from_le_bytes(*last) >= end => self.keys.partition_point(|key| u64::from_le_bytes(*key) < end),
            _ => self.keys.len(),
        }
    }

    /// The node without its first entries, of which it has at least as many; for nodes whose values are numbers.
    pub(super) fn without_first(self, entries: usize) -> Self {
        Self { keys: &self.keys[entries..], values: &self.values[entries * POINTER..] }
    }

    /// The last entry whose key is not above `key`.
    pub(super) fn find(&self, key: u64) -> Option<usize> {
        self.keys.partition_point(|entry| u64::from_le_bytes(*entry) <= key).checked_sub(1)
    }
}

/// Puts another value in place of one that a checked leaf of a space map's index has. The checksum is wrong afterwards.
pub(super) fn replace_index_entry(bytes: &mut [u8; BLOCK_BYTES], index: usize, value: &[u8; 16]) {
    let (_, max, size) = header(bytes);
    let at = HEADER + KEY * max + size * index;
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// Entries, room for entries, bytes of a value.
fn header(bytes: &[u8; BLOCK_BYTES]) -> (usize, usize, usize) {
    (u32_at(bytes, 16) as usize, u32_at(bytes, 20) as usize, u32_at(bytes, 24) as usize)
}

/// Whether a node of unknown height is a leaf.
pub(super) fn is_leaf(bytes: &[u8; BLOCK_BYTES], block: MetadataBlock) -> Result<bool, MetadataError> {
    match u32_at(bytes, 4) {
        INNER => Ok(false),
        LEAF => Ok(true),
        _ => Err(MetadataError::damaged(block, "it is no node")),
    }
}
