#![cfg(feature = "root-tests")]
//! A real node that gets far more at once than any kubelet and sidecars send: silent connections, streams that nobody reads, and
//! calls of every kind by the thousand. Whoever takes a volume down is answered meanwhile, every answer is right or says to come
//! again, and afterwards the node is what it was. How long answers took, and what the node had at most, is printed. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_types, reason = "the gRPC codes are what the test looks at")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::csi::{Source, Use, new_snapshot, new_volume};
use common::fixture::{Bench, PoolFileSystem};
use common::{GIB, MIB, wait_for};
use csi_proto::csi::v1 as proto;
use csi_proto::csi::v1::controller_client::ControllerClient;
use csi_proto::csi::v1::identity_client::IdentityClient;
use csi_proto::csi::v1::snapshot_metadata_client::SnapshotMetadataClient;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Longest time for one call beside the flood: some milliseconds alone, and everything here shares two processors.
const BOUND: Duration = Duration::from_secs(60);
/// Connections that say nothing: half of those that a socket takes.
const SILENT: usize = 256;
/// Streams that are opened and not read: more than may run at once.
const UNREAD: usize = 80;
/// Connections of the flood, and rounds of calls on each: 1,920 calls, which is more than may run and wait.
const CLIENTS: usize = 8;
const ROUNDS: usize = 60;
/// Names that the flood makes volumes of, over and over.
const NAMES: usize = 16;
/// What a node may hold afterwards that it did not before: what its allocator keeps, and threads that wait for more work.
const KEPT: u64 = 64 * MIB;

