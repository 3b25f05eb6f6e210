//! Copies of a file system beside their source.

use std::fs::File;
use std::process::Command;

use windlass::block::loop_device::{self};
use windlass::block::reflink;
use windlass::mount::system::SystemMounter;
use windlass::mount::{Formatting, Freeze, MountError, Mounter};
use windlass::types::{Access, FsType};

use crate::root_support::{Sandbox, attach, pattern, request, sparse_file};
use crate::{assert_clean, smallest};

#[test]
fn clones_are_mounted_beside_their_source() {
    let sandbox = Sandbox::new();
    let mounter = SystemMounter::new();
    let pool = sandbox.pool(FsType::Xfs);
    for fs_type in FsType::ALL {
        let path = |name: &str| pool.directory().join(format!("{fs_type}-{name}"));
        let source = sparse_file(&path("source"), smallest(fs_type));
        let source_device = attach(&source, Access::ReadWrite);
        mounter.make_file_system(&source_device.path, fs_type, Formatting::Blank).unwrap();
        let source_mount = sandbox.directory(&format!("{fs_type}-source"));
        mounter.mount(&request(&source_device, &source_mount, fs_type, Access::ReadWrite)).unwrap();
        let content = pattern(8, 1 << 20);
        std::fs::write(source_mount.join("file"), &content).unwrap();

        // A consistent cut: synced, frozen, cloned, thawed.
        let mounted = mounter.open_mounted(&source_device.path).unwrap().unwrap();
        mounted.sync().unwrap();
        assert_eq!(mounted.freeze().unwrap(), Freeze::Ours);
        let (writable, snapshot) = (sparse_file(&path("writable"), 0), sparse_file(&path("snapshot"), 0));
        reflink::clone_file(&source, &writable).unwrap();
        reflink::clone_file(&source, &snapshot).unwrap();
        mounted.thaw().unwrap();
        std::fs::write(source_mount.join("file"), b"changed").unwrap();
        mounted.sync().unwrap();
        drop(mounted);

        let clone_device = attach(&writable, Access::ReadWrite);
        for _ in 0..2 {
            mounter.renew_identity(&clone_device.path, fs_type).unwrap();
        }
        let clone_mount = sandbox.directory(&format!("{fs_type}-clone"));
        mounter.mount(&request(&clone_device, &clone_mount, fs_type, Access::ReadWrite)).unwrap();
        assert_eq!(std::fs::read(clone_mount.join("file")).unwrap(), content, "{fs_type}");
        std::fs::write(clone_mount.join("own"), b"own").unwrap();
        assert_eq!(std::fs::read(source_mount.join("file")).unwrap(), b"changed");

        // Read-only, straight from the snapshot, whose device cannot be written.
        let snapshot_device = attach(&File::open(path("snapshot")).unwrap(), Access::ReadOnly);
        let snapshot_mount = sandbox.directory(&format!("{fs_type}-snapshot"));
        mounter.mount(&request(&snapshot_device, &snapshot_mount, fs_type, Access::ReadOnly)).unwrap();
        assert_eq!(std::fs::read(snapshot_mount.join("file")).unwrap(), content, "{fs_type}");
        assert!(std::fs::write(snapshot_mount.join("file"), b"x").is_err());

        for (mount_point, device) in
            [(&snapshot_mount, &snapshot_device), (&clone_mount, &clone_device), (&source_mount, &source_device)]
        {
            mounter.unmount(mount_point).unwrap();
            if device.access == Access::ReadWrite {
                assert_clean(&device.path, fs_type);
            }
            loop_device::detach(device).unwrap();
        }
    }
    pool.close().unwrap();
}

#[test]
fn a_copy_of_a_btrfs_with_a_log_tree_mounts_beside_its_source_with_what_was_fsynced() {
    let sandbox = Sandbox::new();
    let mounter = SystemMounter::new();
    let pool = sandbox.pool(FsType::Xfs);
    let path = |name: &str| pool.directory().join(name);
    let source = sparse_file(&path("source"), smallest(FsType::Btrfs));
    let source_device = attach(&source, Access::ReadWrite);
    mounter.make_file_system(&source_device.path, FsType::Btrfs, Formatting::Blank).unwrap();
    let source_mount = sandbox.directory("source");
    mounter.mount(&request(&source_device, &source_mount, FsType::Btrfs, Access::ReadWrite)).unwrap();
    std::fs::write(source_mount.join("committed"), pattern(1, 1 << 20)).unwrap();
    mounter.open_mounted(&source_device.path).unwrap().unwrap().sync().unwrap();
    let content = pattern(2, 1 << 20);
    std::fs::write(source_mount.join("fsynced"), &content).unwrap();
    File::open(source_mount.join("fsynced")).unwrap().sync_all().unwrap();

    // What a power cut would leave, and a snapshot of a volume that is used raw.
    let copy = sparse_file(&path("copy"), 0);
    reflink::clone_file(&source, &copy).unwrap();
    let device = attach(&copy, Access::ReadWrite);
    let dump = || {
        let output = Command::new("btrfs").args(["inspect-internal", "dump-super"]).arg(&device.path).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let field = |dump: &str, name: &str| {
        let line = dump.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t')).unwrap();
        line.trim().to_owned()
    };
    let before = dump();
    assert_ne!(field(&before, "log_root"), "0", "the copy was to have a log tree");
    for _ in 0..2 {
        mounter.renew_identity(&device.path, FsType::Btrfs).unwrap();
    }
    let after = dump();
    assert_ne!(field(&after, "fsid"), field(&before, "fsid"));
    for kept in ["generation", "root", "log_root"] {
        assert_eq!(field(&after, kept), field(&before, kept));
    }
    let target = sandbox.directory("copy");
    mounter.mount(&request(&device, &target, FsType::Btrfs, Access::ReadWrite)).unwrap();
    assert!(matches!(mounter.renew_identity(&device.path, FsType::Btrfs), Err(MountError::Busy(_))));
    assert_eq!(std::fs::read(target.join("fsynced")).unwrap(), content);
    assert_eq!(std::fs::read(target.join("committed")).unwrap(), pattern(1, 1 << 20));
    std::fs::write(target.join("own"), b"own").unwrap();
    assert_eq!(std::fs::read(source_mount.join("fsynced")).unwrap(), content);
    for (mount_point, device) in [(&target, &device), (&source_mount, &source_device)] {
        mounter.unmount(mount_point).unwrap();
        assert_clean(&device.path, FsType::Btrfs);
        loop_device::detach(device).unwrap();
    }
    drop((source, copy));
    pool.close().unwrap();
}
