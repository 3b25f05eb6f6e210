//! A client of the SnapshotMetadata service that believes nothing: every rule of the stream is asserted on every stream.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "called by tests only")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

pub mod cut;

use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

use csi_proto::csi::v1::snapshot_metadata_client::SnapshotMetadataClient;
use csi_proto::csi::v1::*;
use cut::Cut;
use futures::{Stream, StreamExt};
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use tonic::transport::Channel;
use tonic::{Code, Status};

pub type Client = SnapshotMetadataClient<Channel>;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Ask<'a> {
    Allocated(&'a str),
    Delta { base: &'a str, target: &'a str },
}

/// A message of either call.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub kind: i32,
    pub capacity: i64,
    pub blocks: Vec<BlockMetadata>,
    pub encoded_bytes: usize,
}

pub type Answers = Pin<Box<dyn Stream<Item = Result<Answer, Status>> + Send>>;

/// The messages of a call, as they come.
pub async fn open(client: &Client, ask: Ask<'_>, starting_offset: i64, max_results: i32) -> Result<Answers, Status> {
    let mut client = client.clone();
    match ask {
        Ask::Allocated(snapshot) => {
            let request = GetMetadataAllocatedRequest {
                snapshot_id: snapshot.to_owned(),
                starting_offset,
                max_results,
                ..Default::default()
            };
            Ok(client.get_metadata_allocated(request).await?.into_inner().map(|answer| answer.map(allocated)).boxed())
        }
        Ask::Delta { base, target } => {
            let request = GetMetadataDeltaRequest {
                base_snapshot_id: base.to_owned(),
                target_snapshot_id: target.to_owned(),
                starting_offset,
                max_results,
                ..Default::default()
            };
            Ok(client.get_metadata_delta(request).await?.into_inner().map(|answer| answer.map(delta)).boxed())
        }
    }
}

fn allocated(answer: GetMetadataAllocatedResponse) -> Answer {
    Answer {
        encoded_bytes: answer.encoded_len(),
        kind: answer.block_metadata_type,
        capacity: answer.volume_capacity_bytes,
        blocks: answer.block_metadata,
    }
}

fn delta(answer: GetMetadataDeltaResponse) -> Answer {
    Answer {
        encoded_bytes: answer.encoded_len(),
        kind: answer.block_metadata_type,
        capacity: answer.volume_capacity_bytes,
        blocks: answer.block_metadata,
    }
}

/// What came of a stream, up to its end.
#[derive(Debug)]
pub struct Listed {
    /// Offset and length of each range.
    pub ranges: Vec<(u64, u64)>,
    /// Capacity that the messages named; nothing when there was no message.
    pub capacity: Option<i64>,
    pub messages: usize,
    /// How it ended: nothing for OK.
    pub error: Option<Status>,
}

impl Listed {
    /// The end of the last range, where a client goes on.
    pub fn reached(&self) -> u64 {
        self.ranges.last().map_or(0, |&(offset, length)| offset + length)
    }
}

/// Reads at most `messages` of a call and asserts all rules.
pub async fn take(client: &Client, ask: Ask<'_>, start: u64, most: i32, messages: usize) -> Result<(Listed, Answers), Status> {
    let mut answers = open(client, ask, i64::try_from(start).unwrap(), most).await?;
    let mut listed = Listed { ranges: Vec::new(), capacity: None, messages: 0, error: None };
    while listed.messages < messages {
        let answer = match answers.next().await {
            None => break,
            Some(Ok(answer)) => answer,
            Some(Err(status)) => {
                listed.error = Some(status);
                // When the connection is gone the client's library may say so again.
                assert!(!matches!(answers.next().await, Some(Ok(_))), "a message follows the error");
                break;
            }
        };
        assert_eq!(answer.kind, i32::from(BlockMetadataType::VariableLength));
        assert_eq!(*listed.capacity.get_or_insert(answer.capacity), answer.capacity, "the capacity changed");
        assert!(most == 0 || answer.blocks.len() <= usize::try_from(most).unwrap(), "{} in a message", answer.blocks.len());
        assert!(answer.encoded_bytes < 4 << 20);
        assert!(listed.messages == 0 || !answer.blocks.is_empty(), "an empty message after the first");
        for block in answer.blocks {
            let (offset, length) = (u64::try_from(block.byte_offset).unwrap(), u64::try_from(block.size_bytes).unwrap());
            assert!(length > 0);
            assert!(listed.ranges.is_empty() || offset > listed.reached(), "ranges touch or do not ascend, at {offset}");
            assert!(!listed.ranges.is_empty() || offset + length > start, "a range before the starting offset");
            assert!(offset + length <= answer.capacity.unsigned_abs());
            listed.ranges.push((offset, length));
        }
        listed.messages += 1;
    }
    Ok((listed, answers))
}

/// The whole answer, which must be complete.
pub async fn list(client: &Client, ask: Ask<'_>, start: u64, most: i32) -> Result<Listed, Status> {
    let (listed, _) = take(client, ask, start, most, usize::MAX).await?;
    assert!(listed.messages > 0 || listed.error.is_some(), "no message, so the capacity is not known");
    match listed.error {
        Some(status) => Err(status),
        None => Ok(listed),
    }
}

