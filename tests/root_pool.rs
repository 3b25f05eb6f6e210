#![cfg(feature = "root-tests")]
//! Reflink pools on real XFS and Btrfs. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/root_support/mod.rs"]
mod root_support;

use std::any::Any;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use root_support::{Sandbox, attach, new_snapshot, new_volume, pattern, request, sparse_file};
use windlass::block::{btrfs, device, file_ops};
use windlass::mount::image;
use windlass::mount::system::SystemMounter;
use windlass::mount::{Formatting, Mounter};
use windlass::pool::adopt::AdoptOrder;
use windlass::pool::catalogue::Catalogue;
use windlass::pool::owned::{OwnedPool, RestoreStart};
use windlass::pool::quiesce::NothingToHold;
use windlass::pool::reflink::{ReflinkPool, adopt, create_pool, open_pool};
use windlass::pool::{Cut, Found, ObjectSpec, Pool, PoolError};
use windlass::types::{Access, ByteRange, CapacityRange, DataChecksum, FsType, Object, SnapshotId, VolumeId, VolumeSize};

const BLOCK: usize = 4096;
const STALL: Duration = Duration::from_secs(10);
const POOLS: [FsType; 2] = [FsType::Xfs, FsType::Btrfs];

fn size(bytes: u64) -> VolumeSize {
    VolumeSize::new(bytes).unwrap()
}

fn spec(bytes: u64) -> ObjectSpec {
    ObjectSpec { size: size(bytes), checksum: DataChecksum::Off }
}

fn open(directory: &Path) -> OwnedPool {
    open_pool(directory, Arc::new(NothingToHold)).unwrap()
}

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

#[test]
fn a_pool_is_made_once_and_has_one_owner() {
    let sandbox = Sandbox::new();
    for fs_type in POOLS {
        let image = sandbox.pool(fs_type);
        let id = create_pool(image.directory()).unwrap();
        assert!(matches!(create_pool(image.directory()), Err(PoolError::Format(_))));
        let pool = open(image.directory());
        assert_eq!(pool.id(), id);
        assert!(matches!(open_pool(image.directory(), Arc::new(NothingToHold)), Err(PoolError::Owned(_))));
        drop(pool);
        assert_eq!(open(image.directory()).id(), id);
        let image_path = image.image().to_owned();
        image.close().unwrap();
        fs::remove_file(image_path).unwrap();
    }
}

#[test]
fn a_creation_of_a_pool_that_was_cut_off_is_begun_again() {
    let sandbox = Sandbox::new();
    let image = sandbox.pool(FsType::Xfs);
    for name in ["volumes", "snapshots"] {
        fs::create_dir(image.directory().join(name)).unwrap();
    }
    fs::write(image.directory().join("catalogue.new"), "half").unwrap();
    create_pool(image.directory()).unwrap();
    open(image.directory());
    let second = image.directory().join("second");
    fs::create_dir_all(second.join("volumes").join(VolumeId::random().to_string())).unwrap();
    assert!(matches!(create_pool(&second), Err(PoolError::Format(_))));
}

