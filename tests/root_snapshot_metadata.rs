//! The SnapshotMetadata service over real pools: what is written through loop devices and file systems, by every way there is
//! to write, is named by the next delta. Needs root.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly, wherever it does")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

mod csi_harness;
mod metadata_client;
mod random_volumes;
mod root_support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use csi_harness::{NODE, block, bytes, from_snapshot, from_volume, mount, new_volume};
use csi_proto::csi::v1::controller_client::ControllerClient;
use csi_proto::csi::v1::node_client::NodeClient;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use metadata_client::{Ask, Client, applied, list, list_across_cuts, list_in_pieces};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use random_volumes::writers::Writers;
use random_volumes::{BLOCK, Way, files};
use root_support::{Sandbox, pattern};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;
use windlass::block::Access;
use windlass::csi::quiesce::MountQuiesce;
use windlass::csi::server::{self, PrivateSocket};
use windlass::csi::{NodeLayer, NodeName, NodeOptions};
use windlass::mount::Mounter;
use windlass::mount::path::Root;
use windlass::mount::system::SystemMounter;
use windlass::pool::owned::OwnedPool;
use windlass::pool::reflink::{create_pool, open_pool};
use windlass::types::{FsType, Object, SnapshotHandle, VolumeHandle};

const WRITER: Mode = Mode::SingleNodeWriter;
const OPERATIONS: usize = 2500;
/// Size of a volume at its creation.
const SMALL: u64 = 4 << 20;
/// No volume grows beyond this.
const LARGE: u64 = 6 << 20;

/// A node over one pool, served on a socket.
struct Node {
    socket: PathBuf,
    pool: Arc<OwnedPool>,
    directory: PathBuf,
    pool_fs: FsType,
    checksum: &'static str,
    controller: ControllerClient<Channel>,
    node: NodeClient<Channel>,
    metadata: Client,
}

impl Node {
    async fn start(sandbox: &Sandbox, directory: PathBuf, pool_fs: FsType, checksum: &'static str) -> Self {
        let mounter: Arc<dyn Mounter> = Arc::new(SystemMounter::new());
        let pool = Arc::new(open_pool(&directory, Arc::new(MountQuiesce::new(Arc::clone(&mounter)))).unwrap());
        let options = NodeOptions {
            node: NodeName::try_from(NODE.to_owned()).unwrap(),
            root: Root::open(&sandbox.directory("kubelet")).unwrap(),
            boot_id: windlass::mount::boot_id().unwrap(),
            statistics_timeout: None,
        };
        let layer = NodeLayer::new(vec![Arc::clone(&pool)], mounter, options);
        let path = sandbox.path("csi.sock");
        let socket = PrivateSocket::bind(&path).unwrap();
        tokio::spawn(server::serve(socket, server::routes(&layer), CancellationToken::new()));
        let channel = csi_harness::channel(&path).await;
        let (controller, node) = (ControllerClient::new(channel.clone()), NodeClient::new(channel.clone()));
        Self { socket: path, pool, directory, pool_fs, checksum, controller, node, metadata: Client::new(channel) }
    }

    async fn create(&self, name: &str, size: u64, capability: VolumeCapability, source: Option<VolumeContentSource>) -> String {
        let request = CreateVolumeRequest {
            capacity_range: bytes(size as i64, 0),
            volume_content_source: source,
            parameters: [("checksum".to_owned(), self.checksum.to_owned())].into(),
            ..new_volume(name, capability)
        };
        self.controller.clone().create_volume(request).await.unwrap().into_inner().volume.unwrap().volume_id
    }

    async fn cut(&self, name: &str, volume: &str) -> String {
        let request = CreateSnapshotRequest { name: name.into(), source_volume_id: volume.into(), ..Default::default() };
        self.controller.clone().create_snapshot(request).await.unwrap().into_inner().snapshot.unwrap().snapshot_id
    }

    /// A stream that was given up holds its snapshots until the server hears of it.
    async fn delete_snapshot(&self, snapshot: &str) {
        let mut interval = tokio::time::interval(Duration::from_millis(5));
        let deadline = Instant::now() + Duration::from_secs(30);
        let request = || DeleteSnapshotRequest { snapshot_id: snapshot.into(), ..Default::default() };
        while let Err(status) = self.controller.clone().delete_snapshot(request()).await {
            assert!(matches!(status.code(), Code::FailedPrecondition | Code::Aborted), "{status}");
            assert!(Instant::now() < deadline, "the snapshot stays in use: {status}");
            interval.tick().await;
        }
    }

