//! The node is killed before and after each durable step of two exports whose class wants no local copy, and once more at each step of the
//! recovery that follows.
//!
//! The snapshot that is exported first leaves the base of the next export; the other one was cut before it, so that its local copy is
//! deleted for good. What there is to cut is learnt from a round in which nobody is killed. After each kill
//!
//! * nothing is quarantined or damaged; a snapshot that is not ready can be read, and one that is ready is given up;
//! * the sidecar's next calls end with both in the repository, once each, and both come back byte for byte;
//! * after deletes by CSI nothing is left in the pool, nor of snapshots in the repository.
//!
//! Of these steps a run takes its share, over one kind of pool or the other.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use csi_proto::csi::v1 as proto;

use crate::common::csi::{Csi, Source, Use};
use crate::common::fixture::PoolFileSystem;
use crate::common::node::Node;
use crate::common::{GIB, MIB, wait_for};
use crate::point::{Point, points};
use crate::scene::{BOUND, Scene, noise};
use crate::share::Share;

const SIZE: u64 = 16 * MIB;

/// Two snapshots of a volume to be exported to a repository of their own.
struct Round {
    prefix: String,
    volume: String,
    /// In the order in which they are exported, each with what it holds.
    snapshots: [(proto::CreateSnapshotRequest, Vec<u8>); 2],
}

/// A pool and a store for all rounds.
struct Ground {
    scene: Scene,
    empty: BTreeSet<PathBuf>,
    rounds: u64,
}

impl Ground {
    fn new(kind: PoolFileSystem) -> Self {
        let scene = Scene::new(kind, GIB);
        let empty = scene.bench.stored();
        Self { scene, empty, rounds: 0 }
    }

    fn prepare(&mut self) -> Round {
        self.rounds += 1;
        let (scene, number) = (&self.scene, self.rounds);
        let prefix = format!("exports-{number}");
        scene.repository(&prefix);
        let mut content = vec![0; SIZE as usize];
        content[..2 << 20].copy_from_slice(&noise(number, 2 << 20));
        let volume = scene.volume(&format!("data-{number}"), SIZE, &content[..2 << 20]);
        let older = scene.request(&format!("older-{number}"), &volume, "drop", &prefix);
        let of_older = content.clone();
        // It is cut, and its export waits for a Secret that is right.
        scene.until_refused(&proto::CreateSnapshotRequest { secrets: scene.secrets("nowhere"), ..older.clone() });
        content[4 << 20..5 << 20].copy_from_slice(&noise(!number, 1 << 20));
        scene.write(&volume, 4 << 20, &content[4 << 20..5 << 20]);
        let newer = scene.request(&format!("newer-{number}"), &volume, "drop", &prefix);
        Round { prefix, volume, snapshots: [(newer, content), (older, of_older)] }
    }

    /// Asks as the sidecar does until both are exported, each with its handle.
    fn export(&self, round: &Round) -> [String; 2] {
        round.snapshots.each_ref().map(|(request, _)| {
            let ready = self.scene.until_ready(request);
            self.scene.until_given_up(&ready.snapshot_id);
            ready.snapshot_id
        })
    }

    /// The same, until the node that is armed is dead.
    fn export_until_killed(&mut self, round: &Round, point: &Point) {
        let csi = self.scene.csi();
        let mut node = self.scene.node.take().unwrap();
        wait_for(&format!("the node to be killed at {point:?}"), BOUND, || {
            if node.wait_death(Duration::from_millis(1)).is_some() {
                return Some(());
            }
            let _ = round.snapshots.iter().try_for_each(|(request, _)| is_done(&csi, request).then_some(()));
            None
        });
        self.scene.bench.disarm();
    }

    /// Starts the node again; the points of its recovery.
    fn restart(&mut self) -> Vec<Point> {
        self.scene.bench.clear_trace();
        self.scene.node = Some(Node::start(&self.scene.options()));
        points(self.scene.bench.trace())
    }

    fn restart_killed(&mut self, point: &Point) {
        self.scene.bench.arm(&point.kill());
        if let Ok(mut node) = Node::try_start(&self.scene.options()) {
            assert!(node.wait_death(BOUND).is_some(), "{point:?} was not hit by the recovery");
        }
        self.scene.bench.disarm();
    }

    /// What must be true of a node that has just recovered.
    fn look(&self, round: &Round) {
        let csi = self.scene.csi();
        for pool in csi.pools().unwrap() {
            assert_eq!((pool.state.as_str(), pool.quarantined.len()), ("ready", 0), "{pool:?}");
        }
        for (number, (request, content)) in round.snapshots.iter().enumerate() {
            let Some(handle) = handle_of(&csi, &request.name) else {
                assert_eq!(number, 0, "the older one was cut before");
                continue;
            };
            let is_ready = is_ready(&csi, &handle);
            assert_eq!(self.scene.is_given_up(&handle), is_ready, "{}: either whole or given up", request.name);
            if !is_ready {
                let copy = csi.make_volume("copy", SIZE, Use::Block, &Source::Snapshot(handle));
                assert!(self.scene.content(&copy) == *content, "{} is not what was cut", request.name);
                csi.drop_volume(&copy);
            }
        }
    }

