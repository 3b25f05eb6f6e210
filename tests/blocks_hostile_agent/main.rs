//! An agent that is not ours: it sends what no agent sends, keeps what it should let go, and goes away in the midst of everything. It
//! reaches nothing that it was not given, and the node is afterwards what it was. Over a pool in memory, through both sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

mod bounds;
mod ends;
mod lists;
mod random;
mod tokens;

#[path = "../support/disks/mod.rs"]
mod disks;
#[path = "../support/figures.rs"]
mod figures;
#[path = "../support/disks/pool.rs"]
mod pool_disks;
#[path = "../support/served_blocks.rs"]
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
use windlass::blocks::wire::{self, secret::Secret};
use windlass::blocks::{
    Blocks, BlocksError, CommitName, LeasedSnapshot, OpenPool, PoolState, ProtectionPage, ProtectionQuery, SnapshotCopies,
    SnapshotLease, TargetStart, TaskPage, TaskQuery, UsagePage, UsageQuery,
};
use windlass::types::poll::{self, Patience};
use windlass::types::{
    ByteRange, ExportRecord, ExportTask, LogicalBlockSize, NewVolume, ObjectName, OnLoss, PoolId, RangeStream, SnapshotHandle,
    SnapshotId, TargetContent, Timestamp, VolumeHandle, VolumeId, VolumeMode, VolumeSize,
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

    /// Waits until a name is free, which it is a moment after its target is none any more.
    async fn is_free(&self, text: &str) {
        let begun = std::time::Instant::now();
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        loop {
            match self.disks.blocks().begin(self.disks.pool_id(), raw(text), OnLoss::Delete).await {
                Ok(TargetStart::Target(target)) => {
                    let volume = target.volume;
                    drop(target);
                    return self.disks.blocks().abort(volume).await.unwrap();
                }
                Err(BlocksError::Busy(_)) if begun.elapsed().as_secs() < 30 => drop(tick.tick().await),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Waits until a target is kept.
    async fn one_is_kept(&self) {
        let disks = Arc::clone(&self.disks);
        let patience = Patience { limit: Duration::from_secs(30), every: Duration::from_millis(5) };
        let question = move || poll::until(patience, || Ok::<_, ()>(((disks.targets(), disks.kept()) == (0, 1)).then_some(())));
        let kept = tokio::task::spawn_blocking(question).await.unwrap();
        assert_eq!(kept, Ok(Some(())), "{} targets are held and {} are kept", self.disks.targets(), self.disks.kept());
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
    (text, on_loss): (&str, OnLoss),
) -> Result<(proto::HeldTarget, Streaming<proto::BeginTargetResponse>), Status> {
    begin_with_content(calls, pool, (text, on_loss)).await.map(|(target, _, stream)| (target, stream))
}

/// The same, with what the target holds.
async fn begin_with_content(
    calls: &Calls<Channel>,
    pool: PoolId,
    (text, on_loss): (&str, OnLoss),
) -> Result<(proto::HeldTarget, TargetContent, Streaming<proto::BeginTargetResponse>), Status> {
    let (volume, on_loss) = (Some(wire::volume::message(raw(text))), wire::target::on_loss(on_loss));
    let request = proto::BeginTargetRequest { pool_id: pool.to_string(), volume, on_loss };
    let mut stream = calls.clone().begin_target(request).await?.into_inner();
    let begun = stream.message().await?.unwrap();
    match begun.start {
        Some(Start::Target(target)) => Ok((target, wire::target::read_content(begun.content).unwrap(), stream)),
        other => panic!("{other:?}"),
    }
}

fn commit(target: &proto::HeldTarget) -> proto::CommitTargetRequest {
    let (target_id, volume_id) = (target.target_id.clone(), target.volume_id.clone());
    proto::CommitTargetRequest { target_id, volume_id, ..Default::default() }
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
