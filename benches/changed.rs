//! What it costs to tell what changed between two snapshots of 100,000 extents each, with and without 100 snapshots beside them:
//! processor time of the pool's answer, and of the same through the gRPC service (client included), against a bare walk over the
//! extents of both files by FIEMAP.
//!
//! `cargo bench --bench changed`, as root; `xfs` or `btrfs` after `--` selects. Each figure is the median of several rounds in which the ways take turns. On Btrfs
//! the pool reads the subvolume's tree instead, hence ratios far below one. The file systems lie in images in the folder for
//! temporary files (`TMPDIR`), which take some 2 GiB.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark is no interface, and stops where it cannot run")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

#[path = "../tests/support/basics.rs"]
mod basics;
#[path = "../tests/support/csi_harness.rs"]
mod csi_harness;
#[path = "../tests/support/metadata_client/mod.rs"]
mod metadata_client;
#[path = "../tests/support/root_support/mod.rs"]
mod root_support;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use csi_harness::Node;
use metadata_client::{Ask, list};
use nix::time::{ClockId, clock_gettime};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use root_support::{Sandbox, new_snapshot, new_volume};
use windlass::block::fiemap;
use windlass::mount::image;
use windlass::mount::memory::MemoryMounter;
use windlass::pool::owned::OwnedPool;
use windlass::pool::quiesce::NothingToHold;
use windlass::pool::record::Snapshot;
use windlass::pool::reflink::{create_pool, open_pool};
use windlass::types::{FsType, SnapshotHandle, VolumeId};

const BLOCK: u64 = 4096;
/// Every second block is written: each an extent of its own.
const EXTENTS: u64 = 100_000;
const STRIDE: u64 = 2 * BLOCK;
const OTHERS: u64 = 100;
const ROUNDS: usize = 9;
const IMAGE: u64 = 4 << 30;

/// A pool with a volume of many extents.
struct Bench {
    pool: Arc<OwnedPool>,
    fs_type: FsType,
    volume: VolumeId,
    file: File,
    /// Where snapshots lie.
    snapshots: PathBuf,
    random: StdRng,
    cuts: u64,
}

impl Bench {
    fn new(sandbox: &Sandbox, fs_type: FsType) -> Self {
        let path = sandbox.path(&format!("{fs_type}.img"));
        image::create(&path, IMAGE, fs_type).unwrap();
        let directory = image::open(&path).unwrap().directory().join("pool");
        create_pool(&directory).unwrap();
        let pool = Arc::new(open_pool(&directory, Arc::new(NothingToHold)).unwrap());
        let volume = pool.create_volume(&new_volume("volume", EXTENTS * STRIDE)).unwrap().into_inner().id;
        let path = data_path(fs_type, directory.join("volumes").join(volume.to_string()));
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let snapshots = directory.join("snapshots");
        let bench = Self { pool, fs_type, volume, file, snapshots, random: StdRng::seed_from_u64(1), cuts: 0 };
        (0..EXTENTS).for_each(|index| bench.file.write_all_at(&[1; BLOCK as usize], index * STRIDE).unwrap());
        bench.file.sync_all().unwrap();
        bench
    }

    /// Writes over one in `one_in` of the extents.
    fn change(&mut self, one_in: u64) {
        for index in 0..EXTENTS {
            if self.random.random_range(0..one_in) == 0 {
                self.file.write_all_at(&[2; BLOCK as usize], index * STRIDE).unwrap();
            }
        }
        self.file.sync_all().unwrap();
    }

    fn cut(&mut self) -> Snapshot {
        self.cuts += 1;
        let request = new_snapshot(&format!("s-{}", self.cuts), self.volume);
        self.pool.create_snapshots(&[request]).unwrap().remove(0).into_inner()
    }

    fn file(&self, snapshot: &Snapshot) -> File {
        File::open(data_path(self.fs_type, self.snapshots.join(snapshot.id.to_string()))).unwrap()
    }

    fn handle(&self, snapshot: &Snapshot) -> String {
        SnapshotHandle { pool: self.pool.id(), snapshot: snapshot.id }.to_string()
    }

