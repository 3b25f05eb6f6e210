#![cfg(feature = "thin-tests")]
//! Pools whose metadata is really used up: by writers of many copies, past all thresholds, until the kernel takes no more. What was deleted
//! then, in every state that a deletion can be in, hinders no start, and is finished once there is room, in whatever order that comes. Of
//! the orders a run takes its share.

// vm: disks=2G limit=600

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/share.rs"]
mod share;
#[path = "support/thin_support.rs"]
mod thin_support;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use share::Share;
use thin_support::{GrowingDisk, MIB, create, cut, disks, grown_disk, make_with, open, turn, wait_for};
use windlass::pool::Changes;
use windlass::pool::owned::OwnedPool;
use windlass::pool::record::{Consumer, Snapshot, Volume};
use windlass::pool::thin::{RepairOutcome, repair};
use windlass::types::{Access, Object};

/// Bytes of a data block.
const BLOCK: u64 = 64 << 10;
/// A leaf of the kernel's trees holds some 250 blocks, and a half-full one 126.
const LEAF: u64 = 120;
const VOLUME: u64 = 128 * MIB;
const COPIES: u64 = 70;
/// What the volume holds at the beginning of each of its blocks.
const CONTENT: [u8; 4096] = [7; 4096];
/// Longest time for the monitor to see a larger disk, and then for the kernel to use it: it looks every ten seconds.
const SEEN: Duration = Duration::from_secs(60);

/// A pool that takes no changes any more, closed, and what was asked of it in its last hour.
struct UsedUp {
    device: GrowingDisk,
    base: Volume,
    /// Deleted before, and reduced to what is needed of it as a base.
    anchored: Snapshot,
    /// Used by somebody, and deleted when the pool took no changes: kept, whole.
    used: Snapshot,
    /// Nobody used it: its deletion was refused, and is pending.
    unused: Snapshot,
    /// A volume of which the same is true.
    volume: Volume,
}

fn write(pool: &OwnedPool, volume: &Volume, offsets: impl Iterator<Item = u64>, bytes: &[u8]) -> std::io::Result<()> {
    let device = pool.attach(Object::Volume(volume.id), Access::ReadWrite).unwrap().device;
    let file = File::options().write(true).open(device)?;
    for offset in offsets {
        file.write_all_at(bytes, offset)?;
    }
    file.sync_all()
}

impl UsedUp {
    fn new() -> Self {
        let device = grown_disk(&disks().remove(0), 1024 * MIB);
        // The least that a pool works with: 512 blocks.
        make_with(&device.path(), 2 * MIB);
        let pool = open(&device.path());
        let base = create(&pool, "base", VOLUME, None);
        write(&pool, &base, (0..VOLUME).step_by(BLOCK as usize), &CONTENT).unwrap();
        let [anchored, used, unused] = ["anchored", "used", "unused"].map(|name| cut(&pool, name, &base));
        pool.record_use(anchored.id, Consumer::Repository("elsewhere".to_owned())).unwrap();
        pool.delete_snapshot(anchored.id).unwrap();
        pool.record_use(used.id, Consumer::MetadataClient).unwrap();
        let copy = |number| create(&pool, &format!("copy-{number}"), VOLUME, Some(Object::Snapshot(used.id)));
        let copies: Vec<Volume> = (0..COPIES).map(copy).collect();

        // One block of each leaf of each copy: all of the metadata come to be there once more for each.
        let leaves = (0..VOLUME / BLOCK).step_by(LEAF as usize).map(|block| block * BLOCK);
        let mut places = leaves.flat_map(|offset| copies.iter().map(move |copy| (copy, offset)));
        let refused = places.find_map(|(copy, offset)| write(&pool, copy, [offset].into_iter(), &[9; 4096]).err());
        println!("a writer was told: {}", refused.expect("the metadata was never used up"));
        let health = pool.status().unwrap().health;
        assert_eq!(health.changes, Changes::Refused, "{health:?}");
        println!("and everybody else: {}", health.problem.unwrap());

        pool.detach(Object::Volume(base.id)).unwrap();
        copies.iter().for_each(|copy| pool.detach(Object::Volume(copy.id)).unwrap());
        let volume = copies[0].clone();
        pool.delete_snapshot(used.id).unwrap();
        assert!(pool.delete_snapshot(unused.id).is_err());
        assert!(pool.delete_volume(volume.id).is_err());
        drop(pool);
        let used_up = Self { device, base, anchored, used, unused, volume };
        // A start changes nothing, and the next finds the same.
        for _ in 0..2 {
            let pool = used_up.open();
            assert_eq!(pool.status().unwrap().health.changes, Changes::Refused);
        }
        used_up
    }

