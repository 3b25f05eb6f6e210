#![cfg(feature = "root-tests")]
//! Pools on real XFS and Btrfs that run out of space, by the writers of their volumes. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/root_support/mod.rs"]
mod root_support;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::csi::{Csi, Paths, Source, Use};
use common::fixture::{Bench, PoolFileSystem};
use common::program::{run_ok, windlass};
use common::{MIB, wait_for};
use root_support::{Sandbox, new_snapshot, new_volume};
use windlass::block::buffer::AlignedBuffer;
use windlass::block::fiemap;
use windlass::block::loop_device;
use windlass::block::reflink::supports_reflink;
use windlass::mount::image::{self, Grown, ImageError};
use windlass::mount::{Mounter, system::SystemMounter};
use windlass::pool::owned::OwnedPool;
use windlass::pool::quiesce::NothingToHold;
use windlass::pool::record::{Consumer, Snapshot, Volume};
use windlass::pool::reflink::{ReflinkPool, create_pool, open_pool};
use windlass::pool::{ObjectSpec, Pool};
use windlass::types::{Access, DataChecksum, FsType, Object, VolumeId, VolumeSize};

/// Longest wait for what happens by itself.
const BOUND: Duration = Duration::from_secs(30);

fn volume(pool: &OwnedPool, name: &str, bytes: u64) -> Volume {
    pool.create_volume(&new_volume(name, bytes)).unwrap().into_inner()
}

fn cut(pool: &OwnedPool, name: &str, source: VolumeId) -> Snapshot {
    pool.create_snapshots(&[new_snapshot(name, source)]).unwrap().remove(0).into_inner()
}

fn open(directory: &Path) -> OwnedPool {
    open_pool(directory, Arc::new(NothingToHold)).unwrap()
}

/// The device of a volume, for direct writes.
fn device(pool: &OwnedPool, id: VolumeId) -> File {
    let attachment = pool.attach(Object::Volume(id), Access::ReadWrite).unwrap();
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(attachment.device).unwrap()
}

fn filled(length: u64, byte: u8) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::zeroed(length as usize);
    buffer.fill(byte);
    buffer
}

/// Writes a range in pieces of 1 MiB, which may take no longer than `pace` each.
fn write(device: &File, offset: u64, length: u64, byte: u8, pace: Duration) -> io::Result<()> {
    let buffer = filled(MIB, byte);
    let start = Instant::now();
    for piece in 0..length / MIB {
        // A writer of so many bytes a second, not one that waits for something.
        while let Some(early) = (pace * piece as u32).checked_sub(start.elapsed()).filter(|early| !early.is_zero()) {
            windlass::types::poll::pause(early);
        }
        device.write_all_at(&buffer, offset + piece * MIB)?;
    }
    device.sync_all()
}

fn assert_holds(device: &File, offset: u64, length: u64, byte: u8) {
    let mut buffer = filled(MIB, 0);
    for piece in 0..length / MIB {
        device.read_exact_at(&mut buffer, offset + piece * MIB).unwrap();
        assert!(buffer.iter().all(|&found| found == byte), "at {}", offset + piece * MIB);
    }
}

/// Writes to a device from `offset` on until not even a block of 4 KiB finds space.
fn fill(device: &File, mut offset: u64) {
    for length in [MIB, 64 << 10, 4096] {
        let buffer = filled(length, 0xee);
        while device.write_all_at(&buffer, offset).is_ok() {
            offset += length;
        }
    }
    let _ = device.sync_all();
    // What was given back meanwhile.
    let buffer = filled(4096, 0xee);
    while device.write_all_at(&buffer, offset).is_ok() {
        offset += 4096;
    }
}

