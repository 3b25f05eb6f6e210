//! Cuts of a frozen file system: one that hangs, one whose node dies, and one of a file system that someone else froze.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use super::SIZE;
use crate::common::csi::{Csi, Paths, Source, Use, new_snapshot};
use crate::common::fixture::{Bench, PoolFileSystem};
use crate::common::node::Node;
use crate::common::program::{command, run, run_ok};
use crate::common::writer::Writers;
use crate::common::{GIB, wait_for};

/// A node with a published ext4 volume and a writer on it.
struct Busy {
    node: Node,
    csi: Csi,
    volume: String,
    paths: Paths,
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

/// The file system is thawed at the deadline, and the snapshot never seen.
pub fn a_hanging_cut_ends(file_system: PoolFileSystem) {
    let bench = Bench::with_pool(file_system, 4 * GIB);
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

/// The next start thaws what a dead node froze.
pub fn the_freeze_of_a_dead_node_ends(file_system: PoolFileSystem) {
    let bench = Bench::with_pool(file_system, 4 * GIB);
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

/// Someone else's freeze is theirs to end.
pub fn a_foreign_freeze_stays(file_system: PoolFileSystem) {
    let bench = Bench::with_pool(file_system, 4 * GIB);
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
