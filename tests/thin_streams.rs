#![cfg(feature = "thin-tests")]
//! The SnapshotMetadata service of a node over a thin pool: a client that stops reading holds up nobody, and keeps no block from
//! being freed; a stream that is resumed anywhere turns the base into the target.

// vm: disks=2G,2G limit=900

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly, wherever it does")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/csi_harness.rs"]
mod csi_harness;
#[path = "support/metadata_client/mod.rs"]
mod metadata_client;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use common::csi::{Csi, Source, Use};
use common::fixture::Bench;
use common::thin_pool::{BLOCK, ThinPool, disks};
use common::{MIB, wait_for};
use csi_proto::csi::v1::DeleteSnapshotRequest;
use futures::StreamExt;
use metadata_client::{Answers, Ask, Client, applied, content, list, list_in_pieces, open};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::Runtime;
use tonic::Code;
use windlass::block::{AlignedBuffer, device};
use windlass::types::ByteRange;

/// Ranges of the long answers, of one block each. In messages of one range they are some 400 KiB: more than the server's
/// and the client's HTTP/2 take without being read, so that a client that stops reading stops the server.
const RANGES: u64 = 8192;
/// A call that waits for a stalled stream would wait for good.
const PROMPT: Duration = Duration::from_secs(60);

/// A device that is opened for writing without the page cache.
struct Device(File);

impl Device {
    fn open(path: &Path) -> Self {
        Self(OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(path).unwrap())
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut buffer = AlignedBuffer::zeroed(data.len());
        buffer.copy_from_slice(data);
        self.0.write_all_at(&buffer, offset).unwrap();
    }

    /// Writes 4 KiB into each of `count` blocks, `step` blocks apart.
    fn touch(&self, count: u64, step: u64, byte: u8) {
        (0..count).for_each(|index| self.write(index * step * BLOCK, &[byte; 4096]));
    }
}

/// Ranges of one block, `step` blocks apart.
fn every(count: u64, step: u64) -> Vec<(u64, u64)> {
    (0..count).map(|index| (index * step * BLOCK, BLOCK)).collect()
}

/// A client that has read one message of a call, and reads no more.
struct Stalled {
    answers: Answers,
    ranges: Vec<(u64, u64)>,
}

impl Stalled {
    async fn new(socket: &Path, ask: Ask<'_>) -> Self {
        let client = Client::new(csi_harness::channel(socket).await);
        let mut stalled = Self { answers: open(&client, ask, 0, 1).await.unwrap(), ranges: Vec::new() };
        assert!(stalled.read().await);
        stalled
    }

    /// Reads a message, if there is one more.
    async fn read(&mut self) -> bool {
        let Some(answer) = self.answers.next().await else { return false };
        let blocks = answer.unwrap().blocks;
        self.ranges.extend(blocks.iter().map(|block| (block.byte_offset.unsigned_abs(), block.size_bytes.unsigned_abs())));
        true
    }

    /// Goes on after all, to the end.
    async fn rest(mut self) -> Vec<(u64, u64)> {
        while self.read().await {}
        self.ranges
    }
}

fn delete_snapshot(csi: &Csi, snapshot: &str) -> Result<(), Code> {
    let request = DeleteSnapshotRequest { snapshot_id: snapshot.to_owned(), ..Default::default() };
    csi.delete_snapshot(request).map(drop).map_err(|status| status.code())
}