    /// Prints a row.
    fn measure(&self, runtime: &tokio::runtime::Runtime, row: &str, base: &Snapshot, target: &Snapshot) {
        let node = runtime.block_on(async {
            let boot_id = windlass::mount::boot_id().unwrap();
            let directory = Arc::new(tempfile::tempdir().unwrap());
            Node::with(directory, Arc::new(MemoryMounter::new()), vec![Arc::clone(&self.pool)], &boot_id).await
        });
        let (one, other) = (self.file(base), self.file(target));
        let (from, to) = (self.handle(base), self.handle(target));
        let (mut small, mut large, mut pool, mut service) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut extents, mut ranges) = (0, 0);
        for _ in 0..ROUNDS {
            small.push(spent(|| {
                extents = fiemap::count_by_walking::<512>(&one).unwrap() + fiemap::count_by_walking::<512>(&other).unwrap();
            }));
            large.push(spent(|| {
                let walked = fiemap::count_by_walking::<8192>(&one).unwrap() + fiemap::count_by_walking::<8192>(&other).unwrap();
                assert_eq!(walked, extents);
            }));
            pool.push(spent(|| {
                let lease = self.pool.lease(target.id).unwrap();
                ranges = lease.changed_since(base.id).unwrap().map(Result::unwrap).count();
            }));
            service.push(spent(|| {
                let asked = Ask::Delta { base: &from, target: &to };
                let listed = runtime.block_on(list(&node.metadata, asked, 0, 0)).unwrap();
                assert_eq!(listed.ranges.len(), ranges);
            }));
        }
        let [small, large, pool, service] = [small, large, pool, service].map(median);
        let raw = small.min(large);
        let ratio = |time: Duration| time.as_secs_f64() / raw.as_secs_f64();
        println!(
            "{row:<44} {extents:>8} {ranges:>8} {:>8.1} {:>8.1} {:>8.1} {:>7.2}x {:>8.1} {:>7.2}x",
            milliseconds(small),
            milliseconds(large),
            milliseconds(pool),
            ratio(pool),
            milliseconds(service),
            ratio(service)
        );
    }
}

/// The file of an object of a pool.
fn data_path(fs_type: FsType, object: PathBuf) -> PathBuf {
    if fs_type == FsType::Btrfs { object.join("data") } else { object }
}

/// Processor time of this process, all threads, user and system.
fn spent(work: impl FnOnce()) -> Duration {
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap());
    let before = now();
    work();
    now() - before
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn main() {
    if !nix::unistd::geteuid().is_root() {
        println!("not measured: this needs root (loop devices, mounts)");
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!("processor time in ms; ratios are to the faster of the two bare walks, with buffers of 512 and of 8192");
    let columns = ["extents", "ranges", "by 512", "by 8192", "pool", "", "gRPC", ""];
    println!("{:<44} {}", "", columns.map(|column| format!("{column:>8}")).join(" "));
    let chosen: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for fs_type in [FsType::Xfs, FsType::Btrfs] {
        if !chosen.is_empty() && !chosen.contains(&fs_type.to_string()) {
            continue;
        }
        let sandbox = Sandbox::new();
        let mut bench = Bench::new(&sandbox, fs_type);
        let base = bench.cut();
        bench.change(100);
        let target = bench.cut();
        bench.measure(&runtime, &format!("{fs_type}: 1 % changed"), &base, &target);
        bench.change(2);
        let far = bench.cut();
        bench.measure(&runtime, &format!("{fs_type}: half changed"), &base, &far);
        for _ in 0..OTHERS {
            bench.change(1000);
            bench.cut();
        }
        let (before, after) = (bench.cut(), {
            bench.change(100);
            bench.cut()
        });
        bench.measure(&runtime, &format!("{fs_type}: 1 % changed, 100 snapshots since"), &base, &target);
        bench.measure(&runtime, &format!("{fs_type}: 1 % changed, 100 snapshots before"), &before, &after);
        bench.measure(&runtime, &format!("{fs_type}: 100 snapshots apart"), &far, &after);
    }
}
