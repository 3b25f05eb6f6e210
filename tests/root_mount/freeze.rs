//! Freeze and thaw.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use windlass::block::loop_device::{self};
use windlass::mount::system::SystemMounter;
use windlass::mount::{Freeze, MountError, Mounter};
use windlass::types::{Access, FsType};

use crate::basics::MIB;
use crate::root_support::{Sandbox, request};
use crate::{formatted, smallest};

#[test]
fn a_frozen_file_system_is_told_from_one_that_others_froze() {
    let sandbox = Sandbox::new();
    let mounter = SystemMounter::new();
    for fs_type in FsType::ALL {
        let (_file, device) = formatted(&sandbox, fs_type.name(), smallest(fs_type), fs_type);
        let target = sandbox.directory(&format!("{fs_type}-mount"));
        mounter.mount(&request(&device, &target, fs_type, Access::ReadWrite)).unwrap();
        let mounted = mounter.open_mounted(&device.path).unwrap().unwrap();
        mounted.thaw().unwrap();
        assert_eq!(mounted.freeze().unwrap(), Freeze::Ours);
        assert_eq!(mounted.freeze().unwrap(), Freeze::Foreign);
        mounted.thaw().unwrap();
        mounted.thaw().unwrap();
        drop(mounted);
        std::fs::write(target.join("file"), b"live again").unwrap();
        mounter.flush_device(&device.path).unwrap();
        mounter.unmount(&target).unwrap();
        loop_device::detach(&device).unwrap();
    }
}

#[test]
fn a_freeze_and_its_thaw_are_of_the_volume_whatever_becomes_of_its_mount() {
    let sandbox = Sandbox::new();
    let mounter = SystemMounter::new();
    let (_file, device) = formatted(&sandbox, "volume", 64 * MIB, FsType::Ext4);
    let target = sandbox.directory("mount");
    let mount = || mounter.mount(&request(&device, &target, FsType::Ext4, Access::ReadWrite)).unwrap();
    let umount = |arguments: &[&str]| assert!(Command::new("umount").args(arguments).arg(&target).status().unwrap().success());
    mount();
    let mounted = mounter.open_mounted(&device.path).unwrap().unwrap();
    umount(&["--lazy"]);
    assert_eq!(mounted.freeze().unwrap(), Freeze::Ours);
    std::fs::write(target.join("beneath"), b"not frozen").unwrap();
    // The same file system, mounted anew: it is this one that is frozen, and thawed.
    mount();
    assert_eq!(mounter.open_mounted(&device.path).unwrap().unwrap().freeze().unwrap(), Freeze::Foreign);
    mounted.thaw().unwrap();
    std::fs::write(target.join("file"), b"live again").unwrap();
    drop(mounted);

    // A bind of a file, or of a directory, and nothing else: still this volume. What covers it is not it.
    let (file, part) = (sandbox.path("bound-file"), sandbox.directory("bound-part"));
    File::create(&file).unwrap();
    std::fs::create_dir(target.join("part")).unwrap();
    for (from, to) in [(target.join("file"), &file), (target.join("part"), &part)] {
        mounter.bind(&from, to, Access::ReadWrite, &[]).unwrap();
    }
    assert_eq!(mounter.open_mounted(&device.path).unwrap().unwrap().mount_point(), target);
    let covered = Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&target).status().unwrap();
    assert!(covered.success());
    for gone in [&part, &file] {
        let mounted = mounter.open_mounted(&device.path).unwrap().unwrap();
        assert!([&part, &file].map(PathBuf::as_path).contains(&mounted.mount_point()));
        assert_eq!(mounted.freeze().unwrap(), Freeze::Ours);
        mounted.thaw().unwrap();
        drop(mounted);
        mounter.unmount(gone).unwrap();
    }
    assert!(matches!(mounter.open_mounted(&device.path), Err(MountError::Unsound { .. })));
    umount(&[]);
    umount(&[]);
    assert!(mounter.open_mounted(&device.path).unwrap().is_none());
    loop_device::detach(&device).unwrap();
}
