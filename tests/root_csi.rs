//! The node layer over real pools, devices and file systems.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly, wherever it does")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

mod root_support;

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use csi_proto::csi::v1::controller_server::Controller;
use csi_proto::csi::v1::node_server::Node;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use csi_proto::csi::v1::*;
use root_support::{Sandbox, pattern};
use tonic::{Code, Request};
use windlass::csi::quiesce::MountQuiesce;
use windlass::csi::{NodeLayer, NodeName, NodeOptions};
use windlass::mount::Mounter;
use windlass::mount::path::Root;
use windlass::mount::system::SystemMounter;
use windlass::pool::reflink::{create_pool, open_pool};
use windlass::types::FsType;

const SIZE: i64 = 320 << 20;

struct Fixture {
    layer: NodeLayer,
    root: PathBuf,
}

impl Fixture {
    fn new(sandbox: &Sandbox, pool_directory: &Path) -> Self {
        let mounter: Arc<dyn Mounter> = Arc::new(SystemMounter::new());
        let pool = open_pool(pool_directory, Arc::new(MountQuiesce::new(Arc::clone(&mounter)))).unwrap();
        let root = sandbox.directory("kubelet");
        let options = NodeOptions {
            node: NodeName::try_from("node-1".to_owned()).unwrap(),
            root: Root::open(&root).unwrap(),
            boot_id: windlass::mount::boot_id().unwrap(),
            statistics_timeout: None,
        };
        Self { layer: NodeLayer::new(vec![Arc::new(pool)], mounter, options), root }
    }

    fn path(&self, name: &str) -> String {
        self.root.join(name).to_str().unwrap().to_owned()
    }

