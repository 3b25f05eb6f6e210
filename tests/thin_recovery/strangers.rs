//! Thin devices without a record, and what a dead owner left.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use windlass::dm::units::{Sectors, ThinId};
use windlass::dm::{DeviceMapper, DmName, DmUuid, FileSystem, Flush, PoolMessage, Removal, SuspendOptions, Target, TargetKind};
use windlass::pool::record::{Consumer, Publication, PublicationKind};
use windlass::pool::thin::devices::LabelledDevice;
use windlass::pool::thin::{RepairOutcome, repair};
use windlass::pool::{Changes, PoolError};
use windlass::types::{Access, AccessMode, ByteRange, Object, VolumeMode};

use crate::thin_support::{MIB, create, cut, disks, make, turn, wait_for};
use crate::{BLOCK, Ground, raw, write_access};

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
    crate::thin_support::output("mount", &["--bind", idle.to_str().unwrap(), target.to_str().unwrap()]);
    let by = in_use(Object::Volume(ground.volume.id));
    assert!(by.contains("bound"), "{by}");
    assert!(is_there(&idle));
    crate::thin_support::output("umount", &[target.to_str().unwrap()]);
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
        assert_eq!(pool.anchors().unwrap().len(), 1, "entries of `pool.anchors()`");
        assert!(pool.snapshots().unwrap().is_empty(), "snapshots are left: {:?}", pool.snapshots());
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
    assert_eq!(status.health.problem, None, "`status.health.problem`");
    assert!(status.damaged.is_empty(), "damaged: {:?}", status.damaged);
    assert!(status.quarantined.is_empty(), "quarantined: {:?}", status.quarantined);
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
    assert_eq!(left.counted().len(), 2, "the snapshot's device is gone, its data is the volume's");
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
