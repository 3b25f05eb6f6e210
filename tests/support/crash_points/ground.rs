//! A pool, the node over it that is killed and started again, and what is to be seen of them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::DEATH_BOUND;
use super::point::{Point, points};
use super::round::Round;
use crate::common::GIB;
use crate::common::csi::{Csi, unpublish, unstage};
use crate::common::fixture::{Bench, PoolFileSystem};
use crate::common::node::Node;

/// What can be seen of a node's pools from outside.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    volumes: BTreeSet<String>,
    snapshots: BTreeSet<String>,
}

/// How many there are.
#[derive(Debug, PartialEq, Eq)]
pub struct Counts {
    volumes: usize,
    snapshots: usize,
}

impl Seen {
    pub fn now(csi: &Csi) -> Self {
        Self { volumes: csi.volume_ids().into_iter().collect(), snapshots: csi.snapshot_ids().into_iter().collect() }
    }

    pub fn counts(&self) -> Counts {
        Counts { volumes: self.volumes.len(), snapshots: self.snapshots.len() }
    }

    pub fn is_within(&self, other: &Self, another: &Self) -> bool {
        let within = |ids: &BTreeSet<String>, one: &BTreeSet<String>, two: &BTreeSet<String>| {
            ids.iter().all(|id| one.contains(id) || two.contains(id))
        };
        within(&self.volumes, &other.volumes, &another.volumes) && within(&self.snapshots, &other.snapshots, &another.snapshots)
    }
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
    pub fn restart_killed(&mut self, point: &Point) {
        self.bench.arm(&point.kill());
        let options = self.bench.start_armable_options();
        if let Ok(mut node) = Node::try_start(&options) {
            assert!(node.wait_death(DEATH_BOUND).is_some(), "{point:?} was not hit by the recovery");
        }
        self.bench.disarm();
    }

    pub fn quarantined(&self) -> Vec<String> {
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
        assert_eq!(Seen::now(&csi), Seen::default(), "records are left");
        assert_eq!(self.quarantined(), Vec::<String>::new(), "something is quarantined");
        assert_eq!(self.bench.attached(), Vec::<String>::new(), "devices or mounts are left");
        let stored = self.bench.stored();
        assert_eq!(stored, self.empty, "files are left in the pool");
    }
}

/// Waits until so many devices and mounts are there. What a call left behind stays, and so does what it lost; a device by which the node
/// looks for zeros comes and goes by itself.
pub fn await_attached(bench: &Bench, count: usize) {
    let start = Instant::now();
    loop {
        let attached = bench.attached();
        if attached.len() == count {
            return;
        }
        assert!(start.elapsed() < DEATH_BOUND, "{count} devices and mounts must be there: {attached:?}");
        windlass::types::poll::pause(Duration::from_millis(10));
    }
}
