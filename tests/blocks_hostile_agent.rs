//! An agent that is not ours: it sends what no agent sends, keeps what it should let go, and goes away in the midst of everything. It
//! reaches nothing that it was not given, and the node is afterwards what it was. Over a pool in memory, through both sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

#[path = "support/disks/mod.rs"]
mod disks;
#[path = "support/figures.rs"]
mod figures;
#[path = "support/disks/pool.rs"]
mod pool_disks;
#[path = "support/served_blocks.rs"]
mod served_blocks;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use csi_proto::windlass::v1 as proto;
use csi_proto::windlass::v1::begin_target_response::Start;
use csi_proto::windlass::v1::blocks_client::BlocksClient as Calls;
use disks::{Disks, delete_when_let_go, new_volume};
use figures::Figures;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket};
use pool_disks::PoolDisks;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use served_blocks::ServedBlocks;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use windlass::blocks::descriptor::{self, FetchError, ReceiveError};
use windlass::blocks::wire::secret::Secret;
use windlass::blocks::{
    Blocks, BlocksError, CommitName, LeasedSnapshot, OpenPool, PoolState, SnapshotCopies, SnapshotLease, TargetStart, TaskPage,
    TaskQuery, UsagePage, UsageQuery,
};
use windlass::types::poll::{self, Patience};
use windlass::types::{
    ByteRange, ExportRecord, ExportTask, LogicalBlockSize, NewVolume, ObjectName, PoolId, RangeStream, SnapshotHandle,
    SnapshotId, Timestamp, VolumeHandle, VolumeId, VolumeMode, VolumeSize,
};

const MIB: u64 = 1 << 20;
/// What a node may have afterwards that it had not before: what its allocator keeps.
const KEPT: u64 = 64 * MIB;

/// Runs a test while no other does: figures are of the process, and a runtime that only waits for its turn has descriptors and threads too.
fn alone(test: impl Future<Output = ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(test);
}

/// A node with a volume, its content and a snapshot of it.
struct Scene {
    disks: Arc<dyn Disks>,
    node: ServedBlocks,
    volume: VolumeHandle,
    snapshot: SnapshotHandle,
}

fn raw(text: &str) -> NewVolume {
    new_volume(text, 4 * MIB, VolumeMode::Block)
}

impl Scene {
    async fn new() -> Self {
        let disks: Arc<dyn Disks> = Arc::new(PoolDisks::new());
        let volume = disks.create(&raw("data"), &[(0, &[7; 8192]), (2 * MIB, &[9; 4096])]).await;
        let snapshot = disks.cut("cut", volume);
        let node = ServedBlocks::over(disks.blocks());
        Self { disks, node, volume, snapshot }
    }

    fn calls(&self) -> Calls<Channel> {
        Calls::new(self.node.channel())
    }

    fn fetch(&self, token: &[u8]) -> Result<OwnedFd, FetchError> {
        descriptor::fetch(&self.node.descriptor_socket(), &Secret::from_bytes(token).unwrap())
    }

    /// Waits until no target is left.
    async fn no_target_is_left(&self) {
        let disks = Arc::clone(&self.disks);
        let patience = Patience { limit: Duration::from_secs(30), every: Duration::from_millis(5) };
        let question = move || poll::until(patience, || Ok::<_, ()>((disks.targets() == 0).then_some(())));
        let ended = tokio::task::spawn_blocking(question).await.unwrap();
        assert_eq!(ended, Ok(Some(())), "{} targets are left", self.disks.targets());
    }

    /// The pool is as it was: one volume with its content, whose snapshot nobody holds; and every name is free.
    async fn is_as_it_was(&self) {
        self.no_target_is_left().await;
        let names: Vec<String> = self.disks.volumes().into_iter().map(|(_, name, _)| name).collect();
        assert_eq!(names, ["data"]);
        let content = self.disks.content(self.disks.cut("look", self.volume)).await;
        assert!(content[..8192].iter().all(|&byte| byte == 7) && content[8192..2 << 20].iter().all(|&byte| byte == 0));
        for text in ["look", "cut"] {
            let found = self.disks.blocks().find_snapshot(&disks::name(text)).await.unwrap().unwrap();
            delete_when_let_go(&self.disks, found).await;
        }
        for text in ["new", "target 0"] {
            let target = self.disks.begin(&raw(text)).await;
            let volume = target.volume;
            drop(target);
            self.disks.blocks().abort(volume).await.unwrap();
        }
    }
}

