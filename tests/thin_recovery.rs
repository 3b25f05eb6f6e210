//! What a start of a thin pool finds and what it makes of it: leftovers of a dead owner, metadata that are not what they should be,
//! and their repair.

// vm: disks=1G,128M limit=600

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "dm_metadata/space_map.rs"]
mod space_map;
mod thin_support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::MutexGuard;
use std::time::Duration;

use space_map::DataMap;
use thin_support::{MIB, create, cut, disks, make, make_with, new_volume, open, over_anything, turn, wait_for};
use windlass::block::loop_device::{self, DirectIo, LoopOptions};
use windlass::dm::metadata::{BLOCK_BYTES, SUPERBLOCK_SEED, checksum};
use windlass::dm::units::{Sectors, ThinId};
use windlass::dm::{DeviceMapper, DmName, DmUuid, FileSystem, Flush, PoolMessage, Removal, SuspendOptions, Target, TargetKind};
use windlass::pool::owned::OwnedPool;
use windlass::pool::quiesce::NothingToHold;
use windlass::pool::record::{Consumer, Publication, PublicationKind, Volume};
use windlass::pool::thin::devices::LabelledDevice;
use windlass::pool::thin::format::DevicePaths;
use windlass::pool::thin::{History, RepairOutcome, create_pool, open_pool, repair, take_down};
use windlass::pool::{Changes, PoolError};
use windlass::scratch::Scratch;
use windlass::types::{Access, AccessMode, ByteRange, LogicalBlockSize, Object, PoolId, SnapshotId, VolumeMode};

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
            Err(PoolError::Format(text)) => text,
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

/// Takes the pool over so many times, each time writing to the volume, cutting a snapshot and keeping it as an anchor only.
fn sessions(ground: &Ground, count: u64) {
    for number in 0..count {
        let pool = ground.open();
        write(&pool, &ground.volume, 10 + number);
        let cut = cut(&pool, &format!("session-{number}"), &ground.volume);
        pool.record_use(cut.id, Consumer::MetadataClient).unwrap();
        pool.delete_snapshot(cut.id).unwrap();
    }
}

/// Writes 4 KiB to so many MiB of a volume that is not attached.
fn write(pool: &OwnedPool, volume: &Volume, mib: u64) {
    let file = write_access(pool, volume);
    file.write_all_at(&[9; 4096], mib * MIB).unwrap();
    file.sync_all().unwrap();
    drop(file);
    pool.detach(Object::Volume(volume.id)).unwrap();
}

/// Nothing of before is a base; what comes after is, and exact.
fn check_history_is_broken(pool: &OwnedPool, ground: &Ground) {
    assert_eq!(pool.anchors().unwrap(), Vec::new(), "an anchor of a time that never was is kept");
    let target = cut(pool, "target", &ground.volume);
    let refused = pool.lease(target.id).unwrap().changed_since(ground.snapshot).map(drop);
    assert!(matches!(refused, Err(PoolError::Unsupported(_))), "{refused:?}");
    pool.record_use(target.id, Consumer::MetadataClient).unwrap();
    pool.delete_snapshot(target.id).unwrap();
    write(pool, &ground.volume, 40);
    let later = cut(pool, "later", &ground.volume);
    let changed = pool.lease(later.id).unwrap().changed_since(target.id).unwrap();
    let changed: Vec<_> = changed.map(|range| range.unwrap()).collect();
    assert_eq!(changed, [ByteRange::new(40 * MIB, BLOCK).unwrap()]);
    pool.delete_snapshot(later.id).unwrap();
}

