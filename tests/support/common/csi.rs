//! CSI calls to a node, blocking, with the arguments a CO would send.

#![allow(clippy::disallowed_types, reason = "the gRPC codes are what the tests look at")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use csi_proto::csi::v1 as proto;
use csi_proto::csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode};
use csi_proto::csi::v1::{controller_client::ControllerClient, identity_client::IdentityClient, node_client::NodeClient};
use csi_proto::windlass::v1::{GetPoolStatusRequest, ListTransfersRequest, PoolStatus, TransferProgress};
use csi_proto::windlass::v1::{pools_client::PoolsClient, transfers_client::TransfersClient};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Longest time that any call may take: above every deadline of the node's own.
const CALL_BOUND: Duration = Duration::from_secs(120);

/// How a volume is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A mounted file system.
    Mount(&'static str),
    /// A device node.
    Block,
}

impl Use {
    /// The capability a CO would send, with the mode for a pod that shares the volume with others of its node.
    pub fn capability(self) -> proto::VolumeCapability {
        self.capability_with(access_mode::Mode::SingleNodeMultiWriter)
    }

    /// The capability with this access mode.
    pub fn capability_with(self, mode: access_mode::Mode) -> proto::VolumeCapability {
        let access_type = match self {
            Self::Mount(fs_type) => AccessType::Mount(MountVolume { fs_type: fs_type.to_owned(), ..MountVolume::default() }),
            Self::Block => AccessType::Block(BlockVolume {}),
        };
        proto::VolumeCapability { access_mode: Some(AccessMode { mode: mode.into() }), access_type: Some(access_type) }
    }
}

/// Where a volume's content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nothing.
    Blank,
    /// The snapshot with this id.
    Snapshot(String),
    /// The volume with this id.
    Volume(String),
}

impl Source {
    fn message(&self) -> Option<proto::VolumeContentSource> {
        use proto::volume_content_source::{SnapshotSource, Type, VolumeSource};
        let source = match self {
            Self::Blank => return None,
            Self::Snapshot(id) => Type::Snapshot(SnapshotSource { snapshot_id: id.clone() }),
            Self::Volume(id) => Type::Volume(VolumeSource { volume_id: id.clone() }),
        };
        Some(proto::VolumeContentSource { r#type: Some(source) })
    }
}

/// The two paths at which a volume is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Staging path.
    pub staging: PathBuf,
    /// Target path.
    pub target: PathBuf,
}

impl Paths {
    /// Paths for `name` beneath a kubelet root; makes what the kubelet would make, which is all but the target itself.
    pub fn prepare(root: &Path, name: &str) -> Self {
        let staging = root.join("staging").join(name);
        let pod = root.join("pods").join(name);
        fs::create_dir_all(&staging).unwrap();
        fs::create_dir_all(&pod).unwrap();
        Self { staging, target: pod.join("volume") }
    }

