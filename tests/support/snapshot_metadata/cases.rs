//! Cases of which each has something of its own: small changes, cut connections, writes in flight, files.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use csi_proto::csi::v1::NodeUnstageVolumeRequest;
use rand::RngExt;
use rand::rngs::StdRng;

use super::node::Node;
use super::{SMALL, WRITER};
use crate::csi_harness::{self, block, mount};
use crate::metadata_client::{Ask, applied, list, list_across_cuts};
use crate::random_volumes::writers::Writers;
use crate::random_volumes::{BLOCK, files};
use crate::root_support::pattern;

/// Small changes have small deltas: what is said is not just everything.
pub async fn deltas_are_small(node: &Node) {
    let unit = node.opened.kind.granularity();
    let volume = node.create("quiet", SMALL, block(WRITER), None).await;
    let device = node.attach(&volume);
    let device = OpenOptions::new().write(true).open(device).unwrap();
    device.write_all_at(&pattern(1, SMALL as usize), 0).unwrap();
    let base = node.cut("quiet-1", &volume).await;
    device.write_all_at(&pattern(2, BLOCK as usize), 77 * BLOCK).unwrap();
    let target = node.cut("quiet-2", &volume).await;
    let again = node.cut("quiet-3", &volume).await;
    let listed = list(&node.metadata, Ask::Delta { base: &base, target: &target }, 0, 0).await.unwrap();
    assert_eq!(listed.ranges, [(77 * BLOCK / unit * unit, unit)]);
    let listed = list(&node.metadata, Ask::Delta { base: &target, target: &again }, 0, 0).await.unwrap();
    assert_eq!((listed.ranges.len(), listed.capacity), (0, Some(SMALL as i64)));
    let listed = list(&node.metadata, Ask::Allocated(&again), 0, 0).await.unwrap();
    assert_eq!(listed.ranges, [(0, SMALL)]);
    drop(device);
    node.pool.detach(Node::object(&volume)).unwrap();
}

/// A list of many ranges over connections that are cut anywhere: each cut is an error, and what was said before and after all
/// of them turns the base into the target.
pub async fn cuts_of_the_connection(node: &Node, random: &mut StdRng) {
    const UNITS: u64 = 1500;
    let unit = node.opened.kind.granularity();
    let volume = node.create("cut", UNITS * unit, block(WRITER), None).await;
    let device = OpenOptions::new().write(true).open(node.attach(&volume)).unwrap();
    device.write_all_at(&pattern(1, (UNITS / 2 * unit) as usize), 0).unwrap();
    let base = node.cut("cut-1", &volume).await;
    for index in (0..UNITS).filter(|index| index % 3 == 0) {
        device.write_all_at(&pattern(index, BLOCK as usize), index * unit).unwrap();
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
pub async fn writes_in_flight(node: &Node, random: &mut StdRng) {
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
pub async fn file_system(node: &Node, random: &mut StdRng) {
    let capability = || mount("ext4", WRITER);
    let volume = node.create("files", 64 << 20, capability(), None).await;
    let staging = node.root.join("staging");
    fs::create_dir(&staging).unwrap();
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