#[test]
fn metadata_that_were_put_back_to_an_earlier_state_are_refused_until_they_are_repaired() {
    let ground = Ground::new();
    let (offset, length) = (ground.metadata(), ground.metadata_length());
    // By one session, which is the likeliest, and by more.
    for count in [1, 4] {
        drop(ground.open());
        let before = ground.read(offset, length);
        sessions(&ground, count - 1);
        let pool = ground.open();
        let lost = create(&pool, "lost", 64 * MIB, None);
        drop(pool);
        ground.write(offset, &before);
        assert!(ground.refused().contains("metadata were put back"), "{}", ground.refused());
        let report = repair(&ground.disk).unwrap();
        assert_eq!((report.outcome, report.history), (RepairOutcome::Sound, History::Broken));
        assert!(report.findings.contains("metadata were put back"), "{}", report.findings);
        assert_eq!(report.missing, [Object::Volume(lost.id).to_string()]);
        let pool = ground.open();
        ground.check(&pool);
        let damaged = pool.status().unwrap().damaged;
        assert!(damaged.len() == 1 && damaged[0].contains(&lost.id.to_string()), "{damaged:?}");
        // It can be deleted, and is then forgotten.
        pool.delete_volume(lost.id).unwrap();
        assert_eq!(pool.status().unwrap().damaged, Vec::<String>::new());
        check_history_is_broken(&pool, &ground);
    }
    // A repair of what is as it was breaks nothing.
    assert_eq!(repair(&ground.disk).unwrap().history, History::Whole);
}

#[test]
fn one_of_two_devices_that_was_put_back_is_noticed() {
    let turn = turn();
    let [data, metadata] = disks().try_into().unwrap();
    // Whatever other tests left on either.
    [&data, &metadata].into_iter().for_each(|disk| forget(disk));
    let devices = DevicePaths::Two { metadata: metadata.clone(), data: data.clone() };
    let id = create_pool(&over_anything(devices)).unwrap();
    // All that is on the device with label, catalogue and metadata.
    let length = usize::try_from(windlass::block::device::size(&raw(&metadata)).unwrap()).unwrap();
    let ground = Ground::on(turn, metadata, id);
    let before = ground.read(0, length);
    sessions(&ground, 2);
    ground.write(0, &before);
    assert!(ground.refused().contains("put back to an earlier state"), "{}", ground.refused());
    let report = repair(&ground.disk).unwrap();
    assert_eq!(report.history, History::Broken);
    assert!(report.findings.contains(&data.display().to_string()), "{}", report.findings);
    let pool = ground.open();
    check_history_is_broken(&pool, &ground);
    drop(pool);
    [&data, &ground.disk].into_iter().for_each(|disk| forget(disk));
}

