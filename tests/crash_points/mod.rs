//! The node is killed (`kill -9` of the real process over real pools) before and after every durable step of every call that
//! changes something, and once more at every step of the recovery that follows.
//!
//! What there is to cut is learnt from the node itself: each call runs once while the failure points are traced. After each
//! kill the node starts again, and then
//!
//! * nothing is half-visible: what is listed is what the repeated call answers with;
//! * the same request succeeds, and once more with the same answer;
//! * the content is what was written;
//! * after deletes by CSI nothing is left: no record, file, device, mount, nor anything quarantined.
//!
//! Of these steps a run takes its share; calls and kinds of pools begin to count at different numbers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_types, reason = "the answers of gRPC calls are compared")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::common::csi::{Csi, Paths, Source, Use, capacity, new_snapshot, new_volume, publish, stage, unpublish, unstage};
use super::common::fixture::{Bench, PoolFileSystem};
use super::common::node::Node;
use super::common::{GIB, MIB, wait_for};
use super::share::Share;
use csi_proto::csi::v1 as proto;
use tonic::Status;

/// Size of the volumes: the smallest that every file system takes.
pub const SIZE: u64 = 320 * MIB;
/// What they are grown to.
const GROWN: u64 = 480 * MIB;
/// What is written to them.
const MARKER: &[u8] = b"hauled by a windlass\n";
/// Longest time from a call's end to the death of a node that was armed: the death is the call's end.
const DEATH_BOUND: Duration = Duration::from_secs(30);

/// Names and paths of one round.
pub struct Round {
    name: String,
    root: PathBuf,
    pub volume: String,
    snapshot: String,
    up: Vec<(String, Paths)>,
}

impl Round {
    fn name_of(&self, what: &str) -> String {
        format!("{}-{what}", self.name)
    }

    pub fn paths(&self) -> &Paths {
        &self.up.last().unwrap().1
    }

    /// Makes the volume.
    fn create(&mut self, csi: &Csi, usage: Use) {
        self.volume = csi.make_volume(&self.name_of("volume"), SIZE, usage, &Source::Blank);
    }

    /// Prepares the paths of the volume for staging.
    fn prepare_paths(&mut self) {
        let paths = Paths::prepare(&self.root, &self.name_of("paths"));
        self.up.push((self.volume.clone(), paths));
    }

    /// Makes the volume, stages and publishes it and writes the marker, durably.
    pub fn create_written(&mut self, csi: &Csi, usage: Use) {
        self.create(csi, usage);
        self.prepare_paths();
        csi.node_stage_volume(stage(&self.volume, self.paths(), usage)).unwrap();
        csi.node_publish_volume(publish(&self.volume, self.paths(), usage)).unwrap();
        write_marker(&self.paths().target, usage);
    }
}

fn write_marker(target: &Path, usage: Use) {
    let mut file = match usage {
        Use::Mount(_) => fs::File::create(target.join("marker")).unwrap(),
        Use::Block => fs::OpenOptions::new().write(true).open(target).unwrap(),
    };
    file.write_all(MARKER).unwrap();
    file.sync_all().unwrap();
}

fn read_marker(target: &Path, usage: Use) -> Vec<u8> {
    use std::io::Read;
    let file = match usage {
        Use::Mount(_) => fs::File::open(target.join("marker")).unwrap(),
        Use::Block => fs::File::open(target).unwrap(),
    };
    let mut content = Vec::new();
    file.take(MARKER.len() as u64).read_to_end(&mut content).unwrap();
    content
}

/// One call that changes something: what must exist before, the call, and what must be true after.
pub struct Scenario {
    prepare: fn(&Csi, &mut Round),
    /// The call; its answer as text, to be compared with that to a repeated one.
    call: fn(&Csi, &Round) -> Result<String, Status>,
    verify: fn(&Csi, &mut Round),
}

fn nothing(_: &Csi, _: &mut Round) {}

fn answer<T: std::fmt::Debug>(result: Result<T, Status>) -> Result<String, Status> {
    result.map(|message| format!("{message:?}"))
}

const EXT4: Use = Use::Mount("ext4");
const XFS: Use = Use::Mount("xfs");

/// Checks that a new volume from `source` holds the marker.
fn verify_copy(csi: &Csi, round: &mut Round, source: &Source, usage: Use) {
    let id = csi.make_volume(&round.name_of("check"), SIZE, usage, source);
    verify_marker(csi, round, &id, usage);
}