async fn lease(
    calls: &Calls<Channel>,
    snapshot: SnapshotHandle,
) -> Result<(proto::LeaseSnapshotResponse, Streaming<proto::LeaseSnapshotResponse>), Status> {
    let request = proto::LeaseSnapshotRequest { snapshot_id: snapshot.to_string() };
    let mut stream = calls.clone().lease_snapshot(request).await?.into_inner();
    let held = stream.message().await?.unwrap();
    Ok((held, stream))
}

async fn begin(
    calls: &Calls<Channel>,
    pool: PoolId,
    text: &str,
) -> Result<(proto::HeldTarget, Streaming<proto::BeginTargetResponse>), Status> {
    let volume = windlass::blocks::wire::volume::message(raw(text));
    let request = proto::BeginTargetRequest { pool_id: pool.to_string(), volume: Some(volume) };
    let mut stream = calls.clone().begin_target(request).await?.into_inner();
    match stream.message().await?.unwrap().start {
        Some(Start::Target(target)) => Ok((target, stream)),
        other => panic!("{other:?}"),
    }
}

fn commit(target: &proto::HeldTarget) -> proto::CommitTargetRequest {
    proto::CommitTargetRequest { target_id: target.target_id.clone(), volume_id: target.volume_id.clone(), name: String::new() }
}

fn is_refused(fetched: &Result<OwnedFd, FetchError>) -> bool {
    matches!(fetched, Err(FetchError::Answer(ReceiveError::Refused)))
}

/// A client of the companion socket; `None` when as many wait as may.
fn connect_to(path: &std::path::Path) -> Option<OwnedFd> {
    let client =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None).unwrap();
    match connect(client.as_raw_fd(), &UnixAddr::new(path).unwrap()) {
        Ok(()) => Some(client),
        Err(Errno::EAGAIN) => None,
        Err(errno) => panic!("{errno}"),
    }
}

#[test]
fn a_token_is_worth_one_descriptor_and_any_other_none() {
    alone(async {
        let scene = Scene::new().await;
        let calls = scene.calls();
        let (held, stream) = lease(&calls, scene.snapshot).await.unwrap();
        let file = File::from(scene.fetch(&held.descriptor_token).unwrap());
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, 2 * MIB).unwrap();
        assert_eq!(bytes, [9; 4096]);
        assert!(file.write_all_at(b"x", 0).is_err() && file.set_len(0).is_err(), "it is for reading only");
        assert!(is_refused(&scene.fetch(&held.descriptor_token)), "it was used");
        assert!(is_refused(&scene.fetch(&held.lease_id)), "another secret is no token");
        assert!(is_refused(&scene.fetch(&[0; Secret::BYTES])));
        // One that was not used before the lease ended.
        let (unused, second) = lease(&calls, scene.snapshot).await.unwrap();
        drop((stream, second, file));
        delete_when_let_go(&scene.disks, scene.snapshot).await;
        assert!(is_refused(&scene.fetch(&unused.descriptor_token)));
        // A lease that has ended tells no ranges.
        let request = proto::ListAllocatedRequest { lease_id: unused.lease_id };
        let refused = calls.clone().list_allocated(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    });
}

