//! Which chunks of a volume have to be read again, and what of its extents lies in them.

use std::io;

use crate::transfer::chunk_set::{ChunkSet, Membership};
use crate::transfer::chunk_size::ChunkSize;
use crate::types::{ByteRange, RangeStream};

/// The chunks of a volume that have to be read again.
#[derive(Debug, Clone)]
pub(super) struct Touched {
    chunks: ChunkSet,
    volume_bytes: u64,
    chunk_size: ChunkSize,
}

impl Touched {
    /// The empty set of a volume of `volume_bytes`.
    pub(super) fn none(volume_bytes: u64, chunk_size: ChunkSize) -> Self {
        Self { chunks: ChunkSet::none(chunk_size.count(volume_bytes)), volume_bytes, chunk_size }
    }

    /// All chunks of a volume of `volume_bytes`.
    pub(super) fn all(volume_bytes: u64, chunk_size: ChunkSize) -> Self {
        Self { chunks: ChunkSet::all(chunk_size.count(volume_bytes)), volume_bytes, chunk_size }
    }

    pub(super) fn volume_bytes(&self) -> u64 {
        self.volume_bytes
    }

    pub(super) fn chunk_size(&self) -> ChunkSize {
        self.chunk_size
    }

    /// Adds every chunk that `range` touches. What lies beyond the volume is left out.
    pub(super) fn add(&mut self, range: ByteRange) {
        let chunk = self.chunk_size.bytes();
        let end = range.end().min(self.volume_bytes);
        if range.offset() < end {
            for index in range.offset() / chunk..=(end - 1) / chunk {
                self.chunks.insert(index);
            }
        }
    }

    /// Adds the chunks of all ranges.
    pub(super) fn add_all(&mut self, mut ranges: RangeStream) -> io::Result<()> {
        ranges.try_for_each(|range| range.map(|range| self.add(range)))
    }

    /// Takes a chunk out.
    pub(super) fn remove(&mut self, index: u64) {
        self.chunks.remove(index);
    }

    /// Number of chunks in the set.
    pub(super) fn len(&self) -> u64 {
        self.chunks.len()
    }

    /// Length of the chunk `index` in bytes; `None` beyond the volume.
    pub(super) fn length_of(&self, index: u64) -> Option<u32> {
        let left = self.volume_bytes.checked_sub(index.checked_mul(self.chunk_size.bytes())?)?;
        u32::try_from(left.min(self.chunk_size.bytes())).ok().filter(|length| *length > 0)
    }

    /// Bytes of the chunks in the set, the last one counted as whole.
    pub(super) fn bytes(&self) -> u64 {
        self.chunks.len().saturating_mul(self.chunk_size.bytes())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.len() == 0
    }

    /// Whether the chunk `index` is in the set.
    pub(super) fn contains(&self, index: u64) -> bool {
        self.chunks.contains(index)
    }

    /// The first byte from `offset` on that lies in a chunk of the set (or out of it, as `wanted` says); one from `end` on when there
    /// is none before that, without a look at all that follows.
    fn next(&self, offset: u64, wanted: Membership, end: u64) -> u64 {
        let chunk = self.chunk_size.bytes();
        let first = offset / chunk;
        match self.chunks.next_before(first, wanted, end.div_ceil(chunk)) {
            found if found == first => offset.min(self.volume_bytes),
            found => found.saturating_mul(chunk).min(self.volume_bytes),
        }
    }

    /// The parts of `extents` that lie in chunks of the set.
    pub(super) fn within(self, mut extents: RangeStream) -> RangeStream {
        let mut rest: Option<ByteRange> = None;
        Box::new(std::iter::from_fn(move || {
            loop {
                let extent = match rest.take() {
                    Some(rest) => rest,
                    None => match extents.next()? {
                        Ok(extent) => extent,
                        Err(error) => return Some(Err(error)),
                    },
                };
                let end = extent.end().min(self.volume_bytes);
                let start = self.next(extent.offset(), Membership::In, end);
                if start >= end {
                    continue;
                }
                let stop = self.next(start, Membership::Out, end).min(end);
                rest = ByteRange::between(stop, end);
                if let Some(part) = ByteRange::between(start, stop) {
                    return Some(Ok(part));
                }
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(offset: u64, length: u64) -> ByteRange {
        ByteRange::new(offset, length).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_left_of_extents_is_exactly_what_lies_in_touched_chunks(
            volume in 1_u64..80 << 20,
            changed in proptest::collection::vec((0_u64..90 << 20, 1_u64..3 << 20), 0..20),
            mut extents in proptest::collection::vec((0_u64..90 << 20, 1_u64..9 << 20), 0..10),
        ) {
            let chunk = ChunkSize::MIN.bytes();
            let mut touched = Touched::none(volume, ChunkSize::MIN);
            changed.iter().for_each(|&(offset, length)| touched.add(range(offset, length)));
            let is_touched = |index: u64| {
                let chunk = ByteRange::between(index * chunk, ((index + 1) * chunk).min(volume)).unwrap();
                changed.iter().any(|&(offset, length)| range(offset, length).intersection(chunk).is_some())
            };
            for index in 0..ChunkSize::MIN.count(volume) {
                prop_assert_eq!(touched.contains(index), is_touched(index), "chunk {}", index);
            }
            extents.sort_unstable();
            let stream: RangeStream = Box::new(extents.clone().into_iter().map(|(offset, length)| Ok(range(offset, length))));
            let parts: Vec<_> = touched.clone().within(stream).collect::<io::Result<_>>().unwrap();
            let expected: u64 = extents.iter().map(|&(offset, length)| {
                (0..ChunkSize::MIN.count(volume)).filter(|&index| is_touched(index)).filter_map(|index| {
                    let chunk = ByteRange::between(index * chunk, ((index + 1) * chunk).min(volume)).unwrap();
                    range(offset, length).intersection(chunk)
                }).map(ByteRange::length).sum::<u64>()
            }).sum();
            prop_assert_eq!(parts.iter().map(|part| part.length()).sum::<u64>(), expected);
            for part in parts {
                prop_assert!(part.end() <= volume);
                prop_assert!((part.offset() / chunk..=(part.end() - 1) / chunk).all(|index| touched.contains(index)));
            }
        }
    }

    #[test]
    fn a_stream_that_breaks_breaks_what_is_left_of_it() {
        let broken = || -> RangeStream { Box::new([Ok(range(0, 1)), Err(io::Error::other("cut"))].into_iter()) };
        let mut touched = Touched::none(1 << 20, ChunkSize::MIN);
        assert!(touched.add_all(broken()).is_err());
        let parts: Vec<_> = touched.within(broken()).collect();
        assert!(parts.len() == 2 && parts[0].is_ok() && parts[1].is_err());
    }
}