#[test]
fn volumes_on_btrfs_are_overwritten_in_place_unless_checksums_are_asked_for() {
    let sandbox = Sandbox::new();
    for fs_type in POOLS {
        let image = sandbox.pool(fs_type);
        create_pool(image.directory()).unwrap();
        let pool = ReflinkPool::open(image.directory()).unwrap();
        let (plain, checked) = (VolumeId::random(), VolumeId::random());
        pool.create(plain, spec(1 << 20)).unwrap();
        let with_checksums = ObjectSpec { checksum: DataChecksum::On, ..spec(1 << 20) };
        if fs_type == FsType::Xfs {
            assert!(matches!(pool.create(checked, with_checksums), Err(PoolError::Unsupported(_))));
            assert_eq!(pool.scan().unwrap().len(), 1);
            continue;
        }
        pool.create(checked, with_checksums).unwrap();
        let copy = VolumeId::random();
        pool.copy(Object::Volume(plain), copy, spec(2 << 20), STALL).unwrap();
        for (id, expected) in [(plain, true), (checked, false), (copy, true)] {
            let file = pool.open(Object::Volume(id), Access::ReadWrite).unwrap();
            assert_eq!(file_ops::is_no_cow(&file).unwrap(), expected);
        }
        // Both kinds are attached with direct I/O, and snapshots only for reading.
        pool.attach(Object::Volume(checked), Access::ReadWrite).unwrap();
        pool.detach(Object::Volume(checked)).unwrap();
        let snapshot = SnapshotId::random();
        pool.snapshot(&[Cut { source: plain, snapshot }], STALL).unwrap();
        let attachment = pool.attach(Object::Snapshot(snapshot), Access::ReadOnly).unwrap();
        assert_eq!(attachment.access, Access::ReadOnly);
        pool.detach(Object::Snapshot(snapshot)).unwrap();
    }
}

#[test]
fn unfinished_objects_are_swept_and_foreign_ones_reported_and_left_alone() {
    let sandbox = Sandbox::new();
    for fs_type in POOLS {
        let image = sandbox.pool(fs_type);
        create_pool(image.directory()).unwrap();
        let volumes = image.directory().join("volumes");
        let (unfinished, unknown) = (format!(".tmp-{}", VolumeId::random()), VolumeId::random());
        let make = |name: &str| match fs_type {
            FsType::Btrfs => btrfs::create_subvolume(&File::open(&volumes).unwrap(), OsStr::new(name)).unwrap(),
            _ => fs::write(volumes.join(name), "content").unwrap(),
        };
        make(&unfinished);
        make(&unknown.to_string());
        fs::write(volumes.join("notes.txt"), "mine").unwrap();
        fs::write(image.directory().join("readme"), "mine").unwrap();
        let pool = open(image.directory());
        let mut quarantined = pool.status().unwrap().quarantined;
        quarantined.sort_unstable();
        let mut expected = vec!["readme".to_owned(), format!("volume {unknown}"), "volumes/notes.txt".to_owned()];
        expected.sort_unstable();
        assert_eq!(quarantined, expected);
        assert!(!volumes.join(unfinished).exists());
        for path in [volumes.join(unknown.to_string()), volumes.join("notes.txt"), image.directory().join("readme")] {
            assert!(path.exists(), "{}", path.display());
        }
        assert!(pool.volumes().unwrap().is_empty());
        assert!(matches!(pool.attach(Object::Volume(unknown), Access::ReadWrite), Err(PoolError::Missing(_))));
    }
}

#[test]
fn a_record_whose_object_is_gone_is_reported_and_kept() {
    let sandbox = Sandbox::new();
    for fs_type in POOLS {
        let image = sandbox.pool(fs_type);
        create_pool(image.directory()).unwrap();
        let pool = open(image.directory());
        let volume = pool.create_volume(&new_volume("lost", 1 << 20)).unwrap().into_inner();
        drop(pool);
        let path = image.directory().join("volumes").join(volume.id.to_string());
        fs::remove_file(if fs_type == FsType::Btrfs { path.join("data") } else { path }).unwrap();
        let pool = open(image.directory());
        assert_eq!(pool.status().unwrap().damaged.len(), 1);
        assert_eq!(pool.volumes().unwrap(), vec![volume.clone()]);
        assert!(matches!(pool.attach(Object::Volume(volume.id), Access::ReadWrite), Err(PoolError::Io { .. })));
        // An explicit delete is what removes it.
        pool.delete_volume(volume.id).unwrap();
        assert!(pool.status().unwrap().damaged.is_empty());
    }
}

