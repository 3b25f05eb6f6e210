#![cfg(all(feature = "thin-tests", feature = "failpoints"))]
//! Deleted space of a thin pool goes down to the disk, in the background, where the pool says so. The disk is a sparse file behind a loop
//! device, which has what was discarded taken out of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_types, reason = "the gRPC codes are what the tests look at")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use common::csi::{Csi, Source, Use, new_volume};
use common::fixture::{Bench, PoolFileSystem};
use common::node::{Node, NodeOptions};
use common::program::{run_ok, windlass};
use common::{GIB, MIB, wait_for};
use csi_proto::csi::v1 as proto;
use tonic::Code;

/// Longest time for the background to get to what was deleted; it discards a gibibyte in a second.
const BOUND: Duration = Duration::from_secs(60);
/// Metadata, catalogue and blocks that are written in part.
const SLACK: u64 = 2 * MIB;

/// Bytes that the pool's disk takes.
fn taken(bench: &Bench) -> u64 {
    fs::metadata(bench.image()).unwrap().blocks() * 512
}

fn wait_until_taken(bench: &Bench, most: u64) {
    let is_given_back = || (taken(bench) <= most).then_some(());
    wait_for(&format!("a disk that takes {} MiB instead of {}", most / MIB, taken(bench) / MIB), BOUND, is_given_back);
}

fn choose(node: &Node, choice: &str) {
    let set =
        run_ok(windlass().args(["pool", "set", "--deleted-space", choice, "--output", "json", "--endpoint", &node.endpoint()]));
    let set: serde_json::Value = serde_json::from_str(&set.text()).unwrap();
    assert_eq!(set["deleted_space"], choice);
}

/// A raw volume, its paths, and what it is to hold.
struct Raw<'a> {
    bench: &'a Bench,
    csi: &'a Csi,
    id: String,
    content: Vec<u8>,
}

impl<'a> Raw<'a> {
    fn new(bench: &'a Bench, csi: &'a Csi, name: &str, bytes: u64, source: &Source) -> Self {
        let id = csi.make_volume(name, bytes, Use::Block, source);
        Self { bench, csi, id, content: vec![0; usize::try_from(bytes).unwrap()] }
    }

    fn with_device(&self, work: impl FnOnce(&File)) {
        let paths = self.csi.bring_up(&self.bench.root(), "pod", &self.id, Use::Block);
        let device = File::options().read(true).write(true).open(&paths.target).unwrap();
        work(&device);
        device.sync_all().unwrap();
        drop(device);
        self.csi.take_down(&self.id, &paths);
    }

    fn write(&mut self, offset: u64, bytes: u64, byte: u8) {
        let (begin, end) = (usize::try_from(offset).unwrap(), usize::try_from(offset + bytes).unwrap());
        self.content[begin..end].fill(byte);
        self.with_device(|device| device.write_all_at(&self.content[begin..end], offset).unwrap());
    }

    fn check(&self) {
        let mut found = vec![0; self.content.len()];
        self.with_device(|device| device.read_exact_at(&mut found, 0).unwrap());
        assert!(found == self.content, "{} is not what was written", self.id);
    }
}