/// What became of the calls of one kind, by code.
type Tally = HashMap<(&'static str, Code), usize>;

#[derive(Debug)]
enum Answer {
    Probed,
    Volume(String, String),
    Snapshot(String, String),
    Listed,
}

async fn connect(socket: PathBuf) -> Channel {
    Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap().connect().await.unwrap()
}

/// One call of the flood; which kind, how long it took, and what came.
async fn timed(channel: Channel, number: usize, source: String) -> (&'static str, Duration, Result<Answer, Status>) {
    let began = Instant::now();
    let (kind, answer) = call(channel, number, source).await;
    (kind, began.elapsed(), answer)
}

/// One call of the flood; which kind, and what came.
async fn call(channel: Channel, number: usize, source: String) -> (&'static str, Result<Answer, Status>) {
    let mut controller = ControllerClient::new(channel.clone());
    let name = format!("flood-{}", number % NAMES);
    match number % 4 {
        0 => {
            let request = new_volume(&name, MIB, Use::Block, &Source::Blank);
            let made = controller.create_volume(request).await;
            ("CreateVolume", made.map(|answer| Answer::Volume(name, answer.into_inner().volume.unwrap().volume_id)))
        }
        1 => {
            let made = controller.create_snapshot(new_snapshot(&name, &source)).await;
            ("CreateSnapshot", made.map(|answer| Answer::Snapshot(name, answer.into_inner().snapshot.unwrap().snapshot_id)))
        }
        2 => {
            let listed = controller.list_volumes(proto::ListVolumesRequest::default()).await;
            ("ListVolumes", listed.map(|_| Answer::Listed))
        }
        _ => {
            let probed = IdentityClient::new(channel).probe(proto::ProbeRequest {}).await;
            (
                "Probe",
                probed.map(|answer| {
                    assert_eq!(answer.into_inner().ready, Some(true));
                    Answer::Probed
                }),
            )
        }
    }
}

#[test]
fn a_flood_keeps_nobody_from_taking_volumes_down_and_leaves_nothing() {
    let bench = Bench::with_pool(PoolFileSystem::Xfs, 4 * GIB);
    let node = bench.start();
    let csi = node.csi();
    let used = csi.make_volume("used", 64 * MIB, Use::Block, &Source::Blank);
    let paths = csi.bring_up(&bench.root(), "used", &used, Use::Block);
    // Its snapshots are cut all the time, which whoever takes it down would have to wait for.
    let source = csi.make_volume("cut", 64 * MIB, Use::Block, &Source::Blank);
    let snapshot = csi.make_snapshot("streamed", &source);
    let (descriptors, (memory, _)) = (node.descriptors(), node.resident_bytes());
    let socket = bench.options().socket;

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let silent: Vec<UnixStream> = (0..SILENT).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let unread = runtime.block_on(async {
        let mut streams = Vec::new();
        for _ in 0..UNREAD / 8 {
            let channel = connect(socket.clone()).await;
            for _ in 0..8 {
                let (mut client, snapshot_id) = (SnapshotMetadataClient::new(channel.clone()), snapshot.clone());
                // Those beyond the allowance wait for their turn, so the answer is not waited for.
                streams.push(tokio::spawn(async move {
                    let request = proto::GetMetadataAllocatedRequest { snapshot_id, ..Default::default() };
                    let stream = client.get_metadata_allocated(request).await;
                    std::future::pending::<()>().await;
                    drop(stream);
                }));
            }
        }
        streams
    });
    let mut flood = JoinSet::new();
    for _ in 0..CLIENTS {
        let channel = runtime.block_on(connect(socket.clone()));
        for number in 0..4 * ROUNDS {
            flood.spawn_on(timed(channel.clone(), number, source.clone()), runtime.handle());
        }
    }

    // Beside all of that a pod ends.
    let began = Instant::now();
    csi.node_unpublish_volume(common::csi::unpublish(&used, &paths)).unwrap();
    csi.node_unstage_volume(common::csi::unstage(&used, &paths)).unwrap();
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());

    let (mut tally, mut volumes, mut snapshots) = (Tally::new(), BTreeMap::new(), BTreeMap::new());
    let (mut latencies, mut most_descriptors) = (BTreeMap::<_, Vec<Duration>>::new(), node.descriptors());
    runtime.block_on(async {
        while let Some(answered) = flood.join_next().await {
            let (kind, took, answer) = answered.unwrap();
            latencies.entry(kind).or_default().push(took);
            most_descriptors = most_descriptors.max(node.descriptors());
            let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
            *tally.entry((kind, code)).or_default() += 1;
            match answer {
                // Whoever repeats a request gets the same object.
                Ok(Answer::Volume(name, id)) => assert_eq!(volumes.entry(name).or_insert_with(|| id.clone()), &id),
                Ok(Answer::Snapshot(name, id)) => assert_eq!(snapshots.entry(name).or_insert_with(|| id.clone()), &id),
                Ok(Answer::Probed | Answer::Listed) => {}
                Err(status) => {
                    let again = matches!(status.code(), Code::Aborted | Code::Unavailable);
                    assert!(again, "{kind} does not say to come again: {status}");
                }
            }
        }
    });
    println!("{tally:?}");
    for (kind, mut took) in latencies {
        took.sort_unstable();
        let percentile = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
        println!(
            "{kind}: {} calls, p50 {:?}, p99 {:?}, longest {:?}",
            took.len(),
            percentile(50),
            percentile(99),
            percentile(100)
        );
    }
    println!("descriptors: {descriptors} before, {most_descriptors} at most");
    assert_eq!(tally.values().sum::<usize>(), CLIENTS * 4 * ROUNDS);
    for kind in ["CreateVolume", "CreateSnapshot", "ListVolumes", "Probe"] {
        assert!(tally.contains_key(&(kind, Code::Ok)), "no {kind} succeeded: {tally:?}");
    }

    drop(silent);
    unread.iter().for_each(tokio::task::JoinHandle::abort);
    drop(runtime);
    // One object for each name that any call was told of, and no other but ours.
    let listed: BTreeSet<String> = csi.volume_ids().into_iter().collect();
    assert!(volumes.values().all(|id| listed.contains(id)));
    assert!(listed.len() <= NAMES / 4 + 2, "{listed:?}");
    for id in csi.snapshot_ids() {
        csi.drop_snapshot(&id);
    }
    for id in listed {
        csi.drop_volume(&id);
    }
    paths.remove();
    wait_for("the descriptors to be given back", BOUND, || (node.descriptors() <= descriptors).then_some(()));
    let (now, most) = node.resident_bytes();
    println!("memory: {} KiB before, {} KiB at most, {} KiB now", memory >> 10, most >> 10, now >> 10);
    assert!(now <= memory + KEPT, "{now} bytes are kept, of {most} at most and {memory} before");
    assert_eq!(bench.attached(), Vec::<String>::new());
    node.stop();
}
