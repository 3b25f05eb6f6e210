#![cfg(feature = "root-tests")]
//! Making, mounting, growing, freezing and copying file systems, and pool images, on the real kernel. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../support/basics.rs"]
mod basics;
#[path = "../support/root_support/mod.rs"]
mod root_support;

mod bind;
mod copies;
mod format;
mod freeze;
mod image;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use basics::MIB;
use root_support::{Sandbox, attach, pattern, request, sparse_file};
use windlass::block::file_ops;
use windlass::block::loop_device::{self, LoopDevice, LoopError};
use windlass::mount::system::SystemMounter;
use windlass::mount::{Formatting, MountError, Mounter, Probe, topmost};
use windlass::types::error::chain;
use windlass::types::{Access, FsType};

fn smallest(fs_type: FsType) -> u64 {
    fs_type.minimum_bytes()
}

fn formatted(sandbox: &Sandbox, name: &str, bytes: u64, fs_type: FsType) -> (File, LoopDevice) {
    let file = sparse_file(&sandbox.path(name), bytes);
    let device = attach(&file, Access::ReadWrite);
    SystemMounter::new().make_file_system(&device.path, fs_type, Formatting::Blank).unwrap();
    (file, device)
}

/// The checker of each file system finds nothing. The device must not be mounted.
fn assert_clean(device: &Path, fs_type: FsType) {
    let (program, arguments): (_, &[&str]) = match fs_type {
        FsType::Ext4 => ("e2fsck", &["-f", "-n"]),
        FsType::Xfs => ("xfs_repair", &["-n"]),
        FsType::Btrfs => ("btrfs", &["check", "--readonly"]),
    };
    let output = Command::new(program).args(arguments).arg(device).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stdout));
}

/// Whether this process has CAP_SYS_RESOURCE, without which the kernel does not grow a mounted ext4.
fn may_grow_mounted_ext4() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() & 1 << CAP_SYS_RESOURCE != 0
}

#[test]
fn a_file_system_is_made_found_mounted_grown_and_clean() {
    let sandbox = Sandbox::new();
    let mounter = SystemMounter::new();
    for fs_type in FsType::ALL {
        let bytes = smallest(fs_type);
        let file = sparse_file(&sandbox.path(fs_type.name()), bytes);
        let device = attach(&file, Access::ReadWrite);
        assert_eq!(mounter.probe(&device.path).unwrap(), Probe::Blank);
        mounter.make_file_system(&device.path, fs_type, Formatting::Blank).unwrap();
        assert_eq!(mounter.probe(&device.path).unwrap(), Probe::FileSystem(fs_type));
        let used = file.metadata().unwrap().blocks() * 512;
        assert!(used < 80 * MIB, "a fresh {fs_type} takes {used} bytes");

        let target = sandbox.directory(&format!("{fs_type}-mount"));
        for _ in 0..2 {
            mounter.mount(&request(&device, &target, fs_type, Access::ReadWrite)).unwrap();
        }
        let entries = mounter.mounts().unwrap();
        assert_eq!(entries.iter().filter(|entry| entry.mount_point == target).count(), 1);
        let entry = topmost(&entries)[target.as_path()];
        assert!(entry.shows(&device.path, mounter.device_number(&device.path).unwrap()));
        assert_eq!(entry.fs_type.as_str(), fs_type.name(), "`entry.fs_type`");
        assert_eq!(entry.access(), Access::ReadWrite, "`entry.access()`");
        let content = pattern(5, 2 << 20);
        std::fs::write(target.join("file"), &content).unwrap();

        let before = mounter.stats(&target).unwrap();
        assert!(
            before.total_bytes > 0
                && before.available_bytes > 0
                && before.used_bytes + before.available_bytes <= before.total_bytes
        );
        file_ops::set_len_sync(&file, bytes * 2).unwrap();
        loop_device::refresh_capacity(&device).unwrap();
        for _ in 0..2 {
            let grown = mounter.grow(&device.path, &target, fs_type);
            if fs_type == FsType::Ext4 && !may_grow_mounted_ext4() {
                // Not the machine this is meant for; the rest of the test still holds.
                let error = chain(&grown.unwrap_err());
                assert!(error.contains("CAP_SYS_RESOURCE"), "{error}");
                println!("NOT CHECKED: growing a mounted ext4 (this process lacks CAP_SYS_RESOURCE)");
            } else {
                grown.unwrap();
            }
        }
        let after = mounter.stats(&target).unwrap();
        let expected = fs_type != FsType::Ext4 || may_grow_mounted_ext4();
        assert!(!expected || after.total_bytes >= before.total_bytes + bytes / 2, "{fs_type}: {before:?} {after:?}");
        mounter.open_mounted(&device.path).unwrap().unwrap().sync().unwrap();

        let user = File::open(target.join("file")).unwrap();
        assert!(matches!(mounter.unmount(&target), Err(MountError::Busy(path)) if path == target));
        assert!(matches!(loop_device::detach(&device), Err(LoopError::Busy(_))));
        drop(user);
        // A refused detach changed nothing: the device is still there for those who use it.
        assert_eq!(std::fs::read(target.join("file")).unwrap(), content);
        assert!(!loop_device::find(&file).unwrap()[0].vanishing);
        for _ in 0..2 {
            mounter.unmount(&target).unwrap();
        }
        assert_clean(&device.path, fs_type);
        loop_device::detach(&device).unwrap();
    }
}

