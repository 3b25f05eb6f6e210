//! The space map of a pool's data: how many leaves of mappings lead to each data block, as the kernel keeps it to allocate by.
//!
//! A root in the superblock says how many blocks there are, how many of them are allocated, and where the index is: a B-tree from
//! the numbers of bitmaps to where each is, how many of its blocks are free, and a place before which none is. A bitmap counts
//! 16,320 blocks in two bits each, of which the first is the higher; what counts to three or more is all ones there, and its number is
//! in a further tree, which is not read here. The kernel counts the free blocks of the last bitmap as if it were full of
//! blocks, however many there are. (Linux, `drivers/md/persistent-data/dm-space-map-common.h` and `.c`; the root: `struct
//! thin_disk_superblock` of `drivers/md/dm-thin-metadata.c`.)
//!
//! Unlike the trees of mappings, a space map is never shared: a metadata snapshot carries none.

use zerocopy::{transmute, transmute_ref};

use super::blocks::{BLOCK_BYTES, MetadataBlock};
use super::check::{BITMAP_SEED, NODE_SEED, SUPERBLOCK_SEED, seal, verify};
use super::cursor::Cursor;
use super::damage::Damage;
use super::disk::{IndexEntryValue, SuperblockBlock};
use super::error::ThinMetadataError;
use super::node::{INDEX_ENTRY, Node, replace_value};
use super::reader::Reader;

/// Bytes before the counts of a bitmap.
const HEADER: usize = 16;
/// Blocks that a bitmap counts.
pub(super) const PER_BITMAP: usize = (BLOCK_BYTES - HEADER) * 4;

/// Where a space map begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SpaceMap {
    /// Data blocks that it counts.
    pub(super) blocks: u64,
    /// Those that it says are allocated.
    pub(super) allocated: u64,
    index: MetadataBlock,
}

/// A bitmap, where it is kept, and what its index says of it.
pub(super) struct Bitmap<'b> {
    /// The first data block that it counts.
    pub(super) first: u64,
    /// How many it counts.
    pub(super) length: usize,
    pub(super) place: MetadataBlock,
    pub(super) bytes: &'b [u8; BLOCK_BYTES],
}

/// What a block of metadata is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedBlock {
    /// Which block.
    pub place: MetadataBlock,
    /// All of it, with its checksum.
    pub bytes: Box<[u8; BLOCK_BYTES]>,
}

/// What the index says of a bitmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexEntry {
    /// Number of the metadata block that the bitmap is.
    place: u64,
    /// How many of its counts are zero, whether there is a block to count or not.
    pub(super) free: u32,
    /// No block before this one of the bitmap is free; there may be none from there on either.
    pub(super) none_free_before: u32,
}

/// What a bitmap says of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    /// Nothing leads to it.
    Free,
    /// One leaf or two.
    Few,
    /// Three or more.
    Many,
}

impl IndexEntry {
    fn parse(value: &[u8; INDEX_ENTRY]) -> Self {
        let value: &IndexEntryValue = transmute_ref!(value);
        Self { place: value.blocknr.get(), free: value.nr_free.get(), none_free_before: value.none_free_before.get() }
    }

    fn to_bytes(self) -> [u8; INDEX_ENTRY] {
        transmute!(IndexEntryValue {
            blocknr: self.place.into(),
            nr_free: self.free.into(),
            none_free_before: self.none_free_before.into(),
        })
    }
}

/// What a bitmap says of one of its blocks.
pub(super) fn count(bitmap: &[u8; BLOCK_BYTES], block: usize) -> Count {
    match bitmap[HEADER + block / 4] >> (block % 4 * 2) & 3 {
        0 => Count::Free,
        3 => Count::Many,
        _ => Count::Few,
    }
}

/// Makes one of its blocks free. The checksum is wrong afterwards.
pub(super) fn set_free(bitmap: &mut [u8; BLOCK_BYTES], block: usize) {
    bitmap[HEADER + block / 4] &= !(3 << (block % 4 * 2));
}

/// Puts the checksum of a changed bitmap in order.
pub(super) fn seal_bitmap(bitmap: &mut [u8; BLOCK_BYTES]) {
    seal(bitmap, BITMAP_SEED);
}

/// How many data blocks a superblock says are allocated.
pub(super) fn allocated(superblock: &[u8; BLOCK_BYTES]) -> u64 {
    let superblock: &SuperblockBlock = transmute_ref!(superblock);
    superblock.data_space_map_root.nr_allocated.get()
}

