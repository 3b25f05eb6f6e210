#![cfg(all(feature = "root-tests", feature = "thin-tests"))]
//! The power of a machine with a busy thin pool is cut, at every flush of its disk and between.
//!
//! After each cut, before anything is recovered: the metadata is what `thin_check` calls sound; every operation that had been
//! answered is in the catalogue and every byte of it in the data, found by the mappings that `thin_dump` tells; the one that was
//! under way is there or is not; and catalogue and metadata differ by nothing but what an intent names. The ext4 and the XFS of volumes
//! that were mounted replay their journals, have no errors and have the files that were synced. The log is that of
//! `thin_power_cut_thin`, which also recovers from some of the cuts, for that needs device-mapper. Of all these cuts a run takes its share.
// vm: replays=thin_power_cut_thin

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/power_cut/mod.rs"]
mod power_cut;
#[path = "support/root_support/mod.rs"]
mod root_support;
#[path = "support/share.rs"]
mod share;
#[path = "support/thin_cut/mod.rs"]
mod thin_cut;

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use power_cut::log::WriteLog;
use power_cut::replay::{Cut, CutKind, Replay};
use power_cut::verify::verify_records;
use root_support::Sandbox;
use share::Share;
use thin_cut::stored::Stored;
use thin_cut::{FILE_SYSTEMS, LOST_AT_MOST, POOL, Promised, REPLAY, STEPS, Step, files, operation, steps};
use windlass::block::loop_device::{self, DirectIo, LoopOptions};
use windlass::mount::image;
use windlass::types::{Access, FsType, LogicalBlockSize};

/// The least number of flushes that the power is cut at.
const FLUSHES: u64 = 500;
/// Of how many cuts one is followed by mounting and checking the volumes with files.
const MOUNTED: u64 = 8;

/// Says where the power was cut if the test fails there.
struct Where<'a>(&'a Cut, Option<&'a Step>);

impl Drop for Where<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the power was cut at {:?}, with {:?} under way", self.0, self.1);
        }
    }
}

fn check_files(stored: &Stored, fs_type: FsType, copy: &Path, mounted: &Path, promised: &[u64]) {
    let file = stored.copy_mounted(fs_type, copy);
    let options = LoopOptions {
        access: Access::ReadWrite,
        block_size: LogicalBlockSize::B4096,
        label: "windlass-test",
        direct_io: DirectIo::IfPossible,
    };
    let device = loop_device::attach(&file, &options).unwrap();
    files::check(fs_type, &device.path, mounted, promised);
    loop_device::detach(&device).unwrap();
}

#[test]
fn a_busy_thin_pool_keeps_what_was_promised() {
    let begun = Instant::now();
    let kept = std::env::var_os("WINDLASS_VM_KEPT").expect("e2e/run-thin-tests.sh makes the log and says where it is");
    let log = WriteLog::open(&Path::new(&kept).join("thin_power_cut_thin").join("disk1")).unwrap();
    let sandbox = Sandbox::new();
    let work = sandbox.path("work.img");
    image::create(&work, 2 << 30, FsType::Xfs).unwrap();
    let work = image::open(&work).unwrap();
    let mounted = sandbox.directory("mounted");
    let (metadata, copy) = (work.directory().join("metadata"), work.directory().join("files"));
    let mut replay = Replay::new(&log, work.directory(), REPLAY).unwrap();

    let mut steps = steps().peekable();
    let (mut promised, mut marked) = (Promised::default(), 0);
    let share = Share::of_this_run();
    let (mut flushes, mut torn, mut taken, mut checked, mut interrupted, mut with_maps) = (0, 0, 0, 0, 0, 0);
    let (mut with_losses, mut most_lost) = (0, 0);
    while let Some(cut) = replay.next_cut().unwrap() {
        // Before the first mark there is no pool yet, which nobody was promised.
        let Some(mark) = cut.mark else { continue };
        while marked < mark {
            promised.apply(&steps.next().unwrap());
            marked += 1;
        }
        let number = flushes + torn;
        match cut.kind {
            CutKind::Flushed => flushes += 1,
            CutKind::Torn { .. } => torn += 1,
        }
        if !share.takes(number) {
            continue;
        }
        let under_way = steps.peek();
        let _where = Where(&cut, under_way);
        File::options().write(true).open(replay.image()).unwrap().set_len(POOL).unwrap();
        let stored = Stored::read(replay.image(), &metadata);
        stored.verify_records(under_way);
        let records = (stored.catalogue.volumes().unwrap(), stored.catalogue.snapshots().unwrap());
        verify_records(records, &promised.state, operation(under_way), |object, bytes| stored.content(object, bytes));
        taken += 1;
        if taken % MOUNTED == 0
            && let Some(files) = &promised.files
        {
            for fs_type in FILE_SYSTEMS {
                check_files(&stored, fs_type, &copy, &mounted, files);
            }
            checked += 1;
        }
        let lost = stored.leaked_blocks();
        assert!(lost <= LOST_AT_MOST, "{lost} data blocks are lost, more than were being written for the first time");
        if lost > 0 && with_losses == 0 {
            // What is lost is not lost for good.
            let used = stored.data_blocks_used_after_repair(&metadata, &work.directory().join("repaired"));
            assert_eq!(used, stored.data_blocks_used() - lost);
        }
        (with_losses, most_lost) = (with_losses + usize::from(lost > 0), most_lost.max(lost));
        interrupted += u64::from(stored.is_interrupted());
        with_maps += u64::from(stored.has_maps());
    }
    assert_eq!(marked, STEPS, "steps that were promised");
    println!(
        "{share}: the power was cut at {taken} of {flushes} flushes and {torn} moments between, in {:.0} s; of these cuts {interrupted} left a \
         change interrupted and {with_maps} the map of a deleted snapshot; the mounted volumes were checked after {checked}; \
         {with_losses} left blocks with nobody, {most_lost} at most",
        begun.elapsed().as_secs_f64()
    );
    assert!(flushes >= FLUSHES, "only {flushes} flushes in the log");
    let enough = torn > 0 && taken >= share.at_least(flushes + torn);
    assert!(enough && checked > 0 && interrupted > share.part(FLUSHES / 10) && with_maps > 0, "too little was cut");
}
