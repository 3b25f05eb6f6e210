#![cfg(feature = "root-tests")]
//! Anchors on real XFS and Btrfs: what changed since a deleted snapshot, compared byte for byte. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/root_support/mod.rs"]
mod root_support;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::posix_fallocate;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use root_support::{Sandbox, new_snapshot, new_volume, pattern};
use windlass::block::file_ops;
use windlass::pool::PoolError;
use windlass::pool::owned::OwnedPool;
use windlass::pool::quiesce::NothingToHold;
use windlass::pool::record::{Consumer, Snapshot, Volume};
use windlass::pool::reflink::{create_pool, open_pool};
use windlass::types::{Access, ByteRange, CapacityRange, DataChecksum, FsType, NewVolume, Object, SnapshotId, VolumeId};

const BLOCK: usize = 4096;

fn open(directory: &Path) -> OwnedPool {
    open_pool(directory, Arc::new(NothingToHold)).unwrap()
}

fn cut(pool: &OwnedPool, name: &str, source: VolumeId) -> Snapshot {
    pool.create_snapshots(&[new_snapshot(name, source)]).unwrap().remove(0).into_inner()
}

fn repository(number: u64) -> Consumer {
    Consumer::Repository(format!("{number:064x}"))
}

/// One volume, written to through its device, and all that was ever cut of it.
struct Model {
    pool: OwnedPool,
    volume: Volume,
    content: Vec<u8>,
    live: BTreeMap<SnapshotId, Vec<u8>>,
    /// Contents of the deleted ones: those that are anchors must be told apart from, exactly; all others refused.
    deleted: BTreeMap<SnapshotId, Vec<u8>>,
    cuts: u64,
    /// Number of comparisons with a base that was deleted.
    compared: u64,
    random: StdRng,
}

