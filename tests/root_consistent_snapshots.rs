//! Snapshots of volumes in use: a hundred of a mounted and written ext4, a hundred of an XFS, each of which other people's
//! programs find clean; and what happens when the cut hangs, when someone else froze the file system first, and to a raw
//! block volume.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_types, reason = "the answers of gRPC calls are compared")]

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use common::csi::{Csi, Source, Use, new_snapshot};
use common::fixture::{Bench, PoolFileSystem};
use common::node::Node;
use common::program::{command, run, run_ok, unmount};
use common::writer::{Durable, Writers, assert_whole};
use common::{GIB, MIB, wait_for};

/// How many snapshots of each file system.
const SNAPSHOTS: usize = 100;
/// Size of the volumes.
const SIZE: u64 = 512 * MIB;

/// Checks a copy of a snapshot of a file system that was written until the cut: that it is clean, and that `durable` is whole.
///
/// ext4 leaves nothing in its journal when it is frozen, so it is clean as it is. XFS leaves its log to be replayed on
/// purpose (of unlinked files and counters), so it is checked after a mount has done so.
fn check_copy(fs_type: &str, device: &Path, look: &Path, durable: &Durable, written_at: &Path) {
    let mount = |options: &str| {
        run_ok(command("mount").args(["-t", fs_type, "-o", options]).arg(device).arg(look));
        assert_whole(durable, written_at, look);
        unmount(look);
    };
    match fs_type {
        "ext4" => {
            run_ok(command("e2fsck").args(["-f", "-n"]).arg(device));
            let superblock = run_ok(command("dumpe2fs").arg("-h").arg(device)).text();
            assert!(!superblock.contains("needs_recovery"), "the journal needs a replay: the file system was not frozen");
            mount("ro,noload");
        }
        "xfs" => {
            mount("nouuid");
            run_ok(command("xfs_repair").arg("-n").arg(device));
        }
        other => panic!("no program checks {other} here"),
    }
}

fn hundred_snapshots_are_clean(fs_type: &'static str, file_system: PoolFileSystem) {
    let bench = Bench::with_pool(file_system, 8 * GIB);
    let node = bench.start();
    let csi = node.csi();
    let usage = Use::Mount(fs_type);
    let volume = csi.make_volume("written", SIZE, usage, &Source::Blank);
    let paths = csi.bring_up(&bench.root(), "written", &volume, usage);
    let look = bench.path().join("look");
    fs::create_dir(&look).unwrap();
    let writers = Writers::start(&paths.target, 2);
    wait_for("the writers to be under way", Duration::from_secs(30), || (writers.steps() > 20).then_some(()));

    let steps_before = writers.steps();
    let mut slowest = Duration::ZERO;
    for number in 0..SNAPSHOTS {
        let durable = writers.durable();
        let start = Instant::now();
        let snapshot = csi.make_snapshot(&format!("snapshot-{number}"), &volume);
        slowest = slowest.max(start.elapsed());

        // As a block volume, so that nothing mounts, replays or repairs it before the check.
        let copy = csi.make_volume(&format!("copy-{number}"), SIZE, Use::Block, &Source::Snapshot(snapshot.clone()));
        let seen = csi.bring_up(&bench.root(), "copy", &copy, Use::Block);
        check_copy(fs_type, &seen.target, &look, &durable, &paths.target);
        csi.take_down(&copy, &seen);
        csi.drop_volume(&copy);
        csi.drop_snapshot(&snapshot);
    }
    let steps = writers.steps() - steps_before;
    println!("{SNAPSHOTS} snapshots of {fs_type} clean; {steps} files written meanwhile; slowest cut {slowest:?}");
    assert!(steps as usize > SNAPSHOTS, "the writers hardly ran: {steps} steps");
    writers.finish();
    csi.take_down(&volume, &paths);
    csi.drop_volume(&volume);
    node.stop();
    assert_eq!(bench.attached(), Vec::<String>::new());
}

#[test]
fn a_hundred_snapshots_of_a_written_ext4_are_clean() {
    hundred_snapshots_are_clean("ext4", PoolFileSystem::Xfs);
}

#[test]
fn a_hundred_snapshots_of_a_written_xfs_are_clean() {
    hundred_snapshots_are_clean("xfs", PoolFileSystem::Btrfs);
}

/// A node with a published ext4 volume and a writer on it.
struct Busy {
    node: Node,
    csi: Csi,
    volume: String,
    paths: common::csi::Paths,
}

fn busy(bench: &Bench, node: Node) -> Busy {
    let csi = node.csi();
    let usage = Use::Mount("ext4");
    let volume = csi.make_volume("busy", SIZE, usage, &Source::Blank);
    let paths = csi.bring_up(&bench.root(), "busy", &volume, usage);
    Busy { node, csi, volume, paths }
}

/// The failure point between the freeze and the cut.
const CUT: &str = "pool.snapshot.before";
/// The deadline of every freeze, and some time for a busy machine.
const THAW_BOUND: Duration = Duration::from_secs(10 + 5);

