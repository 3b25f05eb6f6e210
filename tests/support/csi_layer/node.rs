//! A node layer over an open pool, and its calls as a CO makes them: each twice, where that must change nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use csi_proto::csi::v1::controller_server::Controller;
use csi_proto::csi::v1::node_server::Node;
use csi_proto::csi::v1::snapshot_metadata_server::SnapshotMetadata;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use csi_proto::csi::v1::*;
use csi_proto::windlass::v1 as proto;
use csi_proto::windlass::v1::transfers_server::Transfers as _;
use futures::StreamExt;
use tonic::{Code, Request};
use windlass::agent::Transfers;
use windlass::node::NodeLayer;
use windlass::node::blocks::PoolBlocks;
use windlass::repository::{Environment, KdfCost, Location, Password, Repository, connect};
use windlass::types::{FsType, Object, VolumeHandle};

use crate::common::fixture::{Bench, PoolFileSystem};
use crate::common::open::OpenPool;

/// A node layer, and the pool that it is over.
pub struct Fixture {
    pub layer: NodeLayer,
    pub root: PathBuf,
    pool: OpenPool,
}

impl Fixture {
    pub fn new(bench: &Bench, kind: PoolFileSystem) -> Self {
        let pool = OpenPool::new(bench, kind);
        Self { layer: pool.layer("node-1"), root: bench.root(), pool }
    }

    /// The same node without its pool: what that has mounted and attached stays.
    pub fn without_pool(&self) -> NodeLayer {
        self.pool.layer_without_pool("node-1")
    }

    /// The device of a volume, if it has one.
    pub fn device(&self, volume: &str) -> Option<PathBuf> {
        let handle: VolumeHandle = volume.parse().unwrap();
        self.pool.pool.attachment(Object::Volume(handle.volume)).unwrap().map(|attachment| attachment.device)
    }

    /// Removes a volume's device behind the driver's back.
    pub fn remove_device(&self, volume: &str) {
        let handle: VolumeHandle = volume.parse().unwrap();
        self.pool.pool.detach(Object::Volume(handle.volume)).unwrap();
    }

    pub fn path(&self, name: &str) -> String {
        self.root.join(name).to_str().unwrap().to_owned()
    }