    /// The pool, which opens in every state, shows what was deleted to nobody, and has the rest.
    fn open(&self) -> OwnedPool {
        let pool = open(&self.device.path());
        let status = pool.status().unwrap();
        assert_eq!((status.damaged, status.quarantined), (Vec::new(), Vec::new()));
        assert_eq!(pool.snapshots().unwrap(), []);
        assert_eq!(pool.volume(self.volume.id).unwrap(), None);
        assert_eq!(pool.volumes().unwrap().len() as u64, COPIES);
        let object = Object::Volume(self.base.id);
        let device = File::open(pool.attach(object, Access::ReadOnly).unwrap().device).unwrap();
        for offset in (0..VOLUME).step_by(BLOCK as usize) {
            let mut found = CONTENT.map(|_| 0);
            device.read_exact_at(&mut found, offset).unwrap();
            assert_eq!(found, CONTENT, "at {offset}");
        }
        drop(device);
        pool.detach(object).unwrap();
        pool
    }

    fn grow(&self) {
        self.device.grow_to(1536 * MIB);
    }

    /// What is sound is called sound: the kernel does not lose what it committed when the metadata run out.
    fn repair(&self) {
        let report = repair(&self.device.path()).unwrap();
        assert_ne!(report.outcome, RepairOutcome::Rebuilt, "{}", report.findings);
        assert_eq!((report.missing, report.unknown), (Vec::new(), Vec::new()));
    }

    /// Everything that was asked for is done, and the pool works.
    fn check_recovered(&self, pool: OwnedPool) {
        assert_eq!(pool.status().unwrap().health.problem, None);
        // Whoever asks again is told that it is done.
        pool.delete_volume(self.volume.id).unwrap();
        pool.delete_snapshot(self.unused.id).unwrap();
        let later = cut(&pool, "later", &self.base);
        let anchors = pool.anchor_status().unwrap();
        for anchor in &anchors {
            assert_eq!(anchor.usage.allocated, 0, "{} keeps its data", anchor.anchor.snapshot.name);
        }
        let kept = anchors.iter().map(|anchor| anchor.anchor.snapshot.id);
        assert_eq!(BTreeSet::from_iter(kept), BTreeSet::from([self.anchored.id, self.used.id]));
        let lease = pool.lease(later.id).unwrap();
        for base in [self.anchored.id, self.used.id] {
            assert_eq!(lease.changed_since(base).unwrap().count(), 0);
        }
        drop(lease);
        write(&pool, &self.base, [0].into_iter(), &CONTENT).unwrap();
        pool.detach(Object::Volume(self.base.id)).unwrap();
        pool.delete_snapshot(later.id).unwrap();
        drop(pool);
        assert_eq!(repair(&self.device.path()).unwrap().outcome, RepairOutcome::Sound);
    }
}

/// Opens a pool that has room again; if it says that it must be repaired first, that is done.
fn open_with_room(used_up: &UsedUp) -> OwnedPool {
    let pool = used_up.open();
    match pool.status().unwrap().health.problem {
        Some(problem) if problem.contains("pool repair") => {
            println!("with room it says: {problem}");
            drop(pool);
            used_up.repair();
            used_up.open()
        }
        _ => pool,
    }
}

/// How a pool whose metadata is used up gets room.
#[derive(Debug, Clone, Copy)]
enum Remedy {
    /// Its disk is enlarged while nobody serves it.
    GrowAndOpen,
    /// Its disk is enlarged while it is served.
    GrowWhileOpen,
    /// It is repaired without room, opened, and its disk is enlarged then.
    RepairThenGrow,
    /// Its disk is enlarged, and it is repaired before anybody opens it.
    GrowThenRepair,
}

impl Remedy {
    const ALL: [Self; 4] = [Self::GrowAndOpen, Self::GrowWhileOpen, Self::RepairThenGrow, Self::GrowThenRepair];

    /// Takes it; the pool afterwards.
    fn take(self, used_up: &UsedUp) -> OwnedPool {
        match self {
            Self::GrowAndOpen => {
                used_up.grow();
                open_with_room(used_up)
            }
            Self::GrowWhileOpen => {
                let pool = used_up.open();
                let before = pool.status().unwrap().usage.metadata.unwrap().total;
                used_up.grow();
                let is_grown = || (pool.status().unwrap().usage.metadata.unwrap().total > before).then_some(());
                wait_for("the metadata to grow", SEEN, is_grown);
                let takes_changes = || (pool.status().unwrap().health.changes == Changes::Taken).then_some(());
                wait_for("the pool to take changes", SEEN, takes_changes);
                pool
            }
            Self::RepairThenGrow => {
                used_up.repair();
                drop(used_up.open());
                used_up.grow();
                open_with_room(used_up)
            }
            Self::GrowThenRepair => {
                used_up.grow();
                used_up.repair();
                used_up.open()
            }
        }
    }
}

#[test]
fn used_up_metadata_hinder_no_start_and_what_was_deleted_goes_when_there_is_room_in_whatever_order_it_comes() {
    let _turn = turn();
    let share = Share::of_this_run();
    for (number, remedy) in (0..).zip(Remedy::ALL).filter(|(number, _)| share.takes(*number)) {
        println!("{number}: {remedy:?}");
        let used_up = UsedUp::new();
        used_up.check_recovered(remedy.take(&used_up));
    }
}
