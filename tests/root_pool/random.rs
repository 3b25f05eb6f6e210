//! Random operations on a pool, compared with a model byte for byte.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use windlass::block::{device, file_ops};
use windlass::pool::reflink::{ReflinkPool, create_pool};
use windlass::pool::{Cut, Found, Pool, PoolError};
use windlass::types::{Access, ByteRange, FsType, Object, SnapshotId, VolumeId};

use crate::root_support::{Sandbox, pattern};
use crate::{BLOCK, STALL, size, spec};

/// Objects and their bytes, as they should be.
struct Model {
    pool: ReflinkPool,
    volumes: BTreeMap<VolumeId, Vec<u8>>,
    snapshots: BTreeMap<SnapshotId, (VolumeId, Vec<u8>)>,
    random: StdRng,
}

impl Model {
    fn volume(&mut self) -> Option<VolumeId> {
        let ids: Vec<VolumeId> = self.volumes.keys().copied().collect();
        if ids.is_empty() { None } else { Some(ids[self.random.random_range(0..ids.len())]) }
    }

    fn snapshot(&mut self) -> Option<SnapshotId> {
        let ids: Vec<SnapshotId> = self.snapshots.keys().copied().collect();
        if ids.is_empty() { None } else { Some(ids[self.random.random_range(0..ids.len())]) }
    }

    fn read(&self, object: Object, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.pool.open(object, Access::ReadOnly).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn check(&self, object: Object) {
        let expected = match object {
            Object::Volume(id) => &self.volumes[&id],
            Object::Snapshot(id) => &self.snapshots[&id].1,
        };
        assert!(self.read(object, expected.len()) == *expected, "{object} differs");
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..8 if self.volumes.len() < 8 => {
                let id = VolumeId::random();
                let blocks = self.random.random_range(1..65_u64);
                self.pool.create(id, spec(blocks * 4096)).unwrap();
                self.volumes.insert(id, vec![0; blocks as usize * BLOCK]);
            }
            8..50 => self.write(),
            50..62 if self.snapshots.len() < 16 => self.cut(),
            62..70 if self.volumes.len() < 8 => self.copy(),
            70..74 => {
                let Some(id) = self.volume() else { return };
                let bytes = self.volumes[&id].len() + self.random.random_range(0..16) * BLOCK;
                self.pool.grow(id, size(bytes as u64)).unwrap();
                self.volumes.get_mut(&id).unwrap().resize(bytes, 0);
                if let Some(attachment) = self.pool.attachment(Object::Volume(id)).unwrap() {
                    assert_eq!(device::size(&File::open(attachment.device).unwrap()).unwrap(), bytes as u64);
                }
            }
            74..80 => {
                let Some(id) = self.volume() else { return };
                let object = Object::Volume(id);
                match self.pool.attachment(object).unwrap() {
                    Some(_) => self.pool.detach(object).unwrap(),
                    None => {
                        let first = self.pool.attach(object, Access::ReadWrite).unwrap();
                        assert_eq!(self.pool.attach(object, Access::ReadWrite).unwrap(), first);
                    }
                }
            }
            80..84 => {
                let Some(id) = self.volume() else { return };
                let object = Object::Volume(id);
                if self.pool.attachment(object).unwrap().is_some() {
                    assert!(matches!(self.pool.delete(object), Err(PoolError::InUse { .. })));
                    self.pool.detach(object).unwrap();
                }
                self.pool.delete(object).unwrap();
                self.pool.delete(object).unwrap();
                self.volumes.remove(&id);
            }
            84..88 => {
                let Some(id) = self.snapshot() else { return };
                self.pool.delete(Object::Snapshot(id)).unwrap();
                self.snapshots.remove(&id);
            }
            88..94 => self.compare(),
            94..97 => {
                let Some(id) = self.snapshot() else { return };
                self.check(Object::Snapshot(id));
                let content = &self.snapshots[&id].1;
                let ranges: Vec<ByteRange> = self.pool.allocated(id).unwrap().map(Result::unwrap).collect();
                assert_covered(&ranges, content.len(), |offset| content[offset] != 0);
            }
            _ => {
                let Some(id) = self.volume() else { return };
                self.check(Object::Volume(id));
            }
        }
    }

    /// Writes or punches a random part of a volume, through its device where it has one.
    fn write(&mut self) {
        let Some(id) = self.volume() else { return };
        let length = self.volumes[&id].len();
        let offset = self.random.random_range(0..length / BLOCK) * BLOCK;
        let count = (self.random.random_range(1..9) * BLOCK).min(length - offset);
        let seed = self.random.random();
        let object = Object::Volume(id);
        let file = self.pool.open(object, Access::ReadWrite).unwrap();
        if self.random.random_range(0..4) == 0 {
            file_ops::punch_hole(&file, ByteRange::new(offset as u64, count as u64).unwrap()).unwrap();
            self.volumes.get_mut(&id).unwrap()[offset..offset + count].fill(0);
            return;
        }
        let data = pattern(seed, count);
        match self.pool.attachment(object).unwrap() {
            Some(attachment) => {
                let device = OpenOptions::new().write(true).open(attachment.device).unwrap();
                device.write_all_at(&data, offset as u64).unwrap();
                device.sync_all().unwrap();
            }
            None => file.write_all_at(&data, offset as u64).unwrap(),
        }
        self.volumes.get_mut(&id).unwrap()[offset..offset + count].copy_from_slice(&data);
    }

