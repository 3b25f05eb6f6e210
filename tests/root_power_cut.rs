#![cfg(all(feature = "root-tests", feature = "thin-tests"))]
//! The power of a machine with a pool of the embedded sort is cut, at every flush of its disk and between: on XFS, on Btrfs and in
//! an image. A missing fsync passes `kill -9`, and not this.
//!
//! After each cut the file system is mounted, which recovers it, and the pool is opened, which recovers that. Then every
//! operation that had been answered is there with its bytes; the one that was under way is there or is not; nothing is
//! quarantined, damaged or left over; and the file systems' own checks find nothing. On Btrfs half of the volumes have checksums, and its
//! check reads what has them. The logs are those of `thin_power_cut`. Of all these
//! cuts a run takes its share.
// vm: replays=thin_power_cut

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/power_cut/mod.rs"]
mod power_cut;
#[path = "support/root_support/mod.rs"]
mod root_support;
#[path = "support/share.rs"]
mod share;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use power_cut::log::{self, WriteLog};
use power_cut::mark;
use power_cut::replay::{Cut, CutKind, Replay, ReplayOptions};
use power_cut::scene::{Scene, verify_stored};
use power_cut::verify::{verify, verify_use};
use power_cut::workload::{Operation, State, Workload};
use root_support::Sandbox;
use share::Share;
use windlass::block::loop_device::{self, DirectIo, LoopOptions};
use windlass::mount::Mounter;
use windlass::mount::image;
use windlass::mount::system::SystemMounter;
use windlass::types::{Access, FsType, LogicalBlockSize};

/// The least number of flushes that the power is cut at.
const FLUSHES: u64 = 500;
/// Of how many cuts one is followed by using the pool.
const USED: u64 = 16;

/// The log of a scene's disk.
fn log_of(scene: Scene) -> WriteLog {
    let kept = std::env::var_os("WINDLASS_VM_KEPT").expect("e2e/run-thin-tests.sh makes the logs and says where they are");
    let file = format!("disk{}", scene.disk_number() + 1);
    WriteLog::open(&Path::new(&kept).join("thin_power_cut").join(file)).unwrap()
}

/// What is done with a pool that has come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It is looked at.
    Look,
    /// It is also used.
    Use,
}

/// Says where the power was cut if the test fails there.
struct Where<'a>(&'a Cut, Option<&'a Operation>);

impl Drop for Where<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the power was cut at {:?}, with {:?} under way", self.0, self.1);
        }
    }
}

/// Powers up again with an image of the disk.
#[expect(clippy::too_many_arguments, reason = "what the callers vary")]
fn recover(scene: Scene, image: &Path, mounted: &Path, promised: &State, under_way: Option<&Operation>, then: Then) {
    let file = File::options().read(true).write(true).open(image).unwrap();
    let options = LoopOptions {
        access: Access::ReadWrite,
        block_size: LogicalBlockSize::B4096,
        label: "windlass-test",
        direct_io: DirectIo::IfPossible,
    };
    let device = loop_device::attach(&file, &options).unwrap();
    scene.mount(&device.path, mounted);
    let opened = scene.open(mounted);
    verify(&opened.pool, promised, under_way);
    verify_stored(&opened);
    if then == Then::Use {
        verify_use(&opened.pool);
    }
    opened.close();
    SystemMounter::new().unmount(mounted).unwrap();
    loop_device::detach(&device).unwrap();
    scene.check(image);
}

