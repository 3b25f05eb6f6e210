//! Streams of the SnapshotMetadata service that end badly, over pools in memory whose listings are made by the test: whatever
//! fails, is cut off, leaves or dies, wherever, is an error for the client and never a short success; and nobody is held up by it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly, wherever it does")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

#[path = "support/csi_harness.rs"]
mod csi_harness;
#[path = "support/listing_pool.rs"]
mod listing_pool;
#[path = "support/metadata_client/mod.rs"]
mod metadata_client;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use csi_harness::{NODE, Node, block, bytes, new_volume};
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use futures::StreamExt;
use listing_pool::injected;
use metadata_client::{Ask, delete_soon, list, list_across_cuts, list_until_cut, open, refused, take};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonic::{Code, Status};
use windlass::csi::NodeName;
use windlass::csi::server::{self, PrivateSocket};
use windlass::mount::memory::MemoryMounter;
use windlass::mount::path::Root;
use windlass::node::{NodeLayer, NodeOptions, routes};
use windlass::types::{ByteRange, RangeStream};

const WRITER: Mode = Mode::SingleNodeWriter;
const BLOCK: u64 = 4096;

async fn cut(node: &Node, name: &str, volume: &str) -> String {
    node.snapshot(name, volume).await.unwrap().snapshot_id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_not_read_to_the_end_is_no_base() {
    let (node, base, target) = node_that_lists(|| {
        let cut = Err(io::Error::other("the disk is gone"));
        Box::new(every_second(3).chain([cut]).chain(every_second(1)))
    })
    .await;
    for asked in [Ask::Allocated(&target), Ask::Delta { base: &base, target: &target }] {
        assert!(take(&node.metadata, asked, 0, 1, usize::MAX).await.unwrap().0.error.is_some());
    }
    node.delete_snapshot(&target).await.unwrap();
    node.delete_snapshot(&base).await.unwrap();
    assert!(node.pools[0].anchors().unwrap().is_empty());
}

/// A node whose listings are made by the test, and two snapshots of a volume of 512 GiB on it.
async fn node_that_lists(listing: impl Fn() -> RangeStream + Send + Sync + 'static) -> (Node, String, String) {
    let mounter = Arc::new(MemoryMounter::new());
    let pools = vec![injected(&mounter, listing)];
    let boot_id = windlass::mount::boot_id().unwrap();
    let node = Node::with(Arc::new(tempfile::tempdir().unwrap()), mounter, pools, &boot_id).await;
    let request = CreateVolumeRequest { capacity_range: bytes(1 << 39, 0), ..new_volume("a", block(WRITER)) };
    let volume = node.create(request).await.unwrap().volume_id;
    let (base, target) = (cut(&node, "a-1", &volume).await, cut(&node, "a-2", &volume).await);
    (node, base, target)
}

/// Every second block.
fn every_second(count: u64) -> impl Iterator<Item = io::Result<ByteRange>> + Send {
    (0..count).map(|index| Ok(ByteRange::new(index * 2 * BLOCK, BLOCK).unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_fails_at_any_point_never_looks_complete() {
    const COUNT: u64 = 23;
    let fails_at = Arc::new(AtomicU64::new(0));
    let at = Arc::clone(&fails_at);
    let (node, base, target) = node_that_lists(move || {
        let at = at.load(Ordering::SeqCst);
        let cut = every_second(at.min(COUNT)).chain((at <= COUNT).then(|| Err(io::Error::other("the disk is gone"))));
        Box::new(cut.chain(every_second(COUNT).skip(usize::try_from(at).unwrap())))
    })
    .await;
    for asked in [Ask::Allocated(&target), Ask::Delta { base: &base, target: &target }] {
        for at in 0..=COUNT {
            for most in [0, 1, 4] {
                fails_at.store(at, Ordering::SeqCst);
                let (listed, _) = take(&node.metadata, asked, 0, most, usize::MAX).await.unwrap();
                let status = listed.error.as_ref().unwrap_or_else(|| panic!("complete after {at} of {COUNT}"));
                assert_eq!(status.code(), Code::Internal);
                assert!(status.message().contains("the disk is gone"), "{status}");
                assert_eq!(listed.ranges.len() as u64, at);

                // The disk is back: going on gives the rest, and nothing twice.
                fails_at.store(u64::MAX, Ordering::SeqCst);
                let rest = list(&node.metadata, asked, listed.reached(), most).await.unwrap();
                let all: Vec<(u64, u64)> = listed.ranges.into_iter().chain(rest.ranges).collect();
                assert!(all.iter().copied().eq((0..COUNT).map(|index| (index * 2 * BLOCK, BLOCK))));
            }
        }
    }
    // A panic of the listing is no end either.
    let (node, _, target) = node_that_lists(|| {
        Box::new(every_second(9).inspect(|range| {
            assert!(range.as_ref().unwrap().offset() < 12 * BLOCK, "panics for the test");
        }))
    })
    .await;
    let (listed, _) = take(&node.metadata, Ask::Allocated(&target), 0, 1, usize::MAX).await.unwrap();
    assert_eq!(listed.error.map(|status| status.code()), Some(Code::Unavailable));
    // A pool that breaks the order is not believed.
    let (node, _, target) = node_that_lists(|| Box::new(every_second(9).chain(every_second(2)))).await;
    let (listed, _) = take(&node.metadata, Ask::Allocated(&target), 0, 2, usize::MAX).await.unwrap();
    assert_eq!(listed.error.map(|status| status.code()), Some(Code::Internal));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_at_any_byte_is_an_error_and_the_rest_can_be_had() {
    const COUNT: u64 = 3000;
    let (node, base, target) = node_that_lists(|| Box::new(every_second(COUNT))).await;
    let mut random = StdRng::seed_from_u64(8);
    let whole: Vec<(u64, u64)> = (0..COUNT).map(|index| (index * 2 * BLOCK, BLOCK)).collect();
    for asked in [Ask::Allocated(&target), Ask::Delta { base: &base, target: &target }] {
        for most in [0, 50] {
            // The connection's own talk differs by some bytes from call to call, so the end is looked for by bisection.
            let (mut cut_before, mut enough) = (0, 1 << 20);
            while enough - cut_before > 1 {
                let middle = cut_before + (enough - cut_before) / 2;
                let (_, is_all) = list_until_cut(&node.socket, asked, 0, most, middle, &whole).await;
                if is_all { enough = middle } else { cut_before = middle }
            }
            assert!(enough as u64 > 8 * COUNT, "{enough}");
            let anywhere = (0..100).map(|_| random.random_range(0..enough)).collect::<Vec<_>>();
            let mut cuts = 0;
            // The first frames, anywhere, and the last ones, which are the end of the call.
            for bytes in (0..60).chain(anywhere).chain(enough - 120..enough + 20) {
                cuts += usize::from(!list_until_cut(&node.socket, asked, 0, most, bytes, &whole).await.1);
            }
            assert!(cuts > 160, "{cuts} cuts");
        }
        let (_, cuts) = list_across_cuts(&node.socket, asked, &mut random).await;
        assert!(cuts > 3, "{cuts} cuts");
    }
}

/// Counts what a listing does, and tells when it ends.
#[derive(Default)]
struct Watch {
    produced: AtomicU64,
    ended: Mutex<u64>,
    changed: Condvar,
}

impl Watch {
    fn listing(self: &Arc<Self>, count: u64) -> RangeStream {
        struct Ends(Arc<Watch>);
        impl Drop for Ends {
            fn drop(&mut self) {
                *self.0.ended.lock().unwrap() += 1;
                self.0.changed.notify_all();
            }
        }
        let ends = Ends(Arc::clone(self));
        Box::new(every_second(count).inspect(move |_| {
            ends.0.produced.fetch_add(1, Ordering::SeqCst);
        }))
    }

    fn wait_for_end(&self) {
        let ended = self.ended.lock().unwrap();
        let (_ended, timeout) = self.changed.wait_timeout_while(ended, Duration::from_secs(30), |ended| *ended == 0).unwrap();
        assert!(!timeout.timed_out(), "the listing goes on without its client");
    }

    fn produced(&self) -> u64 {
        self.produced.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_stops_the_listing_and_one_that_leaves_ends_it() {
    const COUNT: u64 = 20_000_000;
    let watch = Arc::new(Watch::default());
    let listing = Arc::clone(&watch);
    let (node, _, target) = node_that_lists(move || listing.listing(COUNT)).await;
    let mut answers = open(&node.metadata, Ask::Allocated(&target), 0, 100).await.unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap().blocks.len(), 100);
    // The window of the connection is filled, then nothing moves until the client reads.
    let mut interval = tokio::time::interval(Duration::from_millis(50));
    let (mut before, deadline) = (u64::MAX, Instant::now() + Duration::from_secs(30));
    while before != watch.produced() {
        assert!(Instant::now() < deadline, "the listing does not wait for its client");
        before = watch.produced();
        for _ in 0..4 {
            interval.tick().await;
        }
    }
    assert!(before < COUNT / 20, "{before} ranges were made for a client that reads nothing");
    // The snapshot cannot go while it is read.
    refused("pinned", node.delete_snapshot(&target).await, Code::FailedPrecondition, "in use");
    drop(answers);
    tokio::task::spawn_blocking({
        let watch = Arc::clone(&watch);
        move || watch.wait_for_end()
    })
    .await
    .unwrap();
    assert!(watch.produced() < COUNT);
    delete_soon(&node, &target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_within_a_message_stops_the_listing() {
    let watch = Arc::new(Watch::default());
    let listing = Arc::clone(&watch);
    // All in one range, so there is no message until the end of the volume: some minutes of listing.
    let (node, _, target) = node_that_lists(move || {
        let ranges = (0..u64::MAX >> 20).map(|index| Ok(ByteRange::new(index, 1).unwrap()));
        let mut watched = listing.listing(u64::MAX >> 20);
        Box::new(ranges.inspect(move |_| drop(watched.next())))
    })
    .await;
    let mut answers = open(&node.metadata, Ask::Allocated(&target), 0, 0).await.unwrap();
    let mut interval = tokio::time::interval(Duration::from_millis(5));
    while watch.produced() == 0 {
        tokio::select! {
            answer = answers.next() => panic!("{answer:?}"),
            _ = interval.tick() => {}
        }
    }
    drop(answers);
    tokio::task::spawn_blocking(move || watch.wait_for_end()).await.unwrap();
    delete_soon(&node, &target).await;
}

#[test]
fn a_server_that_dies_within_a_stream_is_an_error_for_its_client() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("kubelet");
    std::fs::create_dir(&root).unwrap();
    let mounter = Arc::new(MemoryMounter::new());
    let pool = injected(&mounter, || Box::new(every_second(1_000_000)));
    let options = NodeOptions {
        node: NodeName::try_from(NODE.to_owned()).unwrap(),
        root: Root::open(&root).unwrap(),
        boot_id: windlass::mount::boot_id().unwrap(),
        statistics_timeout: None,
    };
    let layer = NodeLayer::new(vec![pool], mounter, options);
    let path = directory.path().join("csi.sock");
    let server = tokio::runtime::Runtime::new().unwrap();
    let socket = PrivateSocket::bind(&path).unwrap();
    server.spawn(server::serve(socket, routes(&layer), tokio_util::sync::CancellationToken::new()));

    let client = tokio::runtime::Runtime::new().unwrap();
    let ended: Option<Status> = client.block_on(async {
        let channel = csi_harness::channel(&path).await;
        let mut controller = controller_client::ControllerClient::new(channel.clone());
        let request = CreateVolumeRequest { capacity_range: bytes(1 << 39, 0), ..new_volume("a", block(WRITER)) };
        let volume = controller.create_volume(request).await.unwrap().into_inner().volume.unwrap().volume_id;
        let request = CreateSnapshotRequest { name: "s".into(), source_volume_id: volume, ..Default::default() };
        let snapshot = controller.create_snapshot(request).await.unwrap().into_inner().snapshot.unwrap().snapshot_id;
        let metadata = metadata_client::Client::new(channel);
        let mut answers = open(&metadata, Ask::Allocated(&snapshot), 0, 1000).await.unwrap();
        answers.next().await.unwrap().unwrap();
        server.shutdown_background();
        while let Some(answer) = answers.next().await {
            if let Err(status) = answer {
                return Some(status);
            }
        }
        None
    });
    assert!(ended.is_some(), "cut off, and it looks complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_the_largest_size_is_taken_by_a_client_with_default_limits() {
    let (node, _, target) = node_that_lists(|| Box::new(every_second(400_000))).await;
    let listed = list(&node.metadata, Ask::Allocated(&target), 0, i32::MAX).await.unwrap();
    assert_eq!((listed.ranges.len(), listed.messages), (400_000, 3));
    let listed = list(&node.metadata, Ask::Allocated(&target), 0, 0).await.unwrap();
    assert_eq!((listed.ranges.len(), listed.messages), (400_000, 98));
}
