//! The superblock of a thin pool: block 0, and the copy of it that a metadata snapshot is.

use zerocopy::little_endian::U64;
use zerocopy::transmute_ref;

use super::blocks::{BLOCK_BYTES, MetadataBlock, MetadataSource};
use super::check::{SUPERBLOCK_SEED, verify};
use super::damage::{Damage, SuperblockFault};
use super::disk::SuperblockBlock;
use super::error::ThinMetadataError;
use super::reader::Reader;
use crate::dm::units::{DataBlockSize, Sectors, ThinTime};

const MAGIC: u64 = 27_022_010;
/// Versions that are read alike: the second one added what only the kernel needs.
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=2;
/// Bit of the flags.
const NEEDS_CHECK: u32 = 1;
/// How often block 0 of a pool that may be live is read before a wrong checksum is believed. The kernel writes it as one
/// request, but no device promises that a read beside it sees all or nothing; that it is torn thrice in a row by commits, which
/// are a second apart unless forced, does not happen.
const ATTEMPTS: usize = 3;

/// What the superblock says of its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// The pool must be checked offline before it can be written to again.
    pub needs_check: bool,
    /// Version of the format.
    pub version: u32,
    /// The pool's clock.
    pub time: ThinTime,
    /// The number that whoever owns the pool keeps in it.
    pub transaction_id: u64,
    /// Where the copy for the metadata snapshot is, if there is one. A copy itself names none.
    pub held_root: Option<MetadataBlock>,
    /// Root of the tree of the devices' mappings.
    pub data_mapping_root: MetadataBlock,
    /// Root of the tree of the devices' details.
    pub details_root: MetadataBlock,
    /// What the pool allocates by.
    pub data_block_size: DataBlockSize,
    /// Blocks of the metadata device as the pool was made; it may have grown.
    pub metadata_blocks: u64,
    /// Blocks of the data device; zero in a copy for a metadata snapshot, which carries no space maps.
    pub data_blocks: u64,
    /// Blocks of the data device that are allocated; zero in a copy.
    pub allocated_data_blocks: u64,
}

