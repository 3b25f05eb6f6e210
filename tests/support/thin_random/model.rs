//! Volumes and snapshots of a pool, what they must hold, and the operations on them.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use windlass::block::{AlignedBuffer, device};
use windlass::dm::units::ThinId;
use windlass::dm::{DeviceMapper, TargetKind};
use windlass::pool::owned::OwnedPool;
use windlass::pool::record::Consumer;
use windlass::pool::thin::names::{Names, Part};
use windlass::types::{Access, ByteRange, CapacityRange, Object, SnapshotId, VolumeId};

use super::content::{Content, PIECE};
use super::oracle::Map;
use crate::basics::new_snapshot;
use crate::random_volumes::content;
use crate::random_volumes::writers::Writers;
use crate::thin_support;

/// Size of a volume at its creation: more blocks than a leaf of a tree of mappings has, so that trees branch.
const SMALL: u64 = 17 << 20;
/// No volume grows beyond this.
const LARGE: u64 = 22 << 20;
/// Volumes that are not deleted, at most.
const VOLUMES: usize = 3;
/// Volumes that were deleted and have snapshots, at most.
const GONE: usize = 2;
/// Snapshots of a volume at a time, and deleted ones that are still asked for.
const LIVE: usize = 4;
const DELETED: usize = 6;
/// What all devices take whole.
const SECTOR: u64 = 512;
const PAGE: u64 = 4096;

pub struct Snap {
    pub id: SnapshotId,
    pub thin: ThinId,
    pub content: Content,
}

pub struct Deleted {
    pub snap: Snap,
    /// What it had, if it was there at the end of a round.
    pub map: Option<Map>,
}

pub struct Volume {
    pub id: VolumeId,
    /// Absent when it was deleted; its snapshots may be there.
    pub content: Option<Content>,
    pub thin: ThinId,
    /// The oldest first.
    pub live: Vec<Snap>,
    /// In the order of their deletion.
    pub deleted: Vec<Deleted>,
}

/// What was done and found, for people.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many of each, and the time that they took.
    pub operations: BTreeMap<&'static str, (u64, Duration)>,
    pub writes_in_flight: u64,
    pub rounds: u64,
    pub contents_compared: u64,
    pub bytes_compared: u64,
    pub allocated: u64,
    pub changed: u64,
    pub thin_deltas: u64,
    /// Of answers from bases that are there: data blocks said, and those of them whose bytes differ.
    pub blocks_said: u64,
    pub blocks_different: u64,
    pub from_anchors: u64,
    pub refused: u64,
    pub refused_as_younger: u64,
    /// The same of answers from anchors; and how many of those said are not in `thin_dump`'s difference, had the base been there.
    pub anchors_blocks_said: u64,
    pub anchors_blocks_different: u64,
    pub anchors_maps_known: u64,
    pub anchors_blocks_beyond_the_map: u64,
}

pub struct Model {
    pub volumes: Vec<Volume>,
    pub pool: Option<OwnedPool>,
    pub disk: PathBuf,
    pub dm: DeviceMapper,
    pub random: StdRng,
    pub names: u64,
    /// When the last operation ended.
    pub since: Instant,
    pub tally: Tally,
    /// What `thin_dump` said at the end of the last round.
    pub maps: BTreeMap<ThinId, Map>,
}

impl Model {
    pub fn new(disk: PathBuf, seed: u64) -> Self {
        thin_support::make(&disk);
        let mut model = Self {
            volumes: Vec::new(),
            pool: None,
            disk,
            dm: DeviceMapper::open().unwrap(),
            random: StdRng::seed_from_u64(seed),
            names: 0,
            since: Instant::now(),
            tally: Tally::default(),
            maps: BTreeMap::new(),
        };
        model.open_pool();
        model.make(Content::zeros(SMALL), None);
        // The end of this one is not the end of a data block.
        model.make(Content::zeros(SMALL + 3 * PAGE), None);
        model
    }

    pub fn pool(&self) -> &OwnedPool {
        self.pool.as_ref().unwrap()
    }