    /// What must be true when all is done; takes all away.
    fn finish(&self, round: &Round, handles: &[String; 2]) {
        let (scene, csi) = (&self.scene, self.scene.csi());
        let held = scene.held(&round.prefix);
        assert!(held.len() == 2 && handles.iter().all(|handle| held.get(handle) == Some(&1)), "{held:?} of {handles:?}");
        for (handle, (request, content)) in handles.iter().zip(&round.snapshots) {
            let restored = scene.restore("restored", SIZE, handle, &round.prefix);
            assert!(scene.content(&restored) == *content, "{} comes back otherwise", request.name);
            csi.drop_volume(&restored);
            scene.delete(handle, &round.prefix);
        }
        csi.drop_volume(&round.volume);
        assert_eq!(scene.held(&round.prefix).len(), 0);
        assert_eq!((csi.snapshot_ids().len(), csi.volume_ids().len()), (0, 0));
        assert_eq!(csi.pools().unwrap()[0].quarantined, Vec::<String>::new());
        assert_eq!(scene.bench.attached(), Vec::<String>::new(), "devices or mounts are left");
        assert_eq!(scene.bench.stored(), self.empty, "files are left in the pool");
    }

    fn run_killed(&mut self, point: &Point, again: Option<&Point>) -> Vec<Point> {
        let round = self.prepare();
        self.scene.bench.arm(&point.kill());
        self.export_until_killed(&round, point);
        if let Some(again) = again {
            self.restart_killed(again);
        }
        let recovery = self.restart();
        self.look(&round);
        let handles = self.export(&round);
        self.scene.check(&round.prefix);
        self.finish(&round, &handles);
        recovery
    }
}

fn handle_of(csi: &Csi, name: &str) -> Option<String> {
    let pools = csi.pools().ok()?;
    let mut objects = pools.into_iter().flat_map(|pool| pool.objects);
    objects.find(|object| object.kind == "snapshot" && object.name == name).map(|object| object.handle)
}

fn is_ready(csi: &Csi, handle: &str) -> bool {
    let request = proto::ListSnapshotsRequest { snapshot_id: handle.to_owned(), ..Default::default() };
    let listed = csi.list_snapshots(request).unwrap();
    listed.entries.into_iter().filter_map(|entry| entry.snapshot).any(|snapshot| snapshot.ready_to_use)
}

/// One call of the sidecar; whether the snapshot is ready and its local copy given up. Not, when the node does not answer.
fn is_done(csi: &Csi, request: &proto::CreateSnapshotRequest) -> bool {
    let answer = csi.create_snapshot(request.clone()).ok().and_then(|answer| answer.snapshot);
    let Some(handle) = answer.filter(|snapshot| snapshot.ready_to_use).map(|snapshot| snapshot.snapshot_id) else { return false };
    let Ok(pools) = csi.pools() else { return false };
    let mut objects = pools.iter().flat_map(|pool| &pool.objects);
    objects.any(|object| object.kind == "snapshot" && object.handle == handle && object.allocated_bytes == 0)
}

fn survives_a_kill_at_every_step(kind: PoolFileSystem) {
    let share = Share::of_this_run();
    if !share.takes_group(kind as u64) {
        println!("{share}: another turn takes this kind of pool");
        return;
    }
    let mut ground = Ground::new(kind);
    let round = ground.prepare();
    ground.scene.bench.clear_trace();
    let handles = ground.export(&round);
    let all = points(ground.scene.bench.trace());
    ground.finish(&round, &handles);
    let steps = ["put_task", "put_export", "give_up_local_copy.intent", "delete_snapshot.commit"];
    for step in steps.map(|step| format!("catalogue.{step}")).into_iter().chain(["pool.condense".to_owned()]) {
        assert!(all.iter().any(|point| point.name.starts_with(&step)), "{step} is not hit: {all:?}");
    }

    let first = all.len() as u64 + kind as u64;
    let taken = (first..).zip(&all).filter(|(number, _)| share.takes(*number));
    let mut work: VecDeque<(Point, Option<Point>)> = taken.map(|(_, point)| (point.clone(), None)).collect();
    let (in_the_calls, mut in_recovery, mut recovery_points) = (work.len(), 0, BTreeSet::new());
    while let Some((point, again)) = work.pop_front() {
        // Printed only when the test fails: says where.
        println!("killed at {point:?}{}", again.as_ref().map(|again| format!(", then at {again:?}")).unwrap_or_default());
        let recovery = ground.run_killed(&point, again.as_ref());
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
    println!("{share}: {in_the_calls} kills of {}, {in_recovery} more in recovery of {}", all.len(), recovery_points.len());
    ground.scene.node.take().unwrap().stop();
}

#[test]
fn a_kill_at_any_step_of_an_export_that_drops_its_local_copy_loses_and_leaks_nothing_on_xfs() {
    survives_a_kill_at_every_step(PoolFileSystem::Xfs);
}

#[test]
fn a_kill_at_any_step_of_an_export_that_drops_its_local_copy_loses_and_leaks_nothing_on_btrfs() {
    survives_a_kill_at_every_step(PoolFileSystem::Btrfs);
}
