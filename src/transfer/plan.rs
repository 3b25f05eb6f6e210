//! What is read of a volume: the allocated ranges, cut into chunks. Decides only.
//!
//! A chunk is the part of the volume from one multiple of the chunk size to the next. Only chunks that hold something
//! allocated come out of the plan, in ascending order; all others are zeros and nothing is done for them. The plan is an
//! iterator over a stream, so that its memory does not depend on the volume.

use std::io;

use super::chunk_size::ChunkSize;
use crate::block::buffer::ALIGNMENT;
use crate::types::range::coalesce;
use crate::types::{ByteRange, RangeStream};

/// Unallocated bytes between two allocated ranges that are read rather than skipped, at most: one request costs more than they
/// do. They read as zeros, which is what they are.
pub const READ_THROUGH_BYTES: u64 = 64 << 10;

/// A chunk of which something is allocated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Its number, from 0.
    pub index: u32,
    /// Where it lies. Shorter than the chunk size only at the end of the volume.
    pub range: ByteRange,
    /// What of it is to be read: ascending, within `range`, on multiples of 4096 except at the end of the volume. The rest of
    /// it is zeros.
    pub reads: Vec<ByteRange>,
}

/// The chunks of a volume that hold anything.
pub struct Plan {
    extents: Box<dyn Iterator<Item = io::Result<ByteRange>> + Send>,
    /// What is left of the extent that the last chunk ended in.
    rest: Option<ByteRange>,
    volume_bytes: u64,
    chunk_size: ChunkSize,
    ended: bool,
}

impl Plan {
    /// The plan for a volume of `volume_bytes` of which `extents` are allocated. Extents beyond the end are cut off there. The
    /// number of chunks must fit 32 bits ([`ChunkSize::fits`]).
    pub fn new(volume_bytes: u64, chunk_size: ChunkSize, extents: RangeStream) -> Self {
        let mut last_offset = 0;
        let ordered = extents.map(move |extent| {
            let extent = extent?;
            // An extent out of order would be lost between chunks that were already given out.
            if extent.offset() < last_offset {
                let text = format!("the extent at {} follows one at {last_offset}", extent.offset());
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            last_offset = extent.offset();
            Ok(extent)
        });
        let within = coalesce(ordered).filter_map(move |extent| match extent {
            Ok(extent) => ByteRange::between(extent.offset(), extent.end().min(volume_bytes)).map(Ok),
            Err(error) => Some(Err(error)),
        });
        Self { extents: Box::new(within), rest: None, volume_bytes, chunk_size, ended: false }
    }

    fn extent(&mut self) -> io::Result<Option<ByteRange>> {
        match self.rest.take() {
            Some(rest) => Ok(Some(rest)),
            None => self.extents.next().transpose(),
        }
    }

    fn chunk(&mut self) -> io::Result<Option<Chunk>> {
        let Some(first) = self.extent()? else { return Ok(None) };
        let size = self.chunk_size.bytes();
        let number = first.offset() / size;
        let index = u32::try_from(number).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "too many chunks"))?;
        let start = number * size;
        let range =
            ByteRange::between(start, start.saturating_add(size).min(self.volume_bytes)).ok_or(io::ErrorKind::InvalidData)?;
        let mut reads = Vec::new();
        let mut next = Some(first);
        while let Some(extent) = next {
            let Some(inside) = extent.intersection(range) else {
                self.rest = Some(extent);
                break;
            };
            add_read(&mut reads, inside, range);
            self.rest = ByteRange::between(range.end(), extent.end());
            if self.rest.is_some() {
                break;
            }
            next = self.extent()?;
        }
        Ok(Some(Chunk { index, range, reads }))
    }
}

/// Adds `inside`, widened to whole blocks, to the reads of the chunk at `range`. The ends of a chunk are aligned, except the end
/// of the volume, so widening never leaves the chunk.
fn add_read(reads: &mut Vec<ByteRange>, inside: ByteRange, range: ByteRange) {
    let Some(widened) = inside.widened(ALIGNMENT as u64, range.end()) else { return };
    match reads.last_mut() {
        Some(last) if widened.offset() <= last.end().saturating_add(READ_THROUGH_BYTES) => {
            if let Some(joined) = ByteRange::between(last.offset(), last.end().max(widened.end())) {
                *last = joined;
            }
        }
        _ => reads.push(widened),
    }
}