#[test]
fn an_unmounted_ext4_is_grown_with_its_journal_replayed() {
    let sandbox = Sandbox::new();
    let mounter = SystemMounter::new();
    let (file, device) = formatted(&sandbox, "volume", 64 * MIB, FsType::Ext4);
    let target = sandbox.directory("mount");
    mounter.mount(&request(&device, &target, FsType::Ext4, Access::ReadWrite)).unwrap();
    std::fs::write(target.join("file"), b"kept").unwrap();
    assert!(matches!(mounter.grow_unmounted(&device.path, FsType::Ext4), Err(MountError::Busy(_))));
    // What a restore of a snapshot brings: a copy of a mounted file system, in a larger volume.
    File::open(target.join("file")).unwrap().sync_all().unwrap();
    let copy = sandbox.path("copy");
    std::fs::copy(sandbox.path("volume"), &copy).unwrap();
    mounter.unmount(&target).unwrap();
    loop_device::detach(&device).unwrap();
    drop(file);

    let file = OpenOptions::new().read(true).write(true).open(&copy).unwrap();
    file_ops::set_len_sync(&file, 256 * MIB).unwrap();
    let device = attach(&file, Access::ReadWrite);
    for _ in 0..2 {
        mounter.grow_unmounted(&device.path, FsType::Ext4).unwrap();
    }
    mounter.mount(&request(&device, &target, FsType::Ext4, Access::ReadWrite)).unwrap();
    assert!(mounter.stats(&target).unwrap().total_bytes > 200 * MIB);
    assert_eq!(std::fs::read(target.join("file")).unwrap(), b"kept");
    mounter.unmount(&target).unwrap();
    assert_clean(&device.path, FsType::Ext4);
    loop_device::detach(&device).unwrap();
}

#[test]
fn an_ext4_that_recorded_errors_is_checked_before_it_is_mounted_and_never_while_it_is() {
    let sandbox = Sandbox::new();
    let mounter = SystemMounter::new();
    let (file, device) = formatted(&sandbox, "volume", 64 * MIB, FsType::Ext4);
    let target = sandbox.directory("mount");
    let mount = |options: &[&str]| {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let request = request(&device, &target, FsType::Ext4, Access::ReadWrite);
        mounter.mount(&windlass::mount::MountRequest { options, ..request }).unwrap();
    };
    let entry = || topmost(&mounter.mounts().unwrap())[target.as_path()].clone();
    mount(&["errors=remount-ro"]);
    std::fs::write(target.join("file"), b"kept").unwrap();
    File::open(target.join("file")).unwrap().sync_all().unwrap();
    entry().check_usable(Access::ReadWrite).unwrap();
    std::fs::write(format!("/sys/fs/ext4/loop{}/trigger_fs_error", device.number), b"by the test").unwrap();
    assert!(matches!(entry().check_usable(Access::ReadWrite), Err(MountError::Unsound { .. })), "{:?}", entry());
    entry().check_usable(Access::ReadOnly).unwrap();
    assert!(matches!(mounter.check(&device.path, FsType::Ext4), Err(MountError::Busy(_))));
    mounter.unmount(&target).unwrap();

    let state = |device: &Path| {
        let output = Command::new("dumpe2fs").arg("-h").arg(device).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().find_map(|line| line.strip_prefix("Filesystem state:")).unwrap().trim().to_owned()
    };
    assert_eq!(state(&device.path), "clean with errors");
    // A device that cannot be written is left as it is.
    std::fs::copy(sandbox.path("volume"), sandbox.path("copy")).unwrap();
    let reader = attach(&File::open(sandbox.path("copy")).unwrap(), Access::ReadOnly);
    mounter.check(&reader.path, FsType::Ext4).unwrap();
    assert_eq!(state(&reader.path), "clean with errors");
    loop_device::detach(&reader).unwrap();
    for _ in 0..2 {
        mounter.check(&device.path, FsType::Ext4).unwrap();
        assert_eq!(state(&device.path), "clean");
    }
    mount(&[]);
    entry().check_usable(Access::ReadWrite).unwrap();
    assert_eq!(std::fs::read(target.join("file")).unwrap(), b"kept");
    mounter.unmount(&target).unwrap();
    assert_clean(&device.path, FsType::Ext4);
    loop_device::detach(&device).unwrap();
    drop(file);
}
