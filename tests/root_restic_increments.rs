#![cfg(feature = "root-tests")]
//! A repository with fifty increments in it, by stock restic: Debian's release and the newest one. Each checks, dumps, restores,
//! mounts and compares what we wrote, then prunes most of it, and we go on from there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::csi::{Csi, Paths, Source, Use};
use common::fixture::{Bench, PoolFileSystem};
use common::node::Node;
use common::program::{built_tool, command, run, run_ok, windlass};
use common::{GIB, MIB, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

const PASSWORD: &str = "correct horse battery staple";
const SIZE: u64 = 96 * MIB;
const CHUNK: u64 = 256 << 10;
/// Exports after the first.
const INCREMENTS: usize = 50;
/// Of the file whose middle is rewritten again and again.
const DATABASE: u64 = 24 * MIB;
/// What survives a prune.
const KEPT: usize = 12;

fn restic(program: &Path, repository: &Path, arguments: &[&str]) -> Command {
    let mut command = command(program);
    command.args(["--no-cache", "--repo"]).arg(repository).args(arguments).env("RESTIC_PASSWORD", PASSWORD);
    command
}

fn restic_ok(program: &Path, repository: &Path, arguments: &[&str]) -> String {
    run_ok(&mut restic(program, repository, arguments)).text()
}

fn ours(arguments: &[&str], repository: &Path) -> Command {
    let mut command = windlass();
    command.args(arguments).arg("--repository").arg(repository).env("RESTIC_PASSWORD", PASSWORD);
    command
}

/// An export: its snapshot in the repository, and what the volume was.
struct Link {
    id: String,
    /// Of some links: the bytes, read from a volume made from the snapshot.
    image: Option<Vec<u8>>,
}

/// A volume that is written to, with its exports.
struct Chain {
    // Dropped in this order: a node that runs would keep the pool from being taken down.
    node: Node,
    bench: Bench,
    csi: Csi,
    volume: String,
    paths: Paths,
    random: StdRng,
    last: Option<String>,
    /// Path of the image in every snapshot of the repository.
    path: String,
    changes: usize,
}

/// What an export said of itself.
struct Exported {
    id: String,
    mode: String,
    full_reason: String,
    parent: String,
    data_bytes: u64,
}

impl Chain {
    fn new() -> Self {
        let bench = Bench::with_pool(PoolFileSystem::Xfs, 4 * GIB);
        let node = bench.start();
        let csi = node.csi();
        let volume = csi.make_volume("source", SIZE, Use::Mount("ext4"), &Source::Blank);
        let paths = csi.bring_up(&bench.root(), "source", &volume, Use::Mount("ext4"));
        let mut random = StdRng::seed_from_u64(14_019);
        let mut noise = vec![0; DATABASE as usize];
        random.fill_bytes(&mut noise);
        // Half of it compresses.
        noise.chunks_mut(CHUNK as usize).step_by(2).for_each(|chunk| chunk.iter_mut().for_each(|byte| *byte /= 64));
        fs::write(paths.target.join("database"), noise).unwrap();
        run_ok(command("cp").args(["--archive", "/usr/share/common-licenses"]).arg(paths.target.join("tree")));
        let path = format!("/{volume}/volume.img");
        Self { node, bench, csi, volume, paths, random, last: None, path, changes: 0 }
    }

    /// Some writes into a large file, and small files that come and go.
    fn change(&mut self) {
        let inside = |name: String| self.paths.target.join(name);
        let database = OpenOptions::new().write(true).open(inside("database".to_owned())).unwrap();
        for _ in 0..3 {
            let mut bytes = vec![0; self.random.random_range(1..40_000)];
            self.random.fill_bytes(&mut bytes);
            database.write_all_at(&bytes, self.random.random_range(0..DATABASE - 40_000)).unwrap();
        }
        database.sync_all().unwrap();
        let number = self.changes;
        fs::write(inside(format!("small-{number}")), format!("{number}\n").repeat(300 * (number % 7))).unwrap();
        if let Some(old) = number.checked_sub(5) {
            fs::remove_file(inside(format!("small-{old}"))).unwrap();
        }
        self.changes += 1;
    }

    /// Cuts a snapshot and exports it. Every other one before it is deleted, and lives on as an anchor.
    fn export(&mut self, repository: &Path) -> Exported {
        let snapshot = self.csi.make_snapshot(&format!("snapshot-{}", self.changes), &self.volume);
        if let Some(last) = self.last.replace(snapshot.clone()).filter(|_| self.changes.is_multiple_of(2)) {
            self.csi.drop_snapshot(&last);
        }
        let endpoint = self.node.endpoint();
        let arguments = ["export", &snapshot, "--endpoint", &endpoint, "--output", "json", "--chunk-size", "256KiB"];
        let printed = run_ok(&mut ours(&arguments, repository)).text();
        let printed: serde_json::Value = serde_json::from_str(printed.trim()).unwrap();
        let text = |name: &str| printed[name].as_str().unwrap().to_owned();
        Exported {
            id: text("repository_snapshot"),
            mode: text("mode"),
            full_reason: text("full_reason"),
            parent: text("parent"),
            data_bytes: printed["data_bytes"].as_u64().unwrap(),
        }
    }

    /// The bytes of the snapshot that was cut last.
    fn image(&self) -> Vec<u8> {
        let source = Source::Snapshot(self.last.clone().unwrap());
        let copy = self.csi.make_volume("copy", SIZE, Use::Block, &source);
        let seen = self.csi.bring_up(&self.bench.root(), "copy", &copy, Use::Block);
        let mut image = Vec::new();
        File::open(&seen.target).unwrap().read_to_end(&mut image).unwrap();
        assert_eq!(image.len() as u64, SIZE);
        self.csi.take_down(&copy, &seen);
        self.csi.drop_volume(&copy);
        image
    }

    /// The whole chain.
    fn exports(&mut self, repository: &Path) -> Vec<Link> {
        run_ok(&mut ours(&["repository", "init"], repository));
        let first = self.export(repository);
        assert_eq!(first.mode, "full");
        let mut links = vec![Link { id: first.id, image: Some(self.image()) }];
        for number in 1..=INCREMENTS {
            self.change();
            let link = self.export(repository);
            assert_eq!((link.mode.as_str(), link.full_reason.as_str()), ("incremental", ""), "link {number}");
            assert_eq!(link.parent, links[number - 1].id, "link {number}");
            assert!(link.data_bytes < DATABASE / 2, "{} bytes read for link {number}", link.data_bytes);
            // One in the middle, one that a prune keeps, and the last.
            let is_looked_at = [INCREMENTS / 2, INCREMENTS - KEPT / 2, INCREMENTS].contains(&number);
            links.push(Link { id: link.id, image: is_looked_at.then(|| self.image()) });
        }
        links
    }

    fn end(self) {
        self.csi.take_down(&self.volume, &self.paths);
        self.node.stop();
        assert_eq!(self.bench.attached(), Vec::<String>::new());
    }
}

/// A restic mount that ends, and is unmounted, when dropped.
struct Mounted {
    child: Child,
    at: PathBuf,
}

impl Mounted {
    fn new(program: &Path, repository: &Path, at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        let mut command = restic(program, repository, &["mount"]);
        let child = command.arg(at).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mounted = Self { child, at: at.to_owned() };
        wait_for("restic to mount", Duration::from_secs(60), || at.join("ids").is_dir().then_some(()));
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run(command("umount").arg(&self.at));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `restore --sparse` came with 0.15.
fn restores_sparsely(program: &Path) -> bool {
    run_ok(command(program).args(["restore", "--help"])).text().contains("--sparse")
}

/// Everything that only reads.
fn reads(chain: &Chain, program: &Path, repository: &Path, links: &[Link]) {
    let checked = restic_ok(program, repository, &["check", "--read-data"]);
    assert!(checked.contains("no errors were found"), "{checked}");
    assert_eq!(listed(program, repository), links.iter().map(|link| link.id.clone()).collect::<Vec<_>>());
    let looked_at: Vec<_> = links.iter().filter_map(|link| Some((link, link.image.as_ref()?))).collect();
    assert_eq!(looked_at.len(), 4);
    for (link, image) in &looked_at {
        let dumped = run_ok(&mut restic(program, repository, &["dump", &link.id, &chain.path])).stdout;
        assert!(dumped == **image, "the dump of {} differs", link.id);
    }
    let (last, image) = looked_at[3];
    restores(chain, program, repository, last, image);

    let at = chain.bench.path().join("restic-mount");
    let mounted = Mounted::new(program, repository, &at);
    for (link, image) in [looked_at[1], looked_at[3]] {
        let inside = mounted.at.join("ids").join(&link.id[..8]).join(chain.path.trim_start_matches('/'));
        assert!(fs::read(&inside).unwrap() == *image, "{} differs", inside.display());
    }
    drop(mounted);

    let changed = |one: &str, other: &str| -> Vec<String> {
        let text = restic_ok(program, repository, &["diff", one, other]);
        let lines = text.lines().filter_map(|line| line.split_once(" /"));
        lines.map(|(what, path)| format!("{} /{path}", what.trim())).collect()
    };
    let metadata = "/meta.json";
    assert_eq!(changed(&links[20].id, &links[30].id), [format!("M {metadata}"), format!("M {}", chain.path)]);
    assert_eq!(changed(&links[20].id, &links[20].id), Vec::<String>::new());
}

/// The snapshots of the repository, the oldest first.
fn listed(program: &Path, repository: &Path) -> Vec<String> {
    let text = restic_ok(program, repository, &["snapshots", "--json"]);
    let snapshots: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut snapshots: Vec<_> =
        snapshots.as_array().unwrap().iter().map(|one| (one["time"].to_string(), one["id"].clone())).collect();
    snapshots.sort_by(|one, other| one.0.cmp(&other.0));
    snapshots.into_iter().map(|(_, id)| id.as_str().unwrap().to_owned()).collect()
}

fn restores(chain: &Chain, program: &Path, repository: &Path, link: &Link, image: &[u8]) {
    let into = chain.bench.path().join("restored");
    let sparse = restores_sparsely(program);
    let mut command = restic(program, repository, &["restore", &link.id, "--target"]);
    run_ok(command.arg(&into).args(sparse.then_some("--sparse")));
    let file = into.join(chain.path.trim_start_matches('/'));
    assert!(fs::read(&file).unwrap() == image, "the restored image of {} differs", link.id);
    if sparse {
        let data = image.chunks(CHUNK as usize).filter(|chunk| chunk.iter().any(|&byte| byte != 0)).count() as u64 * CHUNK;
        let allocated = fs::metadata(&file).unwrap().blocks() * 512;
        assert!(data < SIZE / 2 && allocated <= data + MIB, "{allocated} bytes are allocated for {data} of data");
    }
    fs::remove_dir_all(&into).unwrap();
}

/// Forgets most of it, and everything that nobody needs any more is removed.
fn prunes(chain: &Chain, program: &Path, repository: &Path, links: &[Link]) {
    let bytes = || {
        let text = run_ok(command("du").args(["--summarize", "--bytes"]).arg(repository.join("data"))).text();
        text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    let before = bytes();
    // Else some of what is not needed may stay, if it costs little.
    restic_ok(program, repository, &["forget", "--keep-last", &KEPT.to_string(), "--prune", "--max-unused", "0"]);
    assert!(bytes() < before, "nothing was removed of {before} bytes");
    let kept = &links[links.len() - KEPT..];
    assert_eq!(listed(program, repository), kept.iter().map(|link| link.id.clone()).collect::<Vec<_>>());
    sound(chain, program, repository, kept);
}

/// Both restic and we find everything whole, and what is left dumps as before.
fn sound(chain: &Chain, program: &Path, repository: &Path, links: &[Link]) {
    let checked = restic_ok(program, repository, &["check", "--read-data"]);
    assert!(checked.contains("no errors were found"), "{checked}");
    run_ok(&mut ours(&["repository", "check", "--read-data"], repository));
    let looked_at: Vec<_> = links.iter().filter_map(|link| Some((link, link.image.as_ref()?))).collect();
    assert!(!looked_at.is_empty());
    for (link, image) in looked_at {
        let dumped = run_ok(&mut restic(program, repository, &["dump", &link.id, &chain.path])).stdout;
        assert!(dumped == *image, "the dump of {} differs", link.id);
    }
}

#[test]
fn stock_restic_reads_and_prunes_fifty_increments_and_we_go_on_from_there() {
    let mut chain = Chain::new();
    let repository = chain.bench.path().join("repository");
    let links = chain.exports(&repository);
    let programs = [PathBuf::from("restic"), built_tool("restic")];
    for program in &programs {
        println!("{}", run_ok(command(program).arg("version")).text().trim());
        reads(&chain, program, &repository, &links);
    }

    // Each prunes a copy of its own, and the next export is into that copy.
    let copies: Vec<_> = (0..programs.len()).map(|number| chain.bench.path().join(format!("copy-{number}"))).collect();
    for copy in &copies {
        run_ok(command("cp").args(["--archive", "--reflink=auto"]).arg(&repository).arg(copy));
    }
    for (number, (program, copy)) in programs.iter().zip(&copies).enumerate() {
        prunes(&chain, program, copy, &links);
        chain.change();
        let mut next = chain.export(copy);
        if number > 0 {
            // To us the copies are one repository: the last export is known, and this copy does not have it.
            assert_eq!(next.mode, "full");
            assert!(next.full_reason.contains("no longer in the repository"), "{}", next.full_reason);
            let link = Link { id: next.id, image: Some(chain.image()) };
            sound(&chain, program, copy, &[link]);
            chain.change();
            next = chain.export(copy);
        } else {
            assert_eq!(next.parent, links[INCREMENTS].id);
        }
        assert_eq!((next.mode.as_str(), next.full_reason.as_str()), ("incremental", ""));
        let link = Link { id: next.id, image: Some(chain.image()) };
        sound(&chain, program, copy, &[link]);
    }
    chain.end();
}