#[test]
fn nobody_waits_for_a_client_that_stops_reading_and_nothing_is_kept_for_it() {
    let pool = ThinPool::create(&disks()[0]);
    let bench = Bench::empty();
    let node = pool.node(&bench);
    let csi = node.csi();
    let socket = bench.options().socket;
    let runtime = Runtime::new().unwrap();

    let volume = csi.make_volume("volume", 2 * RANGES * BLOCK, Use::Block, &Source::Blank);
    let paths = csi.bring_up(&bench.root(), "volume", &volume, Use::Block);
    let device = Device::open(&paths.target);
    device.touch(RANGES, 2, 1);
    let base = csi.make_snapshot("base", &volume);
    let other = csi.make_volume("other", 64 * MIB, Use::Block, &Source::Blank);
    let other_paths = csi.bring_up(&bench.root(), "other", &other, Use::Block);
    Device::open(&other_paths.target).touch(1024, 1, 2);
    csi.take_down(&other, &other_paths);
    device.touch(RANGES, 2, 3);
    let target = csi.make_snapshot("target", &volume);
    let delta = Ask::Delta { base: &base, target: &target };
    assert_eq!(pool.data_used(), 2 * RANGES + 1024);

    // Several clients read one message each, and then no more.
    let stalled_allocated = runtime.block_on(Stalled::new(&socket, Ask::Allocated(&target)));
    let stalled_delta = runtime.block_on(Stalled::new(&socket, delta));
    let stalled_for_good = runtime.block_on(Stalled::new(&socket, Ask::Allocated(&target)));
    assert_eq!(pool.state().held_root, None, "the metadata is held for a client that does not read");

    let begin = Instant::now();
    let mut took = Vec::new();
    let mut done = |what: &'static str| {
        let before: Duration = took.iter().map(|&(_, time)| time).sum();
        took.push((what, begin.elapsed() - before));
        assert_eq!(pool.state().held_root, None, "after {what}");
    };
    // Other clients get theirs.
    let client = runtime.block_on(async { Client::new(csi_harness::channel(&socket).await) });
    assert_eq!(runtime.block_on(list(&client, delta, 0, 0)).unwrap().ranges, every(RANGES, 2));
    done("a delta of the same snapshots");
    let third = csi.make_snapshot("third", &volume);
    done("a snapshot");
    let ask = Ask::Delta { base: &target, target: &third };
    assert_eq!(runtime.block_on(list(&client, ask, 0, 0)).unwrap().ranges, []);
    done("another delta");
    // What is deleted is free at once.
    let used = pool.data_used();
    csi.drop_volume(&other);
    assert_eq!(pool.data_used(), used - 1024, "what is deleted stays taken");
    done("the deletion of a volume");
    device.touch(100, 2, 4);
    assert_eq!(pool.data_used(), used - 1024 + 100);
    assert_eq!(delete_snapshot(&csi, &third), Ok(()));
    done("the deletion of a snapshot");
    device::discard(&device.0, ByteRange::new(0, 200 * BLOCK).unwrap()).unwrap();
    assert_eq!(pool.data_used(), used - 1024, "what is discarded stays taken");
    done("a discard");
    // What is being read cannot be deleted, and is refused at once.
    assert_eq!(delete_snapshot(&csi, &base), Err(Code::FailedPrecondition));
    assert_eq!(delete_snapshot(&csi, &target), Err(Code::FailedPrecondition));
    done("the refusal of two deletions");
    println!("while three clients do not read: {took:?}");
    assert!(took.iter().all(|&(_, time)| time < PROMPT), "{took:?}");

    // Those who go on after all get all of it, as it was.
    assert_eq!(runtime.block_on(stalled_allocated.rest()), every(RANGES, 2));
    assert_eq!(runtime.block_on(stalled_delta.rest()), every(RANGES, 2));
    // Who goes away holds nothing any more.
    drop(stalled_for_good);
    for snapshot in [&base, &target] {
        wait_for("the snapshot of a client that went away to be free", PROMPT, || delete_snapshot(&csi, snapshot).ok());
    }
    drop(device);
    csi.take_down(&volume, &paths);
    csi.drop_volume(&volume);
    assert_eq!((pool.data_used(), pool.state().held_root), (0, None));
    node.stop();
}

#[test]
fn a_stream_that_is_resumed_anywhere_turns_the_base_into_the_target() {
    const SIZE: u64 = 40 * MIB;
    let pool = ThinPool::create(&disks()[1]);
    let bench = Bench::empty();
    let node = pool.node(&bench);
    let csi = node.csi();
    let socket = bench.options().socket;
    let runtime = Runtime::new().unwrap();
    let mut random = StdRng::seed_from_u64(6);

    let volume = csi.make_volume("volume", SIZE, Use::Block, &Source::Blank);
    let paths = csi.bring_up(&bench.root(), "volume", &volume, Use::Block);
    let device = Device::open(&paths.target);
    let mut bytes = vec![0; SIZE as usize];
    let mut snapshots: Vec<(String, Vec<u8>)> = Vec::new();
    for round in 0..6 {
        for _ in 0..80 {
            let start = random.random_range(0..SIZE / 4096) * 4096;
            let length = (random.random_range(1..=12) * 4096).min(SIZE - start);
            let data = content(&mut random, length as usize);
            device.write(start, &data);
            bytes[start as usize..(start + length) as usize].copy_from_slice(&data);
        }
        for _ in 0..5 {
            let start = random.random_range(0..SIZE / BLOCK - 8) * BLOCK;
            let range = ByteRange::new(start, random.random_range(1..=8) * BLOCK).unwrap();
            device::discard(&device.0, range).unwrap();
            bytes[start as usize..range.end() as usize].fill(0);
        }
        let target = csi.make_snapshot(&format!("snapshot-{round}"), &volume);
        let ranges = runtime.block_on(list_in_pieces(&socket, Ask::Allocated(&target), &mut random));
        assert!(applied(&[], &bytes, &ranges) == bytes, "something is allocated and was not said");
        for (number, (base, before)) in snapshots.iter().enumerate() {
            let ranges = runtime.block_on(list_in_pieces(&socket, Ask::Delta { base, target: &target }, &mut random));
            assert!(applied(before, &bytes, &ranges) == bytes, "something changed since {number} and was not said");
        }
        // The last but one lives on as an anchor: it was read to its end.
        if round >= 2 {
            let (base, before) = &snapshots[snapshots.len() - 1];
            wait_for("a stream that ended to let go", PROMPT, || delete_snapshot(&csi, base).ok());
            let ranges = runtime.block_on(list_in_pieces(&socket, Ask::Delta { base, target: &target }, &mut random));
            assert!(applied(before, &bytes, &ranges) == bytes, "something changed since a deleted snapshot and was not said");
            snapshots.pop();
        }
        snapshots.push((target, bytes.clone()));
    }
    assert_eq!(pool.state().held_root, None);
    drop(device);
    csi.take_down(&volume, &paths);
    node.stop();
}
