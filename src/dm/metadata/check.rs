//! Checksum and location of a block.
//!
//! Each block begins with a checksum of its other bytes: CRC-32C without the final inversion, mixed with a number for the kind of
//! block, so that a block of one kind never passes for one of another. Then it says its own number, so that a block that was
//! written to the wrong place, or a read from there, does not pass either.

use zerocopy::transmute_ref;

use super::blocks::{BLOCK_BYTES, MetadataBlock};
use super::damage::Damage;
use super::disk::BlockHeader;
use super::error::ThinMetadataError;

/// Mixed into the checksum of the superblock and its copies.
pub const SUPERBLOCK_SEED: u32 = 160_774;
/// Mixed into the checksum of nodes of B-trees.
pub const NODE_SEED: u32 = 121_107;
/// Mixed into the checksum of bitmaps of space maps.
pub const BITMAP_SEED: u32 = 240_779;

/// The checksum that belongs into the first four bytes of a block with this content.
pub fn checksum(block: &[u8; BLOCK_BYTES], seed: u32) -> u32 {
    !crc32c::crc32c(&block[4..]) ^ seed
}

/// Puts the checksum where it belongs after the rest of a block was changed.
pub(super) fn seal(block: &mut [u8; BLOCK_BYTES], seed: u32) {
    let sum = checksum(block, seed);
    block[..4].copy_from_slice(&sum.to_le_bytes());
}

/// Whether these bytes are what was written to this place, and of the kind that the seed stands for.
pub(super) fn verify(bytes: &[u8; BLOCK_BYTES], seed: u32, place: MetadataBlock) -> Result<(), ThinMetadataError> {
    let header: &BlockHeader = transmute_ref!(bytes);
    if checksum(bytes, seed) != header.csum.get() {
        return Err(ThinMetadataError::damaged(place, Damage::Checksum));
    }
    if header.blocknr.get() != place.number() {
        return Err(ThinMetadataError::damaged(place, Damage::Misplaced));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_passes_only_unchanged_at_its_place_and_as_its_kind() {
        let place = MetadataBlock::new(7).unwrap();
        let mut bytes = [0x5a; BLOCK_BYTES];
        bytes[8..16].copy_from_slice(&7_u64.to_le_bytes());
        let sum = checksum(&bytes, NODE_SEED);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        verify(&bytes, NODE_SEED, place).unwrap();
        assert!(verify(&bytes, SUPERBLOCK_SEED, place).is_err());
        assert!(verify(&bytes, NODE_SEED, MetadataBlock::new(8).unwrap()).is_err());
        for at in 0..BLOCK_BYTES {
            bytes[at] ^= 0x10;
            assert!(verify(&bytes, NODE_SEED, place).is_err(), "byte {at}");
            bytes[at] ^= 0x10;
        }
    }
}
