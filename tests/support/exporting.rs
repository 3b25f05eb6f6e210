//! An agent over a node with a pool in memory, a store of S3's protocol, and a sidecar's patience.

#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "called by tests only")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use csi_proto::csi::v1::controller_server::Controller as _;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use csi_proto::windlass::v1 as windlass_proto;
use csi_proto::windlass::v1::TransferState;
use csi_proto::windlass::v1::transfers_server::Transfers as _;
use tokio::time::{Interval, MissedTickBehavior};
use tonic::{Code, Request, Status};
use windlass::agent::AgentLayer;
use windlass::node::NodeLayer;
use windlass::node::blocks::PoolBlocks;
use windlass::repository::{self, KdfCost, Password, Repository, Workspace, connect};
use windlass::types::{Access, Copies, ExportTask, Object, SnapshotHandle, TaskState, VolumeHandle};

use super::csi_harness::{Node, block};
use super::s3::{self, S3Server};

const PASSWORD: &str = "geheim";
/// Far more than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(120);
/// Between two questions.
const LOOK: Duration = Duration::from_millis(5);

pub type Secret = HashMap<String, String>;
pub type Class = HashMap<String, String>;

/// What paces questions: whoever asks all the time takes a processor from what is waited for.
pub fn looks() -> Interval {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

/// The parameters of a class.
pub fn class(repository: &str, local_copy: &str) -> Class {
    [("repository", repository), ("localCopy", local_copy)].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// What this process has logged, all of it.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).init();
    log
});

/// What was logged until now.
pub fn logged() -> String {
    String::from_utf8_lossy(&LOG.0.lock().unwrap()).into_owned()
}

pub struct Bench {
    pub server: S3Server,
    pub node: Node,
    pub agent: AgentLayer<NodeLayer>,
    workspace: Workspace,
}

impl Bench {
    pub async fn start() -> Self {
        Self::start_in(Workspace::default()).await
    }

    /// The same, whose agents keep in this workspace what outlives them.
    pub async fn start_in(workspace: Workspace) -> Self {
        Self::over(Node::start().await, workspace).await
    }

    /// The same over a node that is made already.
    pub async fn over(node: Node, workspace: Workspace) -> Self {
        LazyLock::force(&LOG);
        let agent = agent(&node, &workspace);
        Self { server: S3Server::start().await, node, agent, workspace }
    }

    /// The agent's process ends, and another begins.
    pub async fn restart_agent(&mut self) {
        self.agent.transfers().stop().await;
        self.agent = agent(&self.node, &self.workspace);
    }

