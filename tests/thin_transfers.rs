#![cfg(feature = "thin-tests")]
//! Exports of thin pools restored to reflink pools and back: each file system, and raw volumes where the sizes of logical blocks
//! allow it; and what an export reads when the snapshot that it builds upon was deleted. Stock restic checks every repository. Of the file
//! systems a run takes every second one, if it is to take a share.

// vm: disks=4G,8G,4G,2G memory=3072 limit=3000

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/share.rs"]
mod share;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use common::MIB;
use common::csi::{Csi, Source, Use};
use common::fixture::Bench;
use common::node::{Node, NodeOptions};
use common::program::{built_tool, command, run, run_ok, unmount, windlass};
use common::restic::volume_file;
use common::thin_pool::{BLOCK, ThinPool, disks};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use serde_json::Value;
use share::Share;
use windlass::block::device;
use windlass::types::ByteRange;

const PASSWORD: &str = "correct horse battery staple";

/// Size of a volume: the least that the file system takes, and some more.
fn size(usage: Use) -> u64 {
    match usage {
        Use::Mount("xfs") => 320 * MIB,
        Use::Mount("btrfs") => 288 * MIB,
        Use::Mount(_) | Use::Block => 64 * MIB,
    }
}

/// An XFS for everything that is no thin pool, unmounted when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(bench: &Bench, disk: &Path) -> Self {
        let at = bench.path().join("scratch");
        fs::create_dir(&at).unwrap();
        run_ok(command("mkfs.xfs").args(["-q", "-f"]).arg(disk));
        run_ok(command("mount").arg(disk).arg(&at));
        Self(at)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = run(command("umount").arg(&self.0));
        } else {
            unmount(&self.0);
        }
    }
}

/// A loop device with logical blocks of 4096 bytes over a disk.
struct Large(PathBuf);

impl Large {
    fn new(disk: &Path) -> Self {
        let attached = run_ok(command("losetup").args(["--find", "--show", "--sector-size", "4096"]).arg(disk)).text();
        Self(attached.trim().into())
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let _ = run(command("losetup").arg("--detach").arg(&self.0));
    }
}

/// A node over one pool.
struct Side {
    name: &'static str,
    csi: Csi,
    node: Node,
    bench: Bench,
}

impl Side {
    fn new(name: &'static str, pool: &Path) -> Self {
        let bench = Bench::empty();
        let node = Node::start(&NodeOptions { pools: vec![pool.to_owned()], ..bench.options() });
        Self { name, csi: node.csi(), node, bench }
    }

    /// What to do with the files, or the device, of a volume.
    fn using<T>(&self, volume: &str, usage: Use, act: impl FnOnce(&Path) -> T) -> T {
        let paths = self.csi.bring_up(&self.bench.root(), "volume", volume, usage);
        let done = act(&paths.target);
        self.csi.take_down(volume, &paths);
        done
    }

    fn export(&self, snapshot: &str, repository: &Repository) -> Value {
        repository.ours(&["export", "--output", "json", "--endpoint", &self.node.endpoint(), snapshot])
    }

    /// Restores a snapshot of a repository to a new volume; its handle.
    fn restore(&self, name: &str, snapshot: &str, repository: &Repository) -> String {
        let arguments =
            ["restore", "--output", "json", "--endpoint", &self.node.endpoint(), "--snapshot", snapshot, "--volume", name];
        repository.ours(&arguments)["volume_id"].as_str().unwrap().to_owned()
    }

    fn stop(self) {
        assert_eq!(self.csi.volume_ids(), [""; 0]);
        self.node.stop();
    }
}

/// A repository in a folder.
struct Repository(PathBuf);

impl Repository {
    fn new(path: PathBuf) -> Self {
        let repository = Self(path);
        run_ok(&mut repository.command(&["repository", "init"]));
        repository
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = windlass();
        command.args(arguments).arg("--repository").arg(&self.0).env("RESTIC_PASSWORD", PASSWORD);
        command
    }