#[test]
fn devices_outlive_the_owner_and_are_found_again() {
    let sandbox = Sandbox::new();
    for fs_type in POOLS {
        let image = sandbox.pool(fs_type);
        create_pool(image.directory()).unwrap();
        let pool = open(image.directory());
        let volume = pool.create_volume(&new_volume("kept", 1 << 20)).unwrap().into_inner();
        let object = Object::Volume(volume.id);
        let attachment = pool.attach(object, Access::ReadWrite).unwrap();
        drop(pool);
        let pool = open(image.directory());
        assert_eq!(pool.attachment(object).unwrap(), Some(attachment.clone()));
        // Held open, it is in use: neither detached nor deleted, and untouched by the attempt.
        let user = File::open(&attachment.device).unwrap();
        assert!(matches!(pool.delete_volume(volume.id), Err(PoolError::InUse { .. })));
        assert_eq!(pool.attachment(object).unwrap(), Some(attachment.clone()));
        let grown = pool.grow_volume(volume.id, CapacityRange::new(Some(4 << 20), None).unwrap()).unwrap();
        assert_eq!(grown.size, size(4 << 20));
        assert_eq!(device::size(&user).unwrap(), 4 << 20);
        drop(user);
        pool.delete_volume(volume.id).unwrap();
        assert!(pool.volume(volume.id).unwrap().is_none());
        assert_eq!(fs::read_dir(image.directory().join("volumes")).unwrap().count(), 0);
    }
}

#[test]
fn a_lease_reads_what_was_cut_and_knows_what_changed() {
    let sandbox = Sandbox::new();
    for fs_type in POOLS {
        let image = sandbox.pool(fs_type);
        create_pool(image.directory()).unwrap();
        let pool = open(image.directory());
        let volume = pool.create_volume(&new_volume("data", 64 << 20)).unwrap().into_inner();
        let device = pool.attach(Object::Volume(volume.id), Access::ReadWrite).unwrap().device;
        let device = OpenOptions::new().write(true).open(device).unwrap();
        let cut = |name: &str| pool.create_snapshots(&[new_snapshot(name, volume.id)]).unwrap().remove(0).into_inner();
        let write = |seed: u64, offset: u64| {
            device.write_all_at(&pattern(seed, 1 << 20), offset).unwrap();
            device.sync_all().unwrap();
        };
        write(1, 0);
        write(2, 8 << 20);
        let first = cut("first");
        write(3, 8 << 20);
        let second = cut("second");
        write(4, 0);
        let lease = pool.lease(second.id).unwrap();
        assert!(matches!(pool.delete_snapshot(second.id), Err(PoolError::InUse { .. })));
        let mut bytes = vec![0; 1 << 20];
        lease.file().read_exact_at(&mut bytes, 8 << 20).unwrap();
        assert!(bytes == pattern(3, 1 << 20));
        let allocated: Vec<ByteRange> = lease.allocated().unwrap().map(Result::unwrap).collect();
        let range = |offset| ByteRange::new(offset, 1 << 20).unwrap();
        assert_eq!(allocated, vec![range(0), range(8 << 20)]);
        let changed: Vec<ByteRange> = lease.changed_since(first.id).unwrap().map(Result::unwrap).collect();
        assert_eq!(changed, vec![range(8 << 20)]);
        let usage = pool.usage_of(Object::Snapshot(second.id)).unwrap();
        assert_eq!(usage.allocated, 2 << 20);
        drop((lease, device));
        pool.delete_snapshot(second.id).unwrap();
        pool.detach(Object::Volume(volume.id)).unwrap();
    }
}

