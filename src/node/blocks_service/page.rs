//! From ranges, one by one, to messages.

use std::io;

use csi_proto::windlass::v1 as proto;

use crate::blocks::wire::RANGES_PER_MESSAGE;
use crate::types::{ByteRange, RangeStream};

/// The next message, and the ranges that are left unless it was the last. Reads extents, so it blocks.
///
/// # Errors
/// The first of the ranges'; the message that it cuts short is not sent, and nothing comes after it.
pub(super) fn next(mut ranges: RangeStream) -> io::Result<(proto::ListRangesResponse, Option<RangeStream>)> {
    let message = |range: ByteRange| proto::BlockRange { offset: range.offset(), length: range.length() };
    let portion = ranges.by_ref().take(RANGES_PER_MESSAGE).map(|range| range.map(message)).collect::<io::Result<Vec<_>>>()?;
    // A full one may be the last all the same: then an empty one follows, which says so.
    let is_last = portion.len() < RANGES_PER_MESSAGE;
    Ok((proto::ListRangesResponse { ranges: portion, is_last }, (!is_last).then_some(ranges)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(count: usize) -> impl Iterator<Item = io::Result<ByteRange>> + Send {
        (0..count as u64).map(|at| Ok(ByteRange::new(at * 10, 5).unwrap()))
    }

    #[test]
    fn every_range_is_said_once_and_the_last_message_says_that_it_is() {
        for count in [0, 1, RANGES_PER_MESSAGE - 1, RANGES_PER_MESSAGE, RANGES_PER_MESSAGE + 1, 3 * RANGES_PER_MESSAGE] {
            let (mut rest, mut said) = (Some(Box::new(ranges(count)) as RangeStream), Vec::new());
            while let Some(ranges) = rest {
                let (message, left) = next(ranges).unwrap();
                assert!(message.ranges.len() <= RANGES_PER_MESSAGE);
                assert_eq!(message.is_last, left.is_none());
                said.extend(message.ranges.iter().map(|range| range.offset));
                rest = left;
            }
            assert!(said.iter().copied().eq((0..count as u64).map(|at| at * 10)), "{count}");
        }
    }

    #[test]
    fn an_error_takes_the_place_of_its_message() {
        let broken = ranges(3).chain([Err(io::Error::other("broken"))]).chain(ranges(1));
        assert_eq!(next(Box::new(broken)).map(drop).unwrap_err().to_string(), "broken");
    }
}