    /// Removes the directories; they must be empty, that is, unmounted.
    pub fn remove(&self) {
        fs::remove_dir(&self.staging).unwrap();
        fs::remove_dir(self.target.parent().unwrap()).unwrap();
    }
}

/// A client of one node.
pub struct Csi {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

macro_rules! calls {
    ($($(#[$doc:meta])* $client:ident . $name:ident ( $request:ident ) -> $response:ident;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            /// The node's answer, or `Unavailable` and the like when the connection breaks.
            pub fn $name(&self, request: proto::$request) -> Result<proto::$response, Status> {
                let mut client = $client::new(self.channel.clone());
                self.block_on(async move { client.$name(request).await.map(tonic::Response::into_inner) })
            }
        )*
    };
}

impl Csi {
    /// A client of the socket at `path`; connects at the first call.
    pub fn connect(path: &Path) -> Self {
        // Its own thread, so that it answers between calls too: a server that stops asks its clients whether anything is under way, and
        // gives one that says nothing 20 s.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let channel = {
            let _inside = runtime.enter();
            Endpoint::from_shared(format!("unix://{}", path.display())).unwrap().connect_lazy()
        };
        Self { runtime, channel }
    }

    fn block_on<T>(&self, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        self.runtime.block_on(async {
            tokio::time::timeout(CALL_BOUND, call).await.unwrap_or_else(|_| panic!("a call took longer than {CALL_BOUND:?}"))
        })
    }

    calls! {
        /// Probe.
        IdentityClient.probe(ProbeRequest) -> ProbeResponse;
        /// GetCapacity.
        ControllerClient.get_capacity(GetCapacityRequest) -> GetCapacityResponse;
        /// NodeGetInfo.
        NodeClient.node_get_info(NodeGetInfoRequest) -> NodeGetInfoResponse;
        /// CreateVolume.
        ControllerClient.create_volume(CreateVolumeRequest) -> CreateVolumeResponse;
        /// DeleteVolume.
        ControllerClient.delete_volume(DeleteVolumeRequest) -> DeleteVolumeResponse;
        /// ListVolumes.
        ControllerClient.list_volumes(ListVolumesRequest) -> ListVolumesResponse;
        /// ControllerGetVolume.
        ControllerClient.controller_get_volume(ControllerGetVolumeRequest) -> ControllerGetVolumeResponse;
        /// CreateSnapshot.
        ControllerClient.create_snapshot(CreateSnapshotRequest) -> CreateSnapshotResponse;
        /// DeleteSnapshot.
        ControllerClient.delete_snapshot(DeleteSnapshotRequest) -> DeleteSnapshotResponse;
        /// ListSnapshots.
        ControllerClient.list_snapshots(ListSnapshotsRequest) -> ListSnapshotsResponse;
        /// ControllerExpandVolume.
        ControllerClient.controller_expand_volume(ControllerExpandVolumeRequest) -> ControllerExpandVolumeResponse;
        /// NodeStageVolume.
        NodeClient.node_stage_volume(NodeStageVolumeRequest) -> NodeStageVolumeResponse;
        /// NodeUnstageVolume.
        NodeClient.node_unstage_volume(NodeUnstageVolumeRequest) -> NodeUnstageVolumeResponse;
        /// NodePublishVolume.
        NodeClient.node_publish_volume(NodePublishVolumeRequest) -> NodePublishVolumeResponse;
        /// NodeUnpublishVolume.
        NodeClient.node_unpublish_volume(NodeUnpublishVolumeRequest) -> NodeUnpublishVolumeResponse;
        /// NodeExpandVolume.
        NodeClient.node_expand_volume(NodeExpandVolumeRequest) -> NodeExpandVolumeResponse;
        /// NodeGetVolumeStats.
        NodeClient.node_get_volume_stats(NodeGetVolumeStatsRequest) -> NodeGetVolumeStatsResponse;
    }

    /// The state of the node's pools.
    ///
    /// # Errors
    /// The node's answer.
    pub fn pools(&self) -> Result<Vec<PoolStatus>, Status> {
        let mut client = PoolsClient::new(self.channel.clone());
        self.block_on(
            async move { client.get_pool_status(GetPoolStatusRequest {}).await.map(|answer| answer.into_inner().pools) },
        )
    }

    /// The transfers of an agent, those that run first.
    ///
    /// # Errors
    /// The agent's answer.
    pub fn transfers(&self) -> Result<Vec<TransferProgress>, Status> {
        let mut client = TransfersClient::new(self.channel.clone());
        self.block_on(
            async move { client.list_transfers(ListTransfersRequest {}).await.map(|answer| answer.into_inner().transfers) },
        )
    }

    /// All volume ids.
    pub fn volume_ids(&self) -> Vec<String> {
        let listed = self.list_volumes(proto::ListVolumesRequest::default()).unwrap();
        listed.entries.into_iter().filter_map(|entry| entry.volume).map(|volume| volume.volume_id).collect()
    }

    /// All snapshot ids.
    pub fn snapshot_ids(&self) -> Vec<String> {
        let listed = self.list_snapshots(proto::ListSnapshotsRequest::default()).unwrap();
        listed.entries.into_iter().filter_map(|entry| entry.snapshot).map(|snapshot| snapshot.snapshot_id).collect()
    }
}

/// A CreateVolume request.
pub fn new_volume(name: &str, bytes: u64, usage: Use, source: &Source) -> proto::CreateVolumeRequest {
    proto::CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(capacity(bytes)),
        volume_capabilities: vec![usage.capability()],
        volume_content_source: source.message(),
        ..Default::default()
    }
}

/// A range that asks for at least `bytes`.
pub fn capacity(bytes: u64) -> proto::CapacityRange {
    proto::CapacityRange { required_bytes: i64::try_from(bytes).unwrap(), limit_bytes: 0 }
}

/// A CreateSnapshot request.
pub fn new_snapshot(name: &str, volume_id: &str) -> proto::CreateSnapshotRequest {
    proto::CreateSnapshotRequest { name: name.to_owned(), source_volume_id: volume_id.to_owned(), ..Default::default() }
}

/// A NodeStageVolume request.
pub fn stage(volume_id: &str, paths: &Paths, usage: Use) -> proto::NodeStageVolumeRequest {
    proto::NodeStageVolumeRequest {
        volume_id: volume_id.to_owned(),
        staging_target_path: paths.staging.display().to_string(),
        volume_capability: Some(usage.capability()),
        ..Default::default()
    }
}

/// A NodePublishVolume request, for reading and writing.
pub fn publish(volume_id: &str, paths: &Paths, usage: Use) -> proto::NodePublishVolumeRequest {
    proto::NodePublishVolumeRequest {
        volume_id: volume_id.to_owned(),
        staging_target_path: paths.staging.display().to_string(),
        target_path: paths.target.display().to_string(),
        volume_capability: Some(usage.capability()),
        ..Default::default()
    }
}

/// A NodeUnpublishVolume request.
pub fn unpublish(volume_id: &str, paths: &Paths) -> proto::NodeUnpublishVolumeRequest {
    proto::NodeUnpublishVolumeRequest { volume_id: volume_id.to_owned(), target_path: paths.target.display().to_string() }
}

/// A NodeUnstageVolume request.
pub fn unstage(volume_id: &str, paths: &Paths) -> proto::NodeUnstageVolumeRequest {
    proto::NodeUnstageVolumeRequest { volume_id: volume_id.to_owned(), staging_target_path: paths.staging.display().to_string() }
}

/// Several calls in the order a CO makes them.
impl Csi {
    /// Makes a volume; its id.
    pub fn make_volume(&self, name: &str, bytes: u64, usage: Use, source: &Source) -> String {
        self.create_volume(new_volume(name, bytes, usage, source)).unwrap().volume.unwrap().volume_id
    }