#[test]
fn the_disk_gets_back_what_nothing_else_holds_and_what_is_shared_is_not_touched() {
    let bench = Bench::with_pool(PoolFileSystem::Thin, GIB);
    let node = bench.start();
    let csi = node.csi();
    // Unless somebody chose it, the disk is told nothing.
    let mut kept = Raw::new(&bench, &csi, "kept", 16 * MIB, &Source::Blank);
    kept.write(0, 12 * MIB, 1);
    let before = taken(&bench);
    csi.drop_volume(&kept.id);
    assert!(taken(&bench) >= before);
    choose(&node, "discarded");

    let mut volume = Raw::new(&bench, &csi, "volume", 24 * MIB, &Source::Blank);
    volume.write(0, 20 * MIB, 2);
    let snapshot = csi.make_snapshot("snapshot", &volume.id);
    let mut copy = Raw::new(&bench, &csi, "copy", 24 * MIB, &Source::Snapshot(snapshot.clone()));
    copy.content.clone_from(&volume.content);
    volume.write(0, 10 * MIB, 3);
    copy.write(17 * MIB, 2 * MIB, 4);
    let full = taken(&bench);

    // A copy was made of it: it is kept as an anchor, of which only a map is needed. Nothing was its own.
    csi.drop_snapshot(&snapshot);
    // What the volume has not: its first 10 MiB of old, and 2 MiB of new.
    copy.check();
    csi.drop_volume(&copy.id);
    wait_until_taken(&bench, full - 12 * MIB + SLACK);
    volume.check();

    // A snapshot that somebody used holds data that only it has, until it is deleted and an anchor.
    let second = csi.make_snapshot("second", &volume.id);
    let copy = Raw::new(&bench, &csi, "second-copy", 24 * MIB, &Source::Snapshot(second.clone()));
    csi.drop_volume(&copy.id);
    volume.write(0, 10 * MIB, 5);
    let full = taken(&bench);
    csi.drop_snapshot(&second);
    wait_until_taken(&bench, full - 10 * MIB + SLACK);
    volume.check();
    csi.drop_volume(&volume.id);
    wait_until_taken(&bench, full - 30 * MIB + SLACK);
    drop(csi);
    node.stop();
    assert_eq!(bench.attached(), [""; 0]);
}

#[test]
fn a_node_that_dies_at_any_step_goes_on_at_its_next_start() {
    let bench = Bench::with_pool(PoolFileSystem::Thin, GIB);
    let node = bench.start();
    choose(&node, "discarded");
    node.stop();
    // The first of them between two pieces.
    for (point, bytes) in [("piece", 72 * MIB), ("before_delete", 8 * MIB), ("after_delete", 8 * MIB)] {
        let armed = ("WINDLASS_FAILPOINT".to_owned(), format!("kill:1:thin.discard.{point}"));
        let mut node = Node::start(&NodeOptions { environment: vec![armed], ..bench.options() });
        let csi = node.csi();
        let mut volume = Raw::new(&bench, &csi, point, bytes, &Source::Blank);
        volume.write(0, bytes, 6);
        let full = taken(&bench);
        let id = volume.id.clone();
        // It may die before it answers.
        let request = || proto::DeleteVolumeRequest { volume_id: id.clone(), ..Default::default() };
        let _ = csi.delete_volume(request());
        drop(csi);
        node.wait_death(BOUND).unwrap_or_else(|| panic!("{point} was not reached"));
        let node = bench.start();
        let csi = node.csi();
        csi.delete_volume(request()).unwrap();
        wait_until_taken(&bench, full - bytes + SLACK);
        let pool = csi.pools().unwrap().remove(0);
        assert_eq!((pool.state.as_str(), pool.quarantined, csi.volume_ids()), ("ready", Vec::new(), Vec::new()), "{point}");
        drop(csi);
        node.stop();
    }
}

#[test]
fn a_pool_without_room_gives_it_to_volumes_at_once_and_discards_nothing() {
    let bench = Bench::with_pool(PoolFileSystem::Thin, 128 * MIB);
    let node = bench.start();
    let csi = node.csi();
    choose(&node, "discarded");
    // Ten percent are kept free.
    let bytes = csi.pools().unwrap()[0].total_bytes / MIB * 95 / 100 * MIB;
    let mut eater = Raw::new(&bench, &csi, "eater", bytes, &Source::Blank);
    eater.write(0, bytes, 7);
    let request = || new_volume("next", 16 * MIB, Use::Block, &Source::Blank);
    assert_eq!(csi.create_volume(request()).unwrap_err().code(), Code::ResourceExhausted);
    let full = taken(&bench);
    csi.drop_volume(&eater.id);
    let next = wait_for("a volume", BOUND, || csi.create_volume(request()).ok()).volume.unwrap().volume_id;
    assert!(taken(&bench) >= full);
    csi.drop_volume(&next);
    drop(csi);
    node.stop();
}