fn survives_power_cuts(scene: Scene) {
    let start = Instant::now();
    let log = log_of(scene);
    let sandbox = Sandbox::new();
    let work = sandbox.path("work.img");
    image::create(&work, 2 << 30, FsType::Xfs).unwrap();
    let work = image::open(&work).unwrap();
    let mounted: PathBuf = sandbox.directory("mounted");
    let options = ReplayOptions { disk: scene.disk(), marks: scene.marks(), torn_of: 4, seed: scene.seed() };
    let mut replay = Replay::new(&log, work.directory(), options).unwrap();

    let mut operations = Workload::new(scene.seed(), scene.checksums()).take(scene.operations()).peekable();
    let (mut promised, mut marked) = (State::default(), 0);
    let share = Share::of_this_run();
    let (mut flushes, mut torn, mut taken, mut slowest) = (0, 0, 0, Duration::ZERO);
    while let Some(cut) = replay.next_cut().unwrap() {
        // Before the first mark there is no pool yet, which nobody was promised.
        let Some(mark) = cut.mark else { continue };
        while marked < mark {
            promised.apply(&operations.next().unwrap());
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
        let under_way = operations.peek();
        let _where = Where(&cut, under_way);
        let then = if taken % USED == 0 { Then::Use } else { Then::Look };
        taken += 1;
        let begun = Instant::now();
        recover(scene, replay.image(), &mounted, &promised, under_way, then);
        slowest = slowest.max(begun.elapsed());
    }
    assert_eq!(marked, scene.operations() as u64, "operations that were promised");
    println!(
        "{}, {share}: the power was cut at {taken} of {flushes} flushes and {torn} moments between, in {:.0} s; the slowest recovery \
         took {:.1} s",
        scene.name(),
        start.elapsed().as_secs_f64(),
        slowest.as_secs_f64()
    );
    assert!(flushes >= FLUSHES, "only {flushes} flushes in the log");
    assert!(torn > 0 && taken >= share.at_least(flushes + torn));
}

#[test]
fn a_pool_on_xfs_keeps_what_was_promised() {
    survives_power_cuts(Scene::Xfs);
}

#[test]
fn a_pool_on_btrfs_keeps_what_was_promised() {
    survives_power_cuts(Scene::Btrfs);
}

#[test]
fn a_pool_image_keeps_what_was_promised() {
    survives_power_cuts(Scene::Image);
}

/// Kernel's flags of an entry.
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
/// Sectors of a block.
const SECTORS: u64 = 8;

/// What the images of each cut hold, as the first byte of each block.
fn cuts_of(work: &Path, entries: &[([u64; 3], &[u8])], options: ReplayOptions) -> Vec<(Cut, Vec<u8>)> {
    let directory = tempfile::tempdir_in(work).unwrap();
    let file = log::made_by_hand(entries);
    let log = WriteLog::open(file.path()).unwrap();
    let mut replay = Replay::new(&log, directory.path(), options).unwrap();
    let mut cuts = Vec::new();
    while let Some(cut) = replay.next_cut().unwrap() {
        let image = std::fs::read(replay.image()).unwrap();
        cuts.push((cut, image.chunks_exact(4096).map(|block| block[0]).collect()));
    }
    cuts
}

#[test]
fn images_hold_what_was_flushed_and_marks_say_what_was_promised() {
    let sandbox = Sandbox::new();
    let work = sandbox.pool(FsType::Xfs);
    let options = ReplayOptions { disk: 4 * 4096, marks: 3 * 4096, torn_of: u32::MAX, seed: 1 };
    let (one, two, three) = ([1; 4096], [2; 4096], [3; 4096]);
    let cuts = cuts_of(
        work.directory(),
        &[
            ([0, SECTORS, 0], &one),
            ([SECTORS, SECTORS, 0], &two),
            ([0, 0, FLUSH], &[]),
            // Promised with the disk as it is.
            ([3 * SECTORS, SECTORS, FUA], &mark::block_of(7)),
            ([0, 0, FLUSH], &[]),
            // Written through the cache; what is promised next is not yet flushed.
            ([2 * SECTORS, SECTORS, FUA], &three),
            ([3 * SECTORS, SECTORS, FUA], &mark::block_of(8)),
            ([0, SECTORS, DISCARD], &[]),
            ([0, 0, FLUSH], &[]),
            // Never flushed.
            ([0, SECTORS, 0], &three),
        ],
        options,
    );
    let seen: Vec<(usize, Option<u64>, &[u8])> = cuts.iter().map(|(cut, image)| (cut.entry, cut.mark, &image[..3])).collect();
    assert_eq!(seen, [(4, Some(7), [1, 2, 0].as_slice()), (6, Some(8), &[1, 2, 3]), (8, Some(8), &[0, 2, 3])]);
}

#[test]
fn torn_images_hold_any_part_of_what_was_under_way_and_nothing_later() {
    let sandbox = Sandbox::new();
    let work = sandbox.pool(FsType::Xfs);
    let blocks: Vec<[u8; 4096]> = (1..=5).map(|number| [number; 4096]).collect();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let options = ReplayOptions { disk: 8 * 4096, marks: 7 * 4096, torn_of: 1, seed };
        let cuts = cuts_of(
            work.directory(),
            &[
                ([0, SECTORS, FUA], &blocks[0]),
                ([SECTORS, SECTORS, 0], &blocks[1]),
                ([2 * SECTORS, SECTORS, 0], &blocks[2]),
                ([3 * SECTORS, SECTORS, FLUSH | FUA], &blocks[3]),
                ([4 * SECTORS, SECTORS, FUA], &blocks[4]),
            ],
            options,
        );
        let kinds: Vec<CutKind> = cuts.iter().map(|(cut, _)| cut.kind).collect();
        assert_eq!(kinds, [CutKind::Flushed, CutKind::Torn { under_way: 2 }, CutKind::Flushed, CutKind::Flushed]);
        let torn = &cuts[1].1[..5];
        assert!(torn[0] == 1 && [0, 2].contains(&torn[1]) && [0, 3].contains(&torn[2]) && torn[3..] == [0, 0], "{torn:?}");
        seen.insert(torn.to_vec());
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}
