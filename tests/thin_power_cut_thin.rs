#![cfg(feature = "thin-tests")]
//! A busy thin pool on a logged disk, whose power `root_power_cut_thin` then cuts; and, for some of the cuts, its recovery, which
//! needs device-mapper. Whatever a cut leaves is recovered without leftovers: what the kernel itself lost in the cut, which were
//! blocks that were being written for the first time (`Stored::leaked_blocks`), a repair of the stopped pool gives back; and when
//! everything is deleted then, nothing is in use.
// vm: disks=416M,2G,3G memory=2048 limit=900 keep

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/power_cut/mod.rs"]
mod power_cut;
#[path = "support/share.rs"]
mod share;
#[path = "support/thin_cut/mod.rs"]
mod thin_cut;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use power_cut::log::WriteLog;
use power_cut::mark::Marker;
use power_cut::replay::Replay;
use power_cut::scene::run;
use power_cut::verify::{verify, verify_use};
use share::Share;
use thin_cut::stored::Stored;
use thin_cut::{FILE_SYSTEMS, LOST_AT_MOST, POOL, Promised, REPLAY, STEPS, Step, files, operation, steps};
use windlass::block::loop_device::{self, DirectIo, LoopDevice, LoopOptions};
use windlass::pool::owned::OwnedPool;
use windlass::pool::quiesce::NothingToHold;
use windlass::pool::thin::format::{CreateOptions, DevicePaths, Others};
use windlass::pool::thin::{RepairOutcome, create_pool, open_pool, repair};
use windlass::types::{Access, LogicalBlockSize, Object};

/// Of how many cuts one is recovered from, if the run's share takes it.
const RECOVERED: u64 = 20;
/// The least number of cuts that there are to be recovered from.
const RECOVERIES: u64 = 30;

fn open(device: &Path) -> OwnedPool {
    open_pool(device, Arc::new(NothingToHold)).unwrap()
}

/// Runs the steps, with a mark after each, and takes everything down in order.
fn run_on_a_logged_disk(disk: &str, log: &str) {
    run("dmsetup", &["create", "cut-logged", "--table", &format!("0 {} log-writes {disk} {log}", REPLAY.disk / 512)], &[]);
    run("dmsetup", &["create", "cut-pool", "--table", &format!("0 {} linear /dev/mapper/cut-logged 0", POOL / 512)], &[]);
    let device = PathBuf::from("/dev/mapper/cut-pool");
    let options = CreateOptions {
        devices: DevicePaths::One(device.clone()),
        others: Others::Kept,
        given_up_pool: None,
        block_size: None,
        metadata_bytes: None,
    };
    create_pool(&options).unwrap();
    let marker = Marker::open(Path::new("/dev/mapper/cut-logged"), REPLAY.marks).unwrap();
    marker.mark(0).unwrap();
    let pool = open(&device);
    let mounted = tempfile::tempdir().unwrap();
    for (number, step) in (1..).zip(steps()) {
        match &step {
            Step::Mount => {
                for fs_type in FILE_SYSTEMS {
                    files::format_and_mount(fs_type, &thin_cut::make_mounted(&pool, fs_type), mounted.path());
                    // A file system that was made is not promised before it was synced.
                    files::sync(fs_type, mounted.path());
                }
            }
            Step::Operation(operation) => {
                files::disturb(mounted.path(), number);
                thin_cut::perform_used(&pool, operation);
            }
            Step::File(number) => files::write(mounted.path(), *number),
        }
        marker.mark(number).unwrap();
    }
    drop(marker);
    for fs_type in FILE_SYSTEMS {
        files::unmount(fs_type, mounted.path());
    }
    for volume in pool.volumes().unwrap() {
        pool.detach(Object::Volume(volume.id)).unwrap();
    }
    drop(pool);
    run("dmsetup", &["remove", "cut-pool"], &[]);
    run("dmsetup", &["remove", "cut-logged"], &[]);
}

