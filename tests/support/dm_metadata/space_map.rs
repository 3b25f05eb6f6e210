//! The space map of the data in metadata, read and changed in memory by a second hand: another one than the driver's.

#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeSet;

use windlass::dm::metadata::{BITMAP_SEED, BLOCK_BYTES, NODE_SEED, SUPERBLOCK_SEED, checksum};

/// Blocks that a bitmap counts.
pub const PER_BITMAP: u64 = 16_320;

/// Metadata in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataMap(pub Vec<u8>);

/// What the index says of a bitmap, and where it says so.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Number of the leaf of the index.
    pub leaf: u64,
    /// Offset of the entry in the metadata.
    at: usize,
    /// Number of the block that the bitmap is.
    pub bitmap: u64,
    pub free: u32,
    pub none_free_before: u32,
}

impl DataMap {
    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Data blocks of the pool.
    pub fn blocks(&self) -> u64 {
        self.u64(64)
    }

    /// How many of them the superblock says are allocated.
    pub fn allocated(&self) -> u64 {
        self.u64(72)
    }

    /// The entries of the index, in order.
    pub fn index(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        self.collect(self.u64(80), &mut entries);
        entries
    }

    fn collect(&self, node: u64, entries: &mut Vec<Entry>) {
        let at = place(node);
        let (is_leaf, count, room) = (self.u32(at + 4) == 2, self.u32(at + 16) as usize, self.u32(at + 20) as usize);
        let values = at + 32 + 8 * room;
        for number in 0..count {
            if !is_leaf {
                self.collect(self.u64(values + 8 * number), entries);
                continue;
            }
            let at = values + 16 * number;
            let (bitmap, free, none_free_before) = (self.u64(at), self.u32(at + 8), self.u32(at + 12));
            entries.push(Entry { leaf: node, at, bitmap, free, none_free_before });
        }
    }

    /// Where a block is counted: its bitmap, the byte in the metadata, and how far the two bits are shifted there.
    fn find(&self, block: u64) -> (Entry, usize, u64) {
        let entry = self.index()[usize::try_from(block / PER_BITMAP).unwrap()];
        let within = block % PER_BITMAP;
        (entry, place(entry.bitmap) + 16 + usize::try_from(within / 4).unwrap(), within % 4 * 2)
    }

    /// The blocks that are counted, however often.
    pub fn counted(&self) -> BTreeSet<u64> {
        let bitmaps: Vec<usize> = self.index().iter().map(|entry| place(entry.bitmap) + 16).collect();
        let is_counted = |block: &u64| {
            let at = bitmaps[usize::try_from(block / PER_BITMAP).unwrap()] + usize::try_from(block % PER_BITMAP / 4).unwrap();
            self.0[at] >> (block % 4 * 2) & 3 != 0
        };
        (0..self.blocks()).filter(is_counted).collect()
    }

    /// Counts a block so often, 0 to 3; with the index and the superblock as the kernel would have them then.
    pub fn set(&mut self, block: u64, count: u8) {
        let (entry, at, shift) = self.find(block);
        let before = self.0[at] >> shift & 3;
        // The first bit is the higher.
        self.0[at] = self.0[at] & !(3 << shift) | (count >> 1 | (count & 1) << 1) << shift;
        self.seal(entry.bitmap, BITMAP_SEED);
        let within = u32::try_from(block % PER_BITMAP).unwrap();
        let (mut free, mut none_free_before, mut allocated) = (entry.free, entry.none_free_before, self.allocated());
        if before == 0 && count > 0 {
            (free, allocated) = (free - 1, allocated + 1);
            none_free_before += u32::from(none_free_before == within);
        } else if before > 0 && count == 0 {
            (free, allocated) = (free + 1, allocated - 1);
            none_free_before = none_free_before.min(within);
        }
        self.put(entry.at + 8, &free.to_le_bytes());
        self.put(entry.at + 12, &none_free_before.to_le_bytes());
        self.seal(entry.leaf, NODE_SEED);
        self.put(72, &allocated.to_le_bytes());
        self.seal(0, SUPERBLOCK_SEED);
    }

    /// Puts the checksum of a block in order.
    pub fn seal(&mut self, block: u64, seed: u32) {
        let at = place(block);
        let sum = checksum(self.0[at..at + BLOCK_BYTES].try_into().unwrap(), seed);
        self.put(at, &sum.to_le_bytes());
    }
}

/// Where a block is, in bytes.
fn place(block: u64) -> usize {
    usize::try_from(block).unwrap() * BLOCK_BYTES
}
