#![cfg(feature = "thin-tests")]
//! A thin pool as its owner sees it: taken over, filled, cut, copied, grown, left and found again.

// vm: disks=4G,4G limit=600

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/thin_support.rs"]
mod thin_support;

use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};

use thin_support::{MIB, create, cut, disks, make, new_volume, open, over_anything, turn};
use windlass::block::{AlignedBuffer, BlockSource, FileSource};
use windlass::pool::PoolError;
use windlass::pool::owned::{OwnedPool, RestoreStart};
use windlass::pool::quiesce::NothingToHold;
use windlass::pool::record::{Consumer, Volume};
use windlass::pool::thin::format::DevicePaths;
use windlass::pool::thin::{create_pool, open_pool};
use windlass::types::{Access, ByteRange, CapacityRange, LogicalBlockSize, Object, OnLoss, RangeStream, SnapshotId};

/// Size of the pools' data blocks.
const BLOCK: u64 = 64 << 10;

/// The first disk, for one test at a time.
fn disk() -> (PathBuf, MutexGuard<'static, ()>) {
    let turn = turn();
    (disks().remove(0), turn)
}

/// Writes through the volume's own device, durably.
fn write(pool: &OwnedPool, volume: &Volume, offset: u64, data: &[u8]) {
    let attached = pool.attach(Object::Volume(volume.id), Access::ReadWrite).unwrap();
    let file = File::options().write(true).open(&attached.device).unwrap();
    file.write_all_at(data, offset).unwrap();
    file.sync_all().unwrap();
}