/// The whole answer, got in pieces: portions of random size, given up at random points and resumed where they ended; and
/// compared with what a call from a random offset says.
///
/// On a connection of its own: the client's HTTP/2 gives a connection up for good after some thousand streams that it reset.
pub async fn list_in_pieces(socket: &Path, ask: Ask<'_>, random: &mut StdRng) -> Vec<(u64, u64)> {
    let client = &Client::new(crate::csi_harness::channel(socket).await);
    let mut pieces: Vec<(u64, u64)> = Vec::new();
    let mut start = 0;
    let capacity = loop {
        let (most, messages) = (random.random_range(0..6), random.random_range(0..5));
        let (listed, answers) = take(client, ask, start, most, messages).await.unwrap();
        assert!(listed.error.is_none(), "{:?}", listed.error);
        start = start.max(listed.reached());
        pieces.extend(&listed.ranges);
        if listed.messages < messages {
            break listed.capacity;
        }
        drop(answers);
    };
    let whole = list(client, ask, 0, 0).await.unwrap();
    assert_eq!(pieces, whole.ranges);
    assert!(capacity.is_none_or(|capacity| Some(capacity) == whole.capacity));

    let start = random.random_range(0..=whole.capacity.unwrap().unsigned_abs());
    let rest = list(client, ask, start, random.random_range(0..100)).await.unwrap();
    let expected: Vec<_> = whole.ranges.iter().copied().filter(|&(offset, length)| offset + length > start).collect();
    assert_eq!(rest.ranges, expected, "from {start}");
    pieces
}

/// The answer from `start` on, as far as it gets through a connection that is cut after `bytes` bytes; whether that was all.
///
/// A cut before the end of the call is an error, and what came before it is the beginning of the `whole` answer.
#[expect(clippy::too_many_arguments, reason = "what the callers vary")]
pub async fn list_until_cut(
    socket: &Path,
    ask: Ask<'_>,
    start: u64,
    most: i32,
    bytes: usize,
    whole: &[(u64, u64)],
) -> (Vec<(u64, u64)>, bool) {
    let cut = Cut::after(bytes, socket);
    let taken = match crate::csi_harness::try_channel(&cut.socket).await {
        Ok(channel) => take(&Client::new(channel), ask, start, most, usize::MAX).await.map(|(listed, _)| listed),
        Err(error) => Err(Status::unavailable(error.to_string())),
    };
    let relayed = cut.relayed().await;
    let (ranges, error) = match taken {
        Ok(listed) => (listed.ranges, listed.error),
        Err(status) => (Vec::new(), Some(status)),
    };
    let expected: Vec<_> = whole.iter().copied().filter(|&(offset, length)| offset + length > start).collect();
    match error {
        Some(status) => {
            assert!(matches!(status.code(), Code::Unknown | Code::Unavailable | Code::Internal | Code::Cancelled), "{status}");
            assert!(expected.starts_with(&ranges), "{ranges:?}");
            (ranges, false)
        }
        None => {
            assert!(relayed.is_end_seen, "cut after {relayed:?}, and it looks complete");
            assert_eq!(ranges, expected);
            (ranges, true)
        }
    }
}

/// The whole answer over connections that are cut at random points, resumed where each ended; and the number of cuts.
pub async fn list_across_cuts(socket: &Path, ask: Ask<'_>, random: &mut StdRng) -> (Vec<(u64, u64)>, usize) {
    let client = Client::new(crate::csi_harness::channel(socket).await);
    let whole = list(&client, ask, 0, 0).await.unwrap().ranges;
    let (mut pieces, mut start, mut cuts) = (Vec::new(), 0, 0);
    // Enough for some messages, and at times for all of them.
    let mut room = 300;
    loop {
        let most = random.random_range(0..20);
        let (ranges, is_all) = list_until_cut(socket, ask, start, most, random.random_range(0..room), &whole).await;
        start = ranges.last().map_or(start, |&(offset, length)| offset + length);
        pieces.extend(ranges);
        if is_all {
            assert_eq!(pieces, whole);
            return (pieces, cuts);
        }
        cuts += 1;
        room += 20;
    }
}

/// Writes the ranges of `target` into a copy of `base`.
pub fn applied(base: &[u8], target: &[u8], ranges: &[(u64, u64)]) -> Vec<u8> {
    let mut copy = base.to_vec();
    copy.resize(target.len(), 0);
    for &(offset, length) in ranges {
        let range = usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap();
        copy[range.clone()].copy_from_slice(&target[range]);
    }
    copy
}

/// Asserts that `result` is a refusal of this code that names `names`.
#[track_caller]
pub fn refused<T>(row: &str, result: Result<T, Status>, code: Code, names: &str) {
    match result {
        Ok(_) => panic!("{row}: accepted, expected {code:?}"),
        Err(status) => {
            assert_eq!(status.code(), code, "{row}: {status}");
            assert!(status.message().contains(names), "{row}: `{names}` is not named: {status}");
            assert!(status.details().is_empty(), "{row}: has details");
        }
    }
}

/// The pin of a stream that was given up goes when the server hears of it.
pub async fn delete_soon(node: &crate::csi_harness::Node, snapshot: &str) {
    let mut interval = tokio::time::interval(Duration::from_millis(5));
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(status) = node.delete_snapshot(snapshot).await {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(Instant::now() < deadline, "the snapshot stays pinned");
        interval.tick().await;
    }
}

/// Random bytes, at times zeros.
pub fn content(random: &mut StdRng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    if random.random_range(0..8) > 0 {
        random.fill_bytes(&mut bytes);
    }
    bytes
}
