//! Snapshots of a file system that is being written to.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::SIZE;
use crate::common::csi::{Source, Use};
use crate::common::fixture::{Bench, PoolFileSystem};
use crate::common::program::{command, run_ok, unmount};
use crate::common::writer::{Durable, Writers, assert_whole};
use crate::common::{GIB, wait_for};

/// How many snapshots of each file system.
const SNAPSHOTS: usize = 100;

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

/// Cuts a hundred snapshots, or as many as the kind of pool allows, of a file system that is written to, and checks each.
pub fn snapshots_are_clean(fs_type: &'static str, file_system: PoolFileSystem) {
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
    let snapshots = file_system.repetitions(SNAPSHOTS);
    for number in 0..snapshots {
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
    println!("{snapshots} snapshots of {fs_type} clean; {steps} files written meanwhile; slowest cut {slowest:?}");
    assert!(steps as usize > snapshots, "the writers hardly ran: {steps} steps");
    writers.finish();
    csi.take_down(&volume, &paths);
    csi.drop_volume(&volume);
    node.stop();
    assert_eq!(bench.attached(), Vec::<String>::new());
}
