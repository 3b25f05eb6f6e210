//! The services of a node over a real pool, devices and file systems: everything that a volume goes through, with each file
//! system and as a raw device.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly, wherever it does")]
#![allow(clippy::disallowed_types, reason = "the callers' side of the gRPC boundary")]

mod node;

use std::fs;
use std::os::unix::fs::FileTypeExt;

use csi_proto::csi::v1::controller_server::Controller;
use csi_proto::csi::v1::node_server::Node;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::{DeleteSnapshotRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest};
use node::{Fixture, block, from_snapshot, from_volume, mount};
use tokio::sync::Mutex;
use tonic::{Code, Request};
use windlass::mount::Mounter;
use windlass::mount::system::SystemMounter;
use windlass::types::FsType;

use crate::common::fixture::{Bench, PoolFileSystem};
use crate::common::{GIB, is_mounted_ext4_grown, wait_for};
use crate::root_support::pattern;

const SIZE: i64 = 320 << 20;

/// Devices are the kernel's, whichever pool they are of: the number of one that a test removes would be the next that another test is
/// given, and so would what is still bound of it. One test at a time has devices.
static DEVICES: Mutex<()> = Mutex::const_new(());

/// Takes volumes of all sorts through everything, and leaves nothing.
pub async fn everything_works(kind: PoolFileSystem) {
    let _devices = DEVICES.lock().await;
    let bench = Bench::with_pool(kind, 2 * GIB);
    let fixture = Fixture::new(&bench, kind);
    for fs_type in FsType::ALL {
        mounted(&fixture, fs_type).await;
    }
    raw(&fixture).await;

    let mounts = SystemMounter::new().mounts().unwrap();
    assert!(!mounts.iter().any(|entry| entry.mount_point.starts_with(&fixture.root)));
    let status = fixture.layer.pools()[0].status().unwrap();
    assert_eq!((status.volumes, status.snapshots), (0, 0));
}

/// Takes down what a pool left that is not there any more: mounts of a file system, a bound device, and a bound device that is gone.
pub async fn teardown_needs_no_pool(kind: PoolFileSystem) {
    let _devices = DEVICES.lock().await;
    let bench = Bench::with_pool(kind, GIB);
    let fixture = Fixture::new(&bench, kind);
    let mut volumes = Vec::new();
    for (name, capability) in [
        ("mounted", mount(FsType::Ext4, Mode::SingleNodeWriter)),
        ("btrfs", mount(FsType::Btrfs, Mode::SingleNodeWriter)),
        ("raw", block(Mode::SingleNodeWriter)),
        ("gone", block(Mode::SingleNodeWriter)),
    ] {
        let volume = fixture.create(name, SIZE, capability.clone(), None).await;
        let (staging, target) = (fixture.staging(&format!("{name}-staging")), fixture.path(&format!("{name}-target")));
        fixture.stage(&volume, &staging, capability.clone()).await;
        fixture.publish(&volume, &staging, &target, capability, false).await;
        volumes.push((volume, staging, target));
    }
    fixture.remove_device(&volumes[3].0);
    let layer = fixture.without_pool();
    let unpublish = async |volume: &str, target: &str| {
        let request = NodeUnpublishVolumeRequest { volume_id: volume.into(), target_path: target.into() };
        layer.node_unpublish_volume(Request::new(request)).await.map(drop).map_err(|status| status.code())
    };
    let unstage = async |volume: &str, staging: &str| {
        let request = NodeUnstageVolumeRequest { volume_id: volume.into(), staging_target_path: staging.into() };
        layer.node_unstage_volume(Request::new(request)).await.map(drop).map_err(|status| status.code())
    };
    assert_eq!(unpublish(&volumes[1].0, &volumes[0].2).await, Err(Code::FailedPrecondition));
    assert_eq!(unpublish(&volumes[0].0, &volumes[2].2).await, Err(Code::FailedPrecondition));
    assert_eq!(unstage(&volumes[2].0, &volumes[2].1).await, Err(Code::FailedPrecondition));
    for (volume, staging, target) in &volumes {
        for _ in 0..2 {
            assert_eq!(unpublish(volume, target).await, Ok(()), "{target}");
        }
        assert!(!std::path::Path::new(target).exists());
        for _ in 0..2 {
            assert_eq!(unstage(volume, staging).await, Ok(()), "{staging}");
        }
    }
    assert_eq!(bench.attached(), Vec::<String>::new());
}