#[test]
fn a_writer_gets_the_space_that_anchors_hold_without_an_error() {
    for fs_type in [FsType::Xfs, FsType::Btrfs] {
        let sandbox = Sandbox::new();
        let image = sandbox.pool(fs_type);
        let directory = image.directory().join("pool");
        create_pool(&directory).unwrap();
        let pool = open(&directory);
        let (old, new) = (volume(&pool, "old", 256 * MIB), volume(&pool, "new", 512 * MIB));
        let old_device = device(&pool, old.id);
        // Two anchors of 192 MiB each that share nothing, and as much in the volume.
        for (round, consumer) in [(1, "aa"), (2, "bb"), (3, "")] {
            write(&old_device, 0, 192 * MIB, round, Duration::ZERO).unwrap();
            if !consumer.is_empty() {
                let snapshot = cut(&pool, "base", old.id);
                pool.record_use(snapshot.id, Consumer::Repository(consumer.repeat(32))).unwrap();
                pool.delete_snapshot(snapshot.id).unwrap();
            }
        }
        let anchors = pool.anchors().unwrap().len();
        assert_eq!(anchors, 2, "{fs_type}");
        let free = pool.status().unwrap().usage.free;
        // More than is free, less than is free with what one anchor holds; then more than that.
        let new_device = device(&pool, new.id);
        let wanted = free / MIB * MIB - 16 * MIB;
        let pace = Duration::from_millis(10);
        write(&new_device, 0, wanted, 7, pace).unwrap_or_else(|error| panic!("{fs_type}: {error}"));
        wait_for("an anchor to be given up", BOUND, || (pool.anchors().unwrap().len() < 2).then_some(()));
        write(&new_device, wanted, 128 * MIB, 8, pace).unwrap_or_else(|error| panic!("{fs_type}: {error}"));
        assert_holds(&old_device, 0, 192 * MIB, 3);
        assert_holds(&new_device, 0, wanted, 7);
        assert_holds(&new_device, wanted, 128 * MIB, 8);
        drop((old_device, new_device));
        for id in [old.id, new.id] {
            pool.detach(Object::Volume(id)).unwrap();
        }
    }
}

#[test]
fn an_image_grows_under_a_full_pool_in_use_and_one_that_is_closed() {
    for fs_type in [FsType::Xfs, FsType::Btrfs] {
        let sandbox = Sandbox::new();
        let path = sandbox.path("pool.img");
        image::create(&path, image::MINIMUM_BYTES, fs_type).unwrap();
        let mut opened = image::open(&path).unwrap();
        opened.follow_growth().unwrap();
        let directory = opened.directory().join("pool");
        create_pool(&directory).unwrap();
        let pool = open(&directory);
        let (kept, greedy) = (volume(&pool, "kept", 64 * MIB), volume(&pool, "greedy", 440 * MIB));
        let (kept_device, greedy_device) = (device(&pool, kept.id), device(&pool, greedy.id));
        write(&kept_device, 0, 32 * MIB, 1, Duration::ZERO).unwrap();
        fill(&greedy_device, 0);
        let size = || SystemMounter::new().stats(opened.directory()).unwrap().total_bytes;
        let before = size();
        assert!(matches!(image::grow(&path, 256 * MIB), Err(ImageError::Shrinks { .. })));
        assert!(matches!(image::grow(&path, 1 << 50), Err(ImageError::NoSpace { .. })));
        assert!(matches!(image::grow(&path, 768 * MIB + 1), Err(ImageError::Size { .. })));
        assert_eq!(image::grow(&path, 768 * MIB).unwrap(), Grown::LeftToItsOwner);
        wait_for("the file system to grow", BOUND, || (size() >= before + 200 * MIB).then_some(()));
        // Its writers go on.
        write(&kept_device, 32 * MIB, 32 * MIB, 2, Duration::ZERO).unwrap();
        assert_holds(&kept_device, 0, 32 * MIB, 1);
        assert_holds(&kept_device, 32 * MIB, 32 * MIB, 2);
        drop((kept_device, greedy_device));
        for id in [kept.id, greedy.id] {
            pool.detach(Object::Volume(id)).unwrap();
        }
        drop(pool);
        opened.close().unwrap();
        drop(opened);
        // Closed: the growth opens and closes it.
        assert_eq!(image::grow(&path, 1024 * MIB).unwrap(), Grown::Done);
        assert_eq!(sandbox.leftovers(), (Vec::new(), Vec::new()));
        // Enlarged by hand: whoever opens it brings the file system along.
        OpenOptions::new().write(true).open(&path).unwrap().set_len(1280 * MIB).unwrap();
        let opened = image::open(&path).unwrap();
        let total = SystemMounter::new().stats(opened.directory()).unwrap().total_bytes;
        assert!(total >= before + 700 * MIB, "{fs_type}: {total} of {before}");
        drop(open(&opened.directory().join("pool")));
        opened.close().unwrap();
    }
}