/// Powers up again with an image of the pool's device, repairs it, and deletes everything; how many blocks the repair gave back.
fn recover(image: &Path, spare: &Path, mounted: &Path, promised: &Promised, under_way: Option<&Step>) -> u64 {
    let file = File::options().read(true).write(true).open(image).unwrap();
    file.set_len(POOL).unwrap();
    let lost = Stored::read(image, spare).leaked_blocks();
    assert!(lost <= LOST_AT_MOST, "{lost} data blocks are lost");
    let device = attach(&file);
    let pool = open(&device.path);
    verify(&pool, &promised.state, operation(under_way));
    check_files(&pool, mounted, promised);
    verify_use(&pool);
    drop(pool);

    let report = repair(&device.path).unwrap();
    assert_eq!((report.outcome, report.findings.as_str()), (RepairOutcome::Sound, ""));
    assert_eq!((report.missing, report.unknown, report.left_bytes), (Vec::new(), Vec::new(), 0));
    loop_device::detach(&device).unwrap();
    let stored = Stored::read(image, spare);
    // Recovery loses nothing: what the kernel lost in the cut itself is all, and it is there again.
    assert_eq!((report.reclaimed_bytes, stored.leaked_blocks()), (lost * stored.block_bytes(), 0));

    let device = attach(&file);
    let pool = open(&device.path);
    check_files(&pool, mounted, promised);
    // The volumes first: what is kept of a volume's deleted snapshots goes with the last that there is of it.
    for volume in pool.volumes().unwrap() {
        pool.delete_volume(volume.id).unwrap();
    }
    for snapshot in pool.snapshots().unwrap() {
        pool.delete_snapshot(snapshot.id).unwrap();
    }
    assert_eq!(pool.anchors().unwrap(), Vec::new());
    drop(pool);
    loop_device::detach(&device).unwrap();

    let stored = Stored::read(image, spare);
    stored.verify_records(None);
    assert_eq!(stored.catalogue.thin_objects().unwrap(), Vec::new());
    assert_eq!(stored.catalogue.intents().unwrap(), Vec::new());
    assert_eq!((stored.devices.len(), stored.data_blocks_used()), (0, 0), "something is in use that nobody has");
    lost
}

fn attach(image: &File) -> LoopDevice {
    let options = LoopOptions {
        access: Access::ReadWrite,
        block_size: LogicalBlockSize::B4096,
        label: "windlass-test",
        direct_io: DirectIo::IfPossible,
    };
    loop_device::attach(image, &options).unwrap()
}

fn check_files(pool: &OwnedPool, mounted: &Path, promised: &Promised) {
    let Some(files) = &promised.files else { return };
    for fs_type in FILE_SYSTEMS {
        let object = Object::Volume(thin_cut::mounted(pool, fs_type));
        let attachment = pool.attach(object, Access::ReadWrite).unwrap();
        files::check(fs_type, &attachment.device, mounted, files);
        pool.detach(object).unwrap();
    }
}

/// Recovers from some of the cuts. `disk` takes the images.
fn recover_from_cuts(log: &WriteLog, disk: &str, share: Share) -> u64 {
    let work = tempfile::tempdir().unwrap();
    run("mkfs.xfs", &["-q", "-f", disk], &[]);
    run("mount", &[disk], &[work.path()]);
    let mounted = tempfile::tempdir().unwrap();
    let mut replay = Replay::new(log, work.path(), REPLAY).unwrap();
    let mut steps = steps().peekable();
    let (mut promised, mut marked, mut cuts, mut recovered) = (Promised::default(), 0, 0, 0);
    let (mut reclaimed, mut with_losses) = (0, 0);
    while let Some(cut) = replay.next_cut().unwrap() {
        // Before the first mark there is no pool yet, which nobody was promised.
        let Some(mark) = cut.mark else { continue };
        while marked < mark {
            promised.apply(&steps.next().unwrap());
            marked += 1;
        }
        cuts += 1;
        if cuts % RECOVERED == 0 && share.takes(cuts / RECOVERED) {
            println!("recovery from {cut:?} with {:?} under way", steps.peek());
            let lost = recover(replay.image(), &work.path().join("metadata"), mounted.path(), &promised, steps.peek());
            recovered += 1;
            reclaimed += lost;
            with_losses += usize::from(lost > 0);
        }
    }
    drop(replay);
    run("umount", &[], &[work.path()]);
    println!("{with_losses} cuts left blocks with nobody, and {reclaimed} were given back");
    recovered
}

#[test]
fn a_busy_pool_is_recovered_from_power_cuts_and_recovery_leaks_nothing() {
    let disks = std::env::var("WINDLASS_VM_DISKS").expect("WINDLASS_VM_DISKS is set in the virtual machine");
    let disks: Vec<&str> = disks.split(':').collect();
    let begun = Instant::now();
    run_on_a_logged_disk(disks[0], disks[1]);
    let log = WriteLog::open(Path::new(disks[1])).unwrap();
    println!("{STEPS} steps, {} entries in the log, {:.0} s", log.entries().len(), begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let share = Share::of_this_run();
    let recovered = recover_from_cuts(&log, disks[2], share);
    println!("{share}: recovered from {recovered} cuts in {:.0} s", begun.elapsed().as_secs_f64());
    assert!(recovered >= share.at_least(RECOVERIES), "only {recovered} recoveries");
}
