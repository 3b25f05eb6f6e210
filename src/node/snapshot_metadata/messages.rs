//! From the ranges of a pool to the content of messages: order checked, coalesced, cut into portions. No transport here.

use std::io;

use csi_proto::csi::v1::BlockMetadata;
use tokio_util::sync::CancellationToken;

use crate::node::answer;
use crate::types::{ByteRange, RangeStream, VolumeSize, range};

use super::page::Page;

/// The contents of the messages, in order. There is always a first one, which may be empty. An error is the last item; an end
/// without one means that everything was said.
pub(super) struct Messages {
    ranges: RangeStream,
    ranges_per_message: usize,
    state: State,
}

enum State {
    /// Nothing was sent yet.
    Silent,
    /// Something was sent.
    Sent,
    /// What came before it was sent, this was not.
    Failed(io::Error),
    Ended,
}

impl Messages {
    /// The messages that say `ranges`, of an object of `size`. Once `cancelled`, the next range is an error.
    pub(super) fn new(ranges: RangeStream, size: VolumeSize, page: Page, cancelled: CancellationToken) -> Self {
        let Page { start_bytes, ranges_per_message } = page;
        let wanted = move |range: &io::Result<ByteRange>| range.as_ref().map_or(true, |range| range.end() > start_bytes);
        let ranges = range::coalesce(checked(ranges, size, cancelled)).filter(wanted);
        Self { ranges: Box::new(ranges), ranges_per_message, state: State::Silent }
    }

    /// Whether the last message that was made said everything.
    pub(super) fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }
}

impl Iterator for Messages {
    type Item = io::Result<Vec<BlockMetadata>>;

    fn next(&mut self) -> Option<Self::Item> {
        let is_first = match std::mem::replace(&mut self.state, State::Ended) {
            State::Silent => true,
            State::Sent => false,
            State::Failed(error) => return Some(Err(error)),
            State::Ended => return None,
        };
        let mut blocks = Vec::new();
        let next = loop {
            if blocks.len() == self.ranges_per_message {
                break State::Sent;
            }
            match self.ranges.next() {
                Some(Ok(range)) => blocks.push(BlockMetadata {
                    byte_offset: answer::bytes(range.offset()),
                    size_bytes: answer::bytes(range.length()),
                }),
                Some(Err(error)) if blocks.is_empty() => return Some(Err(error)),
                // The client goes on after what it got; a range that was cut short is listed again then.
                Some(Err(error)) => break State::Failed(error),
                None => break State::Ended,
            }
        };
        self.state = next;
        (is_first || !blocks.is_empty()).then_some(Ok(blocks))
    }
}

/// Passes ranges on that ascend and lie within the size, and fails at the first that does not: merging such ranges would lose
/// some. Fails also when the call was given up, so that what was cut short never looks complete. Nothing follows an error.
fn checked(
    mut ranges: RangeStream,
    size: VolumeSize,
    cancelled: CancellationToken,
) -> impl Iterator<Item = io::Result<ByteRange>> + Send {
    let mut position = Some(0);
    std::iter::from_fn(move || {
        let reached = position?;
        let next = if cancelled.is_cancelled() {
            Some(Err(io::Error::new(io::ErrorKind::Interrupted, "the call was given up")))
        } else {
            ranges.next().map(|range| match range? {
                range if range.offset() < reached => Err(invalid("do not ascend", range)),
                range if range.end() > size.bytes() => Err(invalid("reach beyond the end", range)),
                range => Ok(range),
            })
        };
        position = match &next {
            Some(Ok(range)) => Some(range.end()),
            Some(Err(_)) | None => None,
        };
        next
    })
}

fn invalid(what: &str, range: ByteRange) -> io::Error {
    let text = format!("the ranges of the pool {what}, at {} bytes from {}", range.length(), range.offset());
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests;