impl Model {
    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..55 => self.write(),
            55..65 => self.punch(),
            65..67 => self.grow(),
            67..80 if self.live.len() < 6 => self.cut(),
            80..86 => {
                let Some(id) = self.pick() else { return };
                let number = self.random.random_range(0..3);
                let consumer = if number == 0 { Consumer::MetadataClient } else { repository(number) };
                self.pool.record_use(id, consumer).unwrap();
            }
            86..94 => {
                let Some(id) = self.pick() else { return };
                self.pool.delete_snapshot(id).unwrap();
                self.pool.delete_snapshot(id).unwrap();
                let content = self.live.remove(&id).unwrap();
                self.deleted.insert(id, content);
            }
            _ => self.compare(),
        }
    }

    fn pick(&mut self) -> Option<SnapshotId> {
        let index = self.random.random_range(0..self.live.len().max(1));
        self.live.keys().nth(index).copied()
    }

    fn device(&self) -> File {
        let attachment = self.pool.attach(Object::Volume(self.volume.id), Access::ReadWrite).unwrap();
        OpenOptions::new().write(true).open(attachment.device).unwrap()
    }

    /// Writes some bytes, aligned or not, zeros among them.
    fn write(&mut self) {
        let offset = self.random.random_range(0..self.content.len());
        let length = self.random.random_range(1..64 * 1024).min(self.content.len() - offset);
        let (offset, length) = match self.random.random_range(0..3) {
            0 => (offset, length),
            _ => (offset / BLOCK * BLOCK, length.div_ceil(BLOCK) * BLOCK),
        };
        let length = length.min(self.content.len() - offset);
        let data = if self.random.random_range(0..8) == 0 { vec![0; length] } else { pattern(self.random.random(), length) };
        let device = self.device();
        device.write_all_at(&data, offset as u64).unwrap();
        device.sync_all().unwrap();
        self.content[offset..offset + length].copy_from_slice(&data);
    }

    /// Discards blocks through the device.
    fn punch(&mut self) {
        let blocks = self.content.len() / BLOCK;
        let first = self.random.random_range(0..blocks);
        let count = self.random.random_range(1..32).min(blocks - first);
        let (start, end) = (first * BLOCK, (first + count) * BLOCK);
        file_ops::punch_hole(&self.device(), ByteRange::between(start as u64, end as u64).unwrap()).unwrap();
        self.content[start..end].fill(0);
    }

    fn grow(&mut self) {
        let bytes = self.content.len() + self.random.random_range(1..16) * BLOCK;
        self.pool.grow_volume(self.volume.id, CapacityRange::new(Some(bytes as u64), None).unwrap()).unwrap();
        self.content.resize(bytes, 0);
    }

    fn cut(&mut self) {
        // Names come back while anchors bear them.
        let name = format!("snapshot-{}", self.cuts % 7);
        if self.pool.snapshot_by_name(&name.clone().try_into().unwrap()).unwrap().is_some() {
            return;
        }
        self.cuts += 1;
        let snapshot = cut(&self.pool, &name, self.volume.id);
        self.live.insert(snapshot.id, self.content.clone());
    }

    /// What changed, by the pool and byte for byte, for each snapshot since each that ever was.
    fn compare(&mut self) {
        let anchors: Vec<SnapshotId> = self.pool.anchors().unwrap().iter().map(|anchor| anchor.snapshot.id).collect();
        assert!(anchors.len() <= 4 && anchors.iter().all(|id| self.deleted.contains_key(id)));
        for (target, after) in &self.live {
            let lease = self.pool.lease(*target).unwrap();
            for (base, before) in self.live.iter().chain(&self.deleted) {
                match lease.changed_since(*base) {
                    Ok(ranges) => {
                        assert!(self.live.contains_key(base) || anchors.contains(base));
                        let ranges: Vec<ByteRange> = ranges.map(Result::unwrap).collect();
                        assert_applies(&ranges, before, after, &lease_bytes(lease.file(), after.len()));
                        self.compared += u64::from(!self.live.contains_key(base));
                    }
                    Err(PoolError::Missing(object)) => {
                        assert_eq!(object, Object::Snapshot(*base));
                        assert!(!self.live.contains_key(base) && !anchors.contains(base));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

fn lease_bytes(file: &File, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// The base with the changed ranges of the target is the target; ranges ascend, do not touch, and lie within it.
fn assert_applies(ranges: &[ByteRange], before: &[u8], after: &[u8], read: &[u8]) {
    assert!(ranges.windows(2).all(|pair| pair[0].end() < pair[1].offset()), "{ranges:?}");
    assert!(ranges.last().is_none_or(|last| last.end() <= after.len() as u64), "{ranges:?}");
    let mut applied = before.to_vec();
    applied.resize(after.len(), 0);
    for range in ranges {
        let range = range.offset() as usize..range.end() as usize;
        applied[range.clone()].copy_from_slice(&read[range]);
    }
    assert!(read == after, "the snapshot is not what was cut");
    assert!(applied == after, "a change was missed");
}

fn random_operations(fs_type: FsType, checksum: DataChecksum, seed: u64) {
    let sandbox = Sandbox::new();
    let image = sandbox.pool(fs_type);
    let directory = image.directory().join("pool");
    create_pool(&directory).unwrap();
    let mut pool = open(&directory);
    let volume = pool.create_volume(&NewVolume { checksum, ..new_volume("data", 2 << 20) }).unwrap().into_inner();
    let mut model = Model {
        content: vec![0; 2 << 20],
        volume,
        live: BTreeMap::new(),
        deleted: BTreeMap::new(),
        cuts: 0,
        compared: 0,
        random: StdRng::seed_from_u64(seed),
        pool,
    };
    for number in 0..800 {
        model.step();
        if number % 200 == 199 {
            // The next start finds everything as it was, and nothing that it does not know.
            let Model { pool: closed, volume, content, live, deleted, cuts, compared, random } = model;
            drop(closed);
            pool = open(&directory);
            let status = pool.status().unwrap();
            assert_eq!((status.quarantined, status.damaged), (Vec::new(), Vec::new()));
            model = Model { pool, volume, content, live, deleted, cuts, compared, random };
            model.compare();
        }
    }
    assert!(model.compared > 20, "{} comparisons with a deleted base", model.compared);
    for id in model.live.keys() {
        model.pool.delete_snapshot(*id).unwrap();
    }
    model.pool.detach(Object::Volume(model.volume.id)).unwrap();
    model.pool.delete_volume(model.volume.id).unwrap();
    for name in ["volumes", "snapshots"] {
        assert_eq!(std::fs::read_dir(directory.join(name)).unwrap().count(), 0, "{name} are left");
    }
}

#[test]
fn deltas_since_deleted_snapshots_miss_nothing_on_xfs() {
    random_operations(FsType::Xfs, DataChecksum::Off, 1);
}

#[test]
fn deltas_since_deleted_snapshots_miss_nothing_on_btrfs() {
    random_operations(FsType::Btrfs, DataChecksum::Off, 2);
}

#[test]
fn deltas_since_deleted_snapshots_miss_nothing_on_btrfs_with_checksums() {
    random_operations(FsType::Btrfs, DataChecksum::On, 3);
}

#[test]
fn a_full_pool_gives_up_anchors_oldest_first_and_no_more_than_it_takes() {
    const PART: u64 = 48 << 20;
    const STEP: u64 = 16 << 20;
    for fs_type in [FsType::Xfs, FsType::Btrfs] {
        let sandbox = Sandbox::new();
        let image = sandbox.pool(fs_type);
        let directory = image.directory().join("pool");
        create_pool(&directory).unwrap();
        let pool = open(&directory);
        let volume = pool.create_volume(&new_volume("data", PART)).unwrap().into_inner();
        let mut kept = Vec::new();
        // Each round leaves an anchor that shares nothing with the others.
        for round in 0..4_u8 {
            let attachment = pool.attach(Object::Volume(volume.id), Access::ReadWrite).unwrap();
            let device = OpenOptions::new().write(true).open(attachment.device).unwrap();
            device.write_all_at(&vec![round + 1; PART as usize], 0).unwrap();
            device.sync_all().unwrap();
            if round == 3 {
                break;
            }
            let snapshot = cut(&pool, "base", volume.id);
            pool.record_use(snapshot.id, repository(u64::from(round))).unwrap();
            pool.delete_snapshot(snapshot.id).unwrap();
            kept.push(snapshot.id);
        }
        let present = |pool: &OwnedPool| {
            let mut anchors = pool.anchors().unwrap();
            anchors.sort_by_key(|anchor| anchor.snapshot.serial);
            anchors.iter().map(|anchor| anchor.snapshot.id).collect::<Vec<_>>()
        };
        assert_eq!(present(&pool), kept, "{fs_type}");
        for state in pool.anchor_status().unwrap() {
            assert_eq!((state.usage.allocated, state.usage.exclusive), (PART, PART), "{fs_type}");
        }
        // Somebody else fills the rest.
        let filler = File::create(image.directory().join("filler")).unwrap();
        let mut filled = 0;
        while pool.status().unwrap().usage.available() > 0 {
            posix_fallocate(&filler, filled, STEP as i64).unwrap();
            filler.sync_all().unwrap();
            filled += STEP as i64;
        }
        assert!(pool.available_bytes().unwrap() > 0);
        let target = cut(&pool, "target", volume.id);
        let left = present(&pool);
        assert!(left.len() < kept.len() && !left.is_empty() && kept.ends_with(&left), "{fs_type}: {kept:?} became {left:?}");
        let lease = pool.lease(target.id).unwrap();
        assert!(matches!(lease.changed_since(kept[0]), Err(PoolError::Missing(_))));
        assert!(lease.changed_since(left[0]).unwrap().all(|range| range.is_ok()));
        drop(lease);
        pool.detach(Object::Volume(volume.id)).unwrap();
    }
}