    /// Cuts a snapshot; its id.
    pub fn make_snapshot(&self, name: &str, volume_id: &str) -> String {
        self.create_snapshot(new_snapshot(name, volume_id)).unwrap().snapshot.unwrap().snapshot_id
    }

    /// Deletes a volume.
    pub fn drop_volume(&self, volume_id: &str) {
        self.delete_volume(proto::DeleteVolumeRequest { volume_id: volume_id.to_owned(), ..Default::default() }).unwrap();
    }

    /// Deletes a snapshot.
    pub fn drop_snapshot(&self, snapshot_id: &str) {
        self.delete_snapshot(proto::DeleteSnapshotRequest { snapshot_id: snapshot_id.to_owned(), ..Default::default() }).unwrap();
    }

    /// Stages and publishes a volume.
    pub fn bring_up(&self, root: &Path, name: &str, volume_id: &str, usage: Use) -> Paths {
        let paths = Paths::prepare(root, name);
        self.node_stage_volume(stage(volume_id, &paths, usage)).unwrap();
        self.node_publish_volume(publish(volume_id, &paths, usage)).unwrap();
        paths
    }

    /// Unpublishes and unstages a volume, and removes its paths.
    pub fn take_down(&self, volume_id: &str, paths: &Paths) {
        self.node_unpublish_volume(unpublish(volume_id, paths)).unwrap();
        self.node_unstage_volume(unstage(volume_id, paths)).unwrap();
        paths.remove();
    }
}
