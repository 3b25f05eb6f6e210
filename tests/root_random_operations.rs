#![cfg(feature = "root-tests")]
//! Random operations on real pools, and after each cut the comparison, byte for byte, of everything that the pool says is
//! allocated or changed: against every other snapshot of the volume, those that were deleted and kept as anchors included.
//! Nothing may be missing from an answer; a base that is not known must be refused. Needs root.
//!
//! `WINDLASS_RANDOM_OPERATIONS` is how many in all, over XFS, Btrfs, and Btrfs with checksums; `make soak` runs 100,000.
//! `WINDLASS_RANDOM_SEED` repeats a run, as far as writers in flight can be repeated.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/random_volumes/mod.rs"]
mod random_volumes;
#[path = "support/root_support/mod.rs"]
mod root_support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use random_volumes::writers::Writers;
use random_volumes::{BLOCK, Way, change, files};
use root_support::Sandbox;
use windlass::mount::image::{self, ImageFileSystem};
use windlass::mount::system::SystemMounter;
use windlass::mount::{Formatting, MountRequest, Mounter};
use windlass::node::quiesce::MountQuiesce;
use windlass::pool::PoolError;
use windlass::pool::owned::OwnedPool;
use windlass::pool::record::Consumer;
use windlass::pool::reflink::{create_pool, open_pool};
use windlass::types::{Access, ByteRange, CapacityRange, DataChecksum, FsType, NewVolume, Object, SnapshotId, VolumeId};

const CONFIGURATIONS: usize = 3;
/// In all, when the environment does not say.
const OPERATIONS: usize = 2400;
/// Size of a raw volume at its creation, and what none grows beyond.
const SMALL: u64 = 3 << 20;
const LARGE: u64 = 5 << 20;
/// Size of the volume with a file system: about the least that ext4 has a journal in.
const FILE_SYSTEM: u64 = 24 << 20;
/// Raw volumes at a time.
const VOLUMES: usize = 4;
/// Snapshots of a volume at a time, and deleted ones that are still asked for.
const LIVE: usize = 6;
const DELETED: usize = 8;

struct Snap {
    id: SnapshotId,
    bytes: Vec<u8>,
}

/// What is known of a volume's content.
enum Content {
    /// All of it.
    Known(Vec<u8>),
    /// It is being written to.
    InFlight(Writers),
    /// It is a file system, mounted here or not mounted.
    FileSystem(Option<PathBuf>),
    /// It was deleted; its snapshots are there.
    Gone,
}

struct Volume {
    id: VolumeId,
    size: u64,
    content: Content,
    /// The oldest first.
    live: Vec<Snap>,
    deleted: Vec<Snap>,
}

/// What was done, for people.
#[derive(Debug, Default)]
struct Tally {
    operations: BTreeMap<&'static str, u64>,
    writes_in_flight: u64,
    allocated: u64,
    changed: u64,
    from_anchors: u64,
    refused: u64,
    bytes_said: u64,
    bytes_different: u64,
}

/// A pool and everything that must be true of it. The fields go in their order: nothing may hold what comes later.
struct Model {
    volumes: Vec<Volume>,
    pool: Option<OwnedPool>,
    image: Option<ImageFileSystem>,
    fs_type: FsType,
    mounter: Arc<SystemMounter>,
    checksum: DataChecksum,
    mount_point: PathBuf,
    random: StdRng,
    names: u64,
    tally: Tally,
}