fn verify_marker(csi: &Csi, round: &mut Round, id: &str, usage: Use) {
    let paths = csi.bring_up(&round.root, &round.name_of("check"), id, usage);
    assert_eq!(read_marker(&paths.target, usage), MARKER);
    csi.take_down(id, &paths);
}

/// The id of the volume whose creation is the call under test, by asking once more.
fn created(csi: &Csi, round: &Round, usage: Use, source: &Source) -> String {
    csi.create_volume(new_volume(&round.name_of("new"), SIZE, usage, source)).unwrap().volume.unwrap().volume_id
}

pub const CREATE_FILE_SYSTEM_VOLUME: Scenario = Scenario {
    prepare: nothing,
    call: |csi, round| answer(csi.create_volume(new_volume(&round.name_of("new"), SIZE, EXT4, &Source::Blank))),
    verify: |csi, round| {
        let id = created(csi, round, EXT4, &Source::Blank);
        let paths = csi.bring_up(&round.root, &round.name_of("check"), &id, EXT4);
        csi.take_down(&id, &paths);
    },
};

pub const CREATE_BLOCK_VOLUME: Scenario = Scenario {
    prepare: nothing,
    call: |csi, round| answer(csi.create_volume(new_volume(&round.name_of("new"), SIZE, Use::Block, &Source::Blank))),
    verify: nothing,
};

pub const CREATE_VOLUME_FROM_SNAPSHOT: Scenario = Scenario {
    prepare: |csi, round| {
        round.create_written(csi, EXT4);
        round.snapshot = csi.make_snapshot(&round.name_of("snapshot"), &round.volume);
    },
    call: |csi, round| {
        let source = Source::Snapshot(round.snapshot.clone());
        answer(csi.create_volume(new_volume(&round.name_of("new"), SIZE, EXT4, &source)))
    },
    verify: |csi, round| {
        let id = created(csi, round, EXT4, &Source::Snapshot(round.snapshot.clone()));
        verify_marker(csi, round, &id, EXT4);
    },
};

pub const CREATE_VOLUME_FROM_VOLUME: Scenario = Scenario {
    prepare: |csi, round| round.create_written(csi, EXT4),
    call: |csi, round| {
        let source = Source::Volume(round.volume.clone());
        answer(csi.create_volume(new_volume(&round.name_of("new"), SIZE, EXT4, &source)))
    },
    verify: |csi, round| {
        let id = created(csi, round, EXT4, &Source::Volume(round.volume.clone()));
        verify_marker(csi, round, &id, EXT4);
    },
};

pub const CREATE_SNAPSHOT_OF_PUBLISHED_VOLUME: Scenario = Scenario {
    prepare: |csi, round| round.create_written(csi, EXT4),
    call: |csi, round| answer(csi.create_snapshot(new_snapshot(&round.name_of("new"), &round.volume))),
    verify: |csi, round| {
        // Not left frozen.
        write_marker(&round.paths().target, EXT4);
        let id = csi.make_snapshot(&round.name_of("new"), &round.volume);
        verify_copy(csi, round, &Source::Snapshot(id), EXT4);
    },
};

pub const CREATE_SNAPSHOT_OF_BLOCK_VOLUME: Scenario = Scenario {
    prepare: |csi, round| round.create_written(csi, Use::Block),
    call: |csi, round| answer(csi.create_snapshot(new_snapshot(&round.name_of("new"), &round.volume))),
    verify: |csi, round| {
        let id = csi.make_snapshot(&round.name_of("new"), &round.volume);
        verify_copy(csi, round, &Source::Snapshot(id), Use::Block);
    },
};

pub const DELETE_VOLUME: Scenario = Scenario {
    prepare: |csi, round| round.create(csi, Use::Block),
    call: |csi, round| {
        let volume_id = round.volume.clone();
        answer(csi.delete_volume(proto::DeleteVolumeRequest { volume_id, ..Default::default() }))
    },
    verify: nothing,
};

pub const DELETE_SNAPSHOT: Scenario = Scenario {
    prepare: |csi, round| {
        round.create(csi, Use::Block);
        round.snapshot = csi.make_snapshot(&round.name_of("snapshot"), &round.volume);
    },
    call: |csi, round| {
        let snapshot_id = round.snapshot.clone();
        answer(csi.delete_snapshot(proto::DeleteSnapshotRequest { snapshot_id, ..Default::default() }))
    },
    verify: nothing,
};

