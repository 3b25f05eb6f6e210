//! Runs of bytes on a volume.

use std::io;

use serde::{Deserialize, Serialize};

/// A non-empty run of bytes: `offset` to `offset + length`, which does not overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "(u64, u64)", into = "(u64, u64)")]
pub struct ByteRange {
    offset: u64,
    length: u64,
}

/// Ascending, non-overlapping ranges, made while they are read. An error ends the stream; its end without an error means
/// that it was complete.
pub type RangeStream = Box<dyn Iterator<Item = io::Result<ByteRange>> + Send>;

/// An empty or overflowing range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{length} bytes at {offset} are not a range")]
pub struct RangeError {
    offset: u64,
    length: u64,
}

impl ByteRange {
    /// The range of `length` bytes at `offset`; `None` when it is empty or its end overflows.
    pub const fn new(offset: u64, length: u64) -> Option<Self> {
        if length == 0 || offset.checked_add(length).is_none() { None } else { Some(Self { offset, length }) }
    }

    /// The range from `start` up to, not including, `end`; `None` when it is empty.
    pub const fn between(start: u64, end: u64) -> Option<Self> {
        if start < end { Some(Self { offset: start, length: end - start }) } else { None }
    }

    /// First byte.
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// Number of bytes, at least 1.
    pub const fn length(self) -> u64 {
        self.length
    }

    /// The byte after the last.
    pub const fn end(self) -> u64 {
        self.offset + self.length
    }

    /// What both ranges share.
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::between(self.offset.max(other.offset), self.end().min(other.end()))
    }

    /// The range widened to multiples of `unit` on both sides, cut at `size`.
    pub fn widened(self, unit: u64, size: u64) -> Option<Self> {
        let start = self.offset - self.offset % unit;
        let end = self.end().checked_next_multiple_of(unit).unwrap_or(u64::MAX).min(size);
        Self::between(start, end)
    }
}

impl TryFrom<(u64, u64)> for ByteRange {
    type Error = RangeError;

    fn try_from((offset, length): (u64, u64)) -> Result<Self, RangeError> {
        Self::new(offset, length).ok_or(RangeError { offset, length })
    }
}

impl From<ByteRange> for (u64, u64) {
    fn from(range: ByteRange) -> Self {
        (range.offset, range.length)
    }
}

/// Merges ranges that touch or overlap. The input must ascend by offset.
///
/// An error of the input is passed on after the range before it, and ends the stream.
pub fn coalesce(ranges: impl Iterator<Item = io::Result<ByteRange>>) -> impl Iterator<Item = io::Result<ByteRange>> {
    let mut ranges = ranges.fuse();
    let mut pending: Option<ByteRange> = None;
    let mut failed: Option<io::Error> = None;
    std::iter::from_fn(move || {
        loop {
            if let Some(error) = failed.take() {
                return Some(Err(error));
            }
            match (ranges.next(), pending) {
                (Some(Ok(next)), Some(held)) if next.offset <= held.end() => {
                    pending = ByteRange::between(held.offset, held.end().max(next.end()));
                }
                (Some(Ok(next)), held) => {
                    pending = Some(next);
                    if let Some(held) = held {
                        return Some(Ok(held));
                    }
                }
                (Some(Err(error)), held) => {
                    pending = None;
                    match held {
                        Some(held) => {
                            failed = Some(error);
                            return Some(Ok(held));
                        }
                        None => return Some(Err(error)),
                    }
                }
                (None, held) => {
                    pending = None;
                    return held.map(Ok);
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn coalesced_ranges_cover_the_same_bytes_and_do_not_touch(mut input in proptest::collection::vec((0_u64..200, 1_u64..20), 0..40)) {
            input.sort_unstable();
            let mut expected = [false; 256];
            for &(offset, length) in &input {
                (offset..offset + length).for_each(|byte| expected[byte as usize] = true);
            }
            let output: Vec<_> = coalesce(input.iter().map(|&(offset, length)| Ok(ByteRange::new(offset, length).unwrap())))
                .collect::<io::Result<_>>().unwrap();
            let mut covered = [false; 256];
            for range in &output {
                (range.offset..range.end()).for_each(|byte| covered[byte as usize] = true);
            }
            prop_assert_eq!(expected, covered);
            prop_assert!(output.windows(2).all(|pair| pair[0].end() < pair[1].offset));
        }
    }

    #[test]
    fn an_error_ends_a_coalesced_stream_after_what_came_before_it() {
        let input = vec![Ok(ByteRange::new(0, 1).unwrap()), Err(io::Error::other("cut")), Ok(ByteRange::new(9, 1).unwrap())];
        let mut output = coalesce(input.into_iter());
        assert_eq!(output.next().unwrap().unwrap(), ByteRange::new(0, 1).unwrap());
        assert!(output.next().unwrap().is_err());
    }

    #[test]
    fn empty_and_overflowing_ranges_do_not_exist() {
        assert_eq!(ByteRange::new(5, 0), None);
        assert_eq!(ByteRange::new(u64::MAX, 2), None);
        assert_eq!(ByteRange::between(7, 7), None);
    }

    #[test]
    fn widening_keeps_inside_the_volume() {
        let range = ByteRange::new(5000, 10).unwrap();
        assert_eq!(range.widened(4096, 8000), ByteRange::between(4096, 8000));
    }
}