impl Iterator for Plan {
    type Item = io::Result<Chunk>;

    fn next(&mut self) -> Option<io::Result<Chunk>> {
        if self.ended {
            return None;
        }
        let step = self.chunk().transpose();
        self.ended = !matches!(step, Some(Ok(_)));
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(extents: Vec<(u64, u64)>) -> RangeStream {
        Box::new(extents.into_iter().map(|(offset, length)| Ok(ByteRange::new(offset, length).unwrap())))
    }

    proptest! {
        #[test]
        fn every_allocated_byte_is_read_once_in_order_within_its_chunk(
            volume in 1_u64..20 << 20,
            mut extents in proptest::collection::vec((0_u64..22 << 20, 1_u64..2 << 20), 0..30),
            exponent in 0_u32..3,
        ) {
            extents.sort_unstable();
            let chunk_size = ChunkSize::new(ChunkSize::MIN.bytes() << exponent).unwrap();
            let chunks: Vec<_> = Plan::new(volume, chunk_size, stream(extents.clone())).collect::<io::Result<_>>().unwrap();
            prop_assert!(chunks.windows(2).all(|pair| pair[0].index < pair[1].index));
            let mut reads = Vec::new();
            for chunk in &chunks {
                let start = u64::from(chunk.index) * chunk_size.bytes();
                prop_assert_eq!(chunk.range, ByteRange::between(start, (start + chunk_size.bytes()).min(volume)).unwrap());
                prop_assert!(!chunk.reads.is_empty());
                for read in &chunk.reads {
                    prop_assert_eq!(read.intersection(chunk.range), Some(*read));
                    prop_assert!(read.offset() % 4096 == 0 && (read.end() % 4096 == 0 || read.end() == volume));
                    reads.push(*read);
                }
            }
            prop_assert!(reads.windows(2).all(|pair| pair[0].end() <= pair[1].offset()));
            for (offset, length) in extents {
                let mut at = offset;
                while at < (offset + length).min(volume) {
                    let covering = reads.iter().find(|read| read.offset() <= at && at < read.end());
                    prop_assert!(covering.is_some(), "byte {} is not read", at);
                    at = covering.unwrap().end();
                }
            }
        }
    }

    #[test]
    fn near_extents_are_read_at_once_and_distant_ones_are_not() {
        let extents = stream(vec![(0, 4096), (8192, 4096), (512 << 10, 1)]);
        let chunk = Plan::new(1 << 20, ChunkSize::SMALL, extents).next().unwrap().unwrap();
        assert_eq!(chunk.reads, [ByteRange::new(0, 12_288).unwrap(), ByteRange::new(512 << 10, 4096).unwrap()]);
    }

    #[test]
    fn a_stream_that_breaks_or_goes_back_never_ends_cleanly() {
        let broken: RangeStream = Box::new([Ok(ByteRange::new(0, 1).unwrap()), Err(io::Error::other("cut"))].into_iter());
        assert!(Plan::new(1 << 20, ChunkSize::SMALL, broken).any(|chunk| chunk.is_err()));
        let backwards = Plan::new(8 << 20, ChunkSize::SMALL, stream(vec![(4 << 20, 1), (1 << 20, 1)]));
        assert!(backwards.into_iter().any(|chunk| chunk.is_err()));
    }

    #[test]
    fn an_error_is_the_last_thing_a_plan_says() {
        let broken: RangeStream = Box::new([Err(io::Error::other("cut")), Ok(ByteRange::new(0, 1).unwrap())].into_iter());
        let mut plan = Plan::new(1 << 20, ChunkSize::SMALL, broken);
        assert!(plan.next().unwrap().is_err());
        assert!(plan.next().is_none());
    }
}
