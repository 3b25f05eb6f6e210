//! Damaged metadata is rebuilt from what can be read, also when that is interrupted.

use std::fs::{self};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use windlass::dm::metadata::BLOCK_BYTES;
use windlass::pool::quiesce::NothingToHold;
use windlass::pool::thin::{RepairOutcome, open_pool, repair};
use windlass::scratch::Scratch;
use windlass::types::Object;

use crate::thin_support::{MIB, create};
use crate::{BLOCK, Ground, killed_repair, mapped, write_access};

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
fn an_interrupted_repair_whose_file_is_lost_is_done_again() {
    let ground = Ground::new();
    let used = ground.data_map().allocated();
    for point in ["thin.repair.closed", "thin.repair.before_superblock"] {
        let leaked = ground.leak(3);
        killed_repair(&ground.disk, point);
        fs::remove_file(spare(&ground)).unwrap();
        let report = repair(&ground.disk).unwrap();
        assert_eq!(report.outcome, RepairOutcome::Sound, "`report.outcome`; {point}");
        assert_eq!(report.reclaimed_bytes, leaked * BLOCK, "`report.reclaimed_bytes`; {point}");
        assert!(report.findings.contains("an earlier repair was interrupted"), "{point}: {}", report.findings);
        let metadata = ground.data_map();
        assert_eq!(metadata.allocated(), used, "`metadata.allocated()`; {point}");
        assert_eq!(mapped(&metadata), used, "`mapped(&metadata)`; {point}");
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
        assert_eq!(report.outcome, RepairOutcome::Rebuilt, "`report.outcome`; {point}");
        assert!(report.missing.is_empty(), "missing: {:?}; {point}", report.missing);
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
        assert_eq!(report.outcome, RepairOutcome::Rebuilt, "`report.outcome`; {point}");
        assert!(report.missing.is_empty(), "missing: {:?}; {point}", report.missing);
        let metadata = ground.data_map();
        assert!(metadata.counted().contains(&block));
        assert_eq!(metadata.allocated(), mapped(&metadata), "{point}");
        ground.check(&ground.open());
    }
}