/// A volume that is given out as a raw device, as a file system, and as a raw device again: nothing but its users changes its bytes.
pub async fn one_volume_is_a_device_and_a_file_system_in_turn(kind: PoolFileSystem) {
    let _devices = DEVICES.lock().await;
    let bench = Bench::with_pool(kind, GIB);
    let fixture = Fixture::new(&bench, kind);
    let volume = fixture.create("turns", SIZE, block(Mode::SingleNodeWriter), None).await;
    let (staging, target) = (fixture.staging("turns"), fixture.path("turn"));
    let raw = async || {
        fixture.stage(&volume, &staging, block(Mode::SingleNodeWriter)).await;
        fixture.publish(&volume, &staging, &target, block(Mode::SingleNodeWriter), false).await;
    };
    raw().await;
    // A guest makes a file system of its own, which no driver would: with a label.
    let made = std::process::Command::new("mkfs.xfs").args(["-q", "-s", "size=4096", "-L", "guest", &target]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fixture.let_go(&volume, Some(&target), &staging).await;

    let xfs = || mount(FsType::Xfs, Mode::SingleNodeWriter);
    let bytes = pattern(3, 1 << 20);
    for turn in 0..2 {
        fixture.stage(&volume, &staging, xfs()).await;
        fixture.publish(&volume, &staging, &target, xfs(), false).await;
        if turn == 0 {
            fs::write(format!("{target}/data"), &bytes).unwrap();
        }
        assert!(fs::read(format!("{target}/data")).unwrap() == bytes);
        fixture.let_go(&volume, Some(&target), &staging).await;
    }
    // What the device holds now is what it still holds after it was given out as a device once more.
    let digest = async || {
        raw().await;
        let sum = std::process::Command::new("sha256sum").arg(&target).output().unwrap();
        assert!(sum.status.success());
        let label = std::process::Command::new("xfs_admin").args(["-l", &target]).output().unwrap();
        assert!(String::from_utf8_lossy(&label.stdout).contains("guest"), "{label:?}");
        fixture.let_go(&volume, Some(&target), &staging).await;
        sum.stdout
    };
    assert_eq!(digest().await, digest().await);
    fixture.stage(&volume, &staging, xfs()).await;
    assert!(fs::read(format!("{staging}/data")).unwrap() == bytes);
    fixture.take_down(&volume, None, &staging).await;
    assert_eq!(bench.attached(), Vec::<String>::new());
}

/// What Velero's block mover does to a volume with a file system, by its exact calls: a backup from a second content of one handle, an increment
/// against the snapshot that it has deleted, and a restore by way of a raw device whose PersistentVolume is then made anew as a file system.
pub async fn what_a_block_mover_does_by_hand_holds(kind: PoolFileSystem) {
    let _devices = DEVICES.lock().await;
    let bench = Bench::with_pool(kind, 2 * GIB);
    let fixture = Fixture::new(&bench, kind);
    let xfs = || mount(FsType::Xfs, Mode::SingleNodeWriter);
    let source = fixture.create("source", SIZE, xfs(), None).await;
    let staging = fixture.staging("source");
    let write = async |name: &str, seed: u64| {
        fixture.stage(&source, &staging, xfs()).await;
        fs::write(format!("{staging}/{name}"), pattern(seed, 8 << 20)).unwrap();
    };
    write("first", 3).await;
    let first = fixture.snapshot("first", &source).await;
    assert_eq!(fixture.snapshots_by_id(&first).await, std::slice::from_ref(&first));
    let whole = fixture.allocated_ranges(&first).await;
    assert!(whole >= 8 << 20, "{whole}");
    // Both contents of the handle are deleted, the second when there is nothing left.
    for _ in 0..2 {
        let request = DeleteSnapshotRequest { snapshot_id: first.clone(), ..Default::default() };
        fixture.layer.delete_snapshot(Request::new(request)).await.unwrap();
    }
    assert_eq!(fixture.snapshots_by_id(&first).await, Vec::<String>::new());
    write("second", 4).await;
    let second = fixture.snapshot("second", &source).await;
    let changed = fixture.changed_ranges(&first, &second).await;
    assert!((8 << 20..whole + (8 << 20)).contains(&changed), "{changed} of {whole}");

    // The mover reads a copy for readers, as a raw device although the volume has a file system.
    let reader = || block(Mode::MultiNodeReaderOnly);
    let copy = fixture.create("copy", SIZE, reader(), from_snapshot(&second)).await;
    let (copy_staging, copy_target) = (fixture.staging("copy"), fixture.path("copy-device"));
    fixture.stage(&copy, &copy_staging, reader()).await;
    fixture.publish(&copy, &copy_staging, &copy_target, reader(), true).await;
    // And writes all of it, its zeros too.
    let raw = || block(Mode::SingleNodeWriter);
    let restored = fixture.create("restored", SIZE, raw(), None).await;
    let (restored_staging, target) = (fixture.staging("restored"), fixture.path("restored-device"));
    fixture.stage(&restored, &restored_staging, raw()).await;
    fixture.publish(&restored, &restored_staging, &target, raw(), false).await;
    let input = format!("if={copy_target}");
    let output = format!("of={target}");
    let direct = ["bs=1M", "iflag=direct", "oflag=direct", "conv=notrunc,fsync", "status=none"];
    let copied = std::process::Command::new("dd").args([&input, &output]).args(direct).output().unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    assert!(fixture.allocated_bytes(&restored) >= SIZE.unsigned_abs());
    fixture.take_down(&copy, Some(&copy_target), &copy_staging).await;
    fixture.let_go(&restored, Some(&target), &restored_staging).await;
    let most = fixture.allocated_bytes(&source) * 105 / 100;
    wait_for("the restored volume to be thin", std::time::Duration::from_secs(120), || {
        (fixture.allocated_bytes(&restored) <= most).then_some(())
    });
    // Its PersistentVolume is made anew as a file system, on the same handle, beside its source.
    fixture.stage(&restored, &restored_staging, xfs()).await;
    for (name, seed) in [("first", 3), ("second", 4)] {
        assert!(fs::read(format!("{restored_staging}/{name}")).unwrap() == pattern(seed, 8 << 20), "{name}");
    }
    fixture.take_down(&restored, None, &restored_staging).await;
    fixture.take_down(&source, None, &staging).await;
    let request = DeleteSnapshotRequest { snapshot_id: second, ..Default::default() };
    fixture.layer.delete_snapshot(Request::new(request)).await.unwrap();
    assert_eq!(bench.attached(), Vec::<String>::new());
}

/// A Btrfs as a power cut leaves it, with a log tree, on a volume that was used raw: its copies, one of them by way of a repository, are
/// mounted beside it, with what was fsynced.
pub async fn copies_of_a_btrfs_that_lost_power_are_mounted_beside_it(kind: PoolFileSystem) {
    let _devices = DEVICES.lock().await;
    let bench = Bench::with_pool(kind, 2 * GIB);
    let fixture = Fixture::new(&bench, kind);
    let run = |program: &str, args: &[&str]| {
        let ended = std::process::Command::new(program).args(args).output().unwrap();
        assert!(ended.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8_lossy(&ended.stdout).into_owned()
    };
    let volume = fixture.create("guest", SIZE, block(Mode::SingleNodeWriter), None).await;
    let (staging, target) = (fixture.staging("guest"), fixture.path("guest-device"));
    fixture.stage(&volume, &staging, block(Mode::SingleNodeWriter)).await;
    fixture.publish(&volume, &staging, &target, block(Mode::SingleNodeWriter), false).await;
    let device = fixture.device(&volume).unwrap().to_str().unwrap().to_owned();
    run("mkfs.btrfs", &["-q", &device]);
    let guest = fixture.staging("guest-mount");
    run("mount", &["-t", "btrfs", &device, &guest]);
    fs::write(format!("{guest}/committed"), pattern(4, 1 << 20)).unwrap();
    run("sync", &["-f", &guest]);
    fs::write(format!("{guest}/fsynced"), pattern(5, 1 << 20)).unwrap();
    fs::File::open(format!("{guest}/fsynced")).unwrap().sync_all().unwrap();
    // What the disk holds at this moment, and again when the guest is gone.
    let cut = fixture.path("cut.img");
    run("dd", &[&format!("if={device}"), &format!("of={cut}"), "bs=1M", "iflag=direct", "status=none"]);
    run("umount", &[&guest]);
    run("dd", &[&format!("if={cut}"), &format!("of={device}"), "bs=1M", "oflag=direct", "conv=notrunc,fsync", "status=none"]);
    let superblock = run("btrfs", &["inspect-internal", "dump-super", &device]);
    let log_root = superblock.lines().find_map(|line| line.strip_prefix("log_root\t")).unwrap().trim();
    assert_ne!(log_root, "0", "it was to have a log tree");
    fixture.let_go(&volume, Some(&target), &staging).await;

    let snapshot = fixture.snapshot("guest", &volume).await;
    let btrfs = || mount(FsType::Btrfs, Mode::SingleNodeWriter);
    let restored = fixture.create("restored", SIZE, btrfs(), from_snapshot(&snapshot)).await;
    let cloned = fixture.create("cloned", SIZE, btrfs(), from_volume(&volume)).await;
    let exported = fixture.through_a_repository(&snapshot, "exported").await;
    let mut mounted = Vec::new();
    for (name, volume) in [("source", volume), ("restored", restored), ("cloned", cloned), ("exported", exported)] {
        let staging = fixture.staging(name);
        fixture.stage(&volume, &staging, btrfs()).await;
        mounted.push((volume, staging));
    }
    for (_, staging) in &mounted {
        assert!(fs::read(format!("{staging}/committed")).unwrap() == pattern(4, 1 << 20), "{staging}");
        assert!(fs::read(format!("{staging}/fsynced")).unwrap() == pattern(5, 1 << 20), "{staging}");
        fs::write(format!("{staging}/own"), staging).unwrap();
    }
    for (volume, staging) in &mounted {
        assert_eq!(fs::read_to_string(format!("{staging}/own")).unwrap(), *staging);
        let device = fixture.device(volume).unwrap().to_str().unwrap().to_owned();
        run("umount", &[staging]);
        run("btrfs", &["check", &device]);
        fixture.take_down(volume, None, staging).await;
    }
    fs::remove_file(cut).unwrap();
    let request = DeleteSnapshotRequest { snapshot_id: snapshot, ..Default::default() };
    fixture.layer.delete_snapshot(Request::new(request)).await.unwrap();
    assert_eq!(bench.attached(), Vec::<String>::new());
}

/// A device that somebody has open for a moment when all mounts are gone: the caller comes again.
pub async fn a_device_that_is_looked_at_is_no_final_refusal(kind: PoolFileSystem) {
    let _devices = DEVICES.lock().await;
    let bench = Bench::with_pool(kind, GIB);
    let fixture = Fixture::new(&bench, kind);
    let volume = fixture.create("raw", SIZE, block(Mode::SingleNodeWriter), None).await;
    let staging = fixture.staging("raw");
    fixture.stage(&volume, &staging, block(Mode::SingleNodeWriter)).await;
    let visitor = fs::File::open(fixture.device(&volume).unwrap()).unwrap();
    let request = || NodeUnstageVolumeRequest { volume_id: volume.clone(), staging_target_path: staging.clone() };
    let refused = fixture.layer.node_unstage_volume(Request::new(request())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    drop(visitor);
    fixture.layer.node_unstage_volume(Request::new(request())).await.unwrap();
    assert_eq!(bench.attached(), Vec::<String>::new());
}

/// A volume with a file system: its snapshot, copies of both, and growth.
async fn mounted(fixture: &Fixture, fs_type: FsType) {
    let writer = || mount(fs_type, Mode::SingleNodeMultiWriter);
    let name = |part: &str| format!("{fs_type}-{part}");
    let volume = fixture.create(&name("a"), SIZE, writer(), None).await;
    let (staging, target) = (fixture.staging(&name("staging")), fixture.path(&name("target")));
    fixture.stage(&volume, &staging, writer()).await;
    fixture.publish(&volume, &staging, &target, writer(), false).await;
    let bytes = pattern(1, 1 << 20);
    fs::write(format!("{target}/data"), &bytes).unwrap();
    let snapshot = fixture.snapshot(&name("s"), &volume).await;
    fs::write(format!("{target}/data"), "changed").unwrap();

    // Beside their source, larger than it; one by its snapshot, one by itself, one for readers.
    let mut copies = Vec::new();
    for (part, source, mode, expected) in [
        ("restored", from_snapshot(&snapshot), Mode::SingleNodeMultiWriter, bytes.as_slice()),
        ("cloned", from_volume(&volume), Mode::SingleNodeMultiWriter, b"changed".as_slice()),
        ("readers", from_snapshot(&snapshot), Mode::MultiNodeReaderOnly, bytes.as_slice()),
    ] {
        let copy = fixture.create(&name(part), SIZE * 2, mount(fs_type, mode), source).await;
        let staging = fixture.staging(&name(part));
        fixture.stage(&copy, &staging, mount(fs_type, mode)).await;
        assert_eq!(fs::read(format!("{staging}/data")).unwrap(), expected, "{fs_type} {part}");
        assert!(fixture.total_bytes(&copy, &staging).await > SIZE + SIZE / 2, "{fs_type} {part}");
        let writable = fs::write(format!("{staging}/new"), "x").is_ok();
        assert_eq!(writable, mode != Mode::MultiNodeReaderOnly, "{fs_type} {part}");
        copies.push((copy, staging));
    }
    let (restored, restored_staging) = &copies[0];
    let expanded = fixture.expand(restored, restored_staging, SIZE * 3).await;
    if fs_type == FsType::Ext4 && !is_mounted_ext4_grown() {
        assert_eq!(expanded, Err(Code::Internal));
    } else {
        assert_eq!(expanded, Ok(()), "{fs_type}");
        assert!(fixture.total_bytes(restored, restored_staging).await > SIZE * 5 / 2, "{fs_type}");
    }
    for (copy, staging) in &copies {
        fixture.take_down(copy, None, staging).await;
    }
    fixture.take_down(&volume, Some(&target), &staging).await;
    let request = DeleteSnapshotRequest { snapshot_id: snapshot, ..Default::default() };
    fixture.layer.delete_snapshot(Request::new(request)).await.unwrap();
}

/// A volume without one.
async fn raw(fixture: &Fixture) {
    let raw = fixture.create("raw", SIZE, block(Mode::SingleNodeWriter), None).await;
    let (staging, target) = (fixture.staging("raw"), fixture.path("device"));
    fixture.stage(&raw, &staging, block(Mode::SingleNodeWriter)).await;
    fixture.publish(&raw, &staging, &target, block(Mode::SingleNodeWriter), false).await;
    assert!(fs::metadata(&target).unwrap().file_type().is_block_device());
    assert_eq!(fixture.total_bytes(&raw, &target).await, SIZE);
    fixture.expand(&raw, &target, SIZE * 2).await.unwrap();
    let bytes = pattern(2, 8192);
    let device = fs::OpenOptions::new().write(true).open(&target).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&device, &bytes, SIZE.unsigned_abs() * 2 - 8192).unwrap();
    // The page cache of the device is flushed for the cut.
    let snapshot = fixture.snapshot("raw", &raw).await;
    drop(device);
    let readers = || block(Mode::MultiNodeReaderOnly);
    let copy = fixture.create("raw-readers", SIZE * 2, readers(), from_snapshot(&snapshot)).await;
    let (copy_staging, copy_target) = (fixture.staging("raw-readers"), fixture.path("device-readers"));
    fixture.stage(&copy, &copy_staging, readers()).await;
    fixture.publish(&copy, &copy_staging, &copy_target, readers(), true).await;
    let mut read = vec![0; bytes.len()];
    let device = fs::File::open(&copy_target).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&device, &mut read, SIZE.unsigned_abs() * 2 - 8192).unwrap();
    assert!(read == bytes);
    // The kernel lets a read-only device be opened for writing, and refuses to write.
    let writer = fs::OpenOptions::new().write(true).open(&copy_target);
    assert!(writer.and_then(|writer| std::os::unix::fs::FileExt::write_all_at(&writer, &bytes, 0)).is_err());
    drop(device);
    fixture.take_down(&copy, Some(&copy_target), &copy_staging).await;
    fixture.take_down(&raw, Some(&target), &staging).await;
    let request = DeleteSnapshotRequest { snapshot_id: snapshot, ..Default::default() };
    fixture.layer.delete_snapshot(Request::new(request)).await.unwrap();
}
