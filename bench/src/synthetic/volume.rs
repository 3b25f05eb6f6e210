//! A volume whose bytes follow from their place.
//!
//! A block of 4096 bytes begins with its number. The rest is one byte repeated, which costs little beside hashing it and compresses to
//! nothing, or noise that follows from the number and does not compress: where what is stored is the point. Every chunk differs from every
//! other; a changed chunk has other numbers, and so has a volume of another seed.

use std::io;

use clap::ValueEnum;
use windlass::block::{BlockSink, BlockSource};
use windlass::transfer::ChunkSize;
use windlass::types::{ByteRange, LogicalBlockSize, RangeStream};

use crate::data::noise::Noise;

const BLOCK_BYTES: u64 = 4096;
const FILLING: u8 = 0x57;
/// Added to the numbers of changed blocks.
const CHANGED: u64 = 1 << 60;
/// Numbers of blocks of a seed: a volume has fewer.
const SEED_BITS: u32 = 40;
/// A sparse volume has so many bytes in every GiB.
const SPARSE_BYTES: u64 = 64 << 10;
const GIB: u64 = 1 << 30;

/// How much of a volume is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Allocation {
    /// Every byte.
    Full,
    /// 64 KiB of every GiB.
    Sparse,
}

/// What its blocks hold besides their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Filling {
    /// One byte.
    Plain,
    /// What does not compress.
    Noise,
}

/// The volume, as a source that makes its bytes and as a sink that compares them.
#[derive(Debug, Clone)]
pub struct SyntheticVolume {
    size: u64,
    allocation: Allocation,
    changed_chunks: u64,
    filling: Filling,
    seed: u16,
}

impl SyntheticVolume {
    /// A volume of `size` bytes in which `changed_chunks` chunks, spread evenly, differ from what they were.
    pub fn new(size: u64, allocation: Allocation, changed_chunks: u64) -> Self {
        Self { size, allocation, changed_chunks, filling: Filling::Plain, seed: 0 }
    }

    /// The same with other contents; volumes of two seeds have no chunk in common.
    #[must_use]
    pub fn filled_with(self, filling: Filling, seed: u16) -> Self {
        Self { filling, seed, ..self }
    }

    /// What is allocated.
    pub fn allocated(&self) -> RangeStream {
        let size = self.size;
        let (step, length) = match self.allocation {
            Allocation::Full => (GIB, GIB),
            Allocation::Sparse => (GIB, SPARSE_BYTES),
        };
        let starts = (0..size.div_ceil(step)).map(move |number| number * step);
        Box::new(starts.filter_map(move |start| ByteRange::between(start, (start + length).min(size)).map(Ok)))
    }

    /// What differs: the beginnings of chunks.
    pub fn changed(&self) -> RangeStream {
        let (step, count) = (self.change_step(), self.changed_chunks);
        Box::new((0..count).filter_map(move |number| ByteRange::new(number * step, BLOCK_BYTES).map(Ok)))
    }

    /// Bytes from one changed chunk to the next: whole GiB, so that a sparse volume has something there.
    fn change_step(&self) -> u64 {
        (self.size / self.changed_chunks.max(1) / GIB).max(1) * GIB
    }

    /// The number with which the block at `offset` begins.
    fn number(&self, offset: u64) -> u64 {
        let chunk = ChunkSize::for_volume(self.size).bytes();
        let step = self.change_step();
        let is_changed = offset % step < chunk && offset / step < self.changed_chunks;
        offset / BLOCK_BYTES + 1 + (u64::from(self.seed) << SEED_BITS) + if is_changed { CHANGED } else { 0 }
    }

    /// Makes the block of that number.
    fn fill(&self, number: u64, block: &mut [u8]) {
        match self.filling {
            Filling::Plain => block.fill(FILLING),
            // Sequences of numbers that follow one another would be one sequence.
            Filling::Noise => Noise::new(number.wrapping_mul(0xd134_2543_de82_ef95)).fill(block),
        }
        block[..8].copy_from_slice(&number.to_le_bytes());
    }

    fn is_allocated(&self, offset: u64) -> bool {
        self.allocation == Allocation::Full || offset % GIB < SPARSE_BYTES
    }

    /// The beginning of each block from `offset` on, for a buffer of whole blocks.
    fn check_alignment(&self, offset: u64, length: usize) -> io::Result<()> {
        let is_aligned = offset.is_multiple_of(BLOCK_BYTES) && (length as u64).is_multiple_of(BLOCK_BYTES);
        let is_inside = offset + length as u64 <= self.size;
        if is_aligned && is_inside { Ok(()) } else { Err(io::Error::other(format!("{length} bytes at {offset}"))) }
    }
}

impl BlockSource for SyntheticVolume {
    fn size(&self) -> u64 {
        self.size
    }

    fn logical_block_size(&self) -> LogicalBlockSize {
        LogicalBlockSize::B4096
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.check_alignment(offset, buffer.len())?;
        for (at, block) in (offset..).step_by(BLOCK_BYTES as usize).zip(buffer.chunks_exact_mut(BLOCK_BYTES as usize)) {
            if self.is_allocated(at) {
                self.fill(self.number(at), block);
            } else {
                block.fill(0);
            }
        }
        Ok(())
    }
}

impl BlockSink for SyntheticVolume {
    fn size(&self) -> u64 {
        self.size
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_alignment(offset, data.len())?;
        let mut expected = [FILLING; BLOCK_BYTES as usize];
        for (at, block) in (offset..).step_by(BLOCK_BYTES as usize).zip(data.chunks_exact(BLOCK_BYTES as usize)) {
            self.read_at(at, &mut expected)?;
            if *block != expected {
                return Err(io::Error::other(format!("the block at {at} is not what was exported")));
            }
        }
        Ok(())
    }

    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_at(offset, buffer)
    }

    fn write_zeros(&self, range: ByteRange) -> io::Result<()> {
        Err(io::Error::other(format!("zeros at {}", range.offset())))
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(volume: &SyntheticVolume, offset: u64) -> Vec<u8> {
        let mut block = vec![0; BLOCK_BYTES as usize];
        volume.read_at(offset, &mut block).unwrap();
        block
    }

    #[test]
    fn blocks_differ_by_place_and_seed_and_read_alike_each_time() {
        for filling in [Filling::Plain, Filling::Noise] {
            let volumes = [0, 1, 16].map(|seed| SyntheticVolume::new(1 << 30, Allocation::Full, 0).filled_with(filling, seed));
            let mut seen = std::collections::BTreeSet::new();
            for volume in &volumes {
                for offset in [0, 4096, (1 << 30) - 4096] {
                    assert_eq!(read(volume, offset), read(volume, offset));
                    assert!(seen.insert(read(volume, offset)), "{volume:?} at {offset}");
                }
            }
        }
    }

    #[test]
    fn noise_does_not_compress() {
        let volume = SyntheticVolume::new(1 << 20, Allocation::Full, 0).filled_with(Filling::Noise, 3);
        let mut bytes = vec![0; 1 << 20];
        volume.read_at(0, &mut bytes).unwrap();
        assert!(zstd::bulk::compress(&bytes, 3).unwrap().len() >= bytes.len());
    }
}