    /// Cuts a set of one to three volumes.
    fn cut(&mut self) {
        let mut sources = Vec::new();
        for _ in 0..self.random.random_range(1..4) {
            sources.extend(self.volume());
        }
        let cuts: Vec<Cut> = sources.into_iter().map(|source| Cut { source, snapshot: SnapshotId::random() }).collect();
        self.pool.snapshot(&cuts, STALL).unwrap();
        for cut in cuts {
            self.snapshots.insert(cut.snapshot, (cut.source, self.volumes[&cut.source].clone()));
            self.check(Object::Snapshot(cut.snapshot));
        }
    }

    fn copy(&mut self) {
        let from_snapshot = self.random.random_range(0..3) > 0;
        let source = if from_snapshot { self.snapshot().map(Object::Snapshot) } else { self.volume().map(Object::Volume) };
        let Some(source) = source else { return };
        let mut content = match source {
            Object::Volume(id) => self.volumes[&id].clone(),
            Object::Snapshot(id) => self.snapshots[&id].1.clone(),
        };
        content.resize(content.len() + self.random.random_range(0..8) * BLOCK, 0);
        let id = VolumeId::random();
        self.pool.copy(source, id, spec(content.len() as u64), STALL).unwrap();
        self.volumes.insert(id, content);
        self.check(Object::Volume(id));
    }

    /// Compares two snapshots of one volume, by the pool and byte for byte.
    fn compare(&mut self) {
        let Some(target) = self.snapshot() else { return };
        let (source, content) = &self.snapshots[&target];
        let Some((&base, (_, before))) = self.snapshots.iter().find(|(id, (of, _))| **id != target && of == source) else {
            return;
        };
        let ranges: Vec<ByteRange> = self.pool.changed(base, target).unwrap().map(Result::unwrap).collect();
        assert_covered(&ranges, content.len(), |offset| before.get(offset).copied().unwrap_or(0) != content[offset]);
    }

    fn check_everything(&self) {
        let mut found: Vec<Object> = Vec::new();
        for thing in self.pool.scan().unwrap() {
            match thing {
                Found::Object { object, .. } => found.push(object),
                Found::Foreign(path) => panic!("{path}"),
            }
        }
        found.sort_unstable();
        let volumes = self.volumes.keys().copied().map(Object::Volume);
        let expected: Vec<Object> = volumes.chain(self.snapshots.keys().copied().map(Object::Snapshot)).collect();
        assert_eq!(found, expected);
        expected.into_iter().for_each(|object| self.check(object));
    }
}

/// Ranges ascend, do not touch, lie within the size, and hold every offset that is wanted.
fn assert_covered(ranges: &[ByteRange], length: usize, wanted: impl Fn(usize) -> bool) {
    assert!(ranges.windows(2).all(|pair| pair[0].end() < pair[1].offset()), "{ranges:?}");
    assert!(ranges.last().is_none_or(|last| last.end() <= length as u64), "{ranges:?} of {length}");
    let is_covered = |offset: u64| ranges.iter().any(|range| (range.offset()..range.end()).contains(&offset));
    for block in 0..length / BLOCK {
        let offsets = block * BLOCK..(block + 1) * BLOCK;
        assert!(is_covered((block * BLOCK) as u64) || !offsets.clone().any(&wanted), "block {block} is missing from {ranges:?}");
    }
}

fn random_operations(fs_type: FsType, seed: u64) {
    let sandbox = Sandbox::new();
    let image = sandbox.pool(fs_type);
    let directory = image.directory().join("pool");
    create_pool(&directory).unwrap();
    let pool = ReflinkPool::open(&directory).unwrap();
    assert_eq!(pool.mechanism(), fs_type.name());
    let random = StdRng::seed_from_u64(seed);
    let mut model = Model { pool, volumes: BTreeMap::new(), snapshots: BTreeMap::new(), random };
    for number in 0..2000 {
        model.step();
        if number % 250 == 249 {
            model.check_everything();
        }
    }
    for id in model.volumes.keys() {
        model.pool.detach(Object::Volume(*id)).unwrap();
    }
}

#[test]
fn random_operations_on_xfs_keep_every_byte() {
    random_operations(FsType::Xfs, 1);
}

#[test]
fn random_operations_on_btrfs_keep_every_byte() {
    random_operations(FsType::Btrfs, 2);
}