    fn ours(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&run_ok(&mut self.command(arguments)).text()).unwrap()
    }

    fn restic(&self, arguments: &[&str]) -> Command {
        let mut command = command(built_tool("restic"));
        command.args(["--no-cache", "--repo"]).arg(&self.0).args(arguments).env("RESTIC_PASSWORD", PASSWORD);
        command
    }

    /// That restic finds everything whole.
    fn check(&self) {
        let checked = run_ok(&mut self.restic(&["check", "--read-data"])).text();
        assert!(checked.contains("no errors were found"), "{checked}");
    }

    /// The bytes of the volume in a snapshot, by restic.
    fn dump(&self, exported: &Value) -> Vec<u8> {
        let snapshot = exported["repository_snapshot"].as_str().unwrap();
        let path = volume_file(&run_ok(&mut self.restic(&["ls", "--json", snapshot])).text());
        run_ok(&mut self.restic(&["dump", snapshot, &path])).stdout
    }
}

/// What a volume holds.
#[derive(PartialEq)]
enum Contents {
    Files(BTreeMap<PathBuf, Vec<u8>>),
    Bytes(Vec<u8>),
}

impl Contents {
    fn of(usage: Use, target: &Path) -> Self {
        match usage {
            Use::Mount(_) => {
                let listed = run_ok(command("find").arg(target).args(["-type", "f", "-printf", "%P\\n"])).text();
                Self::Files(listed.lines().map(|name| (name.into(), fs::read(target.join(name)).unwrap())).collect())
            }
            Use::Block => {
                let mut bytes = Vec::new();
                File::open(target).unwrap().read_to_end(&mut bytes).unwrap();
                Self::Bytes(bytes)
            }
        }
    }
}

fn noise(random: &mut StdRng, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    random.fill_bytes(&mut bytes);
    bytes
}

/// Fills a volume with files, or a device with bytes here and there.
fn fill(usage: Use, target: &Path, random: &mut StdRng) {
    if usage == Use::Block {
        let device = File::options().write(true).open(target).unwrap();
        for _ in 0..24 {
            let length = random.random_range(1..MIB / 2);
            device.write_all_at(&noise(random, length), random.random_range(0..size(usage) - length)).unwrap();
        }
        device.sync_all().unwrap();
        return;
    }
    for folder in 0..4 {
        let folder = target.join(format!("folder-{folder}/within"));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..8 {
            let length = random.random_range(0..40_000);
            fs::write(folder.join(format!("file-{file}")), noise(random, length)).unwrap();
        }
    }
    fs::write(target.join("large"), noise(random, 3 * MIB + 12345)).unwrap();
    fs::write(target.join("zeros"), vec![0; 5 * MIB as usize]).unwrap();
    let holes = File::create(target.join("holes")).unwrap();
    holes.write_all_at(b"after a hole", 7 * MIB).unwrap();
}

/// A volume from one side to the other and back, by way of a repository.
fn there_and_back(from: &Side, to: &Side, usage: Use, repository: &Repository, random: &mut StdRng) {
    let begin = Instant::now();
    let first = from.csi.make_volume("first", size(usage), usage, &Source::Blank);
    let contents = from.using(&first, usage, |target| {
        fill(usage, target, random);
        Contents::of(usage, target)
    });
    let mut at = (from, first);
    for (number, next) in [to, from].into_iter().enumerate() {
        let (side, volume) = at;
        let snapshot = side.csi.make_snapshot(&format!("cut-{number}"), &volume);
        let exported = side.export(&snapshot, repository);
        side.csi.drop_snapshot(&snapshot);
        side.csi.drop_volume(&volume);
        let restored = next.restore(&format!("restored-{number}"), exported["repository_snapshot"].as_str().unwrap(), repository);
        let found = next.using(&restored, usage, |target| Contents::of(usage, target));
        assert!(found == contents, "{usage:?} from {} to {}: the contents differ", side.name, next.name);
        at = (next, restored);
    }
    from.csi.drop_volume(&at.1);
    println!("{usage:?} from {} to {} and back: {} s", from.name, to.name, begin.elapsed().as_secs());
}