impl Model {
    fn new(sandbox: &Sandbox, fs_type: FsType, checksum: DataChecksum, seed: u64) -> Self {
        let image = sandbox.pool(fs_type);
        create_pool(&image.directory().join("pool")).unwrap();
        let mut model = Self {
            volumes: Vec::new(),
            pool: None,
            image: Some(image),
            fs_type,
            mounter: Arc::new(SystemMounter::new()),
            checksum,
            mount_point: sandbox.directory("mounted"),
            random: StdRng::seed_from_u64(seed),
            names: 0,
            tally: Tally::default(),
        };
        model.open_pool();
        if fs_type == FsType::Xfs {
            let refused = model.pool().create_volume(&NewVolume { checksum: DataChecksum::On, ..model.new_volume(SMALL, None) });
            assert!(matches!(refused, Err(PoolError::Unsupported(_))), "checksums of data on XFS: {refused:?}");
        }
        model.make(SMALL, None, Content::Known(vec![0; SMALL as usize]));
        model.make(SMALL, None, Content::Known(vec![0; SMALL as usize]));
        model.make(FILE_SYSTEM, None, Content::FileSystem(None));
        let device = model.attach(2);
        model.mounter.make_file_system(&device, FsType::Ext4, Formatting::Blank).unwrap();
        model
    }

    fn directory(&self) -> PathBuf {
        self.image.as_ref().unwrap().directory().join("pool")
    }

    fn pool(&self) -> &OwnedPool {
        self.pool.as_ref().unwrap()
    }

    /// A start: everything is as it was, and nothing is there that is not known.
    fn open_pool(&mut self) {
        let quiesce = MountQuiesce::new(Arc::clone(&self.mounter) as Arc<dyn Mounter>);
        let pool = open_pool(&self.directory(), Arc::new(quiesce)).unwrap();
        let status = pool.status().unwrap();
        assert_eq!((status.quarantined, status.damaged), (Vec::new(), Vec::new()));
        self.pool = Some(pool);
    }

    fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}-{}", self.names)
    }

    fn new_volume(&self, size: u64, source: Option<Object>) -> NewVolume {
        NewVolume { checksum: self.checksum, source, ..basics::new_volume(&format!("volume-{}", self.names), size) }
    }

    fn make(&mut self, size: u64, source: Option<Object>, content: Content) {
        self.names += 1;
        let id = self.pool().create_volume(&self.new_volume(size, source)).unwrap().into_inner().id;
        self.volumes.push(Volume { id, size, content, live: Vec::new(), deleted: Vec::new() });
    }

    fn object(&self, index: usize) -> Object {
        Object::Volume(self.volumes[index].id)
    }

    fn attach(&self, index: usize) -> PathBuf {
        self.pool().attach(self.object(index), Access::ReadWrite).unwrap().device
    }

    /// The file beneath a volume.
    fn file(&self, index: usize) -> File {
        let path = self.directory().join("volumes").join(self.volumes[index].id.to_string());
        let path = if self.fs_type == FsType::Btrfs { path.join("data") } else { path };
        OpenOptions::new().read(true).write(true).open(path).unwrap()
    }

    /// One operation.
    fn step(&mut self) {
        let mut index = self.random.random_range(0..self.volumes.len());
        if self.is_gone(index) && self.random.random_range(0..2) == 0 {
            index = self.random.random_range(0..self.volumes.len());
        }
        let done = match self.random.random_range(0..1000) {
            // Else the snapshots of deleted volumes would become more and more.
            0..200 if self.is_gone(index) => self.delete_snapshot(index),
            // Its snapshots are large.
            720..800 if matches!(self.volumes[index].content, Content::FileSystem(_)) && self.random.random_range(0..3) > 0 => {
                self.change(index)
            }
            0..720 => self.change(index),
            720..800 => self.cut(index),
            800..835 => self.delete_snapshot(index),
            835..860 => self.grow(index),
            860..880 => self.copy(index),
            880..890 => self.delete_volume(index),
            890..940 => self.attach_or_detach(index),
            940..960 => self.write_in_flight(index),
            960..990 => self.compare_again(index),
            990..997 => self.restart(),
            _ => self.unmount_pool(),
        };
        *self.tally.operations.entry(done).or_default() += 1;
    }

    fn is_gone(&self, index: usize) -> bool {
        matches!(self.volumes[index].content, Content::Gone)
    }

    fn change(&mut self, index: usize) -> &'static str {
        let device = match self.volumes[index].content {
            Content::Known(_) => self.pool().attachment(self.object(index)).unwrap().map(|attachment| attachment.device),
            _ => None,
        };
        let file = self.file_of_detached(index, device.as_deref());
        match &mut self.volumes[index].content {
            Content::Known(bytes) => match (device, file) {
                (Some(device), _) => change(&Way::Device(&device), bytes, &mut self.random),
                (None, Some(file)) => change(&Way::File(&file), bytes, &mut self.random),
                (None, None) => unreachable!("a volume has a device or a file"),
            },
            Content::InFlight(writers) => {
                writers.wait_for(10);
                return "writes in flight";
            }
            Content::FileSystem(Some(mounted)) => {
                files::change(mounted, &mut self.random);
                return "file changes";
            }
            Content::FileSystem(None) => return self.mount(index),
            Content::Gone => return self.compare_again(index),
        }
        "changes"
    }

    fn file_of_detached(&self, index: usize, device: Option<&Path>) -> Option<File> {
        (matches!(self.volumes[index].content, Content::Known(_)) && device.is_none()).then(|| self.file(index))
    }

    fn mount(&mut self, index: usize) -> &'static str {
        let device = self.attach(index);
        let (target, options) = (self.mount_point.clone(), Vec::new());
        let request = MountRequest { device, target, fs_type: FsType::Ext4, options, access: Access::ReadWrite };
        self.mounter.mount(&request).unwrap();
        self.volumes[index].content = Content::FileSystem(Some(self.mount_point.clone()));
        "mounts"
    }

    fn unmount(&mut self, index: usize) -> &'static str {
        self.mounter.unmount(&self.mount_point).unwrap();
        self.volumes[index].content = Content::FileSystem(None);
        "unmounts"
    }

    fn cut(&mut self, index: usize) -> &'static str {
        let volume = &self.volumes[index];
        let (source, in_flight) = (volume.id, matches!(volume.content, Content::InFlight(_)));
        if self.is_gone(index) {
            return self.compare_again(index);
        }
        if volume.live.len() >= LIVE {
            self.delete_snapshot(index);
        }
        let request = basics::new_snapshot(&self.name("cut"), source);
        let id = self.pool().create_snapshots(&[request]).unwrap().remove(0).into_inner().id;
        let bytes = self.read(id);
        let volume = &mut self.volumes[index];
        assert_eq!(bytes.len() as u64, volume.size);
        if let Content::Known(content) = &volume.content {
            assert!(*content == bytes, "the snapshot is not the volume");
        }
        volume.live.push(Snap { id, bytes });
        self.compare(index, self.volumes[index].live.len() - 1);
        if in_flight { "cuts in flight" } else { "cuts" }
    }

    /// The bytes of a snapshot, never by way of a device.
    fn read(&self, id: SnapshotId) -> Vec<u8> {
        let lease = self.pool().lease(id).unwrap();
        let mut bytes = vec![0; lease.size().bytes() as usize];
        lease.file().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// That all answers about a snapshot are right.
    fn compare(&mut self, index: usize, target: usize) {
        let anchors: BTreeSet<SnapshotId> = self.pool().anchors().unwrap().iter().map(|anchor| anchor.snapshot.id).collect();
        let (volume, tally) = (&self.volumes[index], &mut self.tally);
        let pool = self.pool.as_ref().unwrap();
        let target = &volume.live[target];
        let lease = pool.lease(target.id).unwrap();
        let ranges: Vec<ByteRange> = lease.allocated().unwrap().map(Result::unwrap).collect();
        assert_right(&ranges, &[], &target.bytes);
        tally.allocated += 1;
        for base in &volume.live {
            let ranges: Vec<ByteRange> = lease.changed_since(base.id).unwrap().map(Result::unwrap).collect();
            assert_right(&ranges, &base.bytes, &target.bytes);
            tally.changed += 1;
            tally.bytes_said += ranges.iter().map(|range| range.length()).sum::<u64>();
            tally.bytes_different += different(&base.bytes, &target.bytes);
        }
        for base in &volume.deleted {
            match lease.changed_since(base.id) {
                Ok(ranges) => {
                    assert!(anchors.contains(&base.id), "an answer from a base that is not kept");
                    let ranges: Vec<ByteRange> = ranges.map(Result::unwrap).collect();
                    assert_right(&ranges, &base.bytes, &target.bytes);
                    tally.from_anchors += 1;
                }
                Err(PoolError::Missing(object)) => {
                    assert_eq!(object, Object::Snapshot(base.id));
                    assert!(!anchors.contains(&base.id), "an anchor that does not answer");
                    tally.refused += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// What was said once is still true, and no snapshot changed.
    fn compare_again(&mut self, index: usize) -> &'static str {
        let count = self.volumes[index].live.len();
        if count > 0 {
            let target = self.random.random_range(0..count);
            let snap = &self.volumes[index].live[target];
            assert!(self.read(snap.id) == snap.bytes, "a snapshot changed");
            self.compare(index, target);
        }
        "comparisons"
    }

    fn delete_snapshot(&mut self, index: usize) -> &'static str {
        let count = self.volumes[index].live.len();
        if count == 0 {
            return self.compare_again(index);
        }
        let gone = self.volumes[index].live.remove(self.random.random_range(0..count));
        // Those that somebody used are kept as anchors.
        match self.random.random_range(0..5) {
            0 => self.pool().record_use(gone.id, Consumer::MetadataClient).unwrap(),
            number @ 1..4 => self.pool().record_use(gone.id, Consumer::Repository(format!("{number:064x}"))).unwrap(),
            _ => {}
        }
        self.pool().delete_snapshot(gone.id).unwrap();
        let deleted = &mut self.volumes[index].deleted;
        deleted.push(gone);
        if deleted.len() > DELETED {
            // Anchors last longest where the oldest are the least used; which one is forgotten here does not matter.
            deleted.remove(0);
        }
        self.forget_empty(index);
        "deletions"
    }

    /// A deleted volume without snapshots is of no more use.
    fn forget_empty(&mut self, index: usize) {
        if self.is_gone(index) && self.volumes[index].live.is_empty() {
            self.volumes.remove(index);
        }
    }

    fn grow(&mut self, index: usize) -> &'static str {
        let more = self.random.random_range(0..64) * BLOCK;
        let volume = &mut self.volumes[index];
        let limit = match volume.content {
            Content::Gone => return self.compare_again(index),
            Content::FileSystem(_) => FILE_SYSTEM + (1 << 20),
            Content::Known(_) | Content::InFlight(_) => LARGE,
        };
        volume.size = (volume.size + more).min(limit.max(volume.size));
        if let Content::Known(bytes) = &mut volume.content {
            bytes.resize(volume.size as usize, 0);
        }
        let (id, size) = (volume.id, volume.size);
        self.pool().grow_volume(id, CapacityRange::new(Some(size), None).unwrap()).unwrap();
        "growths"
    }

    /// A new volume from a snapshot or from another volume, some larger than their source.
    fn copy(&mut self, index: usize) -> &'static str {
        let raw = self.volumes.iter().filter(|volume| !matches!(volume.content, Content::Gone | Content::FileSystem(_))).count();
        let volume = &self.volumes[index];
        if raw >= VOLUMES || matches!(volume.content, Content::FileSystem(_)) {
            return self.compare_again(index);
        }
        let count = volume.live.len();
        let (source, mut bytes) = match &volume.content {
            Content::Known(bytes) if count == 0 || self.random.random_range(0..3) == 0 => {
                (Object::Volume(volume.id), bytes.clone())
            }
            _ if count == 0 => return self.compare_again(index),
            _ => {
                let snap = &volume.live[self.random.random_range(0..count)];
                (Object::Snapshot(snap.id), snap.bytes.clone())
            }
        };
        let more = self.random.random_range(0..4) * BLOCK as usize;
        bytes.resize((bytes.len() + more).min(LARGE as usize), 0);
        self.make(bytes.len() as u64, Some(source), Content::Known(bytes));
        "copies"
    }

    fn delete_volume(&mut self, index: usize) -> &'static str {
        let known = self.volumes.iter().filter(|volume| matches!(volume.content, Content::Known(_))).count();
        if known < 2 || !matches!(self.volumes[index].content, Content::Known(_)) {
            return self.compare_again(index);
        }
        self.pool().detach(self.object(index)).unwrap();
        self.pool().delete_volume(self.volumes[index].id).unwrap();
        self.volumes[index].content = Content::Gone;
        self.forget_empty(index);
        "deletions of volumes"
    }

    fn attach_or_detach(&mut self, index: usize) -> &'static str {
        match self.volumes[index].content {
            Content::Gone | Content::InFlight(_) => return self.compare_again(index),
            Content::FileSystem(None) => return self.mount(index),
            Content::FileSystem(Some(_)) => return self.unmount(index),
            Content::Known(_) => {}
        }
        match self.pool().attachment(self.object(index)).unwrap() {
            Some(_) => self.pool().detach(self.object(index)).unwrap(),
            None => drop(self.attach(index)),
        }
        "attachments and detachments"
    }

    /// Snapshots of a volume that is written to meanwhile, and what else there is to do with it.
    fn write_in_flight(&mut self, index: usize) -> &'static str {
        if !matches!(self.volumes[index].content, Content::Known(_)) {
            return self.compare_again(index);
        }
        let (device, seed) = (self.attach(index), self.random.random());
        self.volumes[index].content = Content::InFlight(Writers::start(&device, self.volumes[index].size, seed));
        for _ in 0..self.random.random_range(2..8) {
            let done = match self.random.random_range(0..10) {
                0 => self.grow(index),
                1 => self.copy(index),
                2 => self.delete_snapshot(index),
                3 => self.change(index),
                _ => self.cut(index),
            };
            *self.tally.operations.entry(done).or_default() += 1;
        }
        self.settle(index);
        "writers"
    }

    /// Ends the writers of a volume, and learns what they wrote.
    fn settle(&mut self, index: usize) {
        let device = self.attach(index);
        let volume = &mut self.volumes[index];
        let mut bytes = vec![0; volume.size as usize];
        if let Content::InFlight(writers) = std::mem::replace(&mut volume.content, Content::Gone) {
            self.tally.writes_in_flight += writers.written();
            drop(writers);
            File::open(&device).unwrap().read_exact_at(&mut bytes, 0).unwrap();
            volume.content = Content::Known(bytes);
        }
    }

    /// The pool's process ends and another begins; devices and mounts stay.
    fn restart(&mut self) -> &'static str {
        self.pool = None;
        self.open_pool();
        "restarts"
    }

    /// Everything is unmounted, the file system of the pool too, and comes back.
    fn unmount_pool(&mut self) -> &'static str {
        self.quieten();
        self.pool = None;
        // Its lock goes with it.
        let image = self.image.take().unwrap();
        let path = image.image().to_owned();
        image.close().unwrap();
        drop(image);
        self.image = Some(image::open(&path).unwrap());
        self.open_pool();
        "unmounts of the pool"
    }

    fn quieten(&mut self) {
        for index in 0..self.volumes.len() {
            match self.volumes[index].content {
                Content::InFlight(_) => self.settle(index),
                Content::FileSystem(Some(_)) => drop(self.unmount(index)),
                Content::Known(_) | Content::FileSystem(None) => {}
                Content::Gone => continue,
            }
            self.pool().detach(self.object(index)).unwrap();
        }
    }

    /// Compares everything once more, then deletes it all: nothing is left.
    fn end(mut self) -> Tally {
        self.quieten();
        for index in 0..self.volumes.len() {
            for target in 0..self.volumes[index].live.len() {
                let snap = &self.volumes[index].live[target];
                assert!(self.read(snap.id) == snap.bytes, "a snapshot changed");
                self.compare(index, target);
            }
        }
        for volume in &self.volumes {
            volume.live.iter().for_each(|snap| self.pool().delete_snapshot(snap.id).unwrap());
            self.pool().delete_volume(volume.id).unwrap();
        }
        for name in ["volumes", "snapshots"] {
            assert_eq!(std::fs::read_dir(self.directory().join(name)).unwrap().count(), 0, "{name} are left");
        }
        self.tally
    }
}