fn read_volume(pool: &OwnedPool, volume: &Volume, offset: u64, length: usize) -> Vec<u8> {
    let attached = pool.attach(Object::Volume(volume.id), Access::ReadWrite).unwrap();
    let mut bytes = vec![0; length];
    File::open(&attached.device).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

fn read_snapshot(pool: &OwnedPool, id: SnapshotId, offset: u64, length: usize) -> Vec<u8> {
    let lease = pool.lease(id).unwrap();
    let file = lease.file().try_clone().unwrap();
    let source = FileSource::new(file, lease.size().bytes(), LogicalBlockSize::B4096).unwrap();
    let mut bytes = AlignedBuffer::zeroed(length);
    source.read_at(offset, &mut bytes).unwrap();
    bytes.to_vec()
}

fn told(stream: RangeStream) -> Vec<(u64, u64)> {
    stream.map(|range| range.unwrap()).map(|range: ByteRange| (range.offset() / BLOCK, range.length() / BLOCK)).collect()
}

#[test]
fn a_pool_keeps_what_it_was_given_and_leaves_nothing_in_the_kernel() {
    let (disk, _turn) = disk();
    let id = make(&disk);
    let pool = open(&disk);
    assert_eq!(pool.id(), id);
    assert!(matches!(open_pool(&disk, Arc::new(NothingToHold)), Err(PoolError::Owned(_))));

    let volume = create(&pool, "one", 64 * MIB, None);
    write(&pool, &volume, 3 * MIB, b"first");
    let snapshot = cut(&pool, "cut", &volume);
    write(&pool, &volume, 3 * MIB, b"other");
    let copy = create(&pool, "copy", 128 * MIB, Some(Object::Snapshot(snapshot.id)));
    assert_eq!(read_snapshot(&pool, snapshot.id, 3 * MIB, 5), b"first");
    assert_eq!(read_volume(&pool, &copy, 3 * MIB, 5), b"first");
    assert_eq!(read_volume(&pool, &copy, 127 * MIB, 5), [0; 5]);
    assert_eq!(read_volume(&pool, &volume, 3 * MIB, 5), b"other");

    // Attached volumes stay usable when the owner goes, and a new owner finds them.
    let device = pool.attach(Object::Volume(volume.id), Access::ReadWrite).unwrap().device;
    drop(pool);
    let mut bytes = [0; 5];
    File::open(&device).unwrap().read_exact_at(&mut bytes, 3 * MIB).unwrap();
    assert_eq!(&bytes, b"other");
    let pool = open(&disk);
    assert_eq!(pool.attachment(Object::Volume(volume.id)).unwrap().unwrap().device, device);
    for volume in [&volume, &copy] {
        pool.detach(Object::Volume(volume.id)).unwrap();
    }
    drop(pool);
    let left = windlass::dm::DeviceMapper::open().unwrap().list().unwrap();
    assert!(left.iter().all(|device| !device.name.contains(&id.to_string())), "{left:?}");

    let pool = open(&disk);
    let status = pool.status().unwrap();
    assert_eq!((status.volumes, status.snapshots), (2, 1));
    assert_eq!((status.quarantined, status.damaged), (Vec::new(), Vec::new()));
    pool.delete_volume(volume.id).unwrap();
    pool.delete_snapshot(snapshot.id).unwrap();
    // Deleted in any order: the copy has all it shares.
    assert_eq!(read_volume(&pool, &copy, 3 * MIB, 5), b"first");
    pool.detach(Object::Volume(copy.id)).unwrap();
    pool.delete_volume(copy.id).unwrap();
    let usage = pool.status().unwrap().usage;
    assert_eq!(usage.free, usage.total);
}

#[test]
fn ranges_are_told_block_for_block_also_after_the_base_was_deleted() {
    let (disk, _turn) = disk();
    make(&disk);
    let pool = open(&disk);
    let volume = create(&pool, "one", 64 * MIB, None);
    let data = vec![7; BLOCK as usize];
    for block in [0, 1, 2, 5, 100] {
        write(&pool, &volume, block * BLOCK, &data);
    }
    let base = cut(&pool, "base", &volume);
    write(&pool, &volume, BLOCK + 4096, b"changed");
    write(&pool, &volume, 200 * BLOCK, &data);
    let target = cut(&pool, "target", &volume);

    let lease = pool.lease(target.id).unwrap();
    assert_eq!(told(lease.allocated().unwrap()), [(0, 3), (5, 1), (100, 1), (200, 1)]);
    assert_eq!(told(lease.changed_since(base.id).unwrap()), [(1, 1), (200, 1)]);
    drop(lease);

    pool.record_use(base.id, Consumer::MetadataClient).unwrap();
    pool.delete_snapshot(base.id).unwrap();
    let lease = pool.lease(target.id).unwrap();
    assert_eq!(told(lease.changed_since(base.id).unwrap()), [(1, 1), (200, 1)]);
    drop(lease);
    // The base keeps no data: all that is left is the target's and the volume's.
    let anchors = pool.anchor_status().unwrap();
    assert_eq!(anchors.iter().map(|anchor| anchor.usage.allocated).collect::<Vec<_>>(), [0]);

    // Written after the base was deleted, the block is told all the same.
    write(&pool, &volume, 2 * BLOCK, b"later");
    let last = cut(&pool, "last", &volume);
    let lease = pool.lease(last.id).unwrap();
    assert_eq!(told(lease.changed_since(base.id).unwrap()), [(1, 2), (200, 1)]);
    drop(lease);
    pool.detach(Object::Volume(volume.id)).unwrap();

    // And after a restart.
    drop(pool);
    let pool = open(&disk);
    let lease = pool.lease(last.id).unwrap();
    assert_eq!(told(lease.changed_since(base.id).unwrap()), [(1, 2), (200, 1)]);
}

#[test]
fn what_is_opened_for_a_descriptor_is_at_no_moment_taken_for_attached() {
    let (disk, _turn) = disk();
    make(&disk);
    let pool = open(&disk);
    let volume = create(&pool, "one", 64 * MIB, None);
    let snapshot = cut(&pool, "cut", &volume);
    let opening = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut looks = 0_u32;
            while opening.load(Ordering::Relaxed) {
                assert_eq!(pool.attachment(Object::Snapshot(snapshot.id)).unwrap(), None);
                looks += 1;
            }
            looks
        });
        for _ in 0..50 {
            let lease = pool.lease(snapshot.id).unwrap();
            assert!(lease.file().metadata().unwrap().file_type().is_block_device());
        }
        opening.store(false, Ordering::Relaxed);
        assert!(looking.join().unwrap() > 50, "it was looked at meanwhile");
    });
    pool.delete_snapshot(snapshot.id).unwrap();
    pool.delete_volume(volume.id).unwrap();
}

#[test]
fn a_volume_grows_while_it_is_attached() {
    let (disk, _turn) = disk();
    make(&disk);
    let pool = open(&disk);
    let volume = create(&pool, "one", 64 * MIB, None);
    write(&pool, &volume, 0, b"before");
    let grown = pool.grow_volume(volume.id, CapacityRange::new(Some(96 * MIB), None).unwrap()).unwrap();
    assert_eq!(grown.size.bytes(), 96 * MIB);
    write(&pool, &volume, 96 * MIB - 4096, b"after");
    assert_eq!(read_volume(&pool, &volume, 96 * MIB - 4096, 5), b"after");
    pool.detach(Object::Volume(volume.id)).unwrap();
    drop(pool);
    let pool = open(&disk);
    assert_eq!(read_volume(&pool, &volume, 96 * MIB - 4096, 5), b"after");
    pool.detach(Object::Volume(volume.id)).unwrap();
}