#[test]
fn exports_are_restored_across_pools() {
    let disks = disks();
    let mut random = StdRng::seed_from_u64(7);
    let bench = Bench::empty();
    let scratch = Scratch::new(&bench, &disks[1]);
    let repository = Repository::new(scratch.0.join("repository"));
    let reflink_pool = scratch.0.join("pool");
    run_ok(windlass().args(["pool", "create"]).arg(&reflink_pool));
    let reflink = Side::new("reflink", &reflink_pool);
    let thin_pool = ThinPool::create(&disks[0]);
    let thin = Side::new("thin", &thin_pool.device);

    // The second XFS: the one file system that knows sectors, made where they are larger.
    let ways = [(&thin, &reflink, "ext4"), (&thin, &reflink, "xfs"), (&thin, &reflink, "btrfs"), (&reflink, &thin, "xfs")];
    let share = Share::of_this_run();
    for (_, (from, to, fs_type)) in (0..).zip(ways).filter(|(number, _)| share.takes_group(*number)) {
        there_and_back(from, to, Use::Mount(fs_type), &repository, &mut random);
    }

    // A raw volume whose logical blocks are of 512 bytes does not fit a pool of 4096: what counts in blocks would be elsewhere.
    let volume = thin.csi.make_volume("raw", size(Use::Block), Use::Block, &Source::Blank);
    let contents = thin.using(&volume, Use::Block, |target| {
        assert_eq!(device::logical_block_bytes(&File::open(target).unwrap()).unwrap(), 512);
        fill(Use::Block, target, &mut random);
        Contents::of(Use::Block, target)
    });
    let snapshot = thin.csi.make_snapshot("raw", &volume);
    let exported = thin.export(&snapshot, &repository);
    let id = exported["repository_snapshot"].as_str().unwrap();
    let endpoint = reflink.node.endpoint();
    let refused =
        run(&mut repository.command(&["restore", "--endpoint", &endpoint, "--snapshot", id, "--volume", "raw"])).failure();
    assert!(refused.contains("4096") && refused.contains("512"), "{refused}");
    assert_eq!(reflink.csi.volume_ids(), [""; 0], "a refused restore left a volume");
    let again = thin.restore("raw-again", id, &repository);
    let found = thin.using(&again, Use::Block, |target| Contents::of(Use::Block, target));
    assert!(found == contents, "raw from thin to thin: the contents differ");
    thin.csi.drop_snapshot(&snapshot);
    [&volume, &again].into_iter().for_each(|volume| thin.csi.drop_volume(volume));

    // The other way it does.
    let volume = reflink.csi.make_volume("raw", size(Use::Block), Use::Block, &Source::Blank);
    let contents = reflink.using(&volume, Use::Block, |target| {
        fill(Use::Block, target, &mut random);
        Contents::of(Use::Block, target)
    });
    let snapshot = reflink.csi.make_snapshot("raw", &volume);
    let exported = reflink.export(&snapshot, &repository);
    let restored = thin.restore("raw", exported["repository_snapshot"].as_str().unwrap(), &repository);
    let found = thin.using(&restored, Use::Block, |target| Contents::of(Use::Block, target));
    assert!(found == contents, "raw from reflink to thin: the contents differ");
    reflink.csi.drop_snapshot(&snapshot);
    reflink.csi.drop_volume(&volume);
    thin.csi.drop_volume(&restored);
    thin.stop();
    drop(thin_pool);

    // A thin pool on a disk of large blocks takes and gives raw volumes too.
    let large = Large::new(&disks[2]);
    let thin_pool = ThinPool::create(&large.0);
    let thin = Side::new("thin with blocks of 4096 bytes", &thin_pool.device);
    there_and_back(&thin, &reflink, Use::Block, &repository, &mut random);
    repository.check();
    thin.stop();
    reflink.stop();
    drop(thin_pool);
    drop(large);
    drop(scratch);
}

/// Bytes read from a disk since the machine started.
fn bytes_read(disk: &Path) -> u64 {
    let name = disk.file_name().unwrap().to_str().unwrap();
    let statistics = fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
    statistics.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap() * 512
}

/// Writes to a volume and to what is known of it.
fn write(device: &File, bytes: &mut [u8], offset: u64, data: &[u8]) {
    device.write_all_at(data, offset).unwrap();
    bytes[offset as usize..][..data.len()].copy_from_slice(data);
}

