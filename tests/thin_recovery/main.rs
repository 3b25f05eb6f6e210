#![cfg(feature = "thin-tests")]
//! What a start of a thin pool finds and what it makes of it: leftovers of a dead owner, metadata that are not what they should be,
//! and their repair.

// vm: disks=1G,128M limit=600

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../support/basics.rs"]
mod basics;
#[path = "../support/dm_metadata/space_map.rs"]
mod space_map;
#[path = "../support/thin_support.rs"]
mod thin_support;

mod history;
mod leaks;
mod rebuild;
mod strangers;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::MutexGuard;

use space_map::DataMap;
use thin_support::{MIB, create, cut, disks, make, new_volume, open, turn};
use windlass::block::loop_device::{self, DirectIo, LoopOptions};
use windlass::dm::DmName;
use windlass::dm::metadata::{BLOCK_BYTES, SUPERBLOCK_SEED, checksum};
use windlass::pool::owned::OwnedPool;
use windlass::pool::quiesce::NothingToHold;
use windlass::pool::record::Volume;
use windlass::pool::thin::devices::LabelledDevice;
use windlass::pool::thin::{RepairOutcome, open_pool, repair};
use windlass::pool::{Changes, PoolError};
use windlass::scratch::Scratch;
use windlass::types::error::chain;
use windlass::types::{Access, LogicalBlockSize, Object, PoolId, SnapshotId};

/// Bytes of a data block of the pools here.
const BLOCK: u64 = 64 << 10;

/// One pool on the first disk, with a volume that holds something and a snapshot of it.
struct Ground {
    disk: PathBuf,
    id: PoolId,
    volume: Volume,
    snapshot: SnapshotId,
    _turn: MutexGuard<'static, ()>,
}

impl Ground {
    fn new() -> Self {
        let turn = turn();
        let disk = disks().remove(0);
        let id = make(&disk);
        Self::on(turn, disk, id)
    }

    /// On a pool that was just made.
    fn on(turn: MutexGuard<'static, ()>, disk: PathBuf, id: PoolId) -> Self {
        let pool = open(&disk);
        let volume = create(&pool, "one", 64 * MIB, None);
        let file = write_access(&pool, &volume);
        file.write_all_at(&[7; 4096], MIB).unwrap();
        file.sync_all().unwrap();
        drop(file);
        let snapshot = cut(&pool, "cut", &volume).id;
        pool.detach(Object::Volume(volume.id)).unwrap();
        Self { disk, id, volume, snapshot, _turn: turn }
    }

    fn open(&self) -> OwnedPool {
        open(&self.disk)
    }

    fn refused(&self) -> String {
        match open_pool(&self.disk, Arc::new(NothingToHold)) {
            Err(PoolError::Format(refusal)) => chain(&refusal),
            other => panic!("{other:?}"),
        }
    }

    /// The metadata as they lie on the disk.
    fn data_map(&self) -> DataMap {
        DataMap(self.read(self.metadata(), self.metadata_length()))
    }

    /// Leaks every so many blocks of those that are free; how many. As after a power cut, nobody has them.
    fn leak(&self, every: usize) -> u64 {
        leak(&self.disk, self.data_map(), self.metadata(), every)
    }

    /// Where the metadata begin on the disk, in bytes.
    fn metadata(&self) -> u64 {
        LabelledDevice::read(&self.disk).unwrap().label().segments.metadata[0].range().offset()
    }

    fn metadata_length(&self) -> usize {
        usize::try_from(LabelledDevice::read(&self.disk).unwrap().label().segments.metadata_bytes()).unwrap()
    }

    fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        raw(&self.disk).read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        let file = raw(&self.disk);
        file.write_all_at(bytes, offset).unwrap();
        file.sync_all().unwrap();
    }

    /// Sets the flag that the kernel sets when a commit fails: the pool takes no changes.
    fn demand_check(&self) {
        let mut superblock: [u8; BLOCK_BYTES] = self.read(self.metadata(), BLOCK_BYTES).try_into().unwrap();
        superblock[4] |= 1;
        let sum = checksum(&superblock, SUPERBLOCK_SEED);
        superblock[..4].copy_from_slice(&sum.to_le_bytes());
        self.write(self.metadata(), &superblock);
    }

    fn pool_name(&self) -> DmName {
        DmName::new(format!("windlass-{}-pool", self.id)).unwrap()
    }

    fn volume_name(&self) -> DmName {
        DmName::new(format!("windlass-{}-v-{}", self.id, self.volume.id)).unwrap()
    }

    /// The volume and the snapshot hold what they held.
    fn check(&self, pool: &OwnedPool) {
        let lease = pool.lease(self.snapshot).unwrap();
        let mut bytes = [0; 4096];
        lease.file().read_exact_at(&mut bytes, MIB).unwrap();
        assert_eq!(bytes, [7; 4096]);
        assert_eq!(lease.allocated().unwrap().count(), 1);
    }
}

fn raw(disk: &Path) -> File {
    // Past the page cache, which knows nothing of what the kernel wrote through device-mapper.
    let file = File::options().read(true).write(true).open(disk).unwrap();
    windlass::block::device::flush_buffers(&file).unwrap();
    file
}

