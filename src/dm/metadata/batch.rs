//! Leaves, read many at a time.
//!
//! They are read in the order of their places on the disk, neighbours in one read, into one piece of memory that lies in that
//! order too, so nothing is copied. Each is checked before it is looked at.

use super::blocks::BLOCK_BYTES;
use super::check::{NODE_SEED, verify};
use super::error::ThinMetadataError;
use super::node::{Node, Place};
use super::reader::{Reader, whole};
use crate::block::AlignedBuffer;

/// Leaves of a batch: all children of a full inner node (252), so that in a tree that was filled in order a batch is one stretch of the
/// disk. 1 MiB, and two of them for a difference.
pub(super) const LEAVES: usize = 256;
/// Most blocks of a read: 256 KiB, beyond which a longer read is no faster and an interruption waits for it.
const READ: usize = 64;

/// Leaves that are to be read, or were.
pub(super) struct Batch {
    room: usize,
    places: Vec<Place>,
    /// Which place is read to which slot of the memory; in the order of the places.
    slots: Vec<usize>,
    /// The places' numbers in the order of the disk. Kept for its memory.
    order: Vec<usize>,
    memory: AlignedBuffer,
}

impl Batch {
    /// An empty batch for so many leaves.
    pub(super) fn new(room: usize) -> Self {
        let (places, slots, order) = (Vec::with_capacity(room), Vec::with_capacity(room), Vec::with_capacity(room));
        Self { room, places, slots, order, memory: AlignedBuffer::zeroed(0) }
    }

    /// Whether no further leaf fits.
    pub(super) const fn is_full(&self) -> bool {
        self.places.len() >= self.room
    }

    pub(super) const fn len(&self) -> usize {
        self.places.len()
    }

    /// Adds a leaf that is to be read; its number is how many there were. Only while it is not full.
    pub(super) fn push(&mut self, place: Place) {
        self.places.push(place);
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.places.clear();
    }

    /// Reads and checks all.
    pub(super) fn load<const VALUE: usize>(&mut self, reader: &Reader<'_>) -> Result<(), ThinMetadataError> {
        self.order.clear();
        self.order.extend(0..self.places.len());
        self.order.sort_unstable_by_key(|&index| self.places[index].block);
        self.slots.clear();
        self.slots.resize(self.places.len(), 0);
        if self.memory.len() < self.places.len() * BLOCK_BYTES {
            // Small trees need little; the next size is the last.
            let blocks = if self.places.len() <= SMALL.min(self.room) { SMALL.min(self.room) } else { self.room };
            self.memory = AlignedBuffer::zeroed(blocks * BLOCK_BYTES);
        }
        let mut used = 0;
        let mut at = 0;
        while let Some(&first) = self.order.get(at) {
            let start = self.places[first].block;
            let mut length = 1;
            self.slots[first] = used;
            at += 1;
            // A block may be wanted by both trees of a difference, hence the same number again.
            while let Some(&next) = self.order.get(at) {
                let distance = self.places[next].block.index() - start.index();
                if distance > length || distance >= READ {
                    break;
                }
                length = distance + 1;
                self.slots[next] = used + distance;
                at += 1;
            }
            reader.fill(start, &mut self.memory[used * BLOCK_BYTES..(used + length) * BLOCK_BYTES])?;
            used += length;
        }
        for (place, &slot) in self.places.iter().zip(&self.slots) {
            let bytes = self.bytes_of(slot);
            verify(bytes, NODE_SEED, place.block)?;
            Node::<VALUE>::check(bytes, *place)?;
        }
        Ok(())
    }

    /// The leaves that were read, in the order in which they were added.
    pub(super) fn nodes<const VALUE: usize>(&self) -> impl Iterator<Item = (Place, Node<'_, VALUE>)> {
        self.places.iter().zip(&self.slots).map(|(place, &slot)| (*place, Node::of(self.bytes_of(slot))))
    }

    /// One of them, by its number.
    pub(super) fn bytes(&self, index: usize) -> &[u8; BLOCK_BYTES] {
        self.bytes_of(self.slots[index])
    }

    fn bytes_of(&self, slot: usize) -> &[u8; BLOCK_BYTES] {
        whole(&self.memory[slot * BLOCK_BYTES..])
    }
}

/// Leaves that a batch begins with room for.
const SMALL: usize = 16;