/// The superblock with another number of allocated data blocks.
pub(super) fn with_allocated(superblock: &[u8; BLOCK_BYTES], allocated: u64) -> [u8; BLOCK_BYTES] {
    let mut superblock: SuperblockBlock = transmute!(*superblock);
    superblock.data_space_map_root.nr_allocated = allocated.into();
    let mut bytes = transmute!(superblock);
    seal(&mut bytes, SUPERBLOCK_SEED);
    bytes
}

impl SpaceMap {
    /// What the superblock, which was checked, says of it.
    pub(super) fn of(superblock: &[u8; BLOCK_BYTES], reader: &Reader<'_>) -> Result<Self, ThinMetadataError> {
        let superblock: &SuperblockBlock = transmute_ref!(superblock);
        let root = &superblock.data_space_map_root;
        let index = reader.pointer(MetadataBlock::SUPERBLOCK, root.bitmap_root.get())?;
        Ok(Self { blocks: root.nr_blocks.get(), allocated: root.nr_allocated.get(), index })
    }

    /// Shows every bitmap in the order of the blocks, each with its entry of the index, which may be changed. Returns the leaves of the
    /// index in which any was, as they are then.
    pub(super) fn each_bitmap(
        &self,
        reader: &mut Reader<'_>,
        visit: &mut dyn FnMut(Bitmap<'_>, &mut IndexEntry) -> Result<(), ThinMetadataError>,
    ) -> Result<Vec<ChangedBlock>, ThinMetadataError> {
        let bitmaps = self.blocks.div_ceil(PER_BITMAP as u64);
        let (mut changed, mut next) = (Vec::new(), 0);
        let mut cursor = Cursor::open(reader, self.index, bitmaps)?;
        while let Some(place) = cursor.current() {
            if place.level > 0 {
                cursor.descend(reader)?;
                continue;
            }
            let mut leaf = Box::new(*reader.single(place.block)?);
            verify(&leaf, NODE_SEED, place.block)?;
            let node = Node::<INDEX_ENTRY>::check(&leaf, place)?;
            let entries: Vec<_> = (0..node.count()).map(|at| node.key(at)).zip(node.values().iter().copied()).collect();
            let mut is_changed = false;
            for (at, (key, value)) in entries.into_iter().enumerate() {
                if key != next {
                    return Err(ThinMetadataError::damaged(place.block, Damage::MissingBitmap));
                }
                next += 1;
                let mut entry = IndexEntry::parse(&value);
                let bitmap = reader.pointer(place.block, entry.place)?;
                visit(self.bitmap(reader, bitmap, key)?, &mut entry)?;
                if entry.to_bytes() != value {
                    replace_value(&mut leaf, at, &entry.to_bytes());
                    is_changed = true;
                }
            }
            if is_changed {
                seal(&mut leaf, NODE_SEED);
                changed.push(ChangedBlock { place: place.block, bytes: leaf });
            }
            cursor.step(reader)?;
        }
        if next != bitmaps {
            return Err(ThinMetadataError::damaged(self.index, Damage::MissingBitmap));
        }
        Ok(changed)
    }

    /// The bitmap of this number, which is at `place`.
    fn bitmap<'b>(&self, reader: &'b mut Reader<'_>, place: MetadataBlock, number: u64) -> Result<Bitmap<'b>, ThinMetadataError> {
        let bytes = reader.single(place)?;
        verify(bytes, BITMAP_SEED, place)?;
        let first = number * PER_BITMAP as u64;
        let length = usize::try_from(self.blocks - first).map_or(PER_BITMAP, |rest| rest.min(PER_BITMAP));
        Ok(Bitmap { first, length, place, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_bit_of_a_count_comes_first() {
        let mut bitmap = [0; BLOCK_BYTES];
        // Counts 0, 1, 2, 3 from the lowest bits up.
        bitmap[HEADER + 1] = 0b11_01_10_00;
        let counts = |bitmap: &[u8; BLOCK_BYTES]| [4, 5, 6, 7].map(|block| count(bitmap, block));
        assert_eq!(counts(&bitmap), [Count::Free, Count::Few, Count::Few, Count::Many]);
        set_free(&mut bitmap, 5);
        assert_eq!(counts(&bitmap), [Count::Free, Count::Free, Count::Few, Count::Many]);
        set_free(&mut bitmap, 7);
        assert_eq!(bitmap[HEADER + 1], 0b00_01_00_00);
        assert_eq!(PER_BITMAP, 16_320);
    }
}