    async fn grow(&self, volume: &str, size: u64) {
        let request = ControllerExpandVolumeRequest {
            volume_id: volume.into(),
            capacity_range: bytes(size as i64, 0),
            ..Default::default()
        };
        self.controller.clone().controller_expand_volume(request).await.unwrap();
    }

    fn object(volume: &str) -> Object {
        Object::Volume(volume.parse::<VolumeHandle>().unwrap().volume)
    }

    fn attach(&self, volume: &str) -> PathBuf {
        self.pool.attach(Self::object(volume), Access::ReadWrite).unwrap().device
    }

    /// The file beneath a volume.
    fn file(&self, volume: &str) -> File {
        let id = volume.parse::<VolumeHandle>().unwrap().volume;
        let path = self.directory.join("volumes").join(id.to_string());
        let path = if self.pool_fs == FsType::Btrfs { path.join("data") } else { path };
        OpenOptions::new().read(true).write(true).open(path).unwrap()
    }

    /// The bytes of a snapshot, never by way of a device.
    fn read(&self, snapshot: &str) -> Vec<u8> {
        let lease = self.pool.lease(snapshot.parse::<SnapshotHandle>().unwrap().snapshot).unwrap();
        let mut bytes = vec![0; lease.size().bytes() as usize];
        lease.file().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// That what the service says turns the base into the target, and nothing into it.
    async fn check(&self, base: &str, target: &str, random: &mut StdRng) {
        let (base_bytes, target_bytes) = (self.read(base), self.read(target));
        let ranges = list_in_pieces(&self.socket, Ask::Delta { base, target }, random).await;
        assert!(applied(&base_bytes, &target_bytes, &ranges) == target_bytes, "something changed and was not said: {ranges:?}");
        let ranges = list_in_pieces(&self.socket, Ask::Allocated(target), random).await;
        assert!(applied(&[], &target_bytes, &ranges) == target_bytes, "something is allocated and was not said: {ranges:?}");
    }
}

/// A raw volume: its device as long as it is attached, and what is known of its content.
struct Raw {
    id: String,
    bytes: Vec<u8>,
    /// Snapshots with their content, the oldest first.
    snapshots: Vec<(String, Vec<u8>)>,
    /// Deleted snapshots with their content.
    deleted: Vec<(String, Vec<u8>)>,
}

/// One change of a volume's content, by its device or, when it has none, by the file beneath.
fn change(node: &Node, volume: &mut Raw, random: &mut StdRng) {
    match node.pool.attachment(Node::object(&volume.id)).unwrap() {
        Some(attachment) => random_volumes::change(&Way::Device(&attachment.device), &mut volume.bytes, random),
        None => random_volumes::change(&Way::File(&node.file(&volume.id)), &mut volume.bytes, random),
    }
}

fn named(volume: &Raw, random: &mut StdRng) -> usize {
    random.random_range(0..volume.snapshots.len())
}

/// Deleted bases are answered exactly, or not known: how many were answered.
async fn check_deleted(node: &Node, volume: &Raw, random: &mut StdRng) -> usize {
    let Some((target, target_bytes)) = volume.snapshots.last() else { return 0 };
    let mut answered = 0;
    for (base, base_bytes) in volume.deleted.iter().rev().take(6) {
        let asked = Ask::Delta { base, target };
        match list(&node.metadata, asked, 0, random.random_range(0..9)).await {
            Ok(listed) => {
                let right = applied(base_bytes, target_bytes, &listed.ranges) == *target_bytes;
                assert!(right, "something changed since a deleted base and was not said: {:?}", listed.ranges);
                answered += 1;
            }
            // Not known, or just being given up.
            Err(status) => assert!(matches!(status.code(), Code::NotFound | Code::Aborted), "{status}"),
        }
    }
    answered
}

/// Thousands of operations, and what the service says of them.
async fn random_operations(node: &Node, random: &mut StdRng) {
    let first = node.create("first", SMALL, block(WRITER), None).await;
    let mut volumes = vec![Raw { id: first, bytes: vec![0; SMALL as usize], snapshots: Vec::new(), deleted: Vec::new() }];
    let (mut checks, mut from_deleted) = (0, 0);
    for step in 0..OPERATIONS {
        let (index, count) = (random.random_range(0..volumes.len()), volumes.len());
        let volume = &mut volumes[index];
        match random.random_range(0..100) {
            0..76 => change(node, volume, random),
            76..86 => {
                let snapshot = node.cut(&format!("s-{step}"), &volume.id).await;
                assert!(node.read(&snapshot) == volume.bytes, "the snapshot is not the volume");
                volume.snapshots.push((snapshot, volume.bytes.clone()));
                let base = named(volume, random);
                let (base, target) = (&volume.snapshots[base].0, &volume.snapshots.last().unwrap().0);
                node.check(base, target, random).await;
                checks += 1;
                from_deleted += check_deleted(node, volume, random).await;
                if volume.snapshots.len() > 6 {
                    let gone = volume.snapshots.remove(named(volume, random));
                    node.delete_snapshot(&gone.0).await;
                    volume.deleted.push(gone);
                }
            }
            86..90 => {
                let size = (volume.bytes.len() as u64 + random.random_range(0..64) * BLOCK).min(LARGE);
                node.grow(&volume.id, size).await;
                volume.bytes.resize(size as usize, 0);
            }
            90..92 if count < 3 => {
                let name = format!("clone-{step}");
                let (source, content) = match volume.snapshots.len() {
                    0 => (from_volume(&volume.id), volume.bytes.clone()),
                    _ => {
                        let (id, content) = &volume.snapshots[named(volume, random)];
                        (from_snapshot(id), content.clone())
                    }
                };
                let id = node.create(&name, content.len() as u64, block(WRITER), source).await;
                volumes.push(Raw { id, bytes: content, snapshots: Vec::new(), deleted: Vec::new() });
            }
            92..96 => match node.pool.attachment(Node::object(&volume.id)).unwrap() {
                Some(_) => node.pool.detach(Node::object(&volume.id)).unwrap(),
                None => drop(node.attach(&volume.id)),
            },
            _ => {
                let Some(last) = volume.snapshots.len().checked_sub(1) else { continue };
                let target = random.random_range(0..=last);
                let base = random.random_range(0..=target);
                let (base, target) = (&volume.snapshots[base], &volume.snapshots[target]);
                assert!(node.read(&base.0) == base.1 && node.read(&target.0) == target.1, "a snapshot changed");
                node.check(&base.0, &target.0, random).await;
                checks += 1;
            }
        }
    }
    assert!(checks > OPERATIONS / 20 && from_deleted > OPERATIONS / 100, "{checks} {from_deleted}");
    for volume in &volumes {
        node.pool.detach(Node::object(&volume.id)).unwrap();
    }
}

/// Small changes have small deltas: what is said is not just everything.
async fn deltas_are_small(node: &Node) {
    let volume = node.create("quiet", SMALL, block(WRITER), None).await;
    let device = node.attach(&volume);
    let device = OpenOptions::new().write(true).open(device).unwrap();
    device.write_all_at(&pattern(1, SMALL as usize), 0).unwrap();
    let base = node.cut("quiet-1", &volume).await;
    device.write_all_at(&pattern(2, BLOCK as usize), 77 * BLOCK).unwrap();
    let target = node.cut("quiet-2", &volume).await;
    let again = node.cut("quiet-3", &volume).await;
    let listed = list(&node.metadata, Ask::Delta { base: &base, target: &target }, 0, 0).await.unwrap();
    assert_eq!(listed.ranges, [(77 * BLOCK, BLOCK)]);
    let listed = list(&node.metadata, Ask::Delta { base: &target, target: &again }, 0, 0).await.unwrap();
    assert_eq!((listed.ranges.len(), listed.capacity), (0, Some(SMALL as i64)));
    let listed = list(&node.metadata, Ask::Allocated(&again), 0, 0).await.unwrap();
    assert_eq!(listed.ranges, [(0, SMALL)]);
    drop(device);
    node.pool.detach(Node::object(&volume)).unwrap();
}

/// A list of many ranges over connections that are cut anywhere: each cut is an error, and what was said before and after all
/// of them turns the base into the target.
async fn cuts_of_the_connection(node: &Node, random: &mut StdRng) {
    const BLOCKS: u64 = 1500;
    let volume = node.create("cut", BLOCKS * BLOCK, block(WRITER), None).await;
    let device = OpenOptions::new().write(true).open(node.attach(&volume)).unwrap();
    device.write_all_at(&pattern(1, (BLOCKS / 2 * BLOCK) as usize), 0).unwrap();
    let base = node.cut("cut-1", &volume).await;
    for index in (0..BLOCKS).filter(|index| index % 3 == 0) {
        device.write_all_at(&pattern(index, BLOCK as usize), index * BLOCK).unwrap();
    }
    let target = node.cut("cut-2", &volume).await;
    let (base_bytes, target_bytes) = (node.read(&base), node.read(&target));
    let mut cuts = 0;
    for _ in 0..6 {
        let (ranges, delta) = list_across_cuts(&node.socket, Ask::Delta { base: &base, target: &target }, random).await;
        assert!(applied(&base_bytes, &target_bytes, &ranges) == target_bytes, "something changed and was not said");
        let (ranges, allocated) = list_across_cuts(&node.socket, Ask::Allocated(&target), random).await;
        assert!(applied(&[], &target_bytes, &ranges) == target_bytes, "something is allocated and was not said");
        cuts += delta + allocated;
    }
    assert!(cuts > 60, "{cuts} cuts");
    drop(device);
    node.pool.detach(Node::object(&volume)).unwrap();
}

/// Snapshots of a raw volume that is written to meanwhile.
async fn writes_in_flight(node: &Node, random: &mut StdRng) {
    const CUTS: usize = 12;
    let volume = node.create("busy", SMALL, block(WRITER), None).await;
    let writers = Writers::start(&node.attach(&volume), SMALL, random.random());
    let mut snapshots: Vec<(String, Vec<u8>)> = Vec::new();
    for index in 0..CUTS {
        writers.wait_for(2);
        let snapshot = node.cut(&format!("busy-{index}"), &volume).await;
        let bytes = node.read(&snapshot);
        assert!(snapshots.last().is_none_or(|(_, last)| *last != bytes), "nothing was in flight");
        snapshots.push((snapshot, bytes));
        let base = random.random_range(0..=index);
        node.check(&snapshots[base].0, &snapshots[index].0, random).await;
    }
    drop(writers);
    // What is said of a snapshot was settled when the cut returned.
    for (index, (target, bytes)) in snapshots.iter().enumerate() {
        assert!(node.read(target) == *bytes, "a snapshot changed");
        node.check(&snapshots[index.saturating_sub(1)].0, target, random).await;
    }
    node.pool.detach(Node::object(&volume)).unwrap();
}

/// A mounted file system whose files change.
async fn file_system(node: &Node, sandbox: &Sandbox, random: &mut StdRng) {
    let capability = || mount("ext4", WRITER);
    let volume = node.create("files", 64 << 20, capability(), None).await;
    let staging = sandbox.directory("kubelet/staging");
    let path = staging.to_str().unwrap();
    node.node.clone().node_stage_volume(csi_harness::stage(&volume, path, capability())).await.unwrap();
    let mut snapshots: Vec<String> = Vec::new();
    for round in 0..6 {
        (0..20).for_each(|_| files::change(&staging, random));
        snapshots.push(node.cut(&format!("files-{round}"), &volume).await);
        let base = &snapshots[random.random_range(0..=round)];
        node.check(base, &snapshots[round], random).await;
    }
    let request = NodeUnstageVolumeRequest { volume_id: volume, staging_target_path: path.to_owned() };
    node.node.clone().node_unstage_volume(request).await.unwrap();
}

fn nothing_is_missed(pool_fs: FsType, checksum: &'static str) {
    let sandbox = Sandbox::new();
    let image = sandbox.pool(pool_fs);
    let directory = image.directory().join("pool");
    fs::create_dir(&directory).unwrap();
    create_pool(&directory).unwrap();
    // Ends before the image goes, also on a panic, and with it all that holds the pool.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let node = Node::start(&sandbox, directory, pool_fs, checksum).await;
        let mut random = StdRng::seed_from_u64(4);
        deltas_are_small(&node).await;
        cuts_of_the_connection(&node, &mut random).await;
        writes_in_flight(&node, &mut random).await;
        file_system(&node, &sandbox, &mut random).await;
        random_operations(&node, &mut random).await;
    });
}

#[test]
fn nothing_is_missed_on_an_xfs_pool() {
    nothing_is_missed(FsType::Xfs, "false");
}

#[test]
fn nothing_is_missed_on_a_btrfs_pool() {
    nothing_is_missed(FsType::Btrfs, "false");
}

#[test]
fn nothing_is_missed_on_a_btrfs_pool_that_keeps_checksums() {
    nothing_is_missed(FsType::Btrfs, "true");
}
