//! A node of a B-tree: its checks, and what it holds.
//!
//! 32 bytes of header, room for `max` keys of 8 bytes, then as many values. Inner nodes have block numbers as values; leaves what the
//! tree maps to. The key of a child in its parent is a lower bound of what is in the child.

use zerocopy::transmute_ref;

use super::blocks::{BLOCK_BYTES, MetadataBlock};
use super::damage::{Damage, NodeFault, TreePlace};
use super::disk::{NODE_HEADER, NodeBlock};
use super::error::ThinMetadataError;

/// `INTERNAL_NODE`.
const INNER: u32 = 1;
/// `LEAF_NODE`.
const LEAF: u32 = 2;
const KEY: usize = 8;

/// Bytes of a value that is a number: a pointer of an inner node, a mapping, the root of a device's tree.
pub(super) const NUMBER: usize = 8;
/// Bytes of a device's details.
pub(super) const DETAILS: usize = 24;
/// Bytes of an entry of a space map's index.
pub(super) const INDEX_ENTRY: usize = 16;

/// Bits of a mapping that are its time; those above are the data block.
pub(super) const TIME_BITS: u32 = 24;

/// Where a node is, and what is demanded of it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) block: MetadataBlock,
    /// The root of its tree. Only that may be empty, and only as a leaf.
    pub(super) root: MetadataBlock,
    /// Steps down from here to a leaf.
    pub(super) level: u8,
    /// No key is below this.
    pub(super) low: u64,
    /// All keys are below this.
    pub(super) high: u64,
}

impl Place {
    pub(super) fn is_root(&self) -> bool {
        self.block == self.root
    }

    /// That the node there is damaged.
    pub(super) const fn damaged(&self, fault: NodeFault) -> ThinMetadataError {
        let place = TreePlace { root: self.root, level: self.level, low: self.low, high: self.high };
        ThinMetadataError::damaged(self.block, Damage::Node { fault, place })
    }
}

/// A node whose header and keys were checked, and whose values have so many bytes each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node<'b, const VALUE: usize> {
    keys: &'b [[u8; KEY]],
    values: &'b [[u8; VALUE]],
}

impl<'b, const VALUE: usize> Node<'b, VALUE> {
    /// Checks everything but the checksum and the location. At a level above the leaves the values are pointers.
    pub(super) fn check(bytes: &'b [u8; BLOCK_BYTES], place: Place) -> Result<Self, ThinMetadataError> {
        let damaged = |fault| Err(place.damaged(fault));
        let header = &as_node(bytes).header;
        let is_inner = place.level > 0;
        if header.flags.get() != if is_inner { INNER } else { LEAF } {
            return damaged(NodeFault::WrongHeight);
        }
        if header.value_size.get() as usize != VALUE {
            return damaged(NodeFault::WrongValueSize);
        }
        let (count, max) = (header.nr_entries.get() as usize, header.max_entries.get() as usize);
        if count > max || max > (BLOCK_BYTES - NODE_HEADER) / (KEY + VALUE) {
            return damaged(NodeFault::TooManyEntries);
        }
        let node = Self::of(bytes);
        let (Some(first), Some(last)) = (node.keys.first(), node.keys.last()) else {
            return if is_inner || !place.is_root() { damaged(NodeFault::Empty) } else { Ok(node) };
        };
        if u64::from_le_bytes(*first) < place.low || u64::from_le_bytes(*last) >= place.high {
            return damaged(NodeFault::KeysOutOfRange);
        }
        if !node.keys.is_sorted_by(|one, next| u64::from_le_bytes(*one) < u64::from_le_bytes(*next)) {
            return damaged(NodeFault::KeysOutOfOrder);
        }
        Ok(node)
    }

    /// The node that was checked before.
    pub(super) fn of(bytes: &'b [u8; BLOCK_BYTES]) -> Self {
        let NodeBlock { header, entries } = as_node(bytes);
        let (count, max) = (header.nr_entries.get() as usize, header.max_entries.get() as usize);
        let (keys, values) = entries.split_at(KEY * max);
        Self { keys: &keys.as_chunks().0[..count], values: &values.as_chunks().0[..count] }
    }

    pub(super) const fn count(&self) -> usize {
        self.keys.len()
    }

    /// All keys, little-endian.
    pub(super) const fn keys(&self) -> &'b [[u8; KEY]] {
        self.keys
    }

    /// All values, as they are stored.
    pub(super) const fn values(&self) -> &'b [[u8; VALUE]] {
        self.values
    }

    /// One of the keys.
    pub(super) fn key(&self, index: usize) -> u64 {
        u64::from_le_bytes(self.keys[index])
    }

    /// How many entries have keys below `end`.
    pub(super) fn count_below(&self, end: u64) -> usize {
        match self.keys.last() {
            Some(last) if u64::from_le_bytes(*last) >= end => self.keys.partition_point(|key| u64::from_le_bytes(*key) < end),
            _ => self.keys.len(),
        }
    }

    /// The node without its first entries, of which it has at least as many.
    pub(super) fn without_first(self, entries: usize) -> Self {
        Self { keys: &self.keys[entries..], values: &self.values[entries..] }
    }

    /// The last entry whose key is not above `key`.
    pub(super) fn find(&self, key: u64) -> Option<usize> {
        self.keys.partition_point(|entry| u64::from_le_bytes(*entry) <= key).checked_sub(1)
    }
}

impl Node<'_, NUMBER> {
    /// One of the values.
    pub(super) fn number(&self, index: usize) -> u64 {
        u64::from_le_bytes(self.values[index])
    }
}

/// Puts another value in place of one that a checked leaf has. The checksum is wrong afterwards.
pub(super) fn replace_value<const VALUE: usize>(bytes: &mut [u8; BLOCK_BYTES], index: usize, value: &[u8; VALUE]) {
    let values = NODE_HEADER + KEY * as_node(bytes).header.max_entries.get() as usize;
    let at = values + VALUE * index;
    bytes[at..at + VALUE].copy_from_slice(value);
}

/// Whether a node of unknown height is a leaf.
pub(super) fn is_leaf(bytes: &[u8; BLOCK_BYTES], place: Place) -> Result<bool, ThinMetadataError> {
    match as_node(bytes).header.flags.get() {
        INNER => Ok(false),
        LEAF => Ok(true),
        _ => Err(place.damaged(NodeFault::NoNode)),
    }
}

fn as_node(bytes: &[u8; BLOCK_BYTES]) -> &NodeBlock {
    transmute_ref!(bytes)
}
