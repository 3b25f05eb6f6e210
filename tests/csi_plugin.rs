//! A layer is the same to those above it wherever it is: called in the same process, beneath an agent's, behind a unix socket, or behind two of
//! them. Answers, codes
//! and texts are equal, streams included, and so is what happens when the caller goes away.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly, wherever it does")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

#[path = "support/csi_harness.rs"]
mod csi_harness;
#[path = "support/listing_pool.rs"]
mod listing_pool;

use std::fmt::Debug;
use std::io;
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use csi_harness::{Node, SNAPSHOT_ELSEWHERE, VOLUME_ELSEWHERE, block, bytes, from_snapshot, mount, new_volume, pool_over};
use csi_proto::csi::v1::controller_server::Controller;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use futures::StreamExt;
use listing_pool::injected;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use windlass::agent::AgentLayer;
use windlass::csi::plugin::Plugin;
use windlass::csi::remote::RemotePlugin;
use windlass::csi::server::{PrivateSocket, routes, serve};
use windlass::mount::memory::MemoryMounter;
use windlass::node::NodeLayer;
use windlass::node::blocks::PoolBlocks;
use windlass::pool::memory::{MemoryPool, Moment, Verb};
use windlass::types::ByteRange;

const WRITER: Mode = Mode::SingleNodeWriter;
const BLOCK: u64 = 4096;

/// One layer by its ways.
struct Ways {
    itself: NodeLayer,
    /// Beneath an agent.
    agent: AgentLayer<NodeLayer>,
    /// Behind a socket, beneath an agent.
    remote_agent: AgentLayer<RemotePlugin>,
    remote: RemotePlugin,
    twice_remote: RemotePlugin,
    stop: CancellationToken,
}

