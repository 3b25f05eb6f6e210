//! What a start of a thin pool finds and what it makes of it: leftovers of a dead owner, metadata that are not what they should be,
//! and their repair.

// vm: disks=1G limit=600

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod thin_support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::MutexGuard;

use thin_support::{MIB, create, cut, disks, make, new_volume, open, turn};
use windlass::block::Access;
use windlass::dm::metadata::{BLOCK_BYTES, SUPERBLOCK_SEED, checksum};
use windlass::dm::units::ThinId;
use windlass::dm::{DeviceMapper, DmName, FileSystem, Flush, PoolMessage, SuspendOptions};
use windlass::pool::owned::OwnedPool;
use windlass::pool::quiesce::NothingToHold;
use windlass::pool::record::Volume;
use windlass::pool::thin::devices::LabelledDevice;
use windlass::pool::thin::{RepairOutcome, open_pool, repair};
use windlass::pool::{Changes, PoolError};
use windlass::types::{Object, PoolId, SnapshotId};

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
            Err(PoolError::Format(text)) => text,
            other => panic!("{other:?}"),
        }
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
fn metadata_that_were_put_back_to_an_earlier_state_are_refused_until_they_are_repaired() {
    let ground = Ground::new();
    let (offset, length) = (ground.metadata(), ground.metadata_length());
    let before = ground.read(offset, length);
    for _ in 0..3 {
        drop(ground.open());
    }
    let pool = ground.open();
    let lost = create(&pool, "lost", 64 * MIB, None);
    drop(pool);
    ground.write(offset, &before);
    assert!(ground.refused().contains("metadata were put back"), "{}", ground.refused());
    let report = repair(&ground.disk).unwrap();
    assert_eq!(report.outcome, RepairOutcome::Sound);
    assert_eq!(report.missing, [Object::Volume(lost.id).to_string()]);
    let pool = ground.open();
    ground.check(&pool);
    let damaged = pool.status().unwrap().damaged;
    assert!(damaged.len() == 1 && damaged[0].contains(&lost.id.to_string()), "{damaged:?}");
    // It can be deleted, and is then forgotten.
    pool.delete_volume(lost.id).unwrap();
    assert_eq!(pool.status().unwrap().damaged, Vec::<String>::new());
}

#[test]
fn a_thin_device_that_appeared_behind_our_back_is_reported_and_left_alone() {
    let ground = Ground::new();
    let pool = ground.open();
    let dm = DeviceMapper::open().unwrap();
    let id = ThinId::new(4711).unwrap();
    dm.message(&ground.pool_name(), &PoolMessage::CreateThin { id }).unwrap();
    drop(pool);
    for _ in 0..2 {
        let pool = ground.open();
        let found = pool.status().unwrap().quarantined;
        assert!(found.len() == 1 && found[0].contains("4711"), "{found:?}");
    }
}

#[test]
fn what_a_dead_owner_left_suspended_or_held_is_set_going_and_let_go() {
    let ground = Ground::new();
    let pool = ground.open();
    let file = write_access(&pool, &ground.volume);
    let dm = DeviceMapper::open().unwrap();
    dm.suspend(&ground.volume_name(), SuspendOptions { file_system: FileSystem::Leave, flush: Flush::Wait }).unwrap();
    dm.message(&ground.pool_name(), &PoolMessage::ReserveMetadataSnap).unwrap();
    // The owner goes as a killed one does: without taking anything back. Its devices stay since the volume is attached.
    drop(pool);
    assert!(dm.info(&ground.volume_name()).unwrap().unwrap().suspended);
    let pool = ground.open();
    assert!(!dm.info(&ground.volume_name()).unwrap().unwrap().suspended);
    let status = dm.thin_pool_status(&ground.pool_name()).unwrap();
    assert_eq!(status.running().unwrap().held_root, None);
    file.write_all_at(&[8; 4096], 2 * MIB).unwrap();
    file.sync_all().unwrap();
    drop(file);
    ground.check(&pool);
    pool.detach(Object::Volume(ground.volume.id)).unwrap();
}

#[test]
fn a_pool_that_must_be_checked_can_be_read_and_is_writable_again_after_its_repair() {
    let ground = Ground::new();
    let metadata = ground.metadata();
    let mut superblock: [u8; BLOCK_BYTES] = ground.read(metadata, BLOCK_BYTES).try_into().unwrap();
    // The flag that the kernel sets when a commit fails.
    superblock[4] |= 1;
    let sum = checksum(&superblock, SUPERBLOCK_SEED);
    superblock[..4].copy_from_slice(&sum.to_le_bytes());
    ground.write(metadata, &superblock);

    let pool = ground.open();
    let health = pool.status().unwrap().health;
    assert_eq!(health.changes, Changes::Refused);
    assert!(health.problem.unwrap().contains("windlass pool repair --device"), "the cure is named");
    ground.check(&pool);
    let refused = pool.create_volume(&new_volume("refused", 64 * MIB, None));
    assert!(matches!(&refused, Err(PoolError::Io { .. })), "{refused:?}");
    drop(pool);

    let report = repair(&ground.disk).unwrap();
    assert_eq!((report.outcome, report.missing, report.unknown), (RepairOutcome::Cleared, Vec::new(), Vec::new()));
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
    assert!(matches!(repair(&ground.disk), Err(PoolError::Owned(_))), "a volume is in use");
    drop(file);
    let report = repair(&ground.disk).unwrap();
    assert_eq!((report.outcome, report.findings.as_str()), (RepairOutcome::Sound, ""));
    ground.check(&ground.open());
}

#[test]
fn damaged_metadata_are_rebuilt_from_what_can_be_read() {
    let ground = Ground::new();
    let pool = ground.open();
    for number in 0..4 {
        create(&pool, &format!("more-{number}"), 64 * MIB, None);
    }
    drop(pool);
    let (offset, length) = (ground.metadata(), ground.metadata_length());
    // Every block but the superblock and the first few (the bitmaps) that holds a node of a tree: one is spoilt at a time until
    // the check finds it, so that whatever the kernel put where, something that is in use is damaged.
    let image = ground.read(offset, length);
    let nodes =
        (1..length / BLOCK_BYTES).filter(|block| image[block * BLOCK_BYTES..][..BLOCK_BYTES].iter().any(|byte| *byte != 0));
    let spoilt = nodes.into_iter().find(|&block| {
        let at = offset + (block * BLOCK_BYTES) as u64;
        let mut bytes = image[block * BLOCK_BYTES..][..BLOCK_BYTES].to_vec();
        bytes[64] ^= 0xff;
        ground.write(at, &bytes);
        let refused = open_pool(&ground.disk, Arc::new(NothingToHold)).is_err();
        if !refused {
            ground.write(at, &image[block * BLOCK_BYTES..][..BLOCK_BYTES]);
        }
        refused
    });
    assert!(spoilt.is_some(), "no block that matters was found");
    let report = repair(&ground.disk).unwrap();
    assert_eq!(report.outcome, RepairOutcome::Rebuilt);
    assert!(!report.findings.is_empty());
    let pool = ground.open();
    let status = pool.status().unwrap();
    assert_eq!(status.health.problem, None);
    // Whatever is lost is said; the rest can be used.
    assert_eq!(status.damaged.len(), report.missing.len());
    create(&pool, "again", 64 * MIB, None);
}