#[test]
fn a_cut_that_hangs_does_not_keep_the_file_system_frozen() {
    let bench = Bench::with_pool(PoolFileSystem::Xfs, 4 * GIB);
    let Busy { node, csi, volume, paths } = busy(&bench, bench.start_armable());
    let writers = Writers::start(&paths.target, 1);
    wait_for("the writer to be under way", Duration::from_secs(30), || (writers.steps() > 5).then_some(()));

    bench.arm(&format!("hang:1:{CUT}"));
    let endpoint = bench.options().socket;
    let request = new_snapshot("hanging", &volume);
    // The answer, if there is one, is that the snapshot was given up. It may also never come: its thread hangs.
    let call = std::thread::spawn(move || Csi::connect(&endpoint).create_snapshot(request));
    let start = Instant::now();
    wait_for("the cut to begin", Duration::from_secs(30), || bench.trace().iter().any(|name| name == CUT).then_some(()));
    let frozen_at = writers.steps();
    wait_for("the writer to get on", THAW_BOUND, || (writers.steps() > frozen_at + 10).then_some(()));
    println!("the writer went on {:?} after the call", start.elapsed());
    writers.finish();

    bench.disarm();
    node.kill();
    match call.join().unwrap() {
        Ok(answer) => panic!("a snapshot whose cut hung was acknowledged: {answer:?}"),
        Err(status) => println!("the call ended with {status}"),
    }

    let node = bench.start_armable();
    let csi_again = node.csi();
    drop(csi);
    assert_eq!(csi_again.snapshot_ids(), Vec::<String>::new(), "the given-up snapshot is visible");
    File::create(paths.target.join("not-frozen")).unwrap().sync_all().unwrap();
    let snapshot = csi_again.make_snapshot("hanging", &volume);
    csi_again.drop_snapshot(&snapshot);
    csi_again.take_down(&volume, &paths);
    csi_again.drop_volume(&volume);
    node.stop();
    assert_eq!(bench.attached(), Vec::<String>::new());
}

#[test]
fn a_node_killed_while_it_holds_a_freeze_thaws_at_its_next_start() {
    let bench = Bench::with_pool(PoolFileSystem::Btrfs, 4 * GIB);
    let Busy { mut node, csi, volume, paths } = busy(&bench, bench.start_armable());
    bench.arm(&format!("kill:1:{CUT}"));
    csi.create_snapshot(new_snapshot("cut", &volume)).unwrap_err();
    assert!(node.wait_death(Duration::from_secs(30)).is_some());
    bench.disarm();

    let node = bench.start_armable();
    let target = paths.target.clone();
    let write = std::thread::spawn(move || File::create(target.join("not-frozen")).unwrap().sync_all().unwrap());
    wait_for("a write to end", THAW_BOUND, || write.is_finished().then_some(()));
    write.join().unwrap();
    let csi = node.csi();
    let snapshot = csi.make_snapshot("cut", &volume);
    csi.drop_snapshot(&snapshot);
    csi.take_down(&volume, &paths);
    csi.drop_volume(&volume);
    node.stop();
}

#[test]
fn a_file_system_frozen_by_someone_else_is_cut_and_left_frozen() {
    let bench = Bench::with_pool(PoolFileSystem::Xfs, 4 * GIB);
    let Busy { node, csi, volume, paths } = busy(&bench, bench.start());
    fs::write(paths.target.join("before"), b"before the freeze").unwrap();
    run_ok(command("fsfreeze").arg("--freeze").arg(&paths.target));

    let snapshot = csi.make_snapshot("cut", &volume);
    let second = run(command("fsfreeze").arg("--freeze").arg(&paths.target)).failure();
    assert!(second.contains("busy"), "the file system was thawed: {second}");
    run_ok(command("fsfreeze").arg("--unfreeze").arg(&paths.target));

    let usage = Use::Mount("ext4");
    let copy = csi.make_volume("copy", SIZE, usage, &Source::Snapshot(snapshot.clone()));
    let seen = csi.bring_up(&bench.root(), "copy", &copy, usage);
    assert_eq!(fs::read(seen.target.join("before")).unwrap(), b"before the freeze");
    csi.take_down(&copy, &seen);
    csi.drop_volume(&copy);
    csi.drop_snapshot(&snapshot);
    csi.take_down(&volume, &paths);
    csi.drop_volume(&volume);
    node.stop();
}

/// What was written to a raw block volume, through the page cache and never flushed by its user, is in the snapshot.
#[test]
fn a_snapshot_of_a_raw_block_volume_holds_what_was_written_and_not_flushed() {
    for file_system in PoolFileSystem::ALL {
        let bench = Bench::with_pool(file_system, 4 * GIB);
        let node = bench.start();
        let csi = node.csi();
        let volume = csi.make_volume("raw", SIZE, Use::Block, &Source::Blank);
        let paths = csi.bring_up(&bench.root(), "raw", &volume, Use::Block);
        let device = OpenOptions::new().read(true).write(true).open(&paths.target).unwrap();
        for round in 1..=10_u8 {
            let written = vec![round; MIB as usize];
            let offset = u64::from(round) * 7 * MIB;
            device.write_all_at(&written, offset).unwrap();
            let snapshot = csi.make_snapshot(&format!("snapshot-{round}"), &volume);
            // Later than the cut: must not be in it.
            device.write_all_at(&vec![0xff; MIB as usize], offset).unwrap();

            let copy = csi.make_volume(&format!("copy-{round}"), SIZE, Use::Block, &Source::Snapshot(snapshot.clone()));
            let seen = csi.bring_up(&bench.root(), "copy", &copy, Use::Block);
            let mut found = vec![0; MIB as usize];
            File::open(&seen.target).unwrap().read_exact_at(&mut found, offset).unwrap();
            assert!(found == written, "round {round} on {}", file_system.name());
            csi.take_down(&copy, &seen);
            csi.drop_volume(&copy);
            csi.drop_snapshot(&snapshot);
        }
        drop(device);
        csi.take_down(&volume, &paths);
        csi.drop_volume(&volume);
        node.stop();
        assert_eq!(bench.attached(), Vec::<String>::new());
    }
}
