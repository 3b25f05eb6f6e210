//! A node layer over pools in memory, served on a real unix socket, and the generated clients.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "called by tests only")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use csi_proto::csi::v1::controller_client::ControllerClient;
use csi_proto::csi::v1::identity_client::IdentityClient;
use csi_proto::csi::v1::node_client::NodeClient;
use csi_proto::csi::v1::snapshot_metadata_client::SnapshotMetadataClient;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use csi_proto::csi::v1::*;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Response, Status};

use windlass::csi::NodeName;
use windlass::csi::server::{self, PrivateSocket};
use windlass::mount::Mounter;
use windlass::mount::memory::MemoryMounter;
use windlass::mount::path::Root;
use windlass::node::quiesce::MountQuiesce;
use windlass::node::{NodeLayer, NodeOptions, routes};
use windlass::pool::PoolError;
use windlass::pool::catalogue::Catalogue;
use windlass::pool::kernel_devices::{KernelDevice, KernelDevices};
use windlass::pool::memory::MemoryPool;
use windlass::pool::owned::OwnedPool;
use windlass::types::{Object, PoolId, VolumeHandle};

/// 64 MiB: large enough for ext4, small enough for a pool in memory.
pub const SIZE: i64 = 64 << 20;
pub const NODE: &str = "node-1";
/// A well-formed volume handle of a pool that is nowhere.
pub const VOLUME_ELSEWHERE: &str = "v-aeaqcaibaeaqcaibaeaqcaibae-aeaqcaibaeaqcaibaeaqcaibae";
/// A well-formed snapshot handle of a pool that is nowhere.
pub const SNAPSHOT_ELSEWHERE: &str = "s-aeaqcaibaeaqcaibaeaqcaibae-aeaqcaibaeaqcaibaeaqcaibae";

/// A running node.
pub struct Node {
    pub socket: PathBuf,
    pub directory: Arc<tempfile::TempDir>,
    pub mounter: Arc<MemoryMounter>,
    pub pools: Vec<Arc<OwnedPool>>,
    pub layer: NodeLayer,
    pub identity: IdentityClient<Channel>,
    pub controller: ControllerClient<Channel>,
    pub node: NodeClient<Channel>,
    pub metadata: SnapshotMetadataClient<Channel>,
    stop: CancellationToken,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The devices that pools in memory have made: what the kernel would still have of them.
#[derive(Debug)]
struct LeftDevices(Vec<Arc<OwnedPool>>);

impl LeftDevices {
    fn pool(&self, volume: VolumeHandle) -> Option<&Arc<OwnedPool>> {
        self.0.iter().find(|pool| pool.id() == volume.pool)
    }
}

impl KernelDevices for LeftDevices {
    fn of_volume(&self, volume: VolumeHandle) -> Result<Vec<KernelDevice>, PoolError> {
        let Some(pool) = self.pool(volume) else { return Ok(Vec::new()) };
        let attachment = pool.attachment(Object::Volume(volume.volume))?;
        let device = |path: PathBuf| KernelDevice { number: MemoryMounter::new().device_number(&path).unwrap(), path };
        Ok(attachment.map(|attachment| device(attachment.device)).into_iter().collect())
    }

