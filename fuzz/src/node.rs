//! A node over a pool in memory with one volume and its snapshots, for the targets that are calls.

use std::os::unix::fs::FileExt;
use std::sync::{Arc, LazyLock};

use csi_proto::csi::v1 as proto;
use csi_proto::csi::v1::controller_server::Controller;
use csi_proto::csi::v1::volume_capability::{AccessMode, AccessType, BlockVolume, access_mode::Mode};
use tonic::Request;
use windlass::csi::NodeName;
use windlass::mount::memory::MemoryMounter;
use windlass::mount::path::Root;
use windlass::node::quiesce::MountQuiesce;
use windlass::node::{NodeLayer, NodeOptions};
use windlass::pool::catalogue::Catalogue;
use windlass::pool::memory::MemoryPool;
use windlass::pool::owned::OwnedPool;
use windlass::types::{Access, Object, VolumeHandle};

use crate::fixture::block_on;

/// Bytes of the volume.
pub const SIZE: u64 = 64 * BLOCK;
/// Unit in which it is written.
pub const BLOCK: u64 = 4096;
/// Blocks that hold something in the first snapshot, and those that differ from it in each of the next.
pub const WRITTEN: [&[u64]; 3] = [&[0, 1, 2, 9, 40, 63], &[1, 10, 11], &[0, 30, 62, 63]];

static NODE: LazyLock<Node> = LazyLock::new(Node::new);

/// The node.
pub struct Node {
    /// Its services.
    pub layer: NodeLayer,
    /// Handle of the volume.
    pub volume: String,
    /// Handles of the snapshots, the oldest first.
    pub snapshots: Vec<String>,
    /// Never looked at: the root of the paths of requests.
    _root: tempfile::TempDir,
}

impl Node {
    /// The one there is.
    pub fn get() -> &'static Self {
        &NODE
    }

    fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let mounter = Arc::new(MemoryMounter::new());
        let quiesce = Arc::new(MountQuiesce::new(mounter.clone()));
        let pool = Arc::new(MemoryPool::with_capacity(1 << 30));
        let pool = Arc::new(OwnedPool::open(pool, Catalogue::in_memory().expect("a catalogue"), quiesce).expect("a pool"));
        let options = NodeOptions {
            node: NodeName::try_from("node-1".to_owned()).expect("a name"),
            root: Root::open(root.path()).expect("a root"),
            boot_id: "boot".to_owned(),
            statistics_timeout: None,
        };
        let layer = NodeLayer::new(vec![pool.clone()], mounter, options);
        let capability = proto::VolumeCapability {
            access_type: Some(AccessType::Block(BlockVolume {})),
            access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
        };
        let request = proto::CreateVolumeRequest {
            name: "volume".to_owned(),
            capacity_range: Some(proto::CapacityRange { required_bytes: SIZE as i64, limit_bytes: 0 }),
            volume_capabilities: vec![capability],
            ..Default::default()
        };
        let created = block_on(layer.create_volume(Request::new(request))).expect("a volume").into_inner();
        let volume = created.volume.expect("a volume").volume_id;
        let object = Object::Volume(volume.parse::<VolumeHandle>().expect("a handle").volume);
        let device = pool.attach(object, Access::ReadWrite).expect("a device").device;
        let device = std::fs::OpenOptions::new().write(true).open(device).expect("a device");
        let mut snapshots = Vec::new();
        for (number, blocks) in WRITTEN.iter().enumerate() {
            for block in *blocks {
                device.write_all_at(&[number as u8 + 1; BLOCK as usize], block * BLOCK).expect("room");
            }
            let request = proto::CreateSnapshotRequest {
                name: format!("snapshot-{number}"),
                source_volume_id: volume.clone(),
                ..Default::default()
            };
            let created = block_on(layer.create_snapshot(Request::new(request))).expect("a snapshot").into_inner();
            snapshots.push(created.snapshot.expect("a snapshot").snapshot_id);
        }
        Self { layer, volume, snapshots, _root: root }
    }

    /// The blocks that hold something in the snapshot of this number.
    pub fn allocated(snapshot: usize) -> Vec<u64> {
        Self::differing(None, snapshot)
    }

    /// The blocks in which the snapshot of this number differs from an older one.
    pub fn changed(base: usize, target: usize) -> Vec<u64> {
        Self::differing(Some(base), target)
    }

    fn differing(base: Option<usize>, target: usize) -> Vec<u64> {
        let first = base.map_or(0, |base| base + 1);
        let mut blocks: Vec<_> =
            WRITTEN.get(first..=target).into_iter().flatten().flat_map(|blocks| blocks.iter().copied()).collect();
        blocks.sort_unstable();
        blocks.dedup();
        blocks
    }
}
