//! The SnapshotMetadata service over pools in memory, on a real socket: every rule of the streams, every wrong request, and that
//! applying what changed to the base gives the target.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly, wherever it does")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

#[path = "support/csi_harness.rs"]
mod csi_harness;
#[path = "support/metadata_client/mod.rs"]
mod metadata_client;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use csi_harness::{Node, SIZE, SNAPSHOT_ELSEWHERE, VOLUME_ELSEWHERE, block, bytes, from_snapshot, mount, new_volume};
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use metadata_client::{Ask, applied, content, delete_soon, list, list_in_pieces, open, refused};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonic::Code;
use windlass::block::file_ops;
use windlass::mount::memory::MemoryMounter;
use windlass::types::{Access, ByteRange, Object, SnapshotHandle, VolumeHandle};

const WRITER: Mode = Mode::SingleNodeWriter;
const BLOCK: u64 = 4096;
/// Of a small volume.
const SMALL: u64 = 64 * BLOCK;

/// Work on a volume's bytes.
fn with_volume<T>(node: &Node, volume: &str, work: impl FnOnce(&File) -> T) -> T {
    let handle: VolumeHandle = volume.parse().unwrap();
    let pool = node.pools.iter().find(|pool| pool.id() == handle.pool).unwrap();
    let object = Object::Volume(handle.volume);
    let device = pool.attach(object, Access::ReadWrite).unwrap().device;
    let done = work(&OpenOptions::new().read(true).write(true).open(device).unwrap());
    pool.detach(object).unwrap();
    done
}

fn write(node: &Node, volume: &str, blocks: &[u64]) {
    with_volume(node, volume, |file| {
        for &block in blocks {
            file.write_all_at(&vec![7 + u8::try_from(block % 199).unwrap(); BLOCK as usize], block * BLOCK).unwrap();
        }
    });
}