/// The base with the ranges of the target is the target; ranges ascend, do not touch, and lie within it.
fn assert_right(ranges: &[ByteRange], before: &[u8], after: &[u8]) {
    assert!(ranges.windows(2).all(|pair| pair[0].end() < pair[1].offset()), "{ranges:?}");
    assert!(ranges.last().is_none_or(|last| last.end() <= after.len() as u64), "{ranges:?}");
    // What is not said must be the same in both, zeros where the base has nothing.
    let mut position = 0;
    let ends = ranges.iter().map(|range| (range.offset() as usize, range.end() as usize));
    for (start, end) in ends.chain([(after.len(), after.len())]) {
        let common = start.min(before.len()).max(position);
        let is_same = before.get(position..common).is_none_or(|before| *before == after[position..common])
            && after[common..start].iter().all(|&byte| byte == 0);
        assert!(is_same, "something is missing between {position} and {start}: {ranges:?}");
        position = end;
    }
}

/// Bytes in blocks that differ.
fn different(before: &[u8], after: &[u8]) -> u64 {
    let blocks = after.chunks(BLOCK as usize).enumerate();
    let is_changed = |(index, block): (usize, &[u8])| {
        let at = index * BLOCK as usize;
        match before.get(at..at + block.len()) {
            Some(before) => before != block,
            None => block.iter().any(|&byte| byte != 0),
        }
    };
    blocks.filter(|block| is_changed(*block)).count() as u64 * BLOCK
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn nothing_is_missed(fs_type: FsType, checksum: DataChecksum, salt: u64) {
    let operations = number("WINDLASS_RANDOM_OPERATIONS").map_or(OPERATIONS, |all| all as usize).div_ceil(CONFIGURATIONS);
    let seed = number("WINDLASS_RANDOM_SEED").unwrap_or(4);
    println!("{operations} operations on {fs_type}, checksums {checksum:?}, seed {seed}");
    let sandbox = Sandbox::new();
    let mut model = Model::new(&sandbox, fs_type, checksum, seed.wrapping_mul(CONFIGURATIONS as u64).wrapping_add(salt));
    for _ in 0..operations {
        model.step();
    }
    let tally = model.end();
    println!("{fs_type}, checksums {checksum:?}: {tally:?}");
    let asked = tally.changed + tally.from_anchors;
    assert!(asked as usize > operations / 5 && tally.from_anchors as usize > operations / 50 && tally.refused > 0);
    assert!(operations < 500 || tally.operations.contains_key("cuts in flight") && tally.writes_in_flight > 0);
}

#[test]
fn nothing_is_missed_on_xfs() {
    nothing_is_missed(FsType::Xfs, DataChecksum::Off, 0);
}

#[test]
fn nothing_is_missed_on_btrfs() {
    nothing_is_missed(FsType::Btrfs, DataChecksum::Off, 1);
}

#[test]
fn nothing_is_missed_on_btrfs_with_checksums() {
    nothing_is_missed(FsType::Btrfs, DataChecksum::On, 2);
}
