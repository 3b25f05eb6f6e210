//! A pool that was put back to an earlier state, whole or in part.

use std::os::unix::fs::FileExt;
use std::path::Path;

use windlass::dm::units::ThinId;
use windlass::dm::{DeviceMapper, PoolMessage};
use windlass::pool::PoolError;
use windlass::pool::owned::OwnedPool;
use windlass::pool::record::{Consumer, Volume};
use windlass::pool::thin::format::DevicePaths;
use windlass::pool::thin::{History, RepairOutcome, create_pool, repair, take_down};
use windlass::types::{ByteRange, Object};

use crate::thin_support::{MIB, create, cut, disks, over_anything, turn};
use crate::{BLOCK, Ground, raw, write_access};

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
        assert!(ground.refused().contains("metadata was put back"), "{}", ground.refused());
        let report = repair(&ground.disk).unwrap();
        assert_eq!(report.outcome, RepairOutcome::Sound, "`report.outcome`");
        assert_eq!(report.history, History::Broken, "`report.history`");
        assert!(report.findings.contains("metadata was put back"), "{}", report.findings);
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