pub const EXPAND_PUBLISHED_VOLUME: Scenario = Scenario {
    prepare: |csi, round| round.create_written(csi, EXT4),
    call: |csi, round| {
        answer(csi.controller_expand_volume(proto::ControllerExpandVolumeRequest {
            volume_id: round.volume.clone(),
            capacity_range: Some(capacity(GROWN)),
            volume_capability: Some(EXT4.capability()),
            ..Default::default()
        }))
    },
    verify: |_, round| assert_eq!(read_marker(&round.paths().target, EXT4), MARKER),
};

/// XFS: the kernel grows a mounted ext4 only for a process with CAP_SYS_RESOURCE, which not every container has.
pub const EXPAND_NODE: Scenario = Scenario {
    prepare: |csi, round| {
        round.create_written(csi, XFS);
        csi.controller_expand_volume(proto::ControllerExpandVolumeRequest {
            volume_id: round.volume.clone(),
            capacity_range: Some(capacity(GROWN)),
            ..Default::default()
        })
        .unwrap();
    },
    call: |csi, round| {
        answer(csi.node_expand_volume(proto::NodeExpandVolumeRequest {
            volume_id: round.volume.clone(),
            volume_path: round.paths().target.display().to_string(),
            staging_target_path: round.paths().staging.display().to_string(),
            capacity_range: Some(capacity(GROWN)),
            volume_capability: Some(XFS.capability()),
            ..Default::default()
        }))
    },
    verify: |_, round| {
        let stats = nix::sys::statvfs::statvfs(&round.paths().target).unwrap();
        // The log takes some of it.
        assert!(stats.blocks() * stats.fragment_size() > SIZE, "the file system did not grow");
        assert_eq!(read_marker(&round.paths().target, XFS), MARKER);
    },
};

/// Stages a blank volume, which formats it.
pub const STAGE_FORMATS: Scenario = Scenario {
    prepare: |csi, round| {
        round.create(csi, EXT4);
        round.prepare_paths();
    },
    call: |csi, round| answer(csi.node_stage_volume(stage(&round.volume, round.paths(), EXT4))),
    verify: |csi, round| {
        csi.node_publish_volume(publish(&round.volume, round.paths(), EXT4)).unwrap();
        write_marker(&round.paths().target, EXT4);
    },
};

/// Stages a copy, larger than its source, beside it: a new identity, and the file system grows.
pub const STAGE_GROWS_A_COPY: Scenario = Scenario {
    prepare: |csi, round| {
        let usage = Use::Mount("btrfs");
        round.create_written(csi, usage);
        let source = Source::Volume(round.volume.clone());
        round.volume = csi.make_volume(&round.name_of("new"), GROWN, usage, &source);
        let paths = Paths::prepare(&round.root, &round.name_of("copy"));
        round.up.push((round.volume.clone(), paths));
    },
    call: |csi, round| answer(csi.node_stage_volume(stage(&round.volume, round.paths(), Use::Mount("btrfs")))),
    verify: |csi, round| {
        csi.node_publish_volume(publish(&round.volume, round.paths(), Use::Mount("btrfs"))).unwrap();
        assert_eq!(read_marker(&round.paths().target, Use::Mount("btrfs")), MARKER);
    },
};

pub const STAGE_BLOCK: Scenario = Scenario {
    prepare: |csi, round| {
        round.create(csi, Use::Block);
        round.prepare_paths();
    },
    call: |csi, round| answer(csi.node_stage_volume(stage(&round.volume, round.paths(), Use::Block))),
    verify: nothing,
};

fn prepare_staged(csi: &Csi, round: &mut Round, usage: Use) {
    round.create(csi, usage);
    round.prepare_paths();
    csi.node_stage_volume(stage(&round.volume, round.paths(), usage)).unwrap();
}

pub const PUBLISH: Scenario = Scenario {
    prepare: |csi, round| prepare_staged(csi, round, EXT4),
    call: |csi, round| answer(csi.node_publish_volume(publish(&round.volume, round.paths(), EXT4))),
    verify: |_, round| write_marker(&round.paths().target, EXT4),
};

