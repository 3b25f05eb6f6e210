#![cfg(feature = "root-tests")]
//! Stock restic and we read each other's repositories: Debian's release, and the newest one built from source.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::csi::{Csi, Source, Use, new_volume};
use common::fixture::{Bench, PoolFileSystem};
use common::node::Node;
use common::program::{Ended, built_tool, command, run, run_ok, unmount, windlass};
use common::restic::volume_file;
use common::{GIB, MIB, wait_for};
use csi_proto::csi::v1::CreateVolumeRequest;

const PASSWORD: &str = "correct horse battery staple";
const SIZE: u64 = 256 * MIB;

/// The releases of restic that are asked.
fn releases() -> Vec<PathBuf> {
    vec![PathBuf::from("restic"), built_tool("restic")]
}

fn restic(program: &Path, repository: &Path) -> Command {
    let mut command = command(program);
    command.args(["--no-cache", "--repo"]).arg(repository).env("RESTIC_PASSWORD", PASSWORD);
    command
}

fn ours(arguments: &[&str], repository: &Path) -> Command {
    let mut command = windlass();
    command.args(arguments).arg("--repository").arg(repository).env("RESTIC_PASSWORD", PASSWORD);
    command
}

/// Every regular file beneath `directory`, with its content's fingerprint.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let listed = run_ok(command("find").arg(directory).args(["-type", "f", "-printf", "%P\\n"])).text();
    listed.lines().map(|name| (PathBuf::from(name), fs::read(directory.join(name)).unwrap())).collect()
}