    fn is_void(&self, _: &str, number: (u32, u32)) -> Result<bool, PoolError> {
        for pool in &self.0 {
            for volume in pool.volumes()? {
                let handle = VolumeHandle { pool: pool.id(), volume: volume.id };
                if self.of_volume(handle)?.iter().any(|device| device.number == number) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn detach(&self, volume: VolumeHandle) -> Result<(), PoolError> {
        self.pool(volume).map_or(Ok(()), |pool| pool.detach(Object::Volume(volume.volume)))
    }
}

/// A connection to a socket.
pub async fn channel(path: &Path) -> Channel {
    try_channel(path).await.unwrap()
}

/// The same, where the other side may be about to go.
pub async fn try_channel(path: &Path) -> Result<Channel, tonic::transport::Error> {
    let path = path.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await
}

/// A client of the Identity service on a socket.
pub async fn client_of(path: &Path) -> IdentityClient<Channel> {
    IdentityClient::new(channel(path).await)
}

pub fn pool(mounter: &Arc<MemoryMounter>, total: u64) -> Arc<OwnedPool> {
    pool_over(mounter, Arc::new(MemoryPool::with_capacity(total)))
}

pub fn pool_over(mounter: &Arc<MemoryMounter>, pool: Arc<MemoryPool>) -> Arc<OwnedPool> {
    let quiesce = MountQuiesce::new(Arc::clone(mounter) as Arc<dyn Mounter>);
    Arc::new(OwnedPool::open(pool, Catalogue::in_memory().unwrap(), Arc::new(quiesce)).unwrap())
}

impl Node {
    /// One pool of 8 GiB.
    pub async fn start() -> Self {
        let mounter = Arc::new(MemoryMounter::new());
        let pools = vec![pool(&mounter, 8 << 30)];
        Self::with(Arc::new(tempfile::tempdir().unwrap()), mounter, pools, &windlass::mount::boot_id().unwrap()).await
    }

    pub async fn with(
        directory: Arc<tempfile::TempDir>,
        mounter: Arc<MemoryMounter>,
        pools: Vec<Arc<OwnedPool>>,
        boot_id: &str,
    ) -> Self {
        Self::on(directory, mounter, pools, boot_id, &format!("csi-{boot_id}.sock")).await
    }

    /// The same pools and mount table in another process of the same boot.
    pub async fn with_socket(other: &Self, socket: &str, boot_id: &str) -> Self {
        Self::on(Arc::clone(&other.directory), Arc::clone(&other.mounter), other.pools.clone(), boot_id, socket).await
    }

    /// The same machine when its pools are gone: what they had mounted and attached is there still.
    pub async fn without_pools(other: &Self) -> Self {
        let boot_id = windlass::mount::boot_id().unwrap();
        let devices = Arc::new(LeftDevices(other.pools.clone()));
        let (directory, mounter) = (Arc::clone(&other.directory), Arc::clone(&other.mounter));
        Self::over(directory, mounter, Vec::new(), &boot_id, "without-pools.sock", |layer| layer.with_devices(devices)).await
    }

    async fn on(
        directory: Arc<tempfile::TempDir>,
        mounter: Arc<MemoryMounter>,
        pools: Vec<Arc<OwnedPool>>,
        boot_id: &str,
        socket: &str,
    ) -> Self {
        Self::over(directory, mounter, pools, boot_id, socket, |layer| layer).await
    }

    #[expect(clippy::too_many_arguments, reason = "what the callers vary")]
    pub async fn over(
        directory: Arc<tempfile::TempDir>,
        mounter: Arc<MemoryMounter>,
        pools: Vec<Arc<OwnedPool>>,
        boot_id: &str,
        socket: &str,
        change: impl FnOnce(NodeLayer) -> NodeLayer,
    ) -> Self {
        let root = directory.path().join("kubelet");
        std::fs::create_dir_all(&root).unwrap();
        let options = NodeOptions {
            node: NodeName::try_from(NODE.to_owned()).unwrap(),
            root: Root::open(&root).unwrap(),
            boot_id: boot_id.to_owned(),
            statistics_timeout: None,
        };
        let layer = change(NodeLayer::new(pools.clone(), Arc::clone(&mounter) as Arc<dyn Mounter>, options));
        let path = directory.path().join(socket);
        let socket = PrivateSocket::bind(&path).unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(server::serve(socket, routes(&layer), stop.clone()));
        let channel = channel(&path).await;
        Self {
            socket: path,
            directory,
            mounter,
            pools,
            layer,
            identity: IdentityClient::new(channel.clone()),
            controller: ControllerClient::new(channel.clone()),
            node: NodeClient::new(channel.clone()),
            metadata: SnapshotMetadataClient::new(channel),
            stop,
        }
    }

    /// The same pools and mount table in another boot.
    pub async fn restarted(&self, boot_id: &str) -> Self {
        Self::with(Arc::clone(&self.directory), Arc::clone(&self.mounter), self.pools.clone(), boot_id).await
    }

    /// A path beneath the root, whose parent exists.
    pub fn path(&self, name: &str) -> String {
        let path = self.directory.path().join("kubelet").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A directory beneath the root.
    pub fn staging(&self, name: &str) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    pub async fn create(&self, request: CreateVolumeRequest) -> Result<Volume, Status> {
        Ok(self.controller.clone().create_volume(request).await?.into_inner().volume.unwrap())
    }

    /// A volume of this name and capability.
    pub async fn volume(&self, name: &str, capability: VolumeCapability) -> String {
        self.create(new_volume(name, capability)).await.unwrap().volume_id
    }

    pub async fn snapshot(&self, name: &str, source: &str) -> Result<Snapshot, Status> {
        let request = CreateSnapshotRequest { name: name.into(), source_volume_id: source.into(), ..Default::default() };
        Ok(self.controller.clone().create_snapshot(request).await?.into_inner().snapshot.unwrap())
    }

    pub async fn stage(&self, volume: &str, path: &str, capability: VolumeCapability) -> Result<(), Status> {
        self.node.clone().node_stage_volume(stage(volume, path, capability)).await.map(drop)
    }

    pub async fn unstage(&self, volume: &str, path: &str) -> Result<(), Status> {
        let request = NodeUnstageVolumeRequest { volume_id: volume.into(), staging_target_path: path.into() };
        self.node.clone().node_unstage_volume(request).await.map(drop)
    }

    pub async fn publish(&self, request: NodePublishVolumeRequest) -> Result<(), Status> {
        self.node.clone().node_publish_volume(request).await.map(drop)
    }

    pub async fn unpublish(&self, volume: &str, path: &str) -> Result<(), Status> {
        let request = NodeUnpublishVolumeRequest { volume_id: volume.into(), target_path: path.into() };
        self.node.clone().node_unpublish_volume(request).await.map(drop)
    }

    pub async fn delete(&self, volume: &str) -> Result<(), Status> {
        let request = DeleteVolumeRequest { volume_id: volume.into(), ..Default::default() };
        self.controller.clone().delete_volume(request).await.map(drop)
    }

    pub async fn delete_snapshot(&self, snapshot: &str) -> Result<(), Status> {
        let request = DeleteSnapshotRequest { snapshot_id: snapshot.into(), ..Default::default() };
        self.controller.clone().delete_snapshot(request).await.map(drop)
    }

    /// The device of an attached volume.
    pub fn device(&self, volume: &str) -> Option<PathBuf> {
        let handle: VolumeHandle = volume.parse().unwrap();
        let pool = self.pools.iter().find(|pool| pool.id() == handle.pool).unwrap();
        pool.attachment(Object::Volume(handle.volume)).unwrap().map(|attachment| attachment.device)
    }

    pub fn mounted_at(&self, path: &str) -> usize {
        self.mounter.mounts().unwrap().iter().filter(|entry| entry.mount_point == Path::new(path)).count()
    }

    pub fn pool_id(&self) -> PoolId {
        self.pools[0].id()
    }
}

pub fn mode(mode: Mode) -> Option<AccessMode> {
    Some(AccessMode { mode: mode.into() })
}

pub fn mount(fs_type: &str, access_mode: Mode) -> VolumeCapability {
    let mount = MountVolume { fs_type: fs_type.into(), ..Default::default() };
    VolumeCapability { access_type: Some(AccessType::Mount(mount)), access_mode: mode(access_mode) }
}

pub fn block(access_mode: Mode) -> VolumeCapability {
    VolumeCapability { access_type: Some(AccessType::Block(BlockVolume {})), access_mode: mode(access_mode) }
}

pub fn bytes(required_bytes: i64, limit_bytes: i64) -> Option<CapacityRange> {
    Some(CapacityRange { required_bytes, limit_bytes })
}

pub fn new_volume(name: &str, capability: VolumeCapability) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: name.into(),
        capacity_range: bytes(SIZE, 0),
        volume_capabilities: vec![capability],
        ..Default::default()
    }
}

pub fn from_snapshot(id: &str) -> Option<VolumeContentSource> {
    let source = volume_content_source::SnapshotSource { snapshot_id: id.into() };
    Some(VolumeContentSource { r#type: Some(volume_content_source::Type::Snapshot(source)) })
}

pub fn from_volume(id: &str) -> Option<VolumeContentSource> {
    let source = volume_content_source::VolumeSource { volume_id: id.into() };
    Some(VolumeContentSource { r#type: Some(volume_content_source::Type::Volume(source)) })
}

pub fn stage(volume: &str, path: &str, capability: VolumeCapability) -> NodeStageVolumeRequest {
    NodeStageVolumeRequest {
        volume_id: volume.into(),
        staging_target_path: path.into(),
        volume_capability: Some(capability),
        ..Default::default()
    }
}

pub fn publish(volume: &str, staging: &str, target: &str, capability: VolumeCapability) -> NodePublishVolumeRequest {
    NodePublishVolumeRequest {
        volume_id: volume.into(),
        staging_target_path: staging.into(),
        target_path: target.into(),
        volume_capability: Some(capability),
        ..Default::default()
    }
}

pub fn topology(entries: &[(&str, &str)]) -> Topology {
    Topology { segments: entries.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect() }
}

/// Asserts a refusal.
#[track_caller]
pub fn refused<T>(result: Result<T, Status>, code: Code) {
    match result {
        Ok(_) => panic!("was not refused, expected {code:?}"),
        Err(status) => assert_eq!(status.code(), code, "{status}"),
    }
}

/// Rows of a table of wrong requests: all are run before any is reported.
#[derive(Default)]
pub struct Table {
    rows: usize,
    wrong: Vec<String>,
}

impl Table {
    /// A request that must be refused with `code`, in words that have `names` in them.
    pub fn refused<T>(&mut self, row: &str, result: Result<Response<T>, Status>, code: Code, names: &str) {
        self.rows += 1;
        match result {
            Ok(_) => self.wrong.push(format!("{row}: accepted, expected {code:?}")),
            Err(status) if status.code() != code => self.wrong.push(format!("{row}: expected {code:?}: {status}")),
            Err(status) if !status.message().contains(names) => {
                self.wrong.push(format!("{row}: `{names}` is not named: {}", status.message()));
            }
            Err(status) if !status.details().is_empty() => self.wrong.push(format!("{row}: has details")),
            Err(_) => {}
        }
    }

    /// A request that must be accepted; its answer.
    pub fn accepted<T>(&mut self, row: &str, result: Result<Response<T>, Status>) -> Option<T> {
        self.rows += 1;
        match result {
            Ok(response) => Some(response.into_inner()),
            Err(status) => {
                self.wrong.push(format!("{row}: refused: {status}"));
                None
            }
        }
    }

    pub fn finish(self) {
        assert!(self.rows > 0);
        assert!(self.wrong.is_empty(), "{} of {} rows:\n{}", self.wrong.len(), self.rows, self.wrong.join("\n"));
    }
}