pub const PUBLISH_BLOCK: Scenario = Scenario {
    prepare: |csi, round| prepare_staged(csi, round, Use::Block),
    call: |csi, round| answer(csi.node_publish_volume(publish(&round.volume, round.paths(), Use::Block))),
    verify: |_, round| write_marker(&round.paths().target, Use::Block),
};

pub const UNPUBLISH: Scenario = Scenario {
    prepare: |csi, round| round.create_written(csi, EXT4),
    call: |csi, round| answer(csi.node_unpublish_volume(unpublish(&round.volume, round.paths()))),
    verify: |_, round| assert!(!round.paths().target.exists(), "the target path is left"),
};

pub const UNPUBLISH_BLOCK: Scenario = Scenario {
    prepare: |csi, round| round.create_written(csi, Use::Block),
    call: |csi, round| answer(csi.node_unpublish_volume(unpublish(&round.volume, round.paths()))),
    verify: |_, round| assert!(!round.paths().target.exists(), "the target path is left"),
};

pub const UNSTAGE: Scenario = Scenario {
    prepare: |csi, round| prepare_staged(csi, round, EXT4),
    call: |csi, round| answer(csi.node_unstage_volume(unstage(&round.volume, round.paths()))),
    verify: nothing,
};

pub const UNSTAGE_BLOCK: Scenario = Scenario {
    prepare: |csi, round| prepare_staged(csi, round, Use::Block),
    call: |csi, round| answer(csi.node_unstage_volume(unstage(&round.volume, round.paths()))),
    verify: nothing,
};

/// What can be seen of a node's pools from outside.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    volumes: BTreeSet<String>,
    snapshots: BTreeSet<String>,
}

impl Seen {
    fn now(csi: &Csi) -> Self {
        Self { volumes: csi.volume_ids().into_iter().collect(), snapshots: csi.snapshot_ids().into_iter().collect() }
    }

    fn counts(&self) -> (usize, usize) {
        (self.volumes.len(), self.snapshots.len())
    }

    fn is_within(&self, other: &Self, another: &Self) -> bool {
        let within = |ids: &BTreeSet<String>, one: &BTreeSet<String>, two: &BTreeSet<String>| {
            ids.iter().all(|id| one.contains(id) || two.contains(id))
        };
        within(&self.volumes, &other.volumes, &another.volumes) && within(&self.snapshots, &other.snapshots, &another.snapshots)
    }
}

/// The Nth time that a failure point is hit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub name: String,
    pub occurrence: u64,
}

impl Point {
    pub fn kill(&self) -> String {
        format!("kill:{}:{}", self.occurrence, self.name)
    }
}

/// A trace as points: each name with its count so far.
///
/// Steps lie within steps (a call's `mount` around the mount layer's), and between two that begin together, or end together,
/// nothing happens: of `.before .before` only the last is kept, of `.after .after` only the first.
pub fn points(trace: Vec<String>) -> Vec<Point> {
    let mut counts = BTreeMap::new();
    let counted: Vec<Point> = trace
        .into_iter()
        .map(|name| {
            let occurrence = counts.entry(name.clone()).and_modify(|count| *count += 1).or_insert(1_u64);
            Point { occurrence: *occurrence, name }
        })
        .collect();
    let mut kept: Vec<Point> = Vec::new();
    for point in counted {
        let both = |suffix| kept.last().is_some_and(|last: &Point| last.name.ends_with(suffix)) && point.name.ends_with(suffix);
        if both(".after") {
            continue;
        }
        if both(".before") {
            kept.pop();
        }
        kept.push(point);
    }
    kept
}

/// One pool and the node over it, for all rounds of one scenario.
pub struct Ground {
    // Dropped in this order: a node that runs would keep the pool from being taken down.
    pub node: Option<Node>,
    pub bench: Bench,
    rounds: u64,
    empty: BTreeSet<PathBuf>,
}

impl Ground {
    pub fn new(file_system: PoolFileSystem) -> Self {
        let bench = Bench::with_pool(file_system, 4 * GIB);
        let node = bench.start_armable();
        let empty = bench.stored();
        Self { bench, node: Some(node), rounds: 0, empty }
    }

    pub fn csi(&self) -> Csi {
        self.node.as_ref().unwrap().csi()
    }

    pub fn round(&mut self) -> Round {
        self.rounds += 1;
        Round {
            name: format!("round-{}", self.rounds),
            root: self.bench.root(),
            volume: String::new(),
            snapshot: String::new(),
            up: Vec::new(),
        }
    }