    /// A start: everything is as it was, and nothing is there that is not known.
    fn open_pool(&mut self) {
        let pool = thin_support::open(&self.disk);
        let status = pool.status().unwrap();
        assert_eq!((status.quarantined, status.damaged), (Vec::new(), Vec::new()));
        self.pool = Some(pool);
    }

    fn count(&mut self, done: &'static str) {
        let (count, time) = self.tally.operations.entry(done).or_default();
        *count += 1;
        *time += self.since.elapsed();
        self.since = Instant::now();
    }

    fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}-{}", self.names)
    }

    fn make(&mut self, content: Content, source: Option<Object>) {
        let name = self.name("volume");
        let id = thin_support::create(self.pool(), &name, content.bytes(), source).id;
        self.pool().attach(Object::Volume(id), Access::ReadWrite).unwrap();
        let thin = self.thin_id(Object::Volume(id));
        self.volumes.push(Volume { id, content: Some(content), thin, live: Vec::new(), deleted: Vec::new() });
    }

    /// The kernel's id of an object that has a device at this moment.
    fn thin_id(&self, object: Object) -> ThinId {
        let name = Names::new(self.pool().id()).name(Part::Object(object)).unwrap();
        match self.dm.table(&name).unwrap().as_slice() {
            [target] => match target.kind {
                TargetKind::Thin { id, .. } => id,
                ref other => panic!("{object} is {other:?}"),
            },
            other => panic!("{object} is {other:?}"),
        }
    }

    pub fn attach(&self, index: usize) -> PathBuf {
        self.pool().attach(Object::Volume(self.volumes[index].id), Access::ReadWrite).unwrap().device
    }

    /// A volume that is there.
    fn any(&mut self) -> usize {
        let there: Vec<usize> = (0..self.volumes.len()).filter(|&index| self.volumes[index].content.is_some()).collect();
        there[self.random.random_range(0..there.len())]
    }

    /// A volume that has snapshots, if there is one.
    fn any_with_snapshots(&mut self) -> Option<usize> {
        let with: Vec<usize> = (0..self.volumes.len()).filter(|&index| !self.volumes[index].live.is_empty()).collect();
        (!with.is_empty()).then(|| with[self.random.random_range(0..with.len())])
    }

    /// One operation, whatever is possible.
    pub fn step(&mut self) {
        self.since = Instant::now();
        match self.random.random_range(0..1000) {
            0..660 => self.write(),
            660..790 => self.discard(),
            790..870 => {
                let index = self.any();
                self.cut(index);
            }
            870..915 => self.delete_snapshot(None),
            915..935 => self.copy(),
            935..943 => self.delete_volume(),
            943..965 => {
                let index = self.any();
                self.grow(index);
            }
            965..990 => self.attach_or_detach(),
            990..994 => self.write_in_flight(),
            994..997 => self.restart(),
            _ => self.take_down(),
        }
    }

    /// Some part of a volume in units of `unit`, of at most `most` bytes.
    fn range(&mut self, bytes: u64, unit: u64, most: u64) -> ByteRange {
        let start = self.random.random_range(0..bytes / unit);
        let length = self.random.random_range(1..=(most / unit).min(bytes / unit - start));
        ByteRange::new(start * unit, length * unit).unwrap()
    }

    /// A write: small and large, aligned and not, with and without the page cache, some of zeros.
    fn write(&mut self) {
        let index = self.any();
        let path = self.attach(index);
        let bytes = self.volumes[index].content.as_ref().unwrap().bytes();
        let (what, range) = match self.random.random_range(0..10) {
            0..3 => ("writes of any bytes", self.range(bytes, 1, 3 * PAGE)),
            3..5 => ("writes of sectors", self.range(bytes, SECTOR, 8 * SECTOR)),
            5..8 => ("writes of pages", self.range(bytes, PAGE, 16 * PAGE)),
            8 => ("writes of whole data blocks", self.range(bytes, PIECE, 4 * PIECE)),
            _ => ("zeroings", self.range(bytes, SECTOR, 3 * PIECE)),
        };
        let model = self.volumes[index].content.as_mut().unwrap();
        if what == "zeroings" {
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            device::zero_out(&file, range).unwrap();
            file.sync_all().unwrap();
            model.zero(range);
        } else {
            let data = content(&mut self.random, range.length() as usize);
            let is_direct = what != "writes of any bytes" && self.random.random_range(0..4) > 0;
            write(&path, range.offset(), &data, is_direct);
            model.write(range.offset(), &data);
        }
        self.count(what);
    }

    fn discard(&mut self) {
        let index = self.any();
        let path = self.attach(index);
        let bytes = self.volumes[index].content.as_ref().unwrap().bytes();
        let (what, range) = match self.random.random_range(0..3) {
            0 => ("discards of whole data blocks", self.range(bytes, PIECE, 8 * PIECE)),
            1 => ("discards of pages", self.range(bytes, PAGE, 4 * PIECE)),
            _ => ("discards of sectors", self.range(bytes, SECTOR, 4 * PIECE)),
        };
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        device::discard(&file, range).unwrap();
        self.volumes[index].content.as_mut().unwrap().discard(range);
        self.count(what);
    }

    fn cut(&mut self, index: usize) {
        if self.volumes[index].live.len() >= LIVE {
            self.delete_snapshot(Some(index));
        }
        let source = self.volumes[index].id;
        let request = new_snapshot(&self.name("cut"), source);
        let id = self.pool().create_snapshots(&[request]).unwrap().remove(0).into_inner().id;
        let _lease = self.pool().lease(id).unwrap();
        let thin = self.thin_id(Object::Snapshot(id));
        let content = self.volumes[index].content.clone().unwrap();
        self.volumes[index].live.push(Snap { id, thin, content });
        self.count("snapshots");
    }

    fn delete_snapshot(&mut self, index: Option<usize>) {
        let Some(index) = index.or_else(|| self.any_with_snapshots()) else { return self.write() };
        let which = self.random.random_range(0..self.volumes[index].live.len());
        let snap = self.volumes[index].live.remove(which);
        // Those that somebody used are kept as anchors.
        match self.random.random_range(0..6) {
            0 => {}
            1 => self.pool().record_use(snap.id, Consumer::MetadataClient).unwrap(),
            number => self.pool().record_use(snap.id, Consumer::Repository(format!("{number:064x}"))).unwrap(),
        }
        self.pool().delete_snapshot(snap.id).unwrap();
        let map = self.maps.get(&snap.thin).cloned();
        let deleted = &mut self.volumes[index].deleted;
        deleted.push(Deleted { snap, map });
        if deleted.len() > DELETED {
            deleted.remove(0);
        }
        self.forget_empty(index);
        self.count("deletions of snapshots");
    }

    /// A deleted volume without snapshots is of no more use.
    fn forget_empty(&mut self, index: usize) {
        if self.volumes[index].content.is_none() && self.volumes[index].live.is_empty() {
            self.volumes.remove(index);
        }
    }

    /// A new volume from a volume or from a snapshot, some larger than their source.
    fn copy(&mut self) {
        while self.volumes.iter().filter(|volume| volume.content.is_some()).count() >= VOLUMES {
            self.delete_volume();
        }
        let of_snapshot = if self.random.random_range(0..3) > 0 { self.any_with_snapshots() } else { None };
        let (source, mut content) = match of_snapshot {
            Some(index) => {
                let which = self.random.random_range(0..self.volumes[index].live.len());
                let snap = &self.volumes[index].live[which];
                (Object::Snapshot(snap.id), snap.content.clone())
            }
            None => {
                let index = self.any();
                (Object::Volume(self.volumes[index].id), self.volumes[index].content.clone().unwrap())
            }
        };
        let more = self.random.random_range(0..8) * 5 * PAGE;
        content.grow((content.bytes() + more).min(LARGE));
        self.make(content, Some(source));
        self.count(if of_snapshot.is_some() { "clones of snapshots" } else { "clones of volumes" });
    }

    fn delete_volume(&mut self) {
        if self.volumes.iter().filter(|volume| volume.content.is_some()).count() < 2 {
            return self.write();
        }
        let index = self.any();
        let id = self.volumes[index].id;
        self.pool().detach(Object::Volume(id)).unwrap();
        self.pool().delete_volume(id).unwrap();
        self.volumes[index].content = None;
        self.forget_empty(index);
        self.count("deletions of volumes");
        // Else the snapshots of deleted volumes would become more and more.
        let gone: Vec<VolumeId> = self.volumes.iter().filter(|volume| volume.content.is_none()).map(|volume| volume.id).collect();
        if let Some(oldest) = gone.first().filter(|_| gone.len() > GONE) {
            while let Some(index) = self.volumes.iter().position(|volume| volume.id == *oldest) {
                self.delete_snapshot(Some(index));
            }
        }
    }

    fn grow(&mut self, index: usize) {
        let more = self.random.random_range(1..32) * PAGE;
        let content = self.volumes[index].content.as_mut().unwrap();
        let size = (content.bytes() + more).min(LARGE);
        content.grow(size);
        let id = self.volumes[index].id;
        self.pool().grow_volume(id, CapacityRange::new(Some(size), None).unwrap()).unwrap();
        self.count("growths");
    }

    fn attach_or_detach(&mut self) {
        let index = self.any();
        let object = Object::Volume(self.volumes[index].id);
        match self.pool().attachment(object).unwrap() {
            Some(_) => self.pool().detach(object).unwrap(),
            None => drop(self.attach(index)),
        }
        self.count("attachments and detachments");
    }

    /// Snapshots of a volume that is written to meanwhile: what they hold is learned from them, and then holds as for any other.
    fn write_in_flight(&mut self) {
        let index = self.any();
        let path = self.attach(index);
        let before = self.volumes[index].content.clone().unwrap();
        let writers = Writers::start(&path, before.bytes(), self.random.random());
        for _ in 0..self.random.random_range(2..5) {
            writers.wait_for(5);
            if self.random.random_range(0..5) == 0 {
                self.grow(index);
            }
            self.cut(index);
            let snap = self.volumes[index].live.last().unwrap();
            let lease = self.pool().lease(snap.id).unwrap();
            let content = Content::read(lease.file(), lease.size().bytes(), &before);
            drop(lease);
            self.volumes[index].live.last_mut().unwrap().content = content;
            self.count("snapshots in flight");
        }
        self.tally.writes_in_flight += writers.written();
        drop(writers);
        let size = self.volumes[index].content.as_ref().unwrap().bytes();
        self.volumes[index].content = Some(Content::read(&File::open(path).unwrap(), size, &before));
    }

    /// The owner goes and another comes; devices of volumes that are attached stay.
    fn restart(&mut self) {
        self.pool = None;
        self.open_pool();
        self.count("restarts");
    }

    /// As a restart, and nothing of the pool stays in the kernel between.
    fn take_down(&mut self) {
        for volume in self.volumes.iter().filter(|volume| volume.content.is_some()) {
            self.pool().detach(Object::Volume(volume.id)).unwrap();
        }
        let id = self.pool().id().to_string();
        self.pool = None;
        let left = self.dm.list().unwrap();
        assert!(left.iter().all(|device| !device.name.contains(&id)), "{left:?}");
        self.open_pool();
        self.count("restarts with nothing left in the kernel");
    }

    /// Deletes everything: nothing is left.
    pub fn end(mut self) -> Tally {
        while let Some(index) = self.any_with_snapshots() {
            let snap = self.volumes[index].live.remove(0);
            self.pool().delete_snapshot(snap.id).unwrap();
        }
        for volume in self.volumes.iter().filter(|volume| volume.content.is_some()) {
            self.pool().detach(Object::Volume(volume.id)).unwrap();
            self.pool().delete_volume(volume.id).unwrap();
        }
        // Anchors keep no data.
        let usage = self.pool().status().unwrap().usage;
        assert_eq!(usage.free, usage.total);
        self.tally
    }
}

fn write(path: &Path, offset: u64, data: &[u8], is_direct: bool) {
    let mut options = OpenOptions::new();
    options.write(true);
    if is_direct {
        let mut buffer = AlignedBuffer::zeroed(data.len());
        buffer.copy_from_slice(data);
        let file = options.custom_flags(libc::O_DIRECT).open(path).unwrap();
        file.write_all_at(&buffer, offset).unwrap();
        return;
    }
    let file = options.open(path).unwrap();
    file.write_all_at(data, offset).unwrap();
    file.sync_all().unwrap();
}
