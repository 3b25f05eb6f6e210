//! An agent that protects volumes, over a node with a pool in memory, by a clock that tests set.

#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "called by tests only")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use csi_proto::csi::v1::controller_server::Controller as _;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use tonic::{Request, Status};
use windlass::agent::secret_source::{SecretData, SecretSource, SecretSourceError};
use windlass::agent::{AgentLayer, ProtectionStatus};
use windlass::blocks::{
    Blocks, BlocksError, CommitName, LeasedSnapshot, OpenPool, PoolState, ProtectionPage, ProtectionQuery, SnapshotCopies,
    SnapshotLease, TargetStart, TaskPage, TaskQuery, UsagePage, UsageQuery,
};
use windlass::node::NodeLayer;
use windlass::node::blocks::PoolBlocks;
use windlass::pool::owned::OwnedPool;
use windlass::repository::Workspace;
use windlass::types::{
    ExportRecord, ExportTask, FormatState, NamespacedName, NewVolume, ObjectName, OnLoss, PoolId, RangeStream, SnapshotHandle,
    SnapshotId, Timestamp, VolumeHandle,
};

use super::csi_harness::{Node, block, new_volume};
use super::exporting::{Bench, Secret, looks};

const LONG: Duration = Duration::from_secs(300);
pub const HOUR: u64 = 3600;

/// The Secrets of a cluster.
#[derive(Default)]
pub struct Secrets(Mutex<BTreeMap<String, Secret>>);

impl Secrets {
    pub fn put(&self, name: &str, secret: Secret) {
        self.0.lock().unwrap().insert(name.to_owned(), secret);
    }

    pub fn remove(&self, name: &str) {
        self.0.lock().unwrap().remove(name);
    }
}

#[async_trait::async_trait]
impl SecretSource for Secrets {
    async fn read(&self, secret: &NamespacedName) -> Result<SecretData, SecretSourceError> {
        let known = self.0.lock().unwrap().get(&secret.to_string()).cloned();
        let keys = known.ok_or_else(|| SecretSourceError::NotFound(secret.clone()))?;
        Ok(keys.into_iter().map(|(key, value)| (key, value.into_bytes().into())).collect())
    }
}

/// The pools of a node, whose cuts are as old as the moments of the schedule that they are named by: a week goes by in a minute.
struct Timed {
    below: PoolBlocks,
    pool: Arc<OwnedPool>,
}

/// The moment in the name of a cut.
pub fn moment(name: &ObjectName) -> Option<Timestamp> {
    let seconds = name.as_str().strip_prefix("protection-")?.rsplit('-').next()?.parse().ok()?;
    Some(Timestamp { seconds, nanoseconds: 0 })
}

struct TimedLease {
    below: Arc<dyn SnapshotLease>,
    snapshot: LeasedSnapshot,
}

#[async_trait::async_trait]
impl SnapshotLease for TimedLease {
    fn snapshot(&self) -> &LeasedSnapshot {
        &self.snapshot
    }

    fn file(&self) -> &File {
        self.below.file()
    }

    async fn allocated(&self) -> Result<RangeStream, BlocksError> {
        self.below.allocated().await
    }

    async fn changed_since(&self, base: SnapshotId) -> Result<RangeStream, BlocksError> {
        self.below.changed_since(base).await
    }
}

#[async_trait::async_trait]
impl Blocks for Timed {
    async fn state(&self) -> Vec<PoolState> {
        self.below.state().await
    }

    async fn pool(&self, wanted: &str) -> Result<OpenPool, BlocksError> {
        self.below.pool(wanted).await
    }

    async fn find_volume(&self, name: &ObjectName) -> Result<Option<VolumeHandle>, BlocksError> {
        self.below.find_volume(name).await
    }

    async fn find_snapshot(&self, name: &ObjectName) -> Result<Option<SnapshotHandle>, BlocksError> {
        self.below.find_snapshot(name).await
    }

    async fn lease(&self, snapshot: SnapshotHandle) -> Result<Arc<dyn SnapshotLease>, BlocksError> {
        let below = self.below.lease(snapshot).await?;
        let name = self.pool.snapshot(snapshot.snapshot).unwrap().unwrap().name;
        let told = below.snapshot().clone();
        let snapshot = LeasedSnapshot { created: moment(&name).unwrap_or(told.created), ..told };
        Ok(Arc::new(TimedLease { below, snapshot }))
    }

    async fn begin(&self, pool: PoolId, volume: NewVolume, on_loss: OnLoss) -> Result<TargetStart, BlocksError> {
        self.below.begin(pool, volume, on_loss).await
    }

    async fn commit(&self, volume: VolumeHandle, name: CommitName) -> Result<(), BlocksError> {
        self.below.commit(volume, name).await
    }

    async fn abort(&self, volume: VolumeHandle) -> Result<(), BlocksError> {
        self.below.abort(volume).await
    }

    async fn let_go(&self, volume: VolumeHandle) -> Result<(), BlocksError> {
        self.below.let_go(volume).await
    }

    async fn put_export(&self, pool: PoolId, record: ExportRecord) -> Result<(), BlocksError> {
        self.below.put_export(pool, record).await
    }

    async fn last_export(&self, volume: VolumeHandle, repository: &str) -> Result<Option<ExportRecord>, BlocksError> {
        self.below.last_export(volume, repository).await
    }

    async fn copies(&self, snapshot: SnapshotHandle) -> Result<SnapshotCopies, BlocksError> {
        self.below.copies(snapshot).await
    }

    async fn put_task(&self, snapshot: SnapshotHandle, task: ExportTask) -> Result<(), BlocksError> {
        self.below.put_task(snapshot, task).await
    }