#[test]
fn no_writable_descriptor_of_a_restore_outlives_its_commit() {
    let sandbox = Sandbox::new();
    for fs_type in POOLS {
        let image = sandbox.pool(fs_type);
        create_pool(image.directory()).unwrap();
        let pool = open(image.directory());
        for holder in [Holder::Descriptor, Holder::Mapping, Holder::Socket] {
            let request = new_volume(&format!("{holder:?}"), 1 << 20);
            let RestoreStart::Target(target) = pool.begin_restore(&request).unwrap() else { panic!("it is new") };
            target.file().write_all_at(&pattern(1, BLOCK), 0).unwrap();
            let held = holder.take(target.file());
            let id = target.close();
            let refused = pool.commit_restore(id);
            assert!(matches!(refused, Err(PoolError::InUse { .. })), "{holder:?} on {fs_type}: {refused:?}");
            assert!(pool.volume(id).unwrap().is_none(), "{holder:?} on {fs_type}");
            drop(held);
            pool.commit_restore(id).unwrap_or_else(|error| panic!("{holder:?} on {fs_type}: {error}"));
            // No lease is left that would keep it from being used.
            pool.attach(Object::Volume(id), Access::ReadWrite).unwrap();
            pool.detach(Object::Volume(id)).unwrap();
        }
    }
}

/// How a process may keep a file open for writing.
#[derive(Debug, Clone, Copy)]
enum Holder {
    Descriptor,
    Mapping,
    Socket,
}

impl Holder {
    /// Keeps `file` open for writing until what is returned is dropped.
    fn take(self, file: &File) -> Box<dyn Any> {
        match self {
            Self::Descriptor => Box::new(file.try_clone().unwrap()),
            Self::Mapping => Box::new(Mapping::of(file)),
            Self::Socket => {
                let (near, far) = UnixStream::pair().unwrap();
                let descriptors = [file.as_raw_fd()];
                let rights = [ControlMessage::ScmRights(&descriptors)];
                sendmsg::<()>(near.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None).unwrap();
                Box::new((near, far))
            }
        }
    }
}

/// A writable mapping of a file, which needs no descriptor of it any more.
struct Mapping(*mut libc::c_void);

impl Mapping {
    #[allow(unsafe_code, reason = "a mapping is what is tested")]
    fn of(file: &File) -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping where the kernel chooses; the pointer is only given back to `munmap`.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), BLOCK, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert_ne!(start, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Self(start)
    }
}

impl Drop for Mapping {
    #[allow(unsafe_code, reason = "as for making it")]
    fn drop(&mut self) {
        // SAFETY: the whole mapping that `of` made, which nothing points into.
        assert_eq!(unsafe { libc::munmap(self.0, BLOCK) }, 0);
    }
}