#[test]
fn nothing_is_written_to_a_volume_after_its_commit() {
    alone(async {
        let scene = Scene::new().await;
        let mut calls = scene.calls();
        let (target, stream) = begin(&calls, scene.disks.pool_id(), "new").await.unwrap();
        let file = File::from(scene.fetch(&target.descriptor_token).unwrap());
        file.write_all_at(&[5; 4096], 0).unwrap();
        let copy = file.try_clone().unwrap();
        drop(file);
        let refused = calls.commit_target(commit(&target)).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "a copy is open: {refused}");
        // One that is on its way to nobody is open as well.
        let (near, far) = UnixStream::pair().unwrap();
        let number = [copy.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&number)];
        sendmsg::<()>(near.as_raw_fd(), &[std::io::IoSlice::new(b"x")], &rights, MsgFlags::empty(), None).unwrap();
        drop(copy);
        let refused = calls.commit_target(commit(&target)).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        drop((near, far));
        calls.commit_target(commit(&target)).await.unwrap();
        assert_eq!(calls.commit_target(commit(&target)).await.unwrap_err().code(), Code::NotFound, "it is no target any more");
        // An abort of what is committed deletes nothing, nor does the end of its stream.
        let abort = proto::AbortTargetRequest { target_id: target.target_id.clone(), volume_id: target.volume_id.clone() };
        calls.abort_target(abort).await.unwrap();
        drop(stream);
        assert!(is_refused(&scene.fetch(&target.descriptor_token)));

        // One whose descriptor was not fetched before its commit is not to be had afterwards.
        let (target, _stream) = begin(&calls, scene.disks.pool_id(), "unfetched").await.unwrap();
        calls.commit_target(commit(&target)).await.unwrap();
        assert!(is_refused(&scene.fetch(&target.descriptor_token)));
        assert_eq!(scene.disks.volumes().len(), 3);
    });
}

#[test]
fn a_target_is_its_holders_and_nobody_elses() {
    alone(async {
        let scene = Scene::new().await;
        let calls = scene.calls();
        let (target, stream) = begin(&calls, scene.disks.pool_id(), "new").await.unwrap();
        let (other, _other_stream) = begin(&calls, scene.disks.pool_id(), "target 0").await.unwrap();
        // Hidden, and begun by the node's own agent.
        let own = scene.disks.begin(&raw("own")).await;
        let mut calls = scene.calls();
        for (target_id, volume_id) in [
            (vec![], target.volume_id.clone()),
            (vec![7; Secret::BYTES], target.volume_id.clone()),
            (other.target_id.clone(), target.volume_id.clone()),
            (other.target_id.clone(), own.volume.to_string()),
            (vec![], own.volume.to_string()),
            (target.target_id.clone(), scene.volume.to_string()),
        ] {
            let request =
                proto::CommitTargetRequest { target_id: target_id.clone(), volume_id: volume_id.clone(), name: String::new() };
            assert_eq!(calls.commit_target(request).await.unwrap_err().code(), Code::NotFound);
            calls.abort_target(proto::AbortTargetRequest { target_id, volume_id }).await.unwrap();
        }
        assert_eq!((scene.disks.targets(), scene.disks.volumes().len()), (3, 1), "nothing was committed or deleted");
        let volume = own.volume;
        drop((own, stream));
        scene.disks.blocks().abort(volume).await.unwrap();
    });
}

/// A text: nonsense, a path, or nearly what is right.
fn text(random: &mut StdRng, right: &str) -> String {
    match random.random_range(0..8) {
        0 => String::new(),
        1 => "/etc/passwd".to_owned(),
        2 => "../../../../dev/mem".to_owned(),
        3 => (0..random.random_range(0..300)).map(|_| random.random::<char>()).collect(),
        4 => format!("{right}\0"),
        5 => right.to_uppercase(),
        6 => {
            let at = random.random_range(0..=right.len());
            right.chars().enumerate().map(|(place, letter)| if place == at { 'x' } else { letter }).collect()
        }
        _ => right.to_owned(),
    }
}

fn bytes(random: &mut StdRng) -> Vec<u8> {
    let length = [0, 1, 31, 32, 32, 32, 33, 1000][random.random_range(0..8)];
    (0..length).map(|_| random.random()).collect()
}