impl Superblock {
    /// Reads block 0.
    ///
    /// # Errors
    /// As for [`Superblock::examine`], and when the block cannot be read.
    pub fn read(blocks: &dyn MetadataSource) -> Result<Self, ThinMetadataError> {
        let mut attempt = 1;
        loop {
            match Self::read_at(blocks, MetadataBlock::SUPERBLOCK) {
                Err(ThinMetadataError::Damaged { .. }) if attempt < ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    /// Reads block 0 or a copy.
    pub(super) fn read_at(blocks: &dyn MetadataSource, place: MetadataBlock) -> Result<Self, ThinMetadataError> {
        let mut reader = Reader::new(blocks, &|| false);
        Self::examine_at(reader.single(place)?, place)
    }

    /// What the 4096 bytes of a block 0 say.
    ///
    /// # Errors
    /// [`ThinMetadataError::Unformatted`] for zeros and for whatever has no mark; [`ThinMetadataError::Damaged`] where that is there and the rest
    /// is not sound; [`ThinMetadataError::Version`] for a pool of a later format.
    pub fn examine(bytes: &[u8; BLOCK_BYTES]) -> Result<Self, ThinMetadataError> {
        Self::examine_at(bytes, MetadataBlock::SUPERBLOCK)
    }

    fn examine_at(bytes: &[u8; BLOCK_BYTES], place: MetadataBlock) -> Result<Self, ThinMetadataError> {
        let block: &SuperblockBlock = transmute_ref!(bytes);
        if block.magic.get() != MAGIC {
            return match place {
                MetadataBlock::SUPERBLOCK => Err(ThinMetadataError::Unformatted { zeroed: bytes.iter().all(|&byte| byte == 0) }),
                _ => Err(ThinMetadataError::damaged(place, Damage::NoSuperblockCopy)),
            };
        }
        verify(bytes, SUPERBLOCK_SEED, place)?;
        let (version, features) = (block.version.get(), block.incompat_flags.get());
        if !VERSIONS.contains(&version) || features != 0 {
            return Err(ThinMetadataError::Version { version, features });
        }
        let damaged = |fault| ThinMetadataError::damaged(place, Damage::Superblock(fault));
        let root = |number: U64| MetadataBlock::new(number.get()).filter(|root| *root != MetadataBlock::SUPERBLOCK);
        let held_root = match block.held_root.get() {
            0 => None,
            _ => Some(root(block.held_root).ok_or(damaged(SuperblockFault::HeldRoot))?),
        };
        let sectors = Sectors::new(block.data_block_size.get().into());
        let data_block_size = sectors.and_then(|sectors| DataBlockSize::from_bytes(sectors.bytes()));
        Ok(Self {
            needs_check: block.flags.get() & NEEDS_CHECK != 0,
            version,
            time: ThinTime::new(block.time.get()).ok_or(damaged(SuperblockFault::Time))?,
            transaction_id: block.trans_id.get(),
            held_root,
            data_mapping_root: root(block.data_mapping_root).ok_or(damaged(SuperblockFault::DataMappingRoot))?,
            details_root: root(block.device_details_root).ok_or(damaged(SuperblockFault::DeviceDetailsRoot))?,
            data_block_size: data_block_size.ok_or(damaged(SuperblockFault::DataBlockSize))?,
            metadata_blocks: block.metadata_nr_blocks.get(),
            data_blocks: block.data_space_map_root.nr_blocks.get(),
            allocated_data_blocks: block.data_space_map_root.nr_allocated.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::checksum;
    use super::*;

    fn sound() -> [u8; BLOCK_BYTES] {
        let mut bytes = [0; BLOCK_BYTES];
        let mut put =
            |at: usize, value: u64, length: usize| bytes[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
        put(4, 1, 4);
        put(32, MAGIC, 8);
        put(40, 2, 4);
        put(44, 9, 4);
        put(48, 77, 8);
        put(56, 5, 8);
        put(64, 1000, 8);
        put(72, 10, 8);
        put(320, 3, 8);
        put(328, 4, 8);
        put(336, 128, 4);
        put(344, 256, 8);
        bytes
    }

    fn examine(mut bytes: [u8; BLOCK_BYTES]) -> Result<Superblock, ThinMetadataError> {
        let sum = checksum(&bytes, SUPERBLOCK_SEED);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        Superblock::examine(&bytes)
    }

    #[test]
    fn a_sound_superblock_says_what_it_has() {
        let superblock = examine(sound()).unwrap();
        let block = |number| MetadataBlock::new(number).unwrap();
        assert!(superblock.needs_check);
        assert_eq!((superblock.time.number(), superblock.transaction_id), (9, 77));
        assert_eq!(superblock.held_root, Some(block(5)));
        assert_eq!((superblock.data_mapping_root, superblock.details_root), (block(3), block(4)));
        assert_eq!(superblock.data_block_size, DataBlockSize::MIN);
        assert_eq!((superblock.metadata_blocks, superblock.data_blocks, superblock.allocated_data_blocks), (256, 1000, 10));
    }

    #[test]
    fn zeros_foreign_bytes_damage_and_later_versions_are_told_apart() {
        let zeros = Superblock::examine(&[0; BLOCK_BYTES]);
        assert!(matches!(zeros, Err(ThinMetadataError::Unformatted { zeroed: true })), "{zeros:?}");
        let foreign = Superblock::examine(&[1; BLOCK_BYTES]);
        assert!(matches!(foreign, Err(ThinMetadataError::Unformatted { zeroed: false })), "{foreign:?}");
        assert!(matches!(Superblock::examine(&sound()), Err(ThinMetadataError::Damaged { .. })));
        for (at, value) in [(40, 3), (40, 0), (360, 1)] {
            let mut bytes = sound();
            bytes[at] = value;
            assert!(matches!(examine(bytes), Err(ThinMetadataError::Version { .. })), "byte {at}");
        }
    }

    #[test]
    fn fields_that_cannot_be_are_damage_though_the_checksum_is_right() {
        for (at, value) in [(8, 1), (47, 1), (60, 1), (320, 0), (324, 1), (328, 0), (332, 1), (336, 1), (339, 1)] {
            let mut bytes = sound();
            bytes[at] = value;
            assert!(matches!(examine(bytes), Err(ThinMetadataError::Damaged { .. })), "byte {at}");
        }
    }
}