/// A snapshot's bytes.
fn read(node: &Node, snapshot: &str) -> Vec<u8> {
    let handle: SnapshotHandle = snapshot.parse().unwrap();
    let pool = node.pools.iter().find(|pool| pool.id() == handle.pool).unwrap();
    let lease = pool.lease(handle.snapshot).unwrap();
    let mut bytes = vec![0; lease.size().bytes() as usize];
    lease.file().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

async fn small_volume(node: &Node, name: &str) -> String {
    let request = CreateVolumeRequest { capacity_range: bytes(SMALL as i64, 0), ..new_volume(name, block(WRITER)) };
    node.create(request).await.unwrap().volume_id
}

async fn cut(node: &Node, name: &str, volume: &str) -> String {
    node.snapshot(name, volume).await.unwrap().snapshot_id
}

async fn grow(node: &Node, volume: &str, to: u64) {
    let request =
        ControllerExpandVolumeRequest { volume_id: volume.to_owned(), capacity_range: bytes(to as i64, 0), ..Default::default() };
    node.controller.clone().controller_expand_volume(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_request_has_its_code() {
    use Code::{InvalidArgument, NotFound, OutOfRange, Unavailable};
    let mounter = Arc::new(MemoryMounter::new());
    let pools = vec![csi_harness::pool(&mounter, 8 << 30), csi_harness::pool(&mounter, 4 << 30)];
    let (first, second) = (pools[0].id(), pools[1].id());
    let boot_id = windlass::mount::boot_id().unwrap();
    let node = Node::with(Arc::new(tempfile::tempdir().unwrap()), mounter, pools, &boot_id).await;
    let volume = small_volume(&node, "a").await;
    let (base, target) = (cut(&node, "a-1", &volume).await, cut(&node, "a-2", &volume).await);
    let other = small_volume(&node, "b").await;
    let other = cut(&node, "b-1", &other).await;
    let gone = cut(&node, "a-3", &volume).await;
    node.delete_snapshot(&gone).await.unwrap();
    let parsed: SnapshotHandle = base.parse().unwrap();
    let elsewhere_here = if parsed.pool == first { second } else { first };
    let in_other_pool = SnapshotHandle { pool: elsewhere_here, snapshot: parsed.snapshot }.to_string();
    let long = "s".repeat(129);

    let size = SMALL as i64;
    let snapshots: [(&str, &str, Code); 7] = [
        ("empty", "", InvalidArgument),
        ("long", &long, InvalidArgument),
        ("no handle", "fake", NotFound),
        ("a path", "../../etc", NotFound),
        ("a volume's handle", &volume, NotFound),
        ("deleted", &gone, NotFound),
        ("another node's", SNAPSHOT_ELSEWHERE, Unavailable),
    ];
    for (row, snapshot, code) in snapshots {
        refused(row, open(&node.metadata, Ask::Allocated(snapshot), 0, 0).await, code, "snapshot_id");
        let asked = Ask::Delta { base: &base, target: snapshot };
        let (code, names) = match code {
            // Of a pool other than the base's: of another volume for certain.
            Unavailable => (InvalidArgument, "base_snapshot_id"),
            code => (code, "target_snapshot_id"),
        };
        refused(&format!("target: {row}"), open(&node.metadata, asked, 0, 0).await, code, names);
        let asked = Ask::Delta { base: snapshot, target: &target };
        let code = if code == Unavailable { InvalidArgument } else { code };
        refused(&format!("base: {row}"), open(&node.metadata, asked, 0, 0).await, code, "base_snapshot_id");
    }
    let in_a_pool_that_is_away = Ask::Delta { base: SNAPSHOT_ELSEWHERE, target: SNAPSHOT_ELSEWHERE };
    refused("both elsewhere", open(&node.metadata, in_a_pool_that_is_away, 0, 0).await, Unavailable, "target_snapshot_id");
    refused("no volume of ours", open(&node.metadata, Ask::Allocated(VOLUME_ELSEWHERE), 0, 0).await, NotFound, "snapshot_id");

    for (row, base, target) in [
        ("another volume", other.as_str(), target.as_str()),
        ("the younger as base", target.as_str(), base.as_str()),
        ("another pool of this node", in_other_pool.as_str(), target.as_str()),
    ] {
        let asked = Ask::Delta { base, target };
        refused(row, open(&node.metadata, asked, 0, 0).await, InvalidArgument, "base_snapshot_id");
    }
    for asked in [Ask::Allocated(&base), Ask::Delta { base: &base, target: &target }, Ask::Delta { base: &base, target: &base }] {
        for (row, offset, results, code, names) in [
            ("negative offset", -1, 0, OutOfRange, "starting_offset"),
            ("smallest offset", i64::MIN, 0, OutOfRange, "starting_offset"),
            ("offset beyond the end", size + 1, 0, OutOfRange, "starting_offset"),
            ("largest offset", i64::MAX, 0, OutOfRange, "starting_offset"),
            ("negative results", 0, -1, InvalidArgument, "max_results"),
            ("smallest results", 0, i32::MIN, InvalidArgument, "max_results"),
        ] {
            refused(row, open(&node.metadata, asked, offset, results).await, code, names);
        }
    }
    let secrets = HashMap::from([("key".to_owned(), "hush".repeat(2000))]);
    let request = GetMetadataAllocatedRequest { snapshot_id: base.clone(), secrets: secrets.clone(), ..Default::default() };
    let status = node.metadata.clone().get_metadata_allocated(request).await.map(drop);
    assert!(!status.as_ref().unwrap_err().message().contains("hush"));
    refused("large secrets", status, InvalidArgument, "secrets");
    let request = GetMetadataDeltaRequest { base_snapshot_id: base, target_snapshot_id: target, secrets, ..Default::default() };
    refused("large secrets", node.metadata.clone().get_metadata_delta(request).await, InvalidArgument, "secrets");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_always_a_message_and_it_says_the_capacity() {
    let node = Node::start().await;
    let volume = small_volume(&node, "a").await;
    let base = cut(&node, "a-1", &volume).await;
    write(&node, &volume, &[3, 4, 9]);
    let target = cut(&node, "a-2", &volume).await;
    let size = SMALL as i64;
    for (row, asked, start, expected) in [
        ("nothing is allocated", Ask::Allocated(&base), 0, vec![]),
        ("base and target are one", Ask::Delta { base: &target, target: &target }, 0, vec![]),
        ("from the end", Ask::Allocated(&target), SMALL, vec![]),
        ("from the end", Ask::Delta { base: &base, target: &target }, SMALL, vec![]),
        ("after the last", Ask::Allocated(&target), 10 * BLOCK, vec![]),
        ("all", Ask::Allocated(&target), 0, vec![(3, 2), (9, 1)]),
        ("all", Ask::Delta { base: &base, target: &target }, 0, vec![(3, 2), (9, 1)]),
        ("from within the first", Ask::Allocated(&target), 4 * BLOCK + 1, vec![(3, 2), (9, 1)]),
        ("from the end of the first", Ask::Delta { base: &base, target: &target }, 5 * BLOCK, vec![(9, 1)]),
    ] {
        for most in [0, 1, 2, i32::MAX] {
            let listed = list(&node.metadata, asked, start, most).await.unwrap();
            let expected: Vec<(u64, u64)> = expected.iter().map(|&(at, count)| (at * BLOCK, count * BLOCK)).collect();
            assert_eq!(listed.ranges, expected, "{row}");
            assert_eq!(listed.capacity, Some(size), "{row}");
            assert_eq!(listed.messages, if most == 1 { expected.len().max(1) } else { 1 }, "{row}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_with_file_systems_grown_volumes_and_deleted_sources_are_answered() {
    let node = Node::start().await;
    let volume = node.volume("fs", mount("ext4", WRITER)).await;
    write(&node, &volume, &[0, 1, 100]);
    let base = cut(&node, "fs-1", &volume).await;
    let grown = SIZE.unsigned_abs() * 2;
    grow(&node, &volume, grown).await;
    with_volume(&node, &volume, |file| file_ops::punch_hole(file, ByteRange::new(BLOCK, BLOCK).unwrap()).unwrap());
    write(&node, &volume, &[SIZE.unsigned_abs() / BLOCK + 5]);
    let target = cut(&node, "fs-2", &volume).await;
    let between = cut(&node, "fs-3", &volume).await;
    for _ in 0..2 {
        let listed = list(&node.metadata, Ask::Delta { base: &base, target: &target }, 0, 0).await.unwrap();
        // What was discarded, and what was written beyond the old end.
        assert_eq!(listed.ranges, [(BLOCK, BLOCK), (SIZE.unsigned_abs() + 5 * BLOCK, BLOCK)]);
        assert_eq!(listed.capacity, Some(grown as i64));
        let listed = list(&node.metadata, Ask::Allocated(&base), 0, 0).await.unwrap();
        assert_eq!((listed.ranges.as_slice(), listed.capacity), ([(0, 2 * BLOCK), (100 * BLOCK, BLOCK)].as_slice(), Some(SIZE)));
        // Snapshots outlive their volume, and are compared without what lay between them.
        node.delete_snapshot(&between).await.unwrap();
        node.delete(&volume).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_what_changed_to_the_base_gives_the_target() {
    for seed in 0..3 {
        random_operations(seed, 300).await;
    }
}

/// Volumes, and the snapshots of each, the oldest first.
#[derive(Default)]
struct Model {
    volumes: Vec<(String, u64, Vec<String>)>,
    names: u64,
}

async fn random_operations(seed: u64, operations: usize) {
    let node = Node::start().await;
    let mut random = StdRng::seed_from_u64(seed);
    let mut model = Model::default();
    let first = small_volume(&node, "first").await;
    model.volumes.push((first, SMALL, Vec::new()));
    for _ in 0..operations {
        model.names += 1;
        let index = random.random_range(0..model.volumes.len());
        let (volume, size, snapshots) = &mut model.volumes[index];
        match random.random_range(0..100) {
            0..70 => with_volume(&node, volume, |file| {
                let start = random.random_range(0..*size);
                let length = random.random_range(1..=(*size - start).min(8 * BLOCK));
                match random.random_range(0..4) {
                    0 => file_ops::punch_hole(file, ByteRange::new(start, length).unwrap()).unwrap(),
                    1 => file_ops::preallocate(file, ByteRange::new(start, length).unwrap()).unwrap(),
                    _ => file.write_all_at(&content(&mut random, length as usize), start).unwrap(),
                }
            }),
            70..84 => {
                snapshots.push(cut(&node, &format!("s-{}", model.names), volume).await);
                let base = &snapshots[random.random_range(0..snapshots.len())];
                check(&node, base, &snapshots[snapshots.len() - 1], &mut random).await;
            }
            84..88 if snapshots.len() > 2 => {
                let gone = snapshots.remove(random.random_range(0..snapshots.len()));
                delete_soon(&node, &gone).await;
            }
            88..92 => {
                *size += random.random_range(0..16) * BLOCK;
                grow(&node, volume, *size).await;
            }
            92..94 if !snapshots.is_empty() => {
                let source = from_snapshot(&snapshots[random.random_range(0..snapshots.len())]);
                let request = CreateVolumeRequest {
                    capacity_range: bytes(*size as i64, 0),
                    volume_content_source: source,
                    ..new_volume(&format!("clone-{}", model.names), block(WRITER))
                };
                let (clone, size) = (node.create(request).await.unwrap().volume_id, *size);
                model.volumes.push((clone, size, Vec::new()));
            }
            _ => {
                let Some(later) = snapshots.len().checked_sub(1).map(|last| random.random_range(0..=last)) else { continue };
                let (base, target) = (&snapshots[random.random_range(0..=later)], &snapshots[later]);
                check(&node, base, target, &mut random).await;
            }
        }
    }
}

async fn check(node: &Node, base: &str, target: &str, random: &mut StdRng) {
    let (base_bytes, target_bytes) = (read(node, base), read(node, target));
    let ranges = list_in_pieces(&node.socket, Ask::Delta { base, target }, random).await;
    assert!(applied(&base_bytes, &target_bytes, &ranges) == target_bytes, "something changed and was not said");
    let ranges = list_in_pieces(&node.socket, Ask::Allocated(target), random).await;
    assert!(applied(&[], &target_bytes, &ranges) == target_bytes, "something is allocated and was not said");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_was_read_and_deleted_answers_as_before_and_any_other_is_not_found() {
    let node = Node::start().await;
    let volume = small_volume(&node, "a").await;
    write(&node, &volume, &[1, 5]);
    let (base, unread) = (cut(&node, "a-1", &volume).await, cut(&node, "a-2", &volume).await);
    list(&node.metadata, Ask::Allocated(&base), 0, 0).await.unwrap();
    node.delete_snapshot(&base).await.unwrap();
    node.delete_snapshot(&unread).await.unwrap();
    write(&node, &volume, &[6, 9]);
    let second = cut(&node, "a-3", &volume).await;
    for _ in 0..2 {
        let listed = list(&node.metadata, Ask::Delta { base: &base, target: &second }, 0, 0).await.unwrap();
        assert_eq!(listed.ranges, [(6 * BLOCK, BLOCK), (9 * BLOCK, BLOCK)]);
    }
    let asked = Ask::Delta { base: &unread, target: &second };
    refused("never read", open(&node.metadata, asked, 0, 0).await, Code::NotFound, "base_snapshot_id");
    // It is nothing but a base.
    refused("deleted", open(&node.metadata, Ask::Allocated(&base), 0, 0).await, Code::NotFound, "snapshot_id");
    let asked = Ask::Delta { base: &second, target: &base };
    refused("deleted", open(&node.metadata, asked, 0, 0).await, Code::NotFound, "target_snapshot_id");
    let other = small_volume(&node, "b").await;
    let other = cut(&node, "b-1", &other).await;
    let asked = Ask::Delta { base: &base, target: &other };
    refused("of another volume", open(&node.metadata, asked, 0, 0).await, Code::InvalidArgument, "base_snapshot_id");

    // Each snapshot is deleted once it was compared, and is the base of the next.
    let mut base = second;
    for round in 10..20 {
        node.delete_snapshot(&base).await.unwrap();
        write(&node, &volume, &[round]);
        let target = cut(&node, &format!("a-{round}"), &volume).await;
        let listed = list(&node.metadata, Ask::Delta { base: &base, target: &target }, 0, 0).await.unwrap();
        assert_eq!(listed.ranges, [(round * BLOCK, BLOCK)]);
        base = target;
    }
    assert!(node.pools[0].anchors().unwrap().len() <= 4);
}