/// One call with any fields; whether it was answered well.
async fn any_call(scene: &Scene, mut calls: Calls<Channel>, random: &mut StdRng) -> bool {
    let snapshot_id = text(random, &scene.snapshot.to_string());
    let volume_id = text(random, &scene.volume.to_string());
    let pool_id = text(random, &scene.disks.pool_id().to_string());
    match random.random_range(0..12) {
        0 => calls.find_pool(proto::FindPoolRequest { pool: pool_id }).await.is_ok(),
        1 => calls.find_volume(proto::FindVolumeRequest { name: text(random, "data") }).await.is_ok(),
        2 => calls.find_snapshot(proto::FindSnapshotRequest { name: text(random, "cut") }).await.is_ok(),
        3 => calls.lease_snapshot(proto::LeaseSnapshotRequest { snapshot_id }).await.is_ok(),
        4 => calls.list_allocated(proto::ListAllocatedRequest { lease_id: bytes(random) }).await.is_ok(),
        5 => calls.list_changed(proto::ListChangedRequest { lease_id: bytes(random), base_id: snapshot_id }).await.is_ok(),
        6 => {
            let volume = proto::NewVolume {
                name: text(random, "new"),
                required_bytes: random.random_range(0..8 * MIB),
                limit_bytes: random.random(),
                minimum_bytes: [0, 1, 4096, u64::MAX][random.random_range(0..4)],
                mode: text(random, "block"),
                access_modes: vec![text(random, "SINGLE_NODE_WRITER")],
                mount_flags: vec![text(random, "noatime")],
                parameters: [(text(random, "logicalBlockSize"), text(random, "4096"))].into(),
                checksum: random.random(),
                source_snapshot_id: text(random, ""),
                kubernetes: None,
            };
            calls.begin_target(proto::BeginTargetRequest { pool_id, volume: Some(volume) }).await.is_ok()
        }
        7 => {
            let request = proto::CommitTargetRequest { target_id: bytes(random), volume_id, name: text(random, "taken") };
            let committed = calls.commit_target(request).await.is_ok();
            assert!(!committed, "a target that is nobody's was committed");
            false
        }
        8 => calls.abort_target(proto::AbortTargetRequest { target_id: bytes(random), volume_id }).await.is_ok(),
        9 => {
            let record = proto::ExportRecord {
                repository: text(random, &"ab".repeat(32)),
                volume: text(random, &scene.volume.volume.to_string()),
                snapshot: text(random, &SnapshotId::random().to_string()),
                repository_snapshot: text(random, &"cd".repeat(32)),
                size_bytes: random.random(),
                chunk_bytes: random.random(),
                finished: None,
            };
            calls.put_export(proto::PutExportRequest { pool_id, record: Some(record) }).await.is_ok()
        }
        10 => {
            let request = proto::GetLastExportRequest { volume_id, repository: text(random, &"ab".repeat(32)) };
            calls.get_last_export(request).await.is_ok()
        }
        _ => {
            let request = proto::GetUsageRequest { pool_id, after: None, limit: random.random() };
            calls.get_usage(request).await.is_ok()
        }
    }
}

#[test]
fn whatever_is_sent_reaches_nothing_and_leaves_nothing() {
    alone(async {
        const CALLS: usize = 4000;
        const PACKETS: usize = 2000;
        let scene = Scene::new().await;
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        // What is there only after the first calls belongs to the node.
        for _ in 0..100 {
            any_call(&scene, scene.calls(), &mut random).await;
        }
        scene.no_target_is_left().await;
        let before = Figures::now();
        let (calls, mut well) = (scene.calls(), 0);
        for _ in 0..CALLS {
            well += usize::from(any_call(&scene, calls.clone(), &mut random).await);
        }
        assert!(well > CALLS / 100 && well < CALLS, "{well} of {CALLS} were answered well: this tests nothing");
        // Bytes that are no HTTP/2, and packets that are no tokens.
        for _ in 0..PACKETS / 10 {
            let mut stream = UnixStream::connect(scene.node.call_socket()).unwrap();
            let garbage: Vec<u8> = (0..random.random_range(1..2000)).map(|_| random.random()).collect();
            let _ = stream.write_all(&garbage);
        }
        for _ in 0..PACKETS {
            let Some(client) = connect_to(&scene.node.descriptor_socket()) else { continue };
            for _ in 0..random.random_range(0..4) {
                let packet: Vec<u8> = (0..random.random_range(1..200)).map(|_| random.random()).collect();
                let own = [client.as_raw_fd()];
                let rights = [ControlMessage::ScmRights(&own)];
                let rights = if random.random() { &rights[..] } else { &[] };
                let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
                let _ = sendmsg::<()>(client.as_raw_fd(), &[std::io::IoSlice::new(&packet)], rights, flags, None);
            }
        }
        drop(calls);
        scene.no_target_is_left().await;
        before.again(KEPT).await;
        scene.is_as_it_was().await;
    });
}

