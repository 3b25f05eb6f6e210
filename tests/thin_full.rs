#![cfg(feature = "thin-tests")]
//! Full pools: data to the last block, metadata past their threshold, under load. What exists stays intact, the errors are those
//! that say so, and everything goes on without a restart once space is freed or added.

// vm: disks=2G memory=2048 limit=900

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/thin_support.rs"]
mod thin_support;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use basics::new_snapshot;
use thin_support::{MIB, create, cut, disks, grown_disk, make_with, open, output, turn, wait_for};
use windlass::dm::{DeviceMapper, DmName};
use windlass::mount::system::SystemMounter;
use windlass::mount::{Formatting, MountRequest, Mounter};
use windlass::pool::owned::OwnedPool;
use windlass::pool::record::{Consumer, Volume};
use windlass::pool::{Changes, Demand, MetadataUsage, PoolError};
use windlass::types::{Access, FsType, Object};

/// Longest time for the monitor to see a larger disk: it looks every ten seconds.
const SEEN: Duration = Duration::from_secs(60);

/// A volume with a file system, mounted.
fn mounted(pool: &OwnedPool, volume: &Volume, at: &Path) {
    let device = pool.attach(Object::Volume(volume.id), Access::ReadWrite).unwrap().device;
    let mounter = SystemMounter::new();
    mounter.make_file_system(&device, FsType::Ext4, Formatting::Blank).unwrap();
    fs::create_dir_all(at).unwrap();
    let request =
        MountRequest { device, target: at.to_owned(), fs_type: FsType::Ext4, options: Vec::new(), access: Access::ReadWrite };
    mounter.mount(&request).unwrap();
}

fn unmount(pool: &OwnedPool, volume: &Volume, at: &Path) {
    SystemMounter::new().unmount(at).unwrap();
    pool.detach(Object::Volume(volume.id)).unwrap();
}

/// Bytes that neither repeat nor are zeros.
fn noise(seed: u64, bytes: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..bytes / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect()
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Writes to a raw volume, block for block and durably, until the pool takes no more; how many bytes it took.
fn fill(pool: &OwnedPool, volume: &Volume) -> u64 {
    let device = pool.attach(Object::Volume(volume.id), Access::ReadWrite).unwrap().device;
    let file = File::options().write(true).open(device).unwrap();
    let step = noise(volume.size.bytes(), MIB);
    let mut offset = 0;
    while offset < volume.size.bytes() {
        if file.write_all_at(&step, offset).and_then(|()| file.sync_all()).is_err() {
            return offset;
        }
        offset += MIB;
    }
    panic!("{offset} bytes fitted into the pool")
}

#[test]
fn data_to_the_last_block_leave_files_intact_and_space_that_is_freed_or_added_is_used_at_once() {
    let _turn = turn();
    let disk = disks().remove(0);
    // The pool takes 1 GiB of the disk at first: it lies on a device that grows.
    let device = grown_disk(&disk, 1024 * MIB);
    make_with(&device.path(), 16 * MIB);
    let pool = Arc::new(open(&device.path()));
    let kept = create(&pool, "kept", 256 * MIB, None);
    let at = PathBuf::from("/run/kept");
    mounted(&pool, &kept, &at);
    let files: Vec<(PathBuf, Vec<u8>)> = (0..8).map(|n| (at.join(format!("file-{n}")), noise(n, 8 * MIB))).collect();
    for (path, bytes) in &files {
        write_file(path, bytes).unwrap();
    }
    // The base of somebody's next increment, deleted and kept as an anchor, which takes no space of the pool.
    let based = create(&pool, "based", 64 * MIB, None);
    let node = pool.attach(Object::Volume(based.id), Access::ReadWrite).unwrap().device;
    fs::write(node, noise(50, MIB)).unwrap();
    pool.detach(Object::Volume(based.id)).unwrap();
    let base = cut(&pool, "base", &based);
    pool.record_use(base.id, Consumer::MetadataClient).unwrap();
    pool.delete_snapshot(base.id).unwrap();
    let eater = create(&pool, "eater", 960 * MIB, None);

    // Somebody goes on reading what exists, all the time.
    let stop = Arc::new(AtomicBool::new(false));
    let reader = thread::spawn({
        let (stop, files) = (Arc::clone(&stop), files.clone());
        move || {
            let mut rounds = 0_u32;
            while !stop.load(Ordering::Relaxed) || rounds == 0 {
                for (path, bytes) in &files {
                    assert!(fs::read(path).unwrap() == *bytes, "{} has changed", path.display());
                }
                rounds += 1;
            }
            rounds
        }
    });

    // First volumes are refused, then snapshots, then writes.
    let taken = fill(&pool, &eater);
    assert!(taken > 512 * MIB, "the pool was full after {taken} bytes");
    let status = pool.status().unwrap();
    assert_eq!(status.usage.free, 0);
    assert_eq!(status.health.changes, Changes::Taken);
    assert!(status.health.problem.unwrap().contains("out of space"));
    let refused = pool.create_volume(&thin_support::new_volume("refused", 64 * MIB, None));
    assert!(matches!(refused, Err(PoolError::NoSpace(_))), "{refused:?}");
    let refused = pool.create_snapshots(&[new_snapshot("refused", kept.id)]);
    assert!(matches!(refused, Err(PoolError::NoSpace(_))), "{refused:?}");
    assert_eq!(pool.anchors().unwrap().len(), 1, "an anchor was given up for nothing");
    // What has its blocks can be written to.
    let path = &files[0].0;
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&files[0].1, 0).and_then(|()| file.sync_all()).unwrap();
    drop(file);

    // Space that is freed is used at once.
    pool.detach(Object::Volume(eater.id)).unwrap();
    pool.delete_volume(eater.id).unwrap();
    let late = at.join("late");
    write_file(&late, &noise(99, 16 * MIB)).unwrap();
    assert_eq!(pool.status().unwrap().health.problem, None);
    let snapshot = cut(&pool, "after", &kept);
    pool.delete_snapshot(snapshot.id).unwrap();

    // Full again; then the disk is enlarged, and nothing else is done.
    let eater = create(&pool, "again", 960 * MIB, None);
    let taken = fill(&pool, &eater);
    device.grow_to(1536 * MIB);
    wait_for("the pool to grow", SEEN, || (pool.status().unwrap().usage.free > 256 * MIB).then_some(()));
    assert_eq!(pool.status().unwrap().health.problem, None);
    let device_of_eater = pool.attach(Object::Volume(eater.id), Access::ReadWrite).unwrap().device;
    let file = File::options().write(true).open(device_of_eater).unwrap();
    file.write_all_at(&noise(7, MIB), taken + MIB).and_then(|()| file.sync_all()).unwrap();
    drop(file);

    stop.store(true, Ordering::Relaxed);
    assert!(reader.join().unwrap() > 0);
    unmount(&pool, &kept, &at);
    pool.detach(Object::Volume(eater.id)).unwrap();
    let node = pool.attach(Object::Volume(kept.id), Access::ReadWrite).unwrap().device;
    output("e2fsck", &["-f", "-n", node.to_str().unwrap()]);
    pool.detach(Object::Volume(kept.id)).unwrap();
}