impl Drop for Ways {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Ways {
    async fn of(node: &Node) -> Self {
        let remote = RemotePlugin::new(csi_harness::channel(&node.socket).await);
        let path = node.directory.path().join("above.sock");
        let stop = CancellationToken::new();
        tokio::spawn(serve(PrivateSocket::bind(&path).unwrap(), routes(&Arc::new(remote.clone())), stop.clone()));
        let twice_remote = RemotePlugin::new(csi_harness::channel(&path).await);
        let blocks = || Arc::new(PoolBlocks::new(node.pools.clone()));
        let agent = AgentLayer::new(node.layer.clone(), blocks(), "bench");
        let remote_agent = AgentLayer::new(remote.clone(), blocks(), "bench");
        Self { itself: node.layer.clone(), agent, remote_agent, remote, twice_remote, stop }
    }
}

/// Makes a call by each way, asserts that all bring the same, and gives it.
macro_rules! same_by_each_way {
    ($ways:expr, $plugin:ident => $call:expr) => {{
        let $plugin = &$ways.itself;
        let itself = $call.await;
        let $plugin = &$ways.agent;
        assert_eq!($call.await, itself, "beneath an agent");
        let $plugin = &$ways.remote_agent;
        assert_eq!($call.await, itself, "behind a socket, beneath an agent");
        let $plugin = &$ways.remote;
        assert_eq!($call.await, itself, "behind a socket");
        let $plugin = &$ways.twice_remote;
        assert_eq!($call.await, itself, "behind two sockets");
        itself
    }};
}

fn told<T: Debug>(call: &str, answer: Result<Response<T>, Status>) -> String {
    match answer {
        Ok(answer) => format!("{call}: {:?}", answer.into_inner()),
        Err(status) => format!("{call}: {:?}: {}", status.code(), status.message()),
    }
}

/// Calls that can be repeated, of each service.
async fn suite<P: Plugin>(plugin: &P) -> Vec<String> {
    let mut all = Vec::new();
    macro_rules! call {
        ($method:ident, $request:expr) => {
            all.push(told(stringify!($method), plugin.$method(Request::new($request)).await))
        };
    }
    call!(get_plugin_info, GetPluginInfoRequest {});
    call!(get_plugin_capabilities, GetPluginCapabilitiesRequest {});
    call!(probe, ProbeRequest {});
    call!(group_controller_get_capabilities, GroupControllerGetCapabilitiesRequest {});
    call!(controller_get_capabilities, ControllerGetCapabilitiesRequest {});

    let made = plugin.create_volume(Request::new(new_volume("a", block(WRITER)))).await;
    let volume_id = made.as_ref().unwrap().get_ref().volume.as_ref().unwrap().volume_id.clone();
    all.push(told("create_volume", made));
    call!(create_volume, CreateVolumeRequest { capacity_range: bytes(1 << 30, 0), ..new_volume("a", block(WRITER)) });
    call!(create_volume, new_volume("", block(WRITER)));
    call!(create_volume, CreateVolumeRequest { capacity_range: bytes(1 << 40, 0), ..new_volume("b", block(WRITER)) });
    call!(create_volume, new_volume("c", mount("ntfs", WRITER)));
    let from_elsewhere = from_snapshot(SNAPSHOT_ELSEWHERE);
    call!(create_volume, CreateVolumeRequest { volume_content_source: from_elsewhere, ..new_volume("d", block(WRITER)) });

    let cut = CreateSnapshotRequest { name: "s".into(), source_volume_id: volume_id.clone(), ..Default::default() };
    let made = plugin.create_snapshot(Request::new(cut.clone())).await;
    let snapshot_id = made.as_ref().unwrap().get_ref().snapshot.as_ref().unwrap().snapshot_id.clone();
    all.push(told("create_snapshot", made));
    call!(create_snapshot, CreateSnapshotRequest { source_volume_id: VOLUME_ELSEWHERE.into(), ..cut });
    call!(get_snapshot, GetSnapshotRequest { snapshot_id: snapshot_id.clone(), ..Default::default() });
    call!(list_snapshots, ListSnapshotsRequest::default());
    call!(list_volumes, ListVolumesRequest::default());
    call!(list_volumes, ListVolumesRequest { starting_token: "nobody gave this".into(), ..Default::default() });
    call!(get_capacity, GetCapacityRequest::default());
    call!(controller_get_volume, ControllerGetVolumeRequest { volume_id: volume_id.clone() });
    call!(controller_get_volume, ControllerGetVolumeRequest { volume_id: VOLUME_ELSEWHERE.into() });
    call!(
        validate_volume_capabilities,
        ValidateVolumeCapabilitiesRequest {
            volume_id: volume_id.clone(),
            volume_capabilities: vec![block(WRITER)],
            ..Default::default()
        }
    );
    call!(
        controller_expand_volume,
        ControllerExpandVolumeRequest { volume_id: volume_id.clone(), capacity_range: bytes(128 << 20, 0), ..Default::default() }
    );
    call!(controller_publish_volume, ControllerPublishVolumeRequest { volume_id, ..Default::default() });
    call!(delete_volume, DeleteVolumeRequest { volume_id: "no handle of ours".into(), ..Default::default() });
    call!(delete_snapshot, DeleteSnapshotRequest { snapshot_id: SNAPSHOT_ELSEWHERE.into(), ..Default::default() });
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_codes_and_texts_are_equal_by_each_way() {
    let node = Node::start().await;
    let ways = Ways::of(&node).await;
    // What the first run makes the others find.
    suite(&ways.itself).await;
    let said = same_by_each_way!(ways, plugin => suite(plugin));
    for code in ["InvalidArgument", "AlreadyExists", "ResourceExhausted", "Unavailable", "Aborted", "Unimplemented"] {
        assert!(said.iter().any(|line| line.contains(code)), "no call is answered with {code}: {said:#?}");
    }
}

/// The offsets of a stream's ranges, and how it ended.
async fn listed<P: Plugin>(plugin: &P, snapshot_id: &str) -> (Vec<i64>, String) {
    let request = GetMetadataAllocatedRequest { snapshot_id: snapshot_id.into(), max_results: 3, ..Default::default() };
    let mut offsets = Vec::new();
    let mut stream = match plugin.get_metadata_allocated(Request::new(request)).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return (offsets, format!("refused: {:?}: {}", status.code(), status.message())),
    };
    while let Some(answer) = stream.next().await {
        match answer {
            Ok(answer) => offsets.extend(answer.block_metadata.iter().map(|range| range.byte_offset)),
            Err(status) => return (offsets, format!("{:?}: {}", status.code(), status.message())),
        }
    }
    (offsets, "complete".to_owned())
}

fn ranges(count: u64) -> impl Iterator<Item = io::Result<ByteRange>> + Send {
    (0..count).map(|index| Ok(ByteRange::new(index * 2 * BLOCK, BLOCK).unwrap()))
}

/// A node whose listings are made by the test, and a snapshot on it.
async fn node_that_lists(listing: impl Fn() -> windlass::types::RangeStream + Send + Sync + 'static) -> (Node, String) {
    let mounter = Arc::new(MemoryMounter::new());
    let pools = vec![injected(&mounter, listing)];
    let boot_id = windlass::mount::boot_id().unwrap();
    let node = Node::with(Arc::new(tempfile::tempdir().unwrap()), mounter, pools, &boot_id).await;
    let volume = node.volume("a", block(WRITER)).await;
    let snapshot = node.snapshot("s", &volume).await.unwrap().snapshot_id;
    (node, snapshot)
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_equal_by_each_way_and_so_are_their_ends() {
    let (node, snapshot) = node_that_lists(|| Box::new(ranges(10))).await;
    let ways = Ways::of(&node).await;
    let (offsets, end) = same_by_each_way!(ways, plugin => listed(plugin, &snapshot));
    assert_eq!((offsets.len(), end.as_str()), (10, "complete"));
    let (_, end) = same_by_each_way!(ways, plugin => listed(plugin, SNAPSHOT_ELSEWHERE));
    assert!(end.starts_with("refused: Unavailable"), "{end}");

    let (node, snapshot) = node_that_lists(|| Box::new(ranges(7).chain([Err(io::Error::other("the disk is gone"))]))).await;
    let ways = Ways::of(&node).await;
    let (offsets, end) = same_by_each_way!(ways, plugin => listed(plugin, &snapshot));
    assert!(end.contains("the disk is gone") && end.starts_with("Internal"), "{end}");
    assert_eq!(offsets.len(), 7, "the messages before the failure");
}

/// Holds the creation of volumes up: tells when one has come, and lets it go on when told.
fn hold_creations_up(memory: &MemoryPool) -> (Receiver<()>, std::sync::mpsc::SyncSender<()>) {
    let (arrived, arrivals) = channel();
    let (go_on, gate) = sync_channel::<()>(1);
    let gate = Mutex::new(gate);
    memory.set_hook(Some(Arc::new(move |verb, moment| {
        if (verb, moment) == (Verb::Create, Moment::Before) {
            arrived.send(()).unwrap();
            gate.lock().unwrap().recv().unwrap();
        }
        Ok(())
    })));
    (arrivals, go_on)
}

/// A caller that goes away leaves its work; it is found under way, and then done.
async fn given_up<P: Plugin + Clone>(plugin: &P, name: &str, memory: &MemoryPool) {
    let (arrivals, go_on) = hold_creations_up(memory);
    let caller = plugin.clone();
    let request = new_volume(name, block(WRITER));
    let asked = request.clone();
    let first = tokio::spawn(async move { caller.create_volume(Request::new(asked)).await.map(drop) });
    tokio::task::spawn_blocking(move || arrivals.recv().unwrap()).await.unwrap();
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let second = plugin.create_volume(Request::new(request.clone())).await.map(drop);
    assert_eq!(second.map_err(|status| status.code()), Err(Code::Aborted), "{name}");
    go_on.send(()).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let mut interval = tokio::time::interval(Duration::from_millis(2));
    loop {
        match plugin.create_volume(Request::new(request.clone())).await {
            Ok(_) => break,
            Err(status) => assert_eq!(status.code(), Code::Aborted, "{status}"),
        }
        assert!(tokio::time::Instant::now() < deadline, "{name}: the work did not end");
        interval.tick().await;
    }
    memory.set_hook(None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_leaves_its_work_by_each_way() {
    let mounter = Arc::new(MemoryMounter::new());
    let memory = Arc::new(MemoryPool::default());
    let pools = vec![pool_over(&mounter, Arc::clone(&memory))];
    let node = Node::with(Arc::new(tempfile::tempdir().unwrap()), mounter, pools, "boot").await;
    let ways = Ways::of(&node).await;
    given_up(&ways.itself, "itself", &memory).await;
    given_up(&ways.remote, "remote", &memory).await;
    given_up(&ways.twice_remote, "twice", &memory).await;
    given_up(&ways.agent, "agent", &memory).await;
    given_up(&ways.remote_agent, "remote-agent", &memory).await;
    assert_eq!(node.pools[0].volumes().unwrap().len(), 5);
}

/// A stream that is dropped ends the listing beneath it, however far below that is.
async fn dropped<P: Plugin>(plugin: &P, snapshot_id: &str, ends: &Receiver<()>) {
    let request = GetMetadataAllocatedRequest { snapshot_id: snapshot_id.into(), max_results: 3, ..Default::default() };
    let mut stream = plugin.get_metadata_allocated(Request::new(request)).await.unwrap().into_inner();
    assert_eq!(stream.next().await.unwrap().unwrap().block_metadata.len(), 3);
    assert!(ends.try_recv().is_err(), "the listing ended before its client left");
    drop(stream);
    tokio::task::block_in_place(|| ends.recv_timeout(Duration::from_secs(30))).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_given_up_ends_its_listing_by_each_way() {
    struct Ends(std::sync::mpsc::Sender<()>);
    impl Drop for Ends {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (sender, ends) = channel();
    let (node, snapshot) = node_that_lists(move || {
        let guard = Ends(sender.clone());
        Box::new(ranges(20_000_000).inspect(move |_| {
            let _ = &guard;
        }))
    })
    .await;
    let ways = Ways::of(&node).await;
    dropped(&ways.itself, &snapshot, &ends).await;
    dropped(&ways.remote, &snapshot, &ends).await;
    dropped(&ways.twice_remote, &snapshot, &ends).await;
    dropped(&ways.agent, &snapshot, &ends).await;
    dropped(&ways.remote_agent, &snapshot, &ends).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_gone_is_unavailable_and_never_anything_final() {
    let node = Node::start().await;
    let ways = Ways::of(&node).await;
    drop(node);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let mut interval = tokio::time::interval(Duration::from_millis(5));
    // Its connection is closed when the calls have ended.
    loop {
        let answer = ways.remote.create_volume(Request::new(new_volume("a", block(WRITER)))).await;
        match answer.map_err(|status| status.code()) {
            Ok(_) => {}
            Err(Code::Unavailable) => break,
            Err(code) => panic!("{code:?}"),
        }
        assert!(tokio::time::Instant::now() < deadline, "it still answers");
        interval.tick().await;
    }
    let above = ways
        .twice_remote
        .delete_volume(Request::new(DeleteVolumeRequest { volume_id: VOLUME_ELSEWHERE.into(), ..Default::default() }));
    assert_eq!(above.await.map_err(|status| status.code()).map(drop), Err(Code::Unavailable));
}