/// Wipes the labels of a disk, of whose pool nothing is active then.
fn forget(disk: &Path) {
    // Without a pool there is nothing to take down.
    let _ = take_down(disk);
    let file = raw(disk);
    let size = windlass::block::device::size(&file).unwrap();
    let zeros = vec![0; usize::try_from(MIB).unwrap()];
    file.write_all_at(&zeros, 0).unwrap();
    file.write_all_at(&zeros, size - MIB).unwrap();
    file.sync_all().unwrap();
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

/// The first bytes of what a thin device of the pool holds at 1 MiB, whoever's it is. The pool is active.
fn stored(ground: &Ground, id: u32) -> Vec<u8> {
    let dm = DeviceMapper::open().unwrap();
    let pool = dm.info(&ground.pool_name()).unwrap().unwrap().number;
    let (name, uuid) = (DmName::new("looked-at").unwrap(), DmUuid::new("TEST-looked-at").unwrap());
    let kind = TargetKind::Thin { pool, id: ThinId::new(id).unwrap() };
    let table = Target { start: Sectors::default(), length: Sectors::from_bytes(64 * MIB).unwrap(), kind };
    let number = dm.activate(&name, &uuid, Access::ReadOnly, &[table]).unwrap().number;
    let mut bytes = vec![0; 4096];
    File::open(format!("/dev/dm-{}", number.minor())).unwrap().read_exact_at(&mut bytes, MIB).unwrap();
    wait_for("the device to be let go", Duration::from_secs(10), || dm.remove(&name, Removal::Now).ok());
    bytes
}

#[test]
fn devices_that_no_record_names_are_never_given_out_nor_destroyed() {
    let turn = turn();
    let disk = disks().remove(0);
    let id = make(&disk);
    let segment = LabelledDevice::read(&disk).unwrap().label().segments.catalogue.unwrap().range();
    let mut empty = vec![0; usize::try_from(segment.length()).unwrap()];
    raw(&disk).read_exact_at(&mut empty, segment.offset()).unwrap();
    let ground = Ground::on(turn, disk, id);
    // The catalogue of before the volume and its snapshot: thin devices 0 and 1 are nobody's now, and so is the next id.
    ground.write(segment.offset(), &empty);
    assert!(ground.refused().contains("put back to an earlier state"), "{}", ground.refused());
    assert_eq!(repair(&ground.disk).unwrap().unknown, ["thin device 0", "thin device 1"]);
    let pool = ground.open();
    let quarantined = pool.status().unwrap().quarantined;
    assert_eq!(quarantined.len(), 2, "{quarantined:?}");
    // Another program makes one more, under the id that comes next, with the bytes of the first.
    let dm = DeviceMapper::open().unwrap();
    let made = |id, origin| {
        let message = PoolMessage::CreateSnap { id: ThinId::new(id).unwrap(), origin: ThinId::new(origin).unwrap() };
        dm.message(&ground.pool_name(), &message).unwrap();
    };
    made(2, 0);
    let new = create(&pool, "new", 64 * MIB, None);
    let file = write_access(&pool, &new);
    let mut bytes = [1; 4096];
    file.read_exact_at(&mut bytes, MIB).unwrap();
    assert_eq!(bytes, [0; 4096], "a new volume shows somebody else's data");
    file.write_all_at(&[9; 4096], MIB).unwrap();
    file.sync_all().unwrap();
    drop(file);
    // And the one after that, before a snapshot is cut.
    made(4, 1);
    let snapshot = cut(&pool, "new", &new);
    pool.detach(Object::Volume(new.id)).unwrap();
    pool.delete_snapshot(snapshot.id).unwrap();
    drop(pool);
    let pool = ground.open();
    let quarantined = pool.status().unwrap().quarantined;
    assert_eq!(quarantined.len(), 4, "{quarantined:?}");
    for id in [0, 1, 2, 4] {
        assert_eq!(stored(&ground, id), [7; 4096], "thin device {id}");
    }
    pool.delete_volume(new.id).unwrap();
}

#[test]
fn a_repair_that_is_refused_removes_nothing_and_what_is_published_refuses_it() {
    let ground = Ground::new();
    let pool = ground.open();
    let other = create(&pool, "other", 64 * MIB, None);
    let idle = pool.attach(Object::Volume(ground.volume.id), Access::ReadWrite).unwrap().device;
    let busy = write_access(&pool, &other);
    let target = PathBuf::from("/run/published");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned();
    let publication = Publication {
        path: target.clone(),
        kind: PublicationKind::Published,
        mode: VolumeMode::Block,
        access_mode: AccessMode::SingleNodeWriter,
        mount_flags: Vec::new(),
        access: Access::ReadWrite,
        boot_id: boot,
    };
    pool.put_publication(ground.volume.id, publication).unwrap();
    drop(pool);
    let in_use = |object| match repair(&ground.disk) {
        Err(PoolError::InUse { object: found, by }) if found == object => by,
        outcome => panic!("{outcome:?}"),
    };
    // Whichever comes first, the other is still there.
    assert!(matches!(repair(&ground.disk), Err(PoolError::InUse { .. })));
    let is_there = |device: &Path| File::open(device).is_ok();
    assert!(is_there(&idle));
    drop(busy);
    let by = in_use(Object::Volume(ground.volume.id));
    assert!(by.contains("published at /run/published"), "{by}");
    assert!(is_there(&idle));
    let pool = ground.open();
    assert!(pool.attachment(Object::Volume(other.id)).unwrap().is_some());
    pool.remove_publication(ground.volume.id, &target).unwrap();
    drop(pool);
    // No record, but a pod has it: the node is bound to a path.
    File::create(&target).unwrap();
    thin_support::output("mount", &["--bind", idle.to_str().unwrap(), target.to_str().unwrap()]);
    let by = in_use(Object::Volume(ground.volume.id));
    assert!(by.contains("bound"), "{by}");
    assert!(is_there(&idle));
    thin_support::output("umount", &[target.to_str().unwrap()]);
    assert_eq!(repair(&ground.disk).unwrap().outcome, RepairOutcome::Sound);
    ground.check(&ground.open());
}

#[test]
fn what_is_deleted_while_the_pool_takes_no_changes_hinders_no_start_and_is_reduced_later() {
    let ground = Ground::new();
    let pool = ground.open();
    pool.record_use(ground.snapshot, Consumer::MetadataClient).unwrap();
    let unused = cut(&pool, "unused", &ground.volume);
    drop(pool);
    ground.demand_check();
    let pool = ground.open();
    assert_eq!(pool.status().unwrap().health.changes, Changes::Refused);
    // The used one is out of sight, and kept whole; the other is to be deleted by whoever can.
    pool.delete_snapshot(ground.snapshot).unwrap();
    assert!(pool.delete_snapshot(unused.id).is_err());
    drop(pool);
    for _ in 0..2 {
        let pool = ground.open();
        assert_eq!((pool.anchors().unwrap().len(), pool.snapshots().unwrap().len()), (1, 0));
        // What needs no change works.
        let device = pool.attach(Object::Volume(ground.volume.id), Access::ReadOnly).unwrap().device;
        let mut bytes = [0; 4096];
        File::open(device).unwrap().read_exact_at(&mut bytes, MIB).unwrap();
        assert_eq!(bytes, [7; 4096]);
        pool.detach(Object::Volume(ground.volume.id)).unwrap();
    }
    assert_eq!(repair(&ground.disk).unwrap().outcome, RepairOutcome::Cleared);
    let pool = ground.open();
    let status = pool.status().unwrap();
    assert_eq!((status.health.problem, status.damaged, status.quarantined), (None, Vec::new(), Vec::new()));
    // The anchor holds no data any more, and tells what changed since.
    let file = write_access(&pool, &ground.volume);
    file.write_all_at(&[8; 4096], 2 * MIB).unwrap();
    file.sync_all().unwrap();
    drop(file);
    pool.detach(Object::Volume(ground.volume.id)).unwrap();
    let later = cut(&pool, "later", &ground.volume);
    let changed: Vec<_> =
        pool.lease(later.id).unwrap().changed_since(ground.snapshot).unwrap().map(|range| range.unwrap()).collect();
    assert_eq!(changed, [ByteRange::new(2 * MIB, BLOCK).unwrap()]);
    drop(pool);
    let left = ground.data_map();
    assert_eq!(left.counted().len(), 2, "the snapshot's device is gone, its data are the volume's");
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
    assert!(matches!(repair(&ground.disk), Err(PoolError::InUse { .. })), "a volume is in use");
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

#[test]
fn blocks_that_a_power_cut_left_to_nobody_are_given_back_and_the_kernel_allocates_every_one_of_them() {
    let _turn = turn();
    // Small, so that it is soon full.
    let disk = disks().remove(1);
    let id = make_with(&disk, 4 * MIB);
    let pool = open(&disk);
    let volume = create(&pool, "one", 64 * MIB, None);
    let content = vec![7; 3 * MIB as usize];
    write_access(&pool, &volume).write_all_at(&content, MIB).unwrap();
    pool.detach(Object::Volume(volume.id)).unwrap();
    drop(pool);

    let segments = LabelledDevice::read(&disk).unwrap().label().segments.clone();
    let offset = segments.metadata[0].range().offset();
    let read = || {
        let mut bytes = vec![0; usize::try_from(segments.metadata_bytes()).unwrap()];
        raw(&disk).read_exact_at(&mut bytes, offset).unwrap();
        DataMap(bytes)
    };
    let metadata = read();
    let (total, used) = (metadata.blocks(), metadata.allocated());
    assert_eq!(mapped(&metadata), used);
    for entry in metadata.index() {
        let free = space_map::PER_BITMAP - metadata.counted().len() as u64;
        assert_eq!(u64::from(entry.free), free, "the kernel counts what is behind the last block too");
    }
    let leaked = leak(&disk, metadata, offset, 1);
    assert_eq!(leaked, total - used, "all that were free");
    assert_eq!(mapped(&read()), used, "thin_check sees nothing of it");

    let report = repair(&disk).unwrap();
    assert_eq!((report.outcome, report.reclaimed_bytes, report.left_bytes), (RepairOutcome::Sound, leaked * BLOCK, 0));
    assert_eq!((report.findings.as_str(), report.missing, report.unknown), ("", Vec::new(), Vec::new()));
    let metadata = read();
    assert_eq!((metadata.allocated(), mapped(&metadata)), (used, used));
    let report = repair(&disk).unwrap();
    assert_eq!((report.outcome, report.reclaimed_bytes), (RepairOutcome::Sound, 0));

    let pool = open(&disk);
    assert_eq!(pool.status().unwrap().health.problem, None);
    let status = || {
        let name = DmName::new(format!("windlass-{id}-pool")).unwrap();
        *DeviceMapper::open().unwrap().thin_pool_status(&name).unwrap().running().unwrap()
    };
    assert_eq!(status().data_used.count(), used);
    let eater = create(&pool, "eater", total * BLOCK, None);
    let file = write_access(&pool, &eater);
    let block = vec![5; BLOCK as usize];
    let written = (0..total).find(|number| file.write_all_at(&block, number * BLOCK).and_then(|()| file.sync_all()).is_err());
    drop(file);
    assert_eq!(written, Some(leaked), "blocks that were leaked are blocks that can be written");
    assert_eq!((status().data_used.count(), status().data_total.count()), (total, total));
    let mut found = vec![0; content.len()];
    write_access(&pool, &volume).read_exact_at(&mut found, MIB).unwrap();
    assert!(found == content, "the volume has changed");
    pool.detach(Object::Volume(volume.id)).unwrap();
    pool.detach(Object::Volume(eater.id)).unwrap();
    pool.delete_volume(eater.id).unwrap();
    assert_eq!(status().data_used.count(), used);
}

#[test]
fn a_repair_that_is_killed_anywhere_is_finished_by_the_next() {
    let ground = Ground::new();
    for (point, is_closed, is_done) in [
        ("thin.repair.before_write", false, false),
        ("thin.repair.closed", true, false),
        ("thin.repair.before_superblock", true, false),
        ("thin.repair.after_superblock", false, true),
    ] {
        let used = ground.data_map().allocated();
        let leaked = ground.leak(7);
        killed_repair(&ground.disk, point);
        if is_closed {
            assert!(ground.refused().contains("pool repair"), "{point}: {}", ground.refused());
        }
        let report = repair(&ground.disk).unwrap();
        let expected = if is_done { 0 } else { leaked * BLOCK };
        assert_eq!((report.outcome, report.reclaimed_bytes), (RepairOutcome::Sound, expected), "{point}");
        let metadata = ground.data_map();
        assert_eq!((metadata.allocated(), mapped(&metadata)), (used, used), "{point}");
        ground.check(&ground.open());
    }
}

#[test]
fn an_interrupted_repair_whose_file_is_lost_is_done_again() {
    let ground = Ground::new();
    let used = ground.data_map().allocated();
    for point in ["thin.repair.closed", "thin.repair.before_superblock"] {
        let leaked = ground.leak(3);
        killed_repair(&ground.disk, point);
        fs::remove_file(spare(&ground)).unwrap();
        let report = repair(&ground.disk).unwrap();
        assert_eq!((report.outcome, report.reclaimed_bytes), (RepairOutcome::Sound, leaked * BLOCK), "{point}");
        assert!(report.findings.contains("an earlier repair was interrupted"), "{point}: {}", report.findings);
        let metadata = ground.data_map();
        assert_eq!((metadata.allocated(), mapped(&metadata)), (used, used), "{point}");
        ground.check(&ground.open());
    }
}

fn spare(ground: &Ground) -> PathBuf {
    Scratch::directory_of_process().join(format!("windlass-repair-{}.metadata", ground.id))
}

#[test]
fn what_an_earlier_repair_left_is_never_written_over_what_was_done_since() {
    let ground = Ground::new();
    for (number, point) in ["thin.repair.before_write", "thin.repair.after_superblock"].into_iter().enumerate() {
        ground.leak(50);
        killed_repair(&ground.disk, point);
        assert!(spare(&ground).exists(), "{point}");
        // The pool is used.
        let pool = ground.open();
        let since = create(&pool, &format!("since-{number}"), 64 * MIB, None);
        write_access(&pool, &since).write_all_at(&[9; 4096], 0).unwrap();
        pool.detach(Object::Volume(since.id)).unwrap();
        drop(pool);
        // Then it is damaged.
        let metadata = ground.data_map();
        let bitmap = ground.metadata() + metadata.index()[0].bitmap * BLOCK_BYTES as u64;
        ground.write(bitmap + 100, &[0xa5; 8]);
        let report = repair(&ground.disk).unwrap();
        assert_eq!((report.outcome, report.missing), (RepairOutcome::Rebuilt, Vec::new()), "{point}");
        assert!(!spare(&ground).exists(), "{point}");
        let metadata = ground.data_map();
        assert_eq!(metadata.allocated(), mapped(&metadata), "{point}");
        let pool = ground.open();
        ground.check(&pool);
        let mut bytes = [0; 4096];
        write_access(&pool, &since).read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [9; 4096], "{point}");
        pool.detach(Object::Volume(since.id)).unwrap();
    }
}

#[test]
fn a_rebuild_that_is_killed_anywhere_is_finished_by_the_next() {
    let ground = Ground::new();
    for point in ["thin.repair.before_write", "thin.repair.closed", "thin.repair.before_superblock"] {
        // A block that is mapped and free would be given to somebody else, which thin_check does not see.
        let mut metadata = ground.data_map();
        let block = *metadata.counted().first().unwrap();
        metadata.set(block, 0);
        ground.write(ground.metadata(), &metadata.0);
        killed_repair(&ground.disk, point);
        let report = repair(&ground.disk).unwrap();
        assert_eq!((report.outcome, report.missing), (RepairOutcome::Rebuilt, Vec::new()), "{point}");
        let metadata = ground.data_map();
        assert!(metadata.counted().contains(&block));
        assert_eq!(metadata.allocated(), mapped(&metadata), "{point}");
        ground.check(&ground.open());
    }
}

#[test]
fn what_only_a_metadata_snapshot_has_is_not_leaked_and_leaks_beside_it_are_given_back() {
    let ground = Ground::new();
    let pool = ground.open();
    let volume = create(&pool, "two", 64 * MIB, None);
    write_access(&pool, &volume).write_all_at(&[3; 4 * BLOCK as usize], 0).unwrap();
    pool.detach(Object::Volume(volume.id)).unwrap();
    // An owner that is killed in a walk leaves this behind.
    DeviceMapper::open().unwrap().message(&ground.pool_name(), &PoolMessage::ReserveMetadataSnap).unwrap();
    pool.delete_volume(volume.id).unwrap();
    drop(pool);
    let metadata = ground.data_map();
    let (used, live) = (metadata.allocated(), mapped(&metadata));
    assert_eq!(used, live + 4, "the deleted volume's are held");
    let report = repair(&ground.disk).unwrap();
    assert_eq!((report.outcome, report.reclaimed_bytes), (RepairOutcome::Sound, 0));
    let leaked = ground.leak(100);
    assert_eq!(repair(&ground.disk).unwrap().reclaimed_bytes, leaked * BLOCK);
    assert_eq!(ground.data_map().allocated(), used);
    // The next owner lets go of it.
    ground.check(&ground.open());
    let metadata = ground.data_map();
    assert_eq!((metadata.allocated(), mapped(&metadata)), (live, live));
}

#[test]
fn leaked_blocks_of_a_pool_that_must_be_checked_are_given_back_and_the_flag_is_cleared() {
    let ground = Ground::new();
    let leaked = ground.leak(20);
    let mut metadata = ground.data_map();
    metadata.0[4] |= 1;
    metadata.seal(0, SUPERBLOCK_SEED);
    ground.write(ground.metadata(), &metadata.0);
    let report = repair(&ground.disk).unwrap();
    assert_eq!((report.outcome, report.reclaimed_bytes), (RepairOutcome::Cleared, leaked * BLOCK));
    let pool = ground.open();
    assert_eq!(pool.status().unwrap().health.problem, None);
    ground.check(&pool);
}