#[test]
fn a_pool_without_a_free_block_opens() {
    for fs_type in [FsType::Xfs, FsType::Btrfs] {
        let sandbox = Sandbox::new();
        let image = sandbox.pool(fs_type);
        let directory = image.directory().join("pool");
        create_pool(&directory).unwrap();
        let filler = image.directory().join("filler");
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).custom_flags(libc::O_DIRECT).open(&filler).unwrap();
        fill(&file, 0);
        assert!(supports_reflink(&directory).is_err(), "{fs_type}: there is room to try it");
        drop(ReflinkPool::open(&directory).unwrap());
    }
}

#[test]
fn volumes_with_checksums_are_written_through_the_page_cache_and_all_others_directly() {
    let sandbox = Sandbox::new();
    let image = sandbox.pool(FsType::Btrfs);
    let directory = image.directory().join("pool");
    create_pool(&directory).unwrap();
    let pool = ReflinkPool::open(&directory).unwrap();
    for (checksum, is_direct) in [(DataChecksum::On, false), (DataChecksum::Off, true)] {
        let id = VolumeId::random();
        let object = Object::Volume(id);
        pool.create(id, ObjectSpec { size: VolumeSize::new(16 * MIB).unwrap(), checksum }).unwrap();
        let attached = |pool: &dyn Pool| {
            let attachment = pool.attach(object, Access::ReadWrite).unwrap();
            let devices = loop_device::find(&pool.open(object, Access::ReadOnly).unwrap()).unwrap();
            assert_eq!((devices.len(), &devices[0].path), (1, &attachment.device));
            devices[0].direct_io
        };
        assert_eq!(attached(&pool), is_direct);
        // What was flushed is in the file beneath, and a snapshot has what was written.
        let attachment = pool.attachment(object).unwrap().unwrap();
        let device = OpenOptions::new().write(true).open(&attachment.device).unwrap();
        device.write_all_at(&[7; 8192], 4096).unwrap();
        device.sync_all().unwrap();
        let beneath = pool.open(object, Access::ReadOnly).unwrap();
        assert!(fiemap::count(&beneath).unwrap() > 0);
        let snapshot = windlass::types::SnapshotId::random();
        pool.snapshot(&[windlass::pool::Cut { source: id, snapshot }], Duration::from_secs(10)).unwrap();
        let mut bytes = [0; 8192];
        pool.open(Object::Snapshot(snapshot), Access::ReadOnly).unwrap().read_exact_at(&mut bytes, 4096).unwrap();
        assert_eq!(bytes, [7; 8192]);
        drop(device);
        pool.detach(object).unwrap();
    }
    // One that an earlier version attached directly is changed while it is in use.
    let id = VolumeId::random();
    let object = Object::Volume(id);
    pool.create(id, ObjectSpec { size: VolumeSize::new(16 * MIB).unwrap(), checksum: DataChecksum::On }).unwrap();
    let attached = root_support::attach(&pool.open(object, Access::ReadWrite).unwrap(), Access::ReadWrite);
    if attached.direct_io {
        let user = OpenOptions::new().write(true).open(&attached.path).unwrap();
        pool.attach(object, Access::ReadWrite).unwrap();
        let devices = loop_device::find(&pool.open(object, Access::ReadOnly).unwrap()).unwrap();
        assert!(!devices[0].direct_io);
        user.write_all_at(&[1; 4096], 0).unwrap();
    }
    pool.detach(object).unwrap();
}

/// A node over a pool of 1 GiB, as a CO sees it, with a volume that somebody else counts on and one that takes all there is.
struct Tenants {
    csi: Csi,
    kept: (String, Paths),
    greedy: (String, Paths),
}

const KEPT: u64 = 48 * MIB;