#[test]
fn silent_connections_by_the_thousand_hold_up_nobody_and_cost_nothing_that_lasts() {
    alone(async {
        const SILENT: usize = 3000;
        let scene = Scene::new().await;
        let agent = scene.node.client();
        drop(agent.lease(scene.snapshot).await.unwrap());
        let before = Figures::now();
        let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard.min(8192), hard).unwrap();
        let silent: Vec<OwnedFd> = (0..SILENT).filter_map(|_| connect_to(&scene.node.descriptor_socket())).collect();
        assert!(silent.len() > 1000, "only {} could connect", silent.len());
        let calling: Vec<UnixStream> = (0..200).map(|_| UnixStream::connect(scene.node.call_socket()).unwrap()).collect();
        // The agent is served meanwhile.
        let lease = agent.lease(scene.snapshot).await.unwrap();
        let mut bytes = [0; 4096];
        lease.file().read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [7; 4096]);
        // Of those that say nothing the node holds few.
        let most = before.descriptors + silent.len() + 2 * calling.len() + 100;
        assert!(Figures::now().descriptors < most, "{:?}, {before:?}, {} are silent", Figures::now(), silent.len());
        drop((silent, calling, lease));
        before.again(KEPT).await;
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        drop(agent);
        scene.is_as_it_was().await;
    });
}

/// Holds leases and targets until it is refused more, all by one connection, and reads nothing of them. Returns how many it held.
async fn hold_until_refused(scene: &Scene, round: usize) -> usize {
    let calls = scene.calls();
    let mut held = Vec::new();
    let mut number = 0;
    let refused = loop {
        assert!(number < 1000, "there is no bound");
        match number % 2 {
            0 => match lease(&calls, scene.snapshot).await {
                Ok((_, stream)) => held.push(Box::new(stream) as Box<dyn std::any::Any + Send>),
                Err(status) => break status,
            },
            _ => match begin(&calls, scene.disks.pool_id(), &format!("target {}", number / 2)).await {
                Ok((_, stream)) => held.push(Box::new(stream)),
                Err(status) => break status,
            },
        }
        number += 1;
    };
    assert_eq!(refused.code(), Code::Unavailable, "{refused} in round {round}");
    held.len()
}

#[test]
fn what_one_holds_is_bounded_and_comes_back_when_its_connection_ends() {
    alone(async {
        let scene = Arc::new(Scene::new().await);
        drop(scene.node.client().lease(scene.snapshot).await.unwrap());
        scene.no_target_is_left().await;
        let before = Figures::now();
        for round in 0..3 {
            // With the agent's runtime its connection is gone, whatever its library would have done with it.
            let agent = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let its_scene = Arc::clone(&scene);
            let held = agent.spawn(async move { hold_until_refused(&its_scene, round).await }).await.unwrap();
            assert!(held >= 16, "only {held} in round {round}");
            agent.shutdown_background();
            scene.no_target_is_left().await;
        }
        before.again(KEPT).await;
        scene.is_as_it_was().await;
    });
}

/// A node with one snapshot that has more ranges than anybody reads, and nothing else.
struct Fragmented(Arc<dyn SnapshotLease>);

/// The snapshot.
struct Fragments {
    record: LeasedSnapshot,
    file: File,
}

fn nothing_else<T>() -> Result<T, BlocksError> {
    Err(BlocksError::Unsupported("this node has a snapshot and nothing else".to_owned()))
}

#[async_trait::async_trait]
impl SnapshotLease for Fragments {
    fn snapshot(&self) -> &LeasedSnapshot {
        &self.record
    }

    fn file(&self) -> &File {
        &self.file
    }

    async fn allocated(&self) -> Result<RangeStream, BlocksError> {
        let last = self.record.size.bytes() / 8192;
        Ok(Box::new((0..last).map(|at| Ok(ByteRange::new(at * 8192, 4096).unwrap()))))
    }

    async fn changed_since(&self, _base: SnapshotId) -> Result<RangeStream, BlocksError> {
        self.allocated().await
    }
}