    pub fn secret(&self, prefix: &str) -> Secret {
        let location = self.server.location(prefix).to_string();
        let keys = [("RESTIC_REPOSITORY", location.as_str()), ("RESTIC_PASSWORD", PASSWORD)];
        keys.into_iter().chain(s3::CREDENTIALS).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// Makes a repository.
    pub async fn repository(&self, prefix: &str) {
        let store = connect(&self.server.location(prefix), &self.server.credentials()).unwrap();
        Repository::init(store, &Password::new(PASSWORD).unwrap(), KdfCost::TEST).await.unwrap();
    }

    /// What a repository holds.
    pub async fn repository_snapshots(&self, prefix: &str) -> Vec<repository::Snapshot> {
        self.open(prefix).await.snapshots().await.unwrap().into_iter().map(|stored| stored.snapshot).collect()
    }

    /// The repository, as somebody else sees it.
    pub async fn open(&self, prefix: &str) -> Repository {
        let store = connect(&self.server.location(prefix), &self.server.credentials()).unwrap();
        Repository::open(store, &Password::new(PASSWORD).unwrap()).await.unwrap()
    }

    /// A raw volume with something in it.
    pub async fn written_volume(&self, name: &str) -> String {
        let volume = self.node.volume(name, block(Mode::SingleNodeWriter)).await;
        self.write(&volume, 4096, &[name.len() as u8; 20_000]);
        self.write(&volume, 20 << 20, name.as_bytes());
        volume
    }

    pub fn write(&self, volume: &str, offset: u64, bytes: &[u8]) {
        let handle: VolumeHandle = volume.parse().unwrap();
        let object = Object::Volume(handle.volume);
        let pool = &self.node.pools[0];
        let device = pool.attach(object, Access::ReadWrite).unwrap().device;
        std::fs::File::options().write(true).open(device).unwrap().write_all_at(bytes, offset).unwrap();
        pool.detach(object).unwrap();
    }

    /// What a volume holds.
    pub fn content(&self, volume: &str) -> Vec<u8> {
        let handle: VolumeHandle = volume.parse().unwrap();
        let object = Object::Volume(handle.volume);
        let pool = &self.node.pools[0];
        let device = pool.attach(object, Access::ReadOnly).unwrap().device;
        let bytes = std::fs::read(device).unwrap();
        pool.detach(object).unwrap();
        bytes
    }

    /// One call of the sidecar, without a deadline.
    pub async fn create(&self, name: &str, volume: &str, class: Class, secrets: &Secret) -> Result<Snapshot, Status> {
        self.call(Request::new(new_snapshot(name, volume, class, secrets))).await
    }

    /// The same with one, as gRPC spells it.
    #[expect(clippy::too_many_arguments, reason = "the fields of the request")]
    pub async fn create_within(
        &self,
        name: &str,
        volume: &str,
        class: Class,
        secrets: &Secret,
        deadline: &str,
    ) -> Result<Snapshot, Status> {
        let mut request = Request::new(new_snapshot(name, volume, class, secrets));
        request.metadata_mut().insert("grpc-timeout", deadline.parse().unwrap());
        self.call(request).await
    }

    async fn call(&self, request: Request<CreateSnapshotRequest>) -> Result<Snapshot, Status> {
        Ok(self.agent.create_snapshot(request).await?.into_inner().snapshot.unwrap())
    }

    /// Calls as a sidecar does, until the snapshot is ready.
    pub async fn until_ready(&self, name: &str, volume: &str, class: Class, secrets: &Secret) -> Snapshot {
        let begun = Instant::now();
        let mut looks = looks();
        loop {
            let answer = self.create_within(name, volume, class.clone(), secrets, "10S").await;
            match answer {
                Ok(snapshot) if snapshot.ready_to_use => return snapshot,
                other => assert!(begun.elapsed() < LONG, "{name} does not get ready: {other:?}"),
            }
            looks.tick().await;
        }
    }

    /// Calls as a sidecar does, until it is refused.
    pub async fn until_refused(&self, name: &str, volume: &str, class: Class, secrets: &Secret) -> Status {
        let begun = Instant::now();
        let mut looks = looks();
        loop {
            match self.create_within(name, volume, class.clone(), secrets, "10S").await {
                Err(status) => return status,
                Ok(snapshot) => {
                    assert!(!snapshot.ready_to_use, "{name} is ready");
                    assert!(begun.elapsed() < LONG, "{name} is not refused");
                }
            }
            looks.tick().await;
        }
    }

    pub async fn delete(&self, snapshot: &str, secrets: &Secret) -> Result<(), Status> {
        let request = DeleteSnapshotRequest { snapshot_id: snapshot.to_owned(), secrets: secrets.clone() };
        self.agent.delete_snapshot(Request::new(request)).await.map(drop)
    }

    pub async fn list(&self, snapshot: &str) -> Snapshot {
        let request = ListSnapshotsRequest { snapshot_id: snapshot.to_owned(), ..Default::default() };
        let listed = self.agent.list_snapshots(Request::new(request)).await.unwrap().into_inner();
        listed.entries.into_iter().next().unwrap().snapshot.unwrap()
    }

    pub async fn get(&self, snapshot: &str) -> Snapshot {
        let request = GetSnapshotRequest { snapshot_id: snapshot.to_owned(), ..Default::default() };
        self.agent.get_snapshot(Request::new(request)).await.unwrap().into_inner().snapshot.unwrap()
    }

    /// The handle of a snapshot by its name.
    pub async fn id_of(&self, name: &str) -> String {
        let pool = &self.node.pools[0];
        let found = pool.snapshot_by_name(&name.to_owned().try_into().unwrap()).unwrap().unwrap();
        SnapshotHandle { pool: pool.id(), snapshot: found.id }.to_string()
    }

    pub async fn copies(&self, snapshot: &str) -> Copies {
        let handle: SnapshotHandle = snapshot.parse().unwrap();
        self.node.pools[0].snapshot(handle.snapshot).unwrap().unwrap().copies
    }

    /// As if the process had died before it recorded an export that was made.
    pub fn forget_record(&self, snapshot: &str) {
        let handle: SnapshotHandle = snapshot.parse().unwrap();
        let pool = &self.node.pools[0];
        let task = pool.snapshot(handle.snapshot).unwrap().unwrap().copies.task.unwrap();
        pool.put_task(handle.snapshot, &ExportTask { state: TaskState::Running, ..task }).unwrap();
    }

    pub async fn transfers(&self) -> Vec<windlass_proto::TransferProgress> {
        let request = Request::new(windlass_proto::ListTransfersRequest {});
        self.agent.transfers().list_transfers(request).await.unwrap().into_inner().transfers
    }

    pub async fn running_transfers(&self) -> usize {
        let transfers = self.transfers().await;
        transfers.iter().filter(|one| matches!(one.state(), TransferState::Running | TransferState::Pending)).count()
    }

    /// Deletes as a sidecar does, again while it is told that something else must end first.
    pub async fn until_deleted(&self, snapshot: &str, secrets: &Secret) {
        let begun = Instant::now();
        let mut looks = looks();
        loop {
            match self.delete(snapshot, secrets).await {
                Ok(()) => return,
                Err(status) => assert!(status.code() == Code::Aborted && begun.elapsed() < LONG, "{status}"),
            }
            looks.tick().await;
        }
    }

    /// Waits until no transfer runs.
    pub async fn until_idle(&self) {
        let begun = Instant::now();
        let mut looks = looks();
        while self.running_transfers().await > 0 {
            assert!(begun.elapsed() < LONG, "{:?}", self.transfers().await);
            looks.tick().await;
        }
    }

    /// Waits until a transfer says that it waits for the store.
    pub async fn until_waiting_for_the_store(&self) {
        let begun = Instant::now();
        let mut looks = looks();
        while !self.transfers().await.iter().any(|transfer| transfer.message.contains("has not answered since")) {
            assert!(begun.elapsed() < LONG, "nobody waits for the store: {:?}", self.transfers().await);
            looks.tick().await;
        }
    }

    /// The result of the export that ended last.
    pub async fn last_export(&self) -> windlass_proto::ExportResult {
        self.transfers().await.into_iter().find_map(|transfer| transfer.export_result).unwrap()
    }

    /// Waits until the export of a snapshot has opened its repository and copies.
    pub async fn until_running(&self, snapshot: &str) {
        let begun = Instant::now();
        let mut looks = looks();
        loop {
            let is_open = self.copies(snapshot).await.task.is_some_and(|task| task.repository.is_some());
            let is_under_way = |phase: &str| !phase.is_empty() && phase != "preparing";
            let copies = self.transfers().await.iter().any(|transfer| is_under_way(&transfer.phase));
            if is_open && copies {
                return;
            }
            assert!(begun.elapsed() < LONG, "the export does not run: {:?}", self.transfers().await);
            looks.tick().await;
        }
    }
}

fn agent(node: &Node, workspace: &Workspace) -> AgentLayer<NodeLayer> {
    let blocks = Arc::new(PoolBlocks::new(node.pools.clone()));
    AgentLayer::new(node.layer.clone(), blocks, "bench").with_workspace(workspace.clone())
}

fn new_snapshot(name: &str, volume: &str, class: Class, secrets: &Secret) -> CreateSnapshotRequest {
    CreateSnapshotRequest {
        name: name.to_owned(),
        source_volume_id: volume.to_owned(),
        parameters: class,
        secrets: secrets.clone(),
        ..Default::default()
    }
}
