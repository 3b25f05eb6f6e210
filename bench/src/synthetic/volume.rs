//! A volume whose bytes follow from their place.
//!
//! A block of 4096 bytes begins with its number, the rest is one byte repeated: every chunk differs from every other, and making them
//! costs little beside hashing them. A changed chunk has other numbers.

use std::io;

use clap::ValueEnum;
use windlass::block::{BlockSink, BlockSource};
use windlass::transfer::ChunkSize;
use windlass::types::{ByteRange, LogicalBlockSize, RangeStream};

const BLOCK_BYTES: u64 = 4096;
const FILLING: u8 = 0x57;
/// Added to the numbers of changed blocks.
const CHANGED: u64 = 1 << 60;
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

/// The volume, as a source that makes its bytes and as a sink that compares them.
#[derive(Debug, Clone)]
pub struct SyntheticVolume {
    size: u64,
    allocation: Allocation,
    changed_chunks: u64,
}

impl SyntheticVolume {
    /// A volume of `size` bytes in which `changed_chunks` chunks, spread evenly, differ from what they were.
    pub fn new(size: u64, allocation: Allocation, changed_chunks: u64) -> Self {
        Self { size, allocation, changed_chunks }
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
        offset / BLOCK_BYTES + 1 + if is_changed { CHANGED } else { 0 }
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
                block.fill(FILLING);
                block[..8].copy_from_slice(&self.number(at).to_le_bytes());
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

    fn write_zeros(&self, range: ByteRange) -> io::Result<()> {
        Err(io::Error::other(format!("zeros at {}", range.offset())))
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