/// An exported ext4 volume with real files in it.
struct Exported {
    // Dropped in this order: a node that runs would keep the pool from being taken down.
    node: Node,
    bench: Bench,
    csi: Csi,
    repository: PathBuf,
    /// The bytes of the snapshot, read from a block volume made from it.
    image: Vec<u8>,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

fn exported(file_system: PoolFileSystem) -> Exported {
    let bench = Bench::with_pool(file_system, 4 * GIB);
    let node = bench.start();
    let csi = node.csi();
    let usage = Use::Mount("ext4");
    let named = [("csi.storage.k8s.io/pvc/name", "data"), ("csi.storage.k8s.io/pvc/namespace", "shop")];
    let parameters = named.map(|(key, name)| (key.to_owned(), name.to_owned())).into();
    let request = CreateVolumeRequest { parameters, ..new_volume("source", SIZE, usage, &Source::Blank) };
    let volume = csi.create_volume(request).unwrap().volume.unwrap().volume_id;
    let paths = csi.bring_up(&bench.root(), "source", &volume, usage);
    let tree = paths.target.join("tree");
    run_ok(command("cp").args(["--archive", "/usr/share/common-licenses"]).arg(&tree));
    fs::write(paths.target.join("zeros"), vec![0; 9 * MIB as usize]).unwrap();
    fs::write(paths.target.join("odd"), vec![7; 3 * MIB as usize + 12345]).unwrap();
    let snapshot = csi.make_snapshot("snapshot", &volume);
    let files = contents(&paths.target);
    assert!(files.len() > 5);
    // Later writes must be in no copy.
    fs::write(paths.target.join("later"), b"later").unwrap();

    let copy = csi.make_volume("copy", SIZE, Use::Block, &Source::Snapshot(snapshot.clone()));
    let seen = csi.bring_up(&bench.root(), "copy", &copy, Use::Block);
    let mut image = Vec::new();
    File::open(&seen.target).unwrap().read_to_end(&mut image).unwrap();
    assert_eq!(image.len() as u64, SIZE);
    csi.take_down(&copy, &seen);
    csi.drop_volume(&copy);

    let repository = bench.path().join("repository");
    run_ok(&mut ours(&["repository", "init"], &repository));
    run_ok(&mut ours(&["export", &snapshot, "--endpoint", &node.endpoint()], &repository));
    csi.take_down(&volume, &paths);
    csi.drop_snapshot(&snapshot);
    csi.drop_volume(&volume);
    Exported { bench, node, csi, repository, image, files }
}

/// The path of the volume in the only snapshot: the one that `restic snapshots` shows, and where `restic ls` finds it.
fn path_in_snapshot(program: &Path, repository: &Path) -> String {
    let listed = run_ok(restic(program, repository).args(["snapshots", "--json"])).text();
    assert!(listed.contains("\"pvc=shop/data\""), "the claim is not shown: {listed}");
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    let path = volume_file(&run_ok(restic(program, repository).args(["ls", "--json", "latest"])).text());
    assert_eq!(listed[0]["paths"], serde_json::json!([path]));
    path
}

/// A restic mount that ends, and is unmounted, when dropped.
struct Mounted {
    child: Child,
    at: PathBuf,
}

impl Mounted {
    fn new(program: &Path, repository: &Path, at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        let child = restic(program, repository).arg("mount").arg(at).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mounted = Self { child, at: at.to_owned() };
        wait_for("restic to mount", Duration::from_secs(60), || at.join("snapshots").is_dir().then_some(()));
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

#[test]
fn stock_restic_reads_what_we_export() {
    for file_system in PoolFileSystem::ALL {
        let exported = exported(file_system);
        for program in releases() {
            let version = run_ok(command(&program).arg("version")).text();
            println!("{} pool, {}", file_system.name(), version.trim());
            restic_reads(&exported, &program);
        }
        exported.node.stop();
        assert_eq!(exported.bench.attached(), Vec::<String>::new());
    }
}

fn restic_reads(exported: &Exported, program: &Path) {
    let repository = &exported.repository;
    let checked = run_ok(restic(program, repository).args(["check", "--read-data"])).text();
    assert!(checked.contains("no errors were found"), "{checked}");

    let path = path_in_snapshot(program, repository);
    let dumped = run_ok(restic(program, repository).args(["dump", "latest", &path])).stdout;
    assert!(dumped == exported.image, "`restic dump` differs from the snapshot");

    let at = exported.bench.path().join("restic-mount");
    let inside = exported.bench.path().join("inside");
    fs::create_dir_all(&inside).unwrap();
    {
        let mounted = Mounted::new(program, repository, &at);
        let image = mounted.at.join("snapshots/latest").join(path.trim_start_matches('/'));
        assert_eq!(fs::metadata(&image).unwrap().len(), SIZE);
        run_ok(command("mount").args(["-t", "ext4", "-o", "loop,ro,noload"]).arg(&image).arg(&inside));
        let seen = contents(&inside);
        unmount(&inside);
        assert!(seen == exported.files, "files in the image that restic mounts differ");
    }
}

#[test]
fn our_own_commands_read_what_we_export() {
    let exported = exported(PoolFileSystem::Xfs);
    run_ok(&mut ours(&["repository", "check", "--read-data"], &exported.repository));
    let listed = run_ok(&mut ours(&["repository", "snapshots", "--output", "json"], &exported.repository)).text();
    serde_json::from_str::<serde_json::Value>(listed.trim()).unwrap();

    let restored = exported.bench.path().join("restored.img");
    run_ok(ours(&["restore"], &exported.repository).arg("--file").arg(&restored));
    assert!(fs::read(&restored).unwrap() == exported.image, "the restored file differs");

    let endpoint = exported.node.endpoint();
    run_ok(&mut ours(&["restore", "--volume", "restored", "--endpoint", &endpoint], &exported.repository));
    let ids = exported.csi.volume_ids();
    assert_eq!(ids.len(), 1);
    let usage = Use::Mount("ext4");
    let paths = exported.csi.bring_up(&exported.bench.root(), "restored", &ids[0], usage);
    assert!(contents(&paths.target) == exported.files, "files of the restored volume differ");
    exported.csi.take_down(&ids[0], &paths);
    exported.csi.drop_volume(&ids[0]);
    exported.node.stop();
    assert_eq!(exported.bench.attached(), Vec::<String>::new());
}

/// Data, then a hole, then data up to an odd length of whole blocks: what a disk image looks like.
fn foreign_image(path: &Path) -> Vec<u8> {
    let file = File::create(path).unwrap();
    file.set_len(70 * MIB).unwrap();
    let mut state = 1_u64;
    let noise: Vec<u8> = (0..5 * MIB / 8)
        .flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()
        })
        .collect();
    file.write_all_at(&noise, 0).unwrap();
    file.write_all_at(&noise[..MIB as usize], 69 * MIB).unwrap();
    file.sync_all().unwrap();
    fs::read(path).unwrap()
}

#[test]
fn we_restore_an_image_that_restic_wrote_from_its_standard_input() {
    let bench = Bench::with_pool(PoolFileSystem::Xfs, 4 * GIB);
    let node = bench.start();
    let csi = node.csi();
    let source = bench.path().join("foreign.img");
    let image = foreign_image(&source);
    for (number, program) in releases().into_iter().enumerate() {
        let repository = bench.path().join(format!("repository-{number}"));
        // Debian's release makes version 1 unless told otherwise.
        run_ok(restic(&program, &repository).args(["init", "--repository-version", "2"]));
        run_ok(
            restic(&program, &repository)
                .args(["backup", "--stdin", "--stdin-filename", "disk.img"])
                .stdin(File::open(&source).unwrap()),
        );

        let listed = run_ok(&mut ours(&["repository", "snapshots"], &repository)).text();
        assert!(listed.contains("disk.img"), "{listed}");
        run_ok(&mut ours(&["repository", "check", "--read-data"], &repository));

        let restored = bench.path().join(format!("restored-{number}.img"));
        run_ok(ours(&["restore"], &repository).arg("--file").arg(&restored));
        assert!(fs::read(&restored).unwrap() == image, "the restored file differs");

        let name = format!("restored-{number}");
        run_ok(&mut ours(&["restore", "--volume", &name, "--block", "--endpoint", &node.endpoint()], &repository));
        let id = csi.volume_ids().pop().unwrap();
        let paths = csi.bring_up(&bench.root(), &name, &id, Use::Block);
        let mut found = vec![0; image.len()];
        File::open(&paths.target).unwrap().read_exact(&mut found).unwrap();
        assert!(found == image, "the restored volume differs");
        csi.take_down(&id, &paths);
        csi.drop_volume(&id);
    }
    node.stop();
    assert_eq!(bench.attached(), Vec::<String>::new());
}

#[test]
fn an_image_that_would_be_of_no_use_on_the_pools_devices_is_not_restored_to_one() {
    let bench = Bench::with_pool(PoolFileSystem::Xfs, 4 * GIB);
    let node = bench.start();
    let csi = node.csi();
    let repository = bench.path().join("repository");
    run_ok(restic(Path::new("restic"), &repository).args(["init", "--repository-version", "2"]));
    let source = bench.path().join("foreign.img");
    let stored = bench.stored();
    let back_up = || {
        run_ok(
            restic(Path::new("restic"), &repository)
                .args(["backup", "--stdin", "--stdin-filename", "disk.img"])
                .stdin(File::open(&source).unwrap()),
        );
    };
    let restore = |arguments: &[&str]| {
        let mut command = ours(&["restore", "--volume", "restored", "--endpoint", &node.endpoint()], &repository);
        run(command.args(arguments))
    };
    let make = |sector: &str| {
        File::create(&source).unwrap().set_len(512 * MIB).unwrap();
        run_ok(command("mkfs.xfs").args(["-q", "-f", "-s", sector]).arg(&source));
        back_up();
    };

    make("size=512");
    for arguments in [&["--fs-type", "xfs"][..], &["--block"]] {
        let ended = restore(arguments);
        assert_eq!(ended.code, Some(4));
        let text = ended.failure();
        assert!(text.contains("512 bytes"), "{text}");
        assert_eq!(csi.volume_ids(), Vec::<String>::new());
    }
    // As a disk of the size it was made for it works.
    restore(&["--fs-type", "xfs", "--logical-block-size", "512"]).success();
    let id = csi.volume_ids().pop().unwrap();
    let paths = csi.bring_up(&bench.root(), "restored", &id, Use::Mount("xfs"));
    let device = run_ok(command("findmnt").args(["-n", "-o", "SOURCE", "--mountpoint"]).arg(&paths.target)).text();
    assert_eq!(run_ok(command("blockdev").arg("--getss").arg(device.trim())).text().trim(), "512");
    csi.take_down(&id, &paths);
    csi.drop_volume(&id);
    // To a file it is restored all the same.
    run_ok(ours(&["restore"], &repository).arg("--file").arg(bench.path().join("restored.img")));

    make("size=4096");
    let ended = restore(&["--fs-type", "ext4"]);
    assert_eq!(ended.code, Some(4));
    let text = ended.failure();
    assert!(text.contains("xfs, not ext4"), "{text}");
    // Nothing was left: neither the name nor the space.
    assert_eq!(csi.volume_ids(), Vec::<String>::new());
    assert_eq!(bench.stored(), stored);
    restore(&["--fs-type", "xfs"]).success();
    let id = csi.volume_ids().pop().unwrap();
    let paths = csi.bring_up(&bench.root(), "restored", &id, Use::Mount("xfs"));
    csi.take_down(&id, &paths);
    csi.drop_volume(&id);
    node.stop();
}

#[test]
fn a_wrong_password_and_a_damaged_pack_are_errors_that_say_so() {
    let exported = exported(PoolFileSystem::Xfs);
    let wrong =
        |arguments: &[&str]| -> Ended { run(ours(arguments, &exported.repository).env("RESTIC_PASSWORD", "not the password")) };
    let text = wrong(&["repository", "snapshots"]).failure();
    assert!(text.contains("password"), "{text}");
    assert!(!text.contains("not the password"), "the password is printed: {text}");

    // The middle of the largest pack.
    let packs = run_ok(command("find").arg(exported.repository.join("data")).args(["-type", "f", "-printf", "%s %p\\n"])).text();
    let (size, pack) = packs
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(size, path)| (size.parse::<u64>().unwrap(), PathBuf::from(path)))
        .max()
        .unwrap();
    let mut permissions = fs::metadata(&pack).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    fs::set_permissions(&pack, permissions).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&pack).unwrap();
    file.write_all_at(b"damaged", size / 2).unwrap();
    (&file).flush().unwrap();
    let checked = run(&mut ours(&["repository", "check", "--read-data"], &exported.repository));
    let text = checked.text() + &checked.failure();
    let id = pack.file_name().unwrap().to_str().unwrap();
    assert!(text.contains(&id[..8]), "the text does not name the pack {id}: {text}");
    let restored = exported.bench.path().join("restored.img");
    run(ours(&["restore"], &exported.repository).arg("--file").arg(&restored)).failure();
    exported.node.stop();
}
