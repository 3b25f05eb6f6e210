#![cfg(feature = "thin-tests")]
//! A whole thin pool as the first version left it, on its disk: opened, read, changed in every way, left and found again.
//!
//! `thin_first_version/pool-1040e21.zst` is a disk of 512 MiB on which commit 1040e21 made a pool, with blocks of 64 KiB of one byte each:
//!
//! * `kept`, 64 MiB: blocks 0..16 of ones; snapshot `base`; blocks 4..8 of twos; snapshot `target`; block 9 of threes.
//! * `base`, used by a metadata client and deleted: an anchor. Its id is in the name of a volume, `base:ID`.
//! * `copy`, 128 MiB, of `target`: block 1 of fours.
//! * `blank`, 16 MiB, never used.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/thin_support.rs"]
mod thin_support;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use thin_support::{MIB, create, cut, open};
use windlass::block::loop_device::{self, DirectIo, LoopOptions};
use windlass::pool::owned::OwnedPool;
use windlass::pool::record::Volume;
use windlass::pool::thin::{RepairOutcome, repair};
use windlass::types::{Access, ByteRange, LogicalBlockSize, Object, SnapshotId};

const FIXTURE: &[u8] = include_bytes!("data/pool-1040e21.zst");
const BLOCK: u64 = 64 << 10;
/// Blocks of an object that are looked at: all that was written, and some that were not.
const LOOKED_AT: u64 = 32;

/// The disk as a sparse file.
fn unpack(to: &Path) -> File {
    let file = File::options().read(true).write(true).create_new(true).open(to).unwrap();
    let mut disk = zstd::Decoder::new(FIXTURE).unwrap();
    disk.window_log_max(27).unwrap();
    let mut piece = vec![0; MIB as usize];
    let mut at = 0;
    while let Ok(()) = disk.read_exact(&mut piece) {
        if piece.iter().any(|byte| *byte != 0) {
            file.write_all_at(&piece, at).unwrap();
        }
        at += MIB;
    }
    assert_eq!(at, 512 * MIB);
    file.set_len(at).unwrap();
    file
}

/// What the blocks of an object hold, which is one byte each.
fn blocks(pool: &OwnedPool, object: Object) -> Vec<u8> {
    let device = pool.attach(object, Access::ReadOnly).unwrap().device;
    let mut bytes = vec![0; (LOOKED_AT * BLOCK) as usize];
    File::open(device).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    pool.detach(object).unwrap();
    let of_one_byte = |block: &[u8]| {
        assert!(block.iter().all(|byte| *byte == block[0]), "a block is torn");
        block[0]
    };
    bytes.chunks(BLOCK as usize).map(of_one_byte).collect()
}

/// Blocks of these bytes, then zeros.
fn expected(runs: &[(usize, u8)]) -> Vec<u8> {
    let mut blocks: Vec<u8> = runs.iter().flat_map(|&(count, byte)| vec![byte; count]).collect();
    blocks.resize(LOOKED_AT as usize, 0);
    blocks
}

fn write(pool: &OwnedPool, volume: &Volume, block: u64, byte: u8) {
    let device = pool.attach(Object::Volume(volume.id), Access::ReadWrite).unwrap().device;
    let file = File::options().write(true).open(device).unwrap();
    file.write_all_at(&vec![byte; BLOCK as usize], block * BLOCK).unwrap();
    file.sync_all().unwrap();
    drop(file);
    pool.detach(Object::Volume(volume.id)).unwrap();
}

fn changed(pool: &OwnedPool, base: SnapshotId, target: SnapshotId) -> Vec<(u64, u64)> {
    let lease = pool.lease(target).unwrap();
    let told = lease.changed_since(base).unwrap().map(|range| range.unwrap());
    told.map(|range: ByteRange| (range.offset() / BLOCK, range.length() / BLOCK)).collect()
}

#[test]
fn a_thin_pool_that_the_first_version_made_is_served_and_changed() {
    let folder = tempfile::tempdir().unwrap();
    let file = unpack(&folder.path().join("disk"));
    let attach = || {
        let options = LoopOptions {
            access: Access::ReadWrite,
            block_size: LogicalBlockSize::B4096,
            label: "first-version",
            direct_io: DirectIo::Off,
        };
        loop_device::attach(&file, &options).unwrap()
    };
    let disk = attach();
    let pool = open(&disk.path);
    let status = pool.status().unwrap();
    assert_eq!((status.quarantined, status.damaged), (vec![], vec![]));
    let volume = |name: &str| pool.volume_by_name(&name.to_owned().try_into().unwrap()).unwrap().unwrap();
    let (kept, copy, blank) = (volume("kept"), volume("copy"), volume("blank"));
    let [target] = pool.snapshots().unwrap().try_into().unwrap_or_else(|all| panic!("{all:?}"));
    let named =
        pool.volumes().unwrap().into_iter().find_map(|volume| volume.name.as_str().strip_prefix("base:").map(str::to_owned));
    let base: SnapshotId = named.unwrap().parse().unwrap();
    assert_eq!(pool.anchors().unwrap().iter().map(|anchor| anchor.snapshot.id).collect::<Vec<_>>(), [base]);

    let of_target = expected(&[(4, 1), (4, 2), (8, 1)]);
    assert_eq!(blocks(&pool, Object::Volume(kept.id)), expected(&[(4, 1), (4, 2), (1, 1), (1, 3), (6, 1)]));
    assert_eq!(blocks(&pool, Object::Snapshot(target.id)), of_target);
    assert_eq!(blocks(&pool, Object::Volume(copy.id)), expected(&[(1, 1), (1, 4), (2, 1), (4, 2), (8, 1)]));
    assert_eq!(blocks(&pool, Object::Volume(blank.id)), expected(&[]));
    assert_eq!(changed(&pool, base, target.id), [(4, 4)]);

    // Changed in every way.
    write(&pool, &kept, 20, 5);
    let new = cut(&pool, "new", &kept);
    assert_eq!(changed(&pool, target.id, new.id), [(9, 1), (20, 1)]);
    assert_eq!(changed(&pool, base, new.id), [(4, 4), (9, 1), (20, 1)]);
    let second = create(&pool, "second", 64 * MIB, Some(Object::Snapshot(target.id)));
    pool.delete_volume(copy.id).unwrap();
    pool.delete_snapshot(target.id).unwrap();
    write(&pool, &blank, 0, 6);
    drop(pool);
    loop_device::detach(&disk).unwrap();

    let disk = attach();
    let pool = open(&disk.path);
    assert_eq!(blocks(&pool, Object::Volume(second.id)), of_target);
    assert_eq!(blocks(&pool, Object::Volume(blank.id)), expected(&[(1, 6)]));
    assert_eq!(changed(&pool, base, new.id), [(4, 4), (9, 1), (20, 1)]);
    drop(pool);
    let report = repair(&disk.path).unwrap();
    assert_eq!((report.outcome, report.findings.as_str()), (RepairOutcome::Sound, ""));
    assert_eq!((report.missing, report.unknown, report.left_bytes), (Vec::new(), Vec::new(), 0));

    let pool = open(&disk.path);
    for volume in pool.volumes().unwrap() {
        pool.delete_volume(volume.id).unwrap();
    }
    for snapshot in pool.snapshots().unwrap() {
        pool.delete_snapshot(snapshot.id).unwrap();
    }
    assert_eq!(pool.anchors().unwrap(), Vec::new());
    let usage = pool.status().unwrap().usage;
    assert_eq!(usage.free, usage.total);
    drop(pool);
    loop_device::detach(&disk).unwrap();
}