impl Tenants {
    fn move_in(csi: Csi, bench: &Bench) -> Self {
        let make = |name: &str, bytes| {
            let id = csi.make_volume(name, bytes, Use::Block, &Source::Blank);
            let paths = csi.bring_up(&bench.root(), name, &id, Use::Block);
            (id, paths)
        };
        let (kept, greedy) = (make("kept", KEPT), make("greedy", 930 * MIB));
        write(&published(&kept), 0, KEPT, 1, Duration::ZERO).unwrap();
        Self { csi, kept, greedy }
    }

    fn fill(&self) {
        fill(&published(&self.greedy), 0);
        let free = self.csi.pools().unwrap()[0].free_bytes;
        assert!(free < 4 * MIB, "{free} bytes are free");
        assert_holds(&published(&self.kept), 0, KEPT, 1);
    }
}

fn published((_, paths): &(String, Paths)) -> File {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(&paths.target).unwrap()
}

fn a_pool_filled_to_the_last_block(file_system: PoolFileSystem) {
    let bench = Bench::with_pool(file_system, 1024 * MIB);
    let node = bench.start();
    let mut tenants = Tenants::move_in(node.csi(), &bench);
    let csi = &tenants.csi;
    let (doomed, empty) =
        (csi.make_snapshot("doomed", &tenants.kept.0), csi.make_volume("empty", 8 * MIB, Use::Block, &Source::Blank));
    let idle = csi.make_volume("idle", 8 * MIB, Use::Block, &Source::Blank);
    let idle_paths = csi.bring_up(&bench.root(), "idle", &idle, Use::Block);
    let kept_snapshot = csi.make_snapshot("kept", &tenants.kept.0);
    tenants.fill();
    // All that takes something down works in the full pool, in a node that lives on and in one that starts in it.
    tenants.csi.take_down(&idle, &idle_paths);
    node.kill();
    let node = bench.start();
    tenants.csi = node.csi();
    assert_eq!(tenants.csi.volume_ids().len(), 4);
    tenants.csi.drop_volume(&empty);
    tenants.fill();
    tenants.csi.drop_snapshot(&doomed);
    tenants.csi.drop_volume(&idle);
    node.stop();
    let node = bench.start();
    tenants.csi = node.csi();
    tenants.fill();
    assert!(tenants.csi.create_volume(common::csi::new_volume("new", 8 * MIB, Use::Block, &Source::Blank)).is_err());
    // Room by growth, beneath a node that serves it.
    let total = |csi: &Csi| csi.pools().unwrap()[0].total_bytes;
    let before = total(&tenants.csi);
    run_ok(windlass().args(["pool", "grow", "--size", "1536MiB", "--image"]).arg(bench.image()));
    wait_for("the pool to grow", BOUND, || (total(&tenants.csi) > before + 400 * MIB).then_some(()));
    tenants.csi.drop_volume(&tenants.csi.make_volume("new", 8 * MIB, Use::Block, &Source::Blank));
    write(&published(&tenants.greedy), 860 * MIB, 64 * MIB, 3, Duration::ZERO).unwrap();
    assert_holds(&published(&tenants.kept), 0, KEPT, 1);
    // What was cut before is what it was, through a volume of it.
    let copy = tenants.csi.make_volume("copy", KEPT, Use::Block, &Source::Snapshot(kept_snapshot.clone()));
    let copy = (copy.clone(), tenants.csi.bring_up(&bench.root(), "copy", &copy, Use::Block));
    assert_holds(&published(&copy), 0, KEPT, 1);
    for (id, paths) in [&tenants.kept, &tenants.greedy, &copy] {
        tenants.csi.take_down(id, paths);
        tenants.csi.drop_volume(id);
    }
    tenants.csi.drop_snapshot(&kept_snapshot);
    node.stop();
    for objects in ["volumes", "snapshots"] {
        assert_eq!(std::fs::read_dir(bench.pool_directory().join(objects)).unwrap().count(), 0, "{objects} are left");
    }
}

#[test]
fn a_full_pool_can_be_torn_down_emptied_restarted_and_enlarged_on_xfs() {
    a_pool_filled_to_the_last_block(PoolFileSystem::Xfs);
}

#[test]
fn a_full_pool_can_be_torn_down_emptied_restarted_and_enlarged_on_btrfs() {
    a_pool_filled_to_the_last_block(PoolFileSystem::Btrfs);
}