#[test]
fn a_snapshot_can_be_deleted_the_moment_its_last_reader_is_gone() {
    let (disk, _turn) = disk();
    make(&disk);
    let pool = open(&disk);
    let volume = create(&pool, "one", 64 * MIB, None);
    write(&pool, &volume, 0, b"data");
    for round in 0..100 {
        let snapshot = cut(&pool, &format!("cut-{round}"), &volume);
        assert_eq!(read_snapshot(&pool, snapshot.id, 0, 4), b"data");
        // The device of the reader has lost its name by now, or is about to, and is taken apart while this goes on.
        pool.delete_snapshot(snapshot.id).unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
    pool.detach(Object::Volume(volume.id)).unwrap();
}

#[test]
fn a_restore_is_written_hidden_and_then_there() {
    let (disk, _turn) = disk();
    make(&disk);
    let pool = open(&disk);
    let RestoreStart::Target(target) = pool.begin_restore(&new_volume("restored", 64 * MIB, None), OnLoss::Delete).unwrap()
    else {
        panic!("nothing was there before");
    };
    target.file().write_all_at(&[9; 8192], MIB).unwrap();
    assert_eq!(pool.volumes().unwrap(), Vec::new());
    // A copy of the descriptor, as another process has it.
    let kept = target.file().try_clone().unwrap();
    let id = target.close();
    let refused = pool.commit_restore(id);
    assert!(matches!(refused, Err(PoolError::InUse { .. })), "{refused:?}");
    kept.write_all_at(&[9; 8192], MIB).unwrap();
    drop(kept);
    let volume = pool.commit_restore(id).unwrap();
    assert_eq!(read_volume(&pool, &volume, MIB, 8192), [9; 8192]);
    pool.detach(Object::Volume(id)).unwrap();

    // A commit reads, by a device that goes a moment later: that is nothing to whoever writes at once.
    for round in 0..20 {
        let request = new_volume(&format!("at-once-{round}"), MIB, None);
        let RestoreStart::Target(target) = pool.begin_restore(&request, OnLoss::Delete).unwrap() else {
            panic!("nothing was there before")
        };
        let volume = pool.commit_restore(target.close()).unwrap();
        pool.attach(Object::Volume(volume.id), Access::ReadWrite).unwrap();
        pool.detach(Object::Volume(volume.id)).unwrap();
        pool.delete_volume(volume.id).unwrap();
    }

    let RestoreStart::Target(target) = pool.begin_restore(&new_volume("given-up", 64 * MIB, None), OnLoss::Delete).unwrap()
    else {
        panic!("nothing was there before");
    };
    target.file().write_all_at(&[9; 8192], MIB).unwrap();
    let id = target.volume();
    drop(target);
    pool.abort_restore(id).unwrap();
    assert_eq!(pool.volumes().unwrap().len(), 1);
}

#[test]
fn a_pool_on_two_devices_is_found_by_either() {
    let (_disk, _turn) = disk();
    let disks = disks();
    let wanted = over_anything(DevicePaths::Two { metadata: disks[0].clone(), data: disks[1].clone() });
    let id = create_pool(&wanted).unwrap();
    for disk in &disks[..2] {
        let pool = open(disk);
        assert_eq!(pool.id(), id);
        let name = format!("on-{}", disk.file_name().unwrap().display());
        let volume = create(&pool, &name, 64 * MIB, None);
        write(&pool, &volume, 0, b"data");
        pool.detach(Object::Volume(volume.id)).unwrap();
    }
    let pool = open(&disks[0]);
    assert_eq!(pool.volumes().unwrap().len(), 2);
    drop(pool);
    disks[..2].iter().for_each(|disk| forget(disk));
}

/// Wipes the labels of a disk that is for other tests: what lies on the second would be found as half of a pool.
fn forget(disk: &Path) {
    let file = File::options().write(true).open(disk).unwrap();
    let size = windlass::block::device::size(&file).unwrap();
    file.write_all_at(&vec![0; MIB as usize], 0).unwrap();
    file.write_all_at(&vec![0; MIB as usize], size - MIB).unwrap();
    file.sync_all().unwrap();
}

/// The number of a device that went with its last descriptor is soon another's: here those of two pools come and go side by side.
#[test]
fn a_descriptor_is_of_its_own_device_however_fast_numbers_change_hands() {
    const ROUNDS: u32 = 200;
    let (_disk, _turn) = disk();
    let disks = disks();
    std::thread::scope(|scope| {
        for (disk, mark) in disks[..2].iter().zip([1, 2]) {
            scope.spawn(move || {
                make(disk);
                let pool = open(disk);
                let volume = create(&pool, "one", 64 * MIB, None);
                write(&pool, &volume, 0, &[mark; 4096]);
                pool.detach(Object::Volume(volume.id)).unwrap();
                let snapshot = cut(&pool, "cut", &volume);
                for round in 0..ROUNDS {
                    let earlier = pool.lease(snapshot.id).unwrap();
                    std::thread::scope(|scope| {
                        scope.spawn(move || drop(earlier));
                        assert_eq!(read_snapshot(&pool, snapshot.id, 0, 4096), [mark; 4096], "round {round}");
                    });
                }
                pool.delete_snapshot(snapshot.id).unwrap();
            });
        }
    });
    disks[..2].iter().for_each(|disk| forget(disk));
}