#[test]
fn metadata_past_their_threshold_refuse_new_objects_first_and_a_larger_disk_is_the_cure() {
    let _turn = turn();
    let disk = disks().remove(0);
    let device = grown_disk(&disk, 1024 * MIB);
    // The least that a pool works with: 512 blocks.
    let id = make_with(&device.path(), 2 * MIB);
    let pool = open(&device.path());
    let kept = create(&pool, "kept", 64 * MIB, None);
    let at = PathBuf::from("/run/metadata");
    mounted(&pool, &kept, &at);
    let bytes = noise(5, 8 * MIB);
    write_file(&at.join("file"), &bytes).unwrap();

    // Every snapshot of a volume that is written to takes some.
    let mut snapshots = Vec::new();
    let refused = loop {
        write_file(&at.join("writes"), &noise(snapshots.len() as u64, MIB)).unwrap();
        match pool.create_snapshots(&[new_snapshot(&format!("cut-{}", snapshots.len()), kept.id)]) {
            Ok(mut cut) => snapshots.push(cut.remove(0).into_inner()),
            Err(error) => break error,
        }
        assert!(snapshots.len() < 1000, "metadata of 2 MiB took a thousand snapshots");
    };
    assert!(matches!(&refused, PoolError::NoSpace(text) if text.contains("metadata")), "{refused}");
    // Not for what the next commit gives back: asking for the status makes one.
    let name = DmName::new(format!("windlass-{id}-pool")).unwrap();
    let committed = DeviceMapper::open().unwrap().thin_pool_status(&name).unwrap();
    let committed = committed.running().unwrap();
    let (used, total) = (committed.metadata_used.count(), committed.metadata_total.count());
    assert!(used * 100 >= total * MetadataUsage::SNAPSHOT_PERCENT, "refused with {used} of {total} blocks used");
    let usage = pool.status().unwrap().usage;
    assert_eq!((usage.available_to(Demand::Volume), usage.available_to(Demand::Snapshot)), (0, 0));
    assert!(usage.free > usage.reserve, "it is the metadata that are short");
    assert_eq!(pool.status().unwrap().health.problem, None, "and the pool works");
    let refused = pool.create_volume(&thin_support::new_volume("refused", 64 * MIB, None));
    assert!(matches!(refused, Err(PoolError::NoSpace(_))), "{refused:?}");
    // Writers are not stopped by it.
    write_file(&at.join("more"), &noise(6, MIB)).unwrap();

    // Space that is freed.
    let half = snapshots.len() / 2;
    for snapshot in &snapshots[..half] {
        pool.delete_snapshot(snapshot.id).unwrap();
    }
    let snapshot = cut(&pool, "after", &kept);
    pool.delete_snapshot(snapshot.id).unwrap();

    // Space that is added.
    for number in 0.. {
        write_file(&at.join("writes"), &noise(number, MIB)).unwrap();
        if pool.create_snapshots(&[new_snapshot(&format!("again-{number}"), kept.id)]).is_err() {
            break;
        }
    }
    let before = pool.status().unwrap().usage.metadata.unwrap().total;
    device.grow_to(1536 * MIB);
    wait_for("the metadata to grow", SEEN, || (pool.status().unwrap().usage.metadata.unwrap().total >= 2 * before).then_some(()));
    cut(&pool, "grown", &kept);
    assert_eq!(fs::read(at.join("file")).unwrap(), bytes);
    unmount(&pool, &kept, &at);
    let node = pool.attach(Object::Volume(kept.id), Access::ReadWrite).unwrap().device;
    output("e2fsck", &["-f", "-n", node.to_str().unwrap()]);
    pool.detach(Object::Volume(kept.id)).unwrap();
}