    async fn tasks(&self, query: TaskQuery) -> Result<TaskPage, BlocksError> {
        self.below.tasks(query).await
    }

    async fn protected(&self, query: ProtectionQuery) -> Result<ProtectionPage, BlocksError> {
        let mut page = self.below.protected(query).await?;
        for cut in page.volumes.iter_mut().flat_map(|volume| &mut volume.snapshots) {
            cut.created = moment(&cut.name).unwrap();
        }
        Ok(page)
    }

    async fn give_up_local_copy(&self, snapshot: SnapshotHandle) -> Result<(), BlocksError> {
        self.below.give_up_local_copy(snapshot).await
    }

    async fn usage(&self, query: UsageQuery) -> Result<UsagePage, BlocksError> {
        self.below.usage(query).await
    }
}

fn agent(node: &Node, secrets: &Arc<Secrets>) -> AgentLayer<NodeLayer> {
    let blocks = Timed { below: PoolBlocks::new(node.pools.clone()), pool: Arc::clone(&node.pools[0]) };
    AgentLayer::new(node.layer.clone(), Arc::new(blocks), "bench")
        .with_workspace(Workspace::default())
        .with_secrets(Arc::clone(secrets) as Arc<dyn SecretSource>)
}

/// A node whose agent protects.
pub struct Protected {
    pub bench: Bench,
    pub secrets: Arc<Secrets>,
}

impl Protected {
    pub async fn start() -> Self {
        Self::over(Node::start().await).await
    }

    /// Over a node that is made already.
    pub async fn over(node: Node) -> Self {
        let mut bench = Bench::over(node, Workspace::default()).await;
        let secrets = Arc::new(Secrets::default());
        bench.agent = agent(&bench.node, &secrets);
        Self { bench, secrets }
    }

    /// The same with a repository, and a Secret of the namespace `shop` that opens it.
    pub async fn with_repository() -> Self {
        let protected = Self::start().await;
        protected.make_repository().await;
        protected
    }

    /// Makes the repository that the Secret of the namespace `shop` opens.
    pub async fn make_repository(&self) {
        self.bench.repository("exports").await;
        self.secrets.put("shop/backup", self.bench.secret("exports"));
    }

    /// The agent's process ends, and another begins.
    pub async fn restart(&mut self) {
        self.bench.agent.transfers().stop().await;
        self.bench.agent = agent(&self.bench.node, &self.secrets);
    }

    pub fn pool(&self) -> &Arc<OwnedPool> {
        &self.bench.node.pools[0]
    }

    /// Makes a volume as a provisioner does, and puts it to use as a pod does.
    pub async fn create(&self, request: CreateVolumeRequest, deadline: &str) -> Result<Volume, Status> {
        let volume = self.create_unused(request, deadline).await?;
        let handle: VolumeHandle = volume.volume_id.parse().unwrap();
        self.pool().set_format(handle.volume, FormatState::Content).unwrap();
        Ok(volume)
    }

    /// Makes a volume as a provisioner does.
    pub async fn create_unused(&self, request: CreateVolumeRequest, deadline: &str) -> Result<Volume, Status> {
        let mut request = Request::new(request);
        request.metadata_mut().insert("grpc-timeout", deadline.parse().unwrap());
        Ok(self.bench.agent.create_volume(request).await?.into_inner().volume.unwrap())
    }

    pub async fn delete(&self, volume: &str) {
        let request = DeleteVolumeRequest { volume_id: volume.to_owned(), ..Default::default() };
        self.bench.agent.delete_volume(Request::new(request)).await.unwrap();
    }

    /// How its only protection does.
    pub async fn status(&self, now: Timestamp) -> ProtectionStatus {
        let mut all = self.bench.agent.protections(now).await;
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// Whether every cut is in its repository.
    fn is_settled(&self) -> bool {
        let cuts = self.pool().snapshots().unwrap();
        cuts.iter().all(|cut| cut.is_ready())
    }

    /// Sweeps at this time until all cuts are exported and what goes is gone.
    pub async fn settle(&self, now: Timestamp) {
        let begun = Instant::now();
        let mut looks = looks();
        loop {
            self.bench.agent.sweep(now).await;
            self.bench.until_idle().await;
            if self.is_settled() {
                self.bench.agent.sweep(now).await;
                return;
            }
            assert!(begun.elapsed() < LONG, "{:?}", self.bench.agent.protections(now).await);
            looks.tick().await;
        }
    }

    /// The times and tags of what the repository holds.
    pub async fn exports(&self, prefix: &str) -> Vec<(u64, Vec<String>)> {
        let snapshots = self.bench.repository_snapshots(prefix).await;
        snapshots.into_iter().map(|snapshot| (snapshot.taken().unwrap().seconds, snapshot.tags)).collect()
    }
}

/// The present, from which tests count.
pub fn now_and(seconds: u64) -> Timestamp {
    let now = Timestamp::now();
    Timestamp { seconds: now.seconds + seconds, ..now }
}

/// A request of a provisioner for a claim, `namespace/name`, of a class with these parameters.
pub fn claimed(volume: &str, claim: &str, class: &[(&str, &str)]) -> CreateVolumeRequest {
    let (namespace, name) = claim.split_once('/').unwrap();
    let names = [("csi.storage.k8s.io/pvc/namespace", namespace), ("csi.storage.k8s.io/pvc/name", name)];
    let parameters = class.iter().copied().chain(names).map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    CreateVolumeRequest { parameters, ..new_volume(volume, block(Mode::SingleNodeWriter)) }
}