    /// Waits for the death of an armed node and buries it.
    pub fn await_death(&mut self, point: &Point) {
        let mut node = self.node.take().unwrap();
        if node.wait_death(DEATH_BOUND).is_none() {
            self.node = Some(node);
            panic!("{point:?} was traced, and not hit when the call was repeated under the same conditions");
        }
        self.bench.disarm();
    }

    /// Starts the node again; returns the points of its recovery.
    pub fn restart(&mut self) -> Vec<Point> {
        self.bench.clear_trace();
        self.node = Some(self.bench.start_armable());
        points(self.bench.trace())
    }

    /// Starts the node and has it killed during recovery.
    fn restart_killed(&mut self, point: &Point) {
        self.bench.arm(&point.kill());
        let options = self.bench.start_armable_options();
        if let Ok(mut node) = Node::try_start(&options) {
            assert!(node.wait_death(DEATH_BOUND).is_some(), "{point:?} was not hit by the recovery");
        }
        self.bench.disarm();
    }

    fn quarantined(&self) -> Vec<String> {
        self.csi().pools().unwrap().into_iter().flat_map(|pool| pool.quarantined).collect()
    }

    /// Deletes everything by CSI and looks whether anything is left.
    pub fn clean(&mut self, round: &Round) {
        let csi = self.csi();
        for (volume, paths) in round.up.iter().rev() {
            csi.node_unpublish_volume(unpublish(volume, paths)).unwrap();
            csi.node_unstage_volume(unstage(volume, paths)).unwrap();
            paths.remove();
        }
        for id in csi.snapshot_ids() {
            csi.drop_snapshot(&id);
        }
        for id in csi.volume_ids() {
            csi.drop_volume(&id);
        }
        assert_eq!(Seen::now(&csi).counts(), (0, 0), "records are left");
        assert_eq!(self.quarantined(), Vec::<String>::new(), "something is quarantined");
        assert_eq!(self.bench.attached(), Vec::<String>::new(), "devices or mounts are left");
        let stored = self.bench.stored();
        assert_eq!(stored, self.empty, "files are left in the pool");
    }
}

/// What a call does when nothing goes wrong.
struct Reference {
    points: Vec<Point>,
    counts: (usize, usize),
    attached: usize,
}

fn run_undisturbed(ground: &mut Ground, scenario: &Scenario) -> Reference {
    let mut round = ground.round();
    let csi = ground.csi();
    (scenario.prepare)(&csi, &mut round);
    ground.bench.clear_trace();
    let first = (scenario.call)(&csi, &round).unwrap();
    let points = points(ground.bench.trace());
    assert_eq!((scenario.call)(&csi, &round).unwrap(), first, "a repeated call is answered differently");
    let counts = Seen::now(&csi).counts();
    let attached = settled(&ground.bench).len();
    (scenario.verify)(&csi, &mut round);
    ground.clean(&round);
    Reference { points, counts, attached }
}

/// What is attached, and still is a moment later: a device that the node is just opening, to look for zeros, is not marked yet as one that
/// goes by itself.
fn settled(bench: &Bench) -> Vec<String> {
    let mut before = None;
    wait_for("what is attached to stay so", DEATH_BOUND, || {
        let now = bench.attached();
        let is_same = before.as_ref() == Some(&now);
        before = Some(now.clone());
        is_same.then_some(now)
    })
}

/// Kills the node at `point` of the call, and if `again` is given, at that point of the first recovery. Returns the points of
/// the recovery.
fn run_killed(
    ground: &mut Ground,
    scenario: &Scenario,
    reference: &Reference,
    point: &Point,
    again: Option<&Point>,
) -> Vec<Point> {
    let mut round = ground.round();
    let csi = ground.csi();
    (scenario.prepare)(&csi, &mut round);
    let before = Seen::now(&csi);
    ground.bench.arm(&point.kill());
    // The last points lie after the answer was decided, so the answer may or may not have been sent.
    let _ = (scenario.call)(&csi, &round);
    ground.await_death(point);
    if let Some(again) = again {
        ground.restart_killed(again);
    }
    let recovery = ground.restart();

    let csi = ground.csi();
    let recovered = Seen::now(&csi);
    assert_eq!(ground.quarantined(), Vec::<String>::new(), "something is quarantined after the recovery");
    let first = (scenario.call)(&csi, &round).unwrap_or_else(|status| panic!("the repeated call failed: {status}"));
    let after = Seen::now(&csi);
    assert!(
        recovered.is_within(&before, &after),
        "half-visible: {recovered:?} after the recovery is neither what was before {before:?} nor what is now {after:?}"
    );
    assert_eq!(after.counts(), reference.counts, "volumes and snapshots");
    assert_eq!((scenario.call)(&csi, &round).unwrap(), first, "a repeated call is answered differently");
    let attached = settled(&ground.bench);
    assert_eq!(attached.len(), reference.attached, "devices and mounts: {attached:?}");
    (scenario.verify)(&csi, &mut round);
    ground.clean(&round);
    recovery
}