    fn staging(&self, name: &str) -> String {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    async fn create(&self, name: &str, bytes: i64, capability: VolumeCapability, source: Option<VolumeContentSource>) -> String {
        let request = CreateVolumeRequest {
            name: name.into(),
            capacity_range: Some(CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            volume_capabilities: vec![capability],
            volume_content_source: source,
            ..Default::default()
        };
        self.layer.create_volume(Request::new(request)).await.unwrap().into_inner().volume.unwrap().volume_id
    }

    async fn snapshot(&self, name: &str, source: &str) -> String {
        let request = CreateSnapshotRequest { name: name.into(), source_volume_id: source.into(), ..Default::default() };
        self.layer.create_snapshot(Request::new(request)).await.unwrap().into_inner().snapshot.unwrap().snapshot_id
    }

    async fn stage(&self, volume: &str, path: &str, capability: VolumeCapability) {
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

    async fn publish(&self, volume: &str, staging: &str, target: &str, capability: VolumeCapability, readonly: bool) {
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

    async fn expand(&self, volume: &str, path: &str, bytes: i64) -> Result<(), Code> {
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

    async fn total_bytes(&self, volume: &str, path: &str) -> i64 {
        let request = NodeGetVolumeStatsRequest { volume_id: volume.into(), volume_path: path.into(), ..Default::default() };
        self.layer.node_get_volume_stats(Request::new(request)).await.unwrap().into_inner().usage[0].total
    }

    async fn take_down(&self, volume: &str, target: Option<&str>, staging: &str) {
        for _ in 0..2 {
            if let Some(target) = target {
                let request = NodeUnpublishVolumeRequest { volume_id: volume.into(), target_path: target.into() };
                self.layer.node_unpublish_volume(Request::new(request)).await.unwrap();
                assert!(!Path::new(target).exists());
            }
            let request = NodeUnstageVolumeRequest { volume_id: volume.into(), staging_target_path: staging.into() };
            self.layer.node_unstage_volume(Request::new(request)).await.unwrap();
        }
        let request = DeleteVolumeRequest { volume_id: volume.into(), ..Default::default() };
        self.layer.delete_volume(Request::new(request)).await.unwrap();
    }
}

fn mount(fs_type: FsType, mode: Mode) -> VolumeCapability {
    let mount = MountVolume { fs_type: fs_type.name().to_owned(), mount_flags: vec!["noatime".to_owned()], ..Default::default() };
    VolumeCapability { access_type: Some(AccessType::Mount(mount)), access_mode: Some(AccessMode { mode: mode.into() }) }
}

fn block(mode: Mode) -> VolumeCapability {
    VolumeCapability { access_type: Some(AccessType::Block(BlockVolume {})), ..mount(FsType::Ext4, mode) }
}

fn from_snapshot(id: &str) -> Option<VolumeContentSource> {
    let source = volume_content_source::SnapshotSource { snapshot_id: id.into() };
    Some(VolumeContentSource { r#type: Some(volume_content_source::Type::Snapshot(source)) })
}

fn from_volume(id: &str) -> Option<VolumeContentSource> {
    let source = volume_content_source::VolumeSource { volume_id: id.into() };
    Some(VolumeContentSource { r#type: Some(volume_content_source::Type::Volume(source)) })
}

async fn file_systems(pool_fs: FsType) {
    let sandbox = Sandbox::new();
    let image = sandbox.pool(pool_fs);
    let directory = image.directory().join("pool");
    fs::create_dir(&directory).unwrap();
    create_pool(&directory).unwrap();
    let fixture = Fixture::new(&sandbox, &directory);
    for fs_type in FsType::ALL {
        let writer = || mount(fs_type, Mode::SingleNodeMultiWriter);
        let name = |part: &str| format!("{fs_type}-{part}");
        let volume = fixture.create(&name("a"), SIZE, writer(), None).await;
        let (staging, target) = (fixture.staging(&name("staging")), fixture.path(&name("target")));
        fixture.stage(&volume, &staging, writer()).await;
        fixture.publish(&volume, &staging, &target, writer(), false).await;
        let bytes = pattern(1, 1 << 20);
        fs::write(format!("{target}/data"), &bytes).unwrap();
        let snapshot = fixture.snapshot(&name("s"), &volume).await;
        fs::write(format!("{target}/data"), "changed").unwrap();

        // Beside their source, larger than it; one by its snapshot, one by itself, one for readers.
        let mut copies = Vec::new();
        for (part, source, mode, expected) in [
            ("restored", from_snapshot(&snapshot), Mode::SingleNodeMultiWriter, bytes.as_slice()),
            ("cloned", from_volume(&volume), Mode::SingleNodeMultiWriter, b"changed".as_slice()),
            ("readers", from_snapshot(&snapshot), Mode::MultiNodeReaderOnly, bytes.as_slice()),
        ] {
            let copy = fixture.create(&name(part), SIZE * 2, mount(fs_type, mode), source).await;
            let staging = fixture.staging(&name(part));
            fixture.stage(&copy, &staging, mount(fs_type, mode)).await;
            assert_eq!(fs::read(format!("{staging}/data")).unwrap(), expected, "{fs_type} {part}");
            assert!(fixture.total_bytes(&copy, &staging).await > SIZE + SIZE / 2, "{fs_type} {part}");
            let writable = fs::write(format!("{staging}/new"), "x").is_ok();
            assert_eq!(writable, mode != Mode::MultiNodeReaderOnly, "{fs_type} {part}");
            copies.push((copy, staging));
        }
        let (restored, restored_staging) = &copies[0];
        match fixture.expand(restored, restored_staging, SIZE * 3).await {
            Ok(()) => assert!(fixture.total_bytes(restored, restored_staging).await > SIZE * 5 / 2, "{fs_type}"),
            // The kernel wants CAP_SYS_RESOURCE for a mounted ext4, which not every sandbox gives to root.
            Err(code) => assert_eq!((fs_type, code), (FsType::Ext4, Code::Internal)),
        }
        for (copy, staging) in &copies {
            fixture.take_down(copy, None, staging).await;
        }
        fixture.take_down(&volume, Some(&target), &staging).await;
        let request = DeleteSnapshotRequest { snapshot_id: snapshot, ..Default::default() };
        fixture.layer.delete_snapshot(Request::new(request)).await.unwrap();
    }

    let raw = fixture.create("raw", SIZE, block(Mode::SingleNodeWriter), None).await;
    let (staging, target) = (fixture.staging("raw"), fixture.path("device"));
    fixture.stage(&raw, &staging, block(Mode::SingleNodeWriter)).await;
    fixture.publish(&raw, &staging, &target, block(Mode::SingleNodeWriter), false).await;
    assert!(fs::metadata(&target).unwrap().file_type().is_block_device());
    assert_eq!(fixture.total_bytes(&raw, &target).await, SIZE);
    fixture.expand(&raw, &target, SIZE * 2).await.unwrap();
    let bytes = pattern(2, 8192);
    let device = fs::OpenOptions::new().write(true).open(&target).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&device, &bytes, SIZE.unsigned_abs() * 2 - 8192).unwrap();
    // The page cache of the device is flushed for the cut.
    let snapshot = fixture.snapshot("raw", &raw).await;
    drop(device);
    let readers = || block(Mode::MultiNodeReaderOnly);
    let copy = fixture.create("raw-readers", SIZE * 2, readers(), from_snapshot(&snapshot)).await;
    let (copy_staging, copy_target) = (fixture.staging("raw-readers"), fixture.path("device-readers"));
    fixture.stage(&copy, &copy_staging, readers()).await;
    fixture.publish(&copy, &copy_staging, &copy_target, readers(), true).await;
    let mut read = vec![0; bytes.len()];
    let device = fs::File::open(&copy_target).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&device, &mut read, SIZE.unsigned_abs() * 2 - 8192).unwrap();
    assert!(read == bytes);
    // The kernel lets a read-only device be opened for writing, and refuses to write.
    let writer = fs::OpenOptions::new().write(true).open(&copy_target);
    assert!(writer.and_then(|writer| std::os::unix::fs::FileExt::write_all_at(&writer, &bytes, 0)).is_err());
    drop(device);
    fixture.take_down(&copy, Some(&copy_target), &copy_staging).await;
    fixture.take_down(&raw, Some(&target), &staging).await;
    let request = DeleteSnapshotRequest { snapshot_id: snapshot, ..Default::default() };
    fixture.layer.delete_snapshot(Request::new(request)).await.unwrap();

    let mounts = SystemMounter::new().mounts().unwrap();
    assert!(!mounts.iter().any(|entry| entry.mount_point.starts_with(&fixture.root)));
    let status = fixture.layer.pools()[0].status().unwrap();
    assert_eq!((status.volumes, status.snapshots), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_on_a_btrfs_pool() {
    file_systems(FsType::Btrfs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_on_an_xfs_pool() {
    file_systems(FsType::Xfs).await;
}
