//! Blocks that a power cut left to nobody.

use std::os::unix::fs::FileExt;

use windlass::dm::metadata::SUPERBLOCK_SEED;
use windlass::dm::{DeviceMapper, DmName, PoolMessage};
use windlass::pool::thin::devices::LabelledDevice;
use windlass::pool::thin::{RepairOutcome, repair};
use windlass::types::Object;

use crate::space_map::DataMap;
use crate::thin_support::{MIB, create, disks, make_with, open, turn};
use crate::{BLOCK, Ground, killed_repair, leak, mapped, raw, write_access};

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
        let free = crate::space_map::PER_BITMAP - metadata.counted().len() as u64;
        assert_eq!(u64::from(entry.free), free, "the kernel counts what is behind the last block too");
    }
    let leaked = leak(&disk, metadata, offset, 1);
    assert_eq!(leaked, total - used, "all that were free");
    assert_eq!(mapped(&read()), used, "thin_check sees nothing of it");

    let report = repair(&disk).unwrap();
    assert_eq!(report.outcome, RepairOutcome::Sound, "`report.outcome`");
    assert_eq!(report.reclaimed_bytes, leaked * BLOCK, "`report.reclaimed_bytes`");
    assert_eq!(report.left_bytes, 0, "`report.left_bytes`");
    assert_eq!(report.findings, "");
    assert!(report.missing.is_empty(), "missing: {:?}", report.missing);
    assert!(report.unknown.is_empty(), "unknown: {:?}", report.unknown);
    let metadata = read();
    assert_eq!(metadata.allocated(), used, "`metadata.allocated()`");
    assert_eq!(mapped(&metadata), used, "`mapped(&metadata)`");
    let report = repair(&disk).unwrap();
    assert_eq!(report.outcome, RepairOutcome::Sound, "`report.outcome`");
    assert_eq!(report.reclaimed_bytes, 0, "`report.reclaimed_bytes`");

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
    assert_eq!(status().data_used.count(), total, "`status().data_used.count()`");
    assert_eq!(status().data_total.count(), total, "`status().data_total.count()`");
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
        assert_eq!(report.outcome, RepairOutcome::Sound, "`report.outcome`; {point}");
        assert_eq!(report.reclaimed_bytes, expected, "`report.reclaimed_bytes`; {point}");
        let metadata = ground.data_map();
        assert_eq!(metadata.allocated(), used, "`metadata.allocated()`; {point}");
        assert_eq!(mapped(&metadata), used, "`mapped(&metadata)`; {point}");
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
    assert_eq!(report.outcome, RepairOutcome::Sound, "`report.outcome`");
    assert_eq!(report.reclaimed_bytes, 0, "`report.reclaimed_bytes`");
    let leaked = ground.leak(100);
    assert_eq!(repair(&ground.disk).unwrap().reclaimed_bytes, leaked * BLOCK);
    assert_eq!(ground.data_map().allocated(), used);
    // The next owner lets go of it.
    ground.check(&ground.open());
    let metadata = ground.data_map();
    assert_eq!(metadata.allocated(), live, "`metadata.allocated()`");
    assert_eq!(mapped(&metadata), live, "`mapped(&metadata)`");
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
    assert_eq!(report.outcome, RepairOutcome::Cleared, "`report.outcome`");
    assert_eq!(report.reclaimed_bytes, leaked * BLOCK, "`report.reclaimed_bytes`");
    let pool = ground.open();
    assert_eq!(pool.status().unwrap().health.problem, None);
    ground.check(&pool);
}