#[async_trait::async_trait]
impl Blocks for Fragmented {
    async fn state(&self) -> Vec<PoolState> {
        Vec::new()
    }

    async fn pool(&self, _wanted: &str) -> Result<OpenPool, BlocksError> {
        nothing_else()
    }

    async fn find_volume(&self, _name: &ObjectName) -> Result<Option<VolumeHandle>, BlocksError> {
        nothing_else()
    }

    async fn find_snapshot(&self, _name: &ObjectName) -> Result<Option<SnapshotHandle>, BlocksError> {
        nothing_else()
    }

    async fn lease(&self, _snapshot: SnapshotHandle) -> Result<Arc<dyn SnapshotLease>, BlocksError> {
        Ok(Arc::clone(&self.0))
    }

    async fn begin(&self, _pool: PoolId, _volume: NewVolume) -> Result<TargetStart, BlocksError> {
        nothing_else()
    }

    async fn commit(&self, _volume: VolumeHandle, _name: CommitName) -> Result<(), BlocksError> {
        nothing_else()
    }

    async fn abort(&self, _volume: VolumeHandle) -> Result<(), BlocksError> {
        nothing_else()
    }

    async fn put_export(&self, _pool: PoolId, _record: ExportRecord) -> Result<(), BlocksError> {
        nothing_else()
    }

    async fn last_export(&self, _volume: VolumeHandle, _repository: &str) -> Result<Option<ExportRecord>, BlocksError> {
        nothing_else()
    }

    async fn copies(&self, _snapshot: SnapshotHandle) -> Result<SnapshotCopies, BlocksError> {
        nothing_else()
    }

    async fn put_task(&self, _snapshot: SnapshotHandle, _task: ExportTask) -> Result<(), BlocksError> {
        nothing_else()
    }

    async fn tasks(&self, _query: TaskQuery) -> Result<TaskPage, BlocksError> {
        nothing_else()
    }

    async fn give_up_local_copy(&self, _snapshot: SnapshotHandle) -> Result<(), BlocksError> {
        nothing_else()
    }

    async fn usage(&self, _query: UsageQuery) -> Result<UsagePage, BlocksError> {
        nothing_else()
    }
}

#[test]
fn lists_that_nobody_reads_are_few_and_end_with_their_lease() {
    alone(async {
        let (pool, size) = (PoolId::random(), VolumeSize::MAX);
        let handle = SnapshotHandle { pool, snapshot: SnapshotId::random() };
        let record = LeasedSnapshot {
            handle,
            source: VolumeHandle { pool, volume: VolumeId::random() },
            size,
            logical_block_size: LogicalBlockSize::B4096,
            mode: VolumeMode::Block,
            created: Timestamp::now(),
            kubernetes: Default::default(),
        };
        let snapshot: Arc<dyn SnapshotLease> = Arc::new(Fragments { record, file: tempfile::tempfile().unwrap() });
        let node = ServedBlocks::over(Arc::new(Fragmented(Arc::clone(&snapshot))));
        let unheld = Arc::strong_count(&snapshot);
        let calls = Calls::new(node.channel());
        let (held, stream) = lease(&calls, handle).await.unwrap();
        let before = Figures::now();
        let mut lists = Vec::new();
        let refused = loop {
            assert!(lists.len() < 100, "there is no bound");
            let request = proto::ListAllocatedRequest { lease_id: held.lease_id.clone() };
            match calls.clone().list_allocated(request).await {
                Ok(list) => lists.push(list.into_inner()),
                Err(status) => break status,
            }
        };
        assert_eq!(refused.code(), Code::Aborted, "{refused}");
        // Unread, they leave room for every other call of the connection; one that is read goes on where it was.
        let others = async {
            for _ in 0..100 {
                calls.clone().get_pools(proto::GetPoolsRequest {}).await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), others).await.expect("the unread lists take all the room");
        let message = lists[0].message().await.unwrap().unwrap();
        assert!(!message.ranges.is_empty() && !message.is_last);
        assert!(Figures::now().resident_bytes < before.resident_bytes + KEPT, "what is not read is not made");
        drop(stream);
        let patience = Patience { limit: Duration::from_secs(30), every: Duration::from_millis(5) };
        let let_go = move || poll::until(patience, || Ok::<_, ()>((Arc::strong_count(&snapshot) == unheld).then_some(())));
        assert_eq!(tokio::task::spawn_blocking(let_go).await.unwrap(), Ok(Some(())), "the lease is still held");
        // None of them ends as if it were complete.
        for mut list in lists {
            let end = loop {
                match list.message().await {
                    Ok(Some(message)) => assert!(!message.is_last),
                    end => break end,
                }
            };
            assert_eq!(end.unwrap_err().code(), Code::Unavailable);
        }
    });
}

