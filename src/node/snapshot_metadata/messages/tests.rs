//! Tests of the messages, over made-up ranges.

use csi_proto::csi::v1::{BlockMetadataType, GetMetadataDeltaResponse};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::csi::server::MAX_RANGES_BYTES;
use crate::node::snapshot_metadata::page::{DEFAULT_RANGES, MAX_RANGES};

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 256;

fn size() -> VolumeSize {
    VolumeSize::new(BLOCKS * BLOCK).unwrap()
}

fn page(start_bytes: u64, ranges_per_message: usize) -> Page {
    Page { start_bytes, ranges_per_message }
}

fn stream(ranges: Vec<io::Result<ByteRange>>) -> RangeStream {
    Box::new(ranges.into_iter())
}

fn blocks(offset: u64, length: u64) -> ByteRange {
    ByteRange::new(offset * BLOCK, length * BLOCK).unwrap()
}

fn of(ranges: Vec<io::Result<ByteRange>>, page: Page) -> Vec<io::Result<Vec<BlockMetadata>>> {
    let messages: Vec<_> = Messages::new(stream(ranges), size(), page, CancellationToken::new()).take(10_000).collect();
    assert!(messages.len() < 10_000, "the messages do not end");
    messages
}

fn tuples(messages: &[io::Result<Vec<BlockMetadata>>]) -> Vec<(u64, u64)> {
    let sent = messages.iter().filter_map(|message| message.as_ref().ok()).flatten();
    sent.map(|block| (block.byte_offset.unsigned_abs(), block.size_bytes.unsigned_abs())).collect()
}

/// Ascending ranges, some of which touch.
fn ranges() -> impl Strategy<Value = Vec<ByteRange>> {
    proptest::collection::vec((0_u64..4, 1_u64..6), 0..40).prop_map(|steps| {
        let mut position = 0;
        let mut ranges = Vec::new();
        for (gap, length) in steps {
            ranges.push(blocks(position + gap, length));
            position += gap + length;
        }
        ranges.retain(|range| range.end() <= size().bytes());
        ranges
    })
}

proptest! {
    #[test]
    fn messages_say_what_the_pool_said_from_the_offset_on(
        ranges in ranges(), start in 0..=BLOCKS * BLOCK, most in 1_usize..8,
    ) {
        let messages = of(ranges.iter().copied().map(Ok).collect(), page(start, most));
        prop_assert!(!messages.is_empty());
        prop_assert!(messages.iter().all(|message| message.as_ref().is_ok_and(|blocks| blocks.len() <= most)));
        prop_assert!(messages.iter().skip(1).all(|message| message.as_ref().is_ok_and(|blocks| !blocks.is_empty())));
        let sent = tuples(&messages);
        prop_assert!(sent.windows(2).all(|pair| pair[0].0 + pair[0].1 < pair[1].0), "{sent:?}");
        prop_assert!(sent.first().is_none_or(|first| first.0 + first.1 > start));
        for block in 0..BLOCKS {
            let (low, high) = (block * BLOCK, (block + 1) * BLOCK);
            let said = ranges.iter().any(|range| range.offset() <= low && range.end() >= high);
            let got = sent.iter().any(|&(offset, length)| offset <= low && offset + length >= high);
            // From the offset on it is exactly what was said; before it only what belongs to the range that it falls into.
            if high > start { prop_assert_eq!(said, got) } else { prop_assert!(!got || said) }
        }
    }

    #[test]
    fn a_failure_anywhere_is_the_last_thing_said_and_resuming_misses_nothing(
        ranges in ranges(), at in 0_usize..41, most in 1_usize..8,
    ) {
        let at = at.min(ranges.len());
        let mut broken: Vec<io::Result<ByteRange>> = ranges[..at].iter().copied().map(Ok).collect();
        broken.push(Err(io::Error::other("the disk is gone")));
        broken.extend(ranges[at..].iter().copied().map(Ok));
        let messages = of(broken, page(0, most));
        let (last, before) = messages.split_last().unwrap();
        prop_assert!(last.is_err());
        prop_assert!(before.iter().all(|message| message.is_ok()));

        let first = tuples(before);
        let reached = first.last().map_or(0, |last| last.0 + last.1);
        let second = tuples(&of(ranges.iter().copied().map(Ok).collect(), page(reached, most)));
        for range in ranges {
            for block in range.offset() / BLOCK..range.end() / BLOCK {
                let covers = |&(offset, length): &(u64, u64)| offset <= block * BLOCK && offset + length >= (block + 1) * BLOCK;
                prop_assert!(first.iter().chain(&second).any(covers), "{} is missing", block);
            }
        }
    }
}

#[test]
fn nothing_to_say_is_one_empty_message() {
    for start in [0, 5, size().bytes()] {
        let messages = of(Vec::new(), page(start, 10));
        assert_eq!(messages.len(), 1);
        assert!(messages[0].as_ref().unwrap().is_empty());
    }
    // Also when everything lies before the offset.
    let messages = of(vec![Ok(blocks(0, 2))], page(2 * BLOCK, 10));
    assert_eq!((messages.len(), tuples(&messages)), (1, Vec::new()));
}

#[test]
fn a_pool_that_breaks_its_own_rules_is_not_believed() {
    for (first, second) in [(blocks(9, 2), blocks(0, 1)), (blocks(0, 4), blocks(3, 4)), (blocks(0, 1), blocks(BLOCKS - 1, 2))] {
        let messages = of(vec![Ok(first), Ok(second), Ok(blocks(200, 1))], page(0, 1));
        assert_eq!(tuples(&messages), [(first.offset(), first.length())]);
        assert_eq!(messages.last().unwrap().as_ref().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

#[test]
fn a_call_that_was_given_up_ends_at_the_next_range_and_never_well() {
    let cancelled = CancellationToken::new();
    let endless = (0..BLOCKS / 2).map(|index| Ok(blocks(index * 2, 1)));
    let mut messages = Messages::new(Box::new(endless), size(), page(0, 2), cancelled.clone());
    assert!(messages.next().unwrap().is_ok());
    cancelled.cancel();
    // What was held for coalescing may still be said.
    let rest: Vec<_> = messages.collect();
    assert!(rest.len() <= 2 && rest.last().unwrap().is_err(), "{rest:?}");
}

#[test]
fn the_largest_message_is_below_what_clients_take() {
    let message = |count: usize| GetMetadataDeltaResponse {
        block_metadata_type: BlockMetadataType::VariableLength.into(),
        volume_capacity_bytes: i64::MAX,
        block_metadata: vec![BlockMetadata { byte_offset: i64::MAX, size_bytes: i64::MAX }; count],
    };
    assert!(message(MAX_RANGES).encoded_len() < MAX_RANGES_BYTES);
    assert!(message(MAX_RANGES + 1).encoded_len() >= MAX_RANGES_BYTES);
    assert!(message(DEFAULT_RANGES).encoded_len() <= 90_200);
}