    pub fn staging(&self, name: &str) -> String {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub async fn create(
        &self,
        name: &str,
        bytes: i64,
        capability: VolumeCapability,
        source: Option<VolumeContentSource>,
    ) -> String {
        let request = CreateVolumeRequest {
            name: name.into(),
            capacity_range: Some(CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            volume_capabilities: vec![capability],
            volume_content_source: source,
            ..Default::default()
        };
        self.layer.create_volume(Request::new(request)).await.unwrap().into_inner().volume.unwrap().volume_id
    }

    pub async fn snapshot(&self, name: &str, source: &str) -> String {
        let request = CreateSnapshotRequest { name: name.into(), source_volume_id: source.into(), ..Default::default() };
        self.layer.create_snapshot(Request::new(request)).await.unwrap().into_inner().snapshot.unwrap().snapshot_id
    }

    /// The snapshots that the list shows of this id.
    pub async fn snapshots_by_id(&self, id: &str) -> Vec<String> {
        let request = ListSnapshotsRequest { snapshot_id: id.to_owned(), ..Default::default() };
        let listed = self.layer.list_snapshots(Request::new(request)).await.unwrap().into_inner();
        listed.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id).collect()
    }

    /// The bytes that a snapshot's metadata say are allocated, read to the end.
    pub async fn allocated_ranges(&self, snapshot: &str) -> u64 {
        let request = GetMetadataAllocatedRequest { snapshot_id: snapshot.to_owned(), ..Default::default() };
        let stream = self.layer.get_metadata_allocated(Request::new(request)).await.unwrap().into_inner();
        stream.fold(0, async |sum, part| sum + bytes_of(&part.unwrap().block_metadata)).await
    }

    /// The bytes that may have changed between two snapshots.
    pub async fn changed_ranges(&self, base: &str, target: &str) -> u64 {
        let request = GetMetadataDeltaRequest {
            base_snapshot_id: base.to_owned(),
            target_snapshot_id: target.to_owned(),
            ..Default::default()
        };
        let stream = self.layer.get_metadata_delta(Request::new(request)).await.unwrap().into_inner();
        stream.fold(0, async |sum, part| sum + bytes_of(&part.unwrap().block_metadata)).await
    }

    /// The space that a volume takes, in bytes.
    pub fn allocated_bytes(&self, volume: &str) -> u64 {
        let handle: VolumeHandle = volume.parse().unwrap();
        self.pool.pool.usage_of(Object::Volume(handle.volume)).unwrap().allocated
    }

    /// A volume with what was exported of a snapshot, and restored.
    pub async fn through_a_repository(&self, snapshot: &str, volume: &str) -> String {
        const PASSWORD: &str = "geheim";
        let location = self.path("repository");
        let store = connect(&Location::Local(location.clone().into()), &Environment::new()).unwrap();
        Repository::init(store, &Password::new(PASSWORD).unwrap(), KdfCost::TEST).await.unwrap();
        let repository = Some(proto::RepositoryAccess { location, password: PASSWORD.to_owned(), ..Default::default() });
        let transfers = Transfers::new(Arc::new(PoolBlocks::new(vec![Arc::clone(&self.pool.pool)])), "node-1");
        let export =
            proto::StartExportRequest { snapshot_id: snapshot.to_owned(), repository: repository.clone(), ..Default::default() };
        let started = transfers.start_export(Request::new(export)).await.unwrap().into_inner();
        end_of(&transfers, started.transfer_id).await;
        let restore = proto::StartRestoreRequest {
            repository,
            repository_snapshot: "latest".to_owned(),
            volume_name: volume.to_owned(),
            ..Default::default()
        };
        let started = transfers.start_restore(Request::new(restore)).await.unwrap().into_inner();
        let ended = end_of(&transfers, started.transfer_id).await;
        fs::remove_dir_all(self.path("repository")).unwrap();
        ended.restore_result.unwrap().volume_id
    }

    pub async fn stage(&self, volume: &str, path: &str, capability: VolumeCapability) {
        let request = NodeStageVolumeRequest {
            volume_id: volume.into(),
            staging_target_path: path.into(),
            volume_capability: Some(capability),
            ..Default::default()
        };
        for _ in 0..2 {
            self.layer.node_stage_volume(Request::new(request.clone())).await.unwrap();
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the request")]
    pub async fn publish(&self, volume: &str, staging: &str, target: &str, capability: VolumeCapability, readonly: bool) {
        let request = NodePublishVolumeRequest {
            volume_id: volume.into(),
            staging_target_path: staging.into(),
            target_path: target.into(),
            volume_capability: Some(capability),
            readonly,
            ..Default::default()
        };
        for _ in 0..2 {
            self.layer.node_publish_volume(Request::new(request.clone())).await.unwrap();
        }
    }

    pub async fn expand(&self, volume: &str, path: &str, bytes: i64) -> Result<(), Code> {
        let range = Some(CapacityRange { required_bytes: bytes, limit_bytes: 0 });
        let request = ControllerExpandVolumeRequest { volume_id: volume.into(), capacity_range: range, ..Default::default() };
        self.layer.controller_expand_volume(Request::new(request)).await.unwrap();
        let request = NodeExpandVolumeRequest {
            volume_id: volume.into(),
            volume_path: path.into(),
            capacity_range: range,
            ..Default::default()
        };
        self.layer.node_expand_volume(Request::new(request)).await.map(drop).map_err(|status| status.code())
    }

    pub async fn total_bytes(&self, volume: &str, path: &str) -> i64 {
        let request = NodeGetVolumeStatsRequest { volume_id: volume.into(), volume_path: path.into(), ..Default::default() };
        self.layer.node_get_volume_stats(Request::new(request)).await.unwrap().into_inner().usage[0].total
    }

    /// Unpublishes and unstages, twice each.
    pub async fn let_go(&self, volume: &str, target: Option<&str>, staging: &str) {
        for _ in 0..2 {
            if let Some(target) = target {
                let request = NodeUnpublishVolumeRequest { volume_id: volume.into(), target_path: target.into() };
                self.layer.node_unpublish_volume(Request::new(request)).await.unwrap();
                assert!(!Path::new(target).exists());
            }
            let request = NodeUnstageVolumeRequest { volume_id: volume.into(), staging_target_path: staging.into() };
            self.layer.node_unstage_volume(Request::new(request)).await.unwrap();
        }
    }

    pub async fn take_down(&self, volume: &str, target: Option<&str>, staging: &str) {
        self.let_go(volume, target, staging).await;
        let request = DeleteVolumeRequest { volume_id: volume.into(), ..Default::default() };
        self.layer.delete_volume(Request::new(request)).await.unwrap();
    }
}

fn bytes_of(ranges: &[BlockMetadata]) -> u64 {
    ranges.iter().map(|range| range.size_bytes.unsigned_abs()).sum()
}

/// How a transfer ended, which succeeds.
async fn end_of(transfers: &Transfers, transfer_id: String) -> proto::TransferProgress {
    let request = proto::WatchTransferRequest { transfer_id };
    let states = transfers.watch_transfer(Request::new(request)).await.unwrap().into_inner();
    let last = states.map(Result::unwrap).fold(None, async |_, state| Some(state)).await.unwrap();
    assert_eq!(last.state(), proto::TransferState::Succeeded, "{}", last.message);
    last
}

pub fn mount(fs_type: FsType, mode: Mode) -> VolumeCapability {
    let mount = MountVolume { fs_type: fs_type.name().to_owned(), mount_flags: vec!["noatime".to_owned()], ..Default::default() };
    VolumeCapability { access_type: Some(AccessType::Mount(mount)), access_mode: Some(AccessMode { mode: mode.into() }) }
}

pub fn block(mode: Mode) -> VolumeCapability {
    VolumeCapability { access_type: Some(AccessType::Block(BlockVolume {})), ..mount(FsType::Ext4, mode) }
}

pub fn from_snapshot(id: &str) -> Option<VolumeContentSource> {
    let source = volume_content_source::SnapshotSource { snapshot_id: id.into() };
    Some(VolumeContentSource { r#type: Some(volume_content_source::Type::Snapshot(source)) })
}

pub fn from_volume(id: &str) -> Option<VolumeContentSource> {
    let source = volume_content_source::VolumeSource { volume_id: id.into() };
    Some(VolumeContentSource { r#type: Some(volume_content_source::Type::Volume(source)) })
}