/// Kills the node at every step of a call over a pool, and at every step of the recovery.
pub fn survives_a_kill_at_every_step(scenario: &Scenario, file_system: PoolFileSystem) {
    let start = std::time::Instant::now();
    let mut ground = Ground::new(file_system);
    let reference = run_undisturbed(&mut ground, scenario);
    assert!(!reference.points.is_empty(), "the call hits no failure point: is the node built with them?");
    let share = Share::of_this_run();
    let first = reference.points.len() as u64 + file_system as u64;
    let mut work: VecDeque<(Point, Option<Point>)> = (first..)
        .zip(&reference.points)
        .filter(|(number, _)| share.takes(*number))
        .map(|(_, point)| (point.clone(), None))
        .collect();
    let in_the_call = work.len();
    let (mut recovery_points, mut in_recovery) = (BTreeSet::new(), 0);
    while let Some((point, again)) = work.pop_front() {
        // Printed only when the test fails: says where.
        println!("killed at {point:?}{}", again.as_ref().map(|again| format!(", then at {again:?}")).unwrap_or_default());
        let recovery = run_killed(&mut ground, scenario, &reference, &point, again.as_ref());
        if again.is_none() {
            for found in recovery {
                let number = first + recovery_points.len() as u64;
                if recovery_points.insert(found.name.clone()) && share.takes(number) {
                    work.push_back((point.clone(), Some(found)));
                    in_recovery += 1;
                }
            }
        }
    }
    println!(
        "{share}: {in_the_call} kills in the call of {}, {in_recovery} more in recovery of {}, {:.1} s",
        reference.points.len(),
        recovery_points.len(),
        start.elapsed().as_secs_f64()
    );
    ground.node.take().unwrap().stop();
}

/// One test for each call that changes something, in a module for each kind of pool.
#[macro_export]
macro_rules! crash_points {
    ($module:ident: $pool:ident) => {
        $crate::crash_points! { @each $module: $pool;
            create_file_system_volume: CREATE_FILE_SYSTEM_VOLUME;
            create_block_volume: CREATE_BLOCK_VOLUME;
            create_volume_from_snapshot: CREATE_VOLUME_FROM_SNAPSHOT;
            create_volume_from_volume: CREATE_VOLUME_FROM_VOLUME;
            create_snapshot_of_published_volume: CREATE_SNAPSHOT_OF_PUBLISHED_VOLUME;
            create_snapshot_of_block_volume: CREATE_SNAPSHOT_OF_BLOCK_VOLUME;
            delete_volume: DELETE_VOLUME;
            delete_snapshot: DELETE_SNAPSHOT;
            expand_published_volume: EXPAND_PUBLISHED_VOLUME;
            expand_node: EXPAND_NODE;
            stage_formats: STAGE_FORMATS;
            stage_grows_a_copy: STAGE_GROWS_A_COPY;
            stage_block: STAGE_BLOCK;
            publish: PUBLISH;
            publish_block: PUBLISH_BLOCK;
            unpublish: UNPUBLISH;
            unpublish_block: UNPUBLISH_BLOCK;
            unstage: UNSTAGE;
            unstage_block: UNSTAGE_BLOCK;
        }
    };
    (@each $module:ident: $pool:ident; $($test:ident: $scenario:ident;)*) => {
        mod $module {
            $(#[test] fn $test() {
                $crate::crash_points::survives_a_kill_at_every_step(
                    &$crate::crash_points::$scenario,
                    $crate::common::fixture::PoolFileSystem::$pool,
                );
            })*
        }
    };
}