#[test]
fn an_increment_reads_what_changed_also_when_its_base_is_gone() {
    const VOLUME: u64 = 256 * MIB;
    const DATA: u64 = 64 * MIB;
    const CHUNK: u64 = 256 << 10;
    let disk = &disks()[3];
    let mut random = StdRng::seed_from_u64(8);
    let thin_pool = ThinPool::create(disk);
    let thin = Side::new("thin", &thin_pool.device);
    let repository = Repository::new(thin.bench.path().join("repository"));
    let volume = thin.csi.make_volume("raw", VOLUME, Use::Block, &Source::Blank);
    let mut bytes = vec![0; VOLUME as usize];
    let open = |target: &Path| File::options().write(true).open(target).unwrap();

    thin.using(&volume, Use::Block, |target| {
        let device = open(target);
        (0..DATA / MIB).for_each(|at| write(&device, &mut bytes, at * MIB, &noise(&mut random, MIB)));
        device.sync_all().unwrap();
    });
    let first = thin.csi.make_snapshot("first", &volume);
    let full = thin.export(&first, &repository);
    assert_eq!((full["mode"].as_str(), full["data_bytes"].as_u64()), (Some("full"), Some(DATA)));
    let first_bytes = bytes.clone();
    thin.csi.drop_snapshot(&first);
    assert_eq!(thin.csi.snapshot_ids(), [""; 0]);

    // Some pages, somewhere in the data and behind it, and some blocks that are given back.
    let pages = [3, 4, 100, 311, 500, 777, 999, 1500, 3000];
    let discarded = [20, 21, 400, 640];
    thin.using(&volume, Use::Block, |target| {
        let device = open(target);
        for block in pages {
            write(&device, &mut bytes, block * BLOCK + 8192, &noise(&mut random, 4096));
        }
        device.sync_all().unwrap();
        for block in discarded {
            device::discard(&device, ByteRange::new(block * BLOCK, BLOCK).unwrap()).unwrap();
            bytes[(block * BLOCK) as usize..][..BLOCK as usize].fill(0);
        }
    });
    let second = thin.csi.make_snapshot("second", &volume);
    let before = bytes_read(disk);
    let increment = thin.export(&second, &repository);
    let read = bytes_read(disk) - before;
    println!("of {DATA} bytes {read} were read from the disk: {increment}");
    assert_eq!((increment["mode"].as_str(), &increment["parent"]), (Some("incremental"), &full["repository_snapshot"]));
    let mut chunks: Vec<u64> = pages.iter().chain(&discarded).map(|block| block * BLOCK / CHUNK).collect();
    chunks.sort_unstable();
    chunks.dedup();
    let most = chunks.len() as u64 * CHUNK;
    let said = increment["data_bytes"].as_u64().unwrap();
    assert!(said >= pages.len() as u64 * 4096 && said <= most, "{said} bytes read for {} chunks", chunks.len());
    assert_eq!(increment["new_chunks"].as_u64().unwrap(), chunks.len() as u64);
    // The catalogue and the metadata are read from the disk too.
    assert!(read <= most + 2 * MIB, "{read} bytes were read from the disk for {} chunks", chunks.len());
    assert!(repository.dump(&full) == first_bytes, "the first snapshot in the repository differs");
    assert!(repository.dump(&increment) == bytes, "the increment differs");

    // A younger snapshot that is gone is no base: what lies between the two is not known. The export says so and is whole.
    thin.using(&volume, Use::Block, |target| {
        let device = open(target);
        for block in [7, 8, 9, 2000] {
            write(&device, &mut bytes, block * BLOCK, &noise(&mut random, BLOCK));
        }
        device.sync_all().unwrap();
    });
    let older = thin.csi.make_snapshot("older", &volume);
    let older_bytes = bytes.clone();
    thin.using(&volume, Use::Block, |target| {
        let device = open(target);
        for block in [8, 9, 10, 2001] {
            write(&device, &mut bytes, block * BLOCK, &noise(&mut random, BLOCK));
        }
        device.sync_all().unwrap();
    });
    let younger = thin.csi.make_snapshot("younger", &volume);
    let increment = thin.export(&younger, &repository);
    assert_eq!(increment["mode"].as_str(), Some("incremental"), "{increment}");
    assert!(repository.dump(&increment) == bytes, "the younger snapshot in the repository differs");
    thin.csi.drop_snapshot(&younger);
    let whole = thin.export(&older, &repository);
    assert!(repository.dump(&whole) == older_bytes, "the older snapshot in the repository differs: {whole}");
    assert_eq!(whole["mode"].as_str(), Some("full"), "{whole}");
    let reason = whole["full_reason"].as_str().unwrap();
    assert!(reason.contains("was cut after"), "{reason}");

    repository.check();
    [&second, &older].into_iter().for_each(|snapshot| thin.csi.drop_snapshot(snapshot));
    thin.csi.drop_volume(&volume);
    thin.stop();
}