#[test]
fn a_directory_that_cannot_share_extents_is_refused_and_nothing_is_made_in_it() {
    let sandbox = Sandbox::new();
    let file = sparse_file(&sandbox.path("ext4"), 64 << 20);
    let device = attach(&file, Access::ReadWrite);
    let mounter = SystemMounter::new();
    mounter.make_file_system(&device.path, FsType::Ext4, Formatting::Blank).unwrap();
    let target = sandbox.directory("mounted");
    mounter.mount(&request(&device, &target, FsType::Ext4, Access::ReadWrite)).unwrap();
    match create_pool(&target) {
        Err(PoolError::Unsupported(text)) => assert!(text.contains("windlass pool create --image"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read_dir(&target).unwrap().count(), 1, "lost+found alone");
}

#[test]
fn a_pool_that_the_first_version_made_is_recovered_served_and_changed() {
    let sandbox = Sandbox::new();
    // Its volumes have 1 GiB each.
    image::create(&sandbox.path("pool.img"), 4 << 30, FsType::Xfs).unwrap();
    let image = image::open(&sandbox.path("pool.img")).unwrap();
    let directory = image.directory().join("pool");
    for name in ["", "volumes", "snapshots"] {
        fs::create_dir(directory.join(name)).unwrap();
    }
    // A catalogue that commit 1040e21 made, and the files that it says there are.
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pool/catalogue/fixtures/file-1040e21.zst");
    let path = directory.join("catalogue.redb");
    fs::write(&path, zstd::decode_all(File::open(fixture).unwrap()).unwrap()).unwrap();
    let place = |object: Object| match object {
        Object::Volume(id) => directory.join("volumes").join(id.to_string()),
        Object::Snapshot(id) => directory.join("snapshots").join(id.to_string()),
    };
    let recorded = Catalogue::open(&path).unwrap();
    let mut sizes: BTreeMap<Object, u64> = BTreeMap::new();
    sizes.extend(recorded.volumes().unwrap().iter().map(|volume| (Object::Volume(volume.id), volume.size.bytes())));
    let anchored = recorded.anchors().unwrap().into_iter().map(|anchor| anchor.snapshot);
    let snapshots = recorded.snapshots().unwrap().into_iter().chain(anchored);
    sizes.extend(snapshots.map(|snapshot| (Object::Snapshot(snapshot.id), snapshot.size.bytes())));
    let intents = recorded.intents().unwrap();
    assert_eq!(intents.len(), 6);
    let unfinished: Vec<Object> = intents.iter().flat_map(|(_, intent)| intent.objects()).collect();
    assert!(unfinished.len() >= 5 && unfinished.iter().all(|object| !sizes.contains_key(object)), "{unfinished:?}");
    drop(recorded);
    let bytes = pattern(3, 64 * BLOCK);
    for (&object, &size) in &sizes {
        let file = sparse_file(&place(object), size);
        file.write_all_at(&bytes, 4096).unwrap();
    }
    unfinished.iter().for_each(|&object| drop(sparse_file(&place(object), 1 << 20)));

    let assert_whole = |pool: &OwnedPool, objects: &mut dyn Iterator<Item = Object>| {
        for object in objects {
            let device = pool.attach(object, Access::ReadOnly).unwrap().device;
            let mut found = vec![0; bytes.len()];
            File::open(device).unwrap().read_exact_at(&mut found, 4096).unwrap();
            assert!(found == bytes, "{object}");
            pool.detach(object).unwrap();
        }
        let status = pool.status().unwrap();
        assert_eq!((status.quarantined, status.damaged), (vec![], vec![]));
    };
    let pool = open(&directory);
    assert!(
        unfinished.iter().all(|&object| !place(object).exists()),
        "interrupted creations and deletions are undone and finished"
    );
    let live = |pool: &OwnedPool| -> Vec<Object> {
        let volumes = pool.volumes().unwrap().into_iter().map(|volume| Object::Volume(volume.id));
        volumes.chain(pool.snapshots().unwrap().into_iter().map(|snapshot| Object::Snapshot(snapshot.id))).collect()
    };
    assert_eq!(live(&pool).len(), 6);
    assert_whole(&pool, &mut live(&pool).into_iter());
    // Changed in every way, and opened again.
    let [block, ext4] = [1, 2].map(|n| VolumeId::from_bytes([n; 16]));
    let [first, second, orphan] = [11, 12, 13].map(|n| SnapshotId::from_bytes([n; 16]));
    pool.create_snapshots(&[new_snapshot("new", ext4)]).unwrap();
    let mut copy = new_volume("copy-of-old", 1 << 30);
    copy.source = Some(Object::Snapshot(second));
    copy.capacity = CapacityRange::new(None, None).unwrap();
    pool.create_volume(&copy).unwrap();
    pool.create_volume(&new_volume("empty", 4 << 20)).unwrap();
    pool.delete_snapshot(first).unwrap();
    pool.delete_snapshot(orphan).unwrap();
    pool.delete_volume(block).unwrap();
    let before = live(&pool);
    drop(pool);
    let pool = open(&directory);
    assert_eq!(live(&pool), before);
    let empty = pool.volume_by_name(&"empty".to_owned().try_into().unwrap()).unwrap().unwrap();
    assert_whole(&pool, &mut before.into_iter().filter(|object| *object != Object::Volume(empty.id)));
    let lease = pool.lease(second).unwrap();
    assert_eq!(lease.allocated().unwrap().map(|range| range.unwrap().length()).sum::<u64>(), bytes.len() as u64);
    drop(lease);
    drop(pool);
    assert!(fs::metadata(&path).unwrap().len() >= 8 << 20, "the catalogue has space of its own");
    assert!(!adopt(&directory, &AdoptOrder::default()).unwrap().changes());
}