/// An agent goes away at every step of what it does. Dropping all clones of a client is, to the node, the same as its death.
#[test]
fn an_agent_that_goes_away_at_any_step_leaves_no_lease_no_half_volume_and_no_descriptor() {
    alone(async {
        let scene = Scene::new().await;
        let pool = scene.disks.pool_id();
        drop(scene.node.client().lease(scene.snapshot).await.unwrap());
        let before = Figures::now();
        for step in 0..8 {
            let (calls, agent) = (scene.calls(), scene.node.client());
            match step {
                0 => drop(lease(&calls, scene.snapshot).await.unwrap()),
                1 => drop(agent.lease(scene.snapshot).await.unwrap()),
                2 => {
                    // With a list that is open.
                    let lease: Arc<dyn SnapshotLease> = agent.lease(scene.snapshot).await.unwrap();
                    let ranges = lease.allocated().await.unwrap();
                    drop((agent, lease));
                    drop(ranges);
                }
                3 => drop(begin(&calls, pool, "new").await.unwrap()),
                4 => {
                    let TargetStart::Target(target) = agent.begin(pool, raw("new")).await.unwrap() else { panic!() };
                    target.file.write_all_at(&[1; 4096], 0).unwrap();
                    drop(agent);
                    // Its descriptor is closed later than its connection.
                    drop(target);
                }
                5 => {
                    // While the call runs.
                    let mut beginning = Box::pin(agent.begin(pool, raw("new")));
                    let _ = futures::poll!(&mut beginning);
                    drop(beginning);
                }
                6 => {
                    let TargetStart::Target(target) = agent.begin(pool, raw("new")).await.unwrap() else { panic!() };
                    let (volume, kept) = (target.volume, target);
                    let refused = agent.commit(volume, CommitName::AsBegun).await;
                    assert!(matches!(refused, Err(BlocksError::InUse(_))), "{refused:?}");
                    drop((agent, kept));
                }
                _ => {
                    let mut leasing = Box::pin(agent.lease(scene.snapshot));
                    let _ = futures::poll!(&mut leasing);
                    drop(leasing);
                }
            }
            scene.no_target_is_left().await;
            assert_eq!(scene.disks.volumes().len(), 1, "step {step}");
        }
        before.again(KEPT).await;
        scene.is_as_it_was().await;
    });
}

#[test]
fn a_node_that_stops_lets_go_of_all_and_its_agent_is_told() {
    alone(async {
        let Scene { disks, node, snapshot, .. } = Scene::new().await;
        let agent = node.client();
        let lease = agent.lease(snapshot).await.unwrap();
        let TargetStart::Target(target) = agent.begin(disks.pool_id(), raw("new")).await.unwrap() else { panic!() };
        let volume = target.volume;
        drop(target);
        node.stop().await;
        assert_eq!((disks.targets(), disks.volumes().len()), (0, 1));
        disks.delete_snapshot(snapshot).unwrap();
        let lost = lease.allocated().await.map(drop);
        assert!(matches!(lost, Err(BlocksError::Unavailable(_))), "{lost:?}");
        for answer in [agent.commit(volume, CommitName::AsBegun).await, agent.abort(volume).await] {
            assert!(matches!(answer, Err(BlocksError::Unavailable(_))), "{answer:?}");
        }
        let states = agent.state().await;
        assert!(matches!(states.as_slice(), [windlass::blocks::PoolState::Failed { id: None, .. }]), "{states:?}");
        // What it holds it still reads.
        let mut bytes = [0; 4096];
        lease.file().read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [7; 4096]);
    });
}