/// Puts metadata on a disk in which every so many of the free blocks are leaked; how many.
fn leak(disk: &Path, mut metadata: DataMap, offset: u64, every: usize) -> u64 {
    let counted = metadata.counted();
    let blocks: Vec<u64> = (0..metadata.blocks()).filter(|block| !counted.contains(block)).step_by(every).collect();
    blocks.iter().for_each(|&block| metadata.set(block, 1));
    let file = raw(disk);
    file.write_all_at(&metadata.0, offset).unwrap();
    file.sync_all().unwrap();
    blocks.len() as u64
}

/// The number of data blocks that any thin device has. `thin_check` has nothing against the metadata.
fn mapped(metadata: &DataMap) -> u64 {
    let mut file = tempfile::tempfile_in(Scratch::directory_of_process()).unwrap();
    file.write_all(&metadata.0).unwrap();
    // The tools insist on direct I/O, which the machine's file system has not.
    let options = LoopOptions {
        access: Access::ReadOnly,
        block_size: LogicalBlockSize::B4096,
        label: "windlass-test",
        direct_io: DirectIo::IfPossible,
    };
    let device = loop_device::attach(&file, &options).unwrap();
    let tool = |program| thin_support::output(program, &[device.path.to_str().unwrap()]);
    tool("thin_check");
    let dump = tool("thin_dump");
    loop_device::detach(&device).unwrap();
    let number = |line: &str, name: &str| -> Option<u64> {
        let (_, rest) = line.split_once(&format!(" {name}=\""))?;
        rest.split_once('"')?.0.parse().ok()
    };
    let mut blocks = BTreeSet::new();
    for line in dump.lines() {
        if let Some(begin) = number(line, "data_begin").or_else(|| number(line, "data_block")) {
            blocks.extend(begin..begin + number(line, "length").unwrap_or(1));
        }
    }
    blocks.len() as u64
}

/// `windlass pool repair` in a process of its own, which is killed at a point.
fn killed_repair(disk: &Path, point: &str) {
    let mut repair = Command::new(env!("CARGO_BIN_EXE_windlass"));
    repair.args(["pool", "repair", "--device"]).arg(disk).env("WINDLASS_FAILPOINT", format!("kill:1:{point}"));
    let ended = repair.output().unwrap();
    assert_eq!(ended.status.signal(), Some(libc::SIGKILL), "{point}: {ended:?}");
}

fn write_access(pool: &OwnedPool, volume: &Volume) -> File {
    let device = pool.attach(Object::Volume(volume.id), Access::ReadWrite).unwrap().device;
    File::options().read(true).write(true).open(device).unwrap()
}

#[test]
fn metadata_that_were_zeroed_are_refused_and_never_formatted() {
    let ground = Ground::new();
    let metadata = ground.metadata();
    let superblock = ground.read(metadata, BLOCK_BYTES);
    ground.write(metadata, &[0; BLOCK_BYTES]);
    assert!(ground.refused().contains("zeros"), "{}", ground.refused());
    assert_eq!(ground.read(metadata, BLOCK_BYTES), [0; BLOCK_BYTES]);
    let mut damaged = superblock.clone();
    damaged[100] ^= 1;
    ground.write(metadata, &damaged);
    assert!(ground.refused().contains("damaged"), "{}", ground.refused());
    assert_eq!(ground.read(metadata, BLOCK_BYTES), damaged);
    // Nothing else was touched.
    ground.write(metadata, &superblock);
    ground.check(&ground.open());
}

#[test]
fn a_pool_that_must_be_checked_can_be_read_and_is_writable_again_after_its_repair() {
    let ground = Ground::new();
    ground.demand_check();
    let pool = ground.open();
    let health = pool.status().unwrap().health;
    assert_eq!(health.changes, Changes::Refused);
    assert!(health.problem.unwrap().contains("windlass pool repair --device"), "the cure is named");
    ground.check(&pool);
    let refused = pool.create_volume(&new_volume("refused", 64 * MIB, None));
    assert!(matches!(&refused, Err(PoolError::Io { .. })), "{refused:?}");
    drop(pool);

    let report = repair(&ground.disk).unwrap();
    assert_eq!(report.outcome, RepairOutcome::Cleared, "`report.outcome`");
    assert!(report.missing.is_empty(), "missing: {:?}", report.missing);
    assert!(report.unknown.is_empty(), "unknown: {:?}", report.unknown);
    let pool = ground.open();
    assert_eq!(pool.status().unwrap().health.problem, None);
    ground.check(&pool);
    create(&pool, "again", 64 * MIB, None);
}

#[test]
fn a_pool_in_use_is_not_repaired_and_a_sound_one_is_left_as_it_is() {
    let ground = Ground::new();
    let pool = ground.open();
    assert!(matches!(repair(&ground.disk), Err(PoolError::Owned(_))));
    let file = write_access(&pool, &ground.volume);
    drop(pool);
    assert!(matches!(repair(&ground.disk), Err(PoolError::InUse { .. })), "a volume is in use");
    drop(file);
    let report = repair(&ground.disk).unwrap();
    assert_eq!(report.outcome, RepairOutcome::Sound, "`report.outcome`");
    assert_eq!(report.findings, "");
    ground.check(&ground.open());
}
