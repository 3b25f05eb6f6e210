//! Binds, mount options, and paths that are not there.

use windlass::block::device;
use windlass::block::loop_device::{self};
use windlass::mount::path::{NodeKind, Root};
use windlass::mount::system::SystemMounter;
use windlass::mount::{MountError, Mounter, boot_id, topmost};
use windlass::types::{Access, FsType};

use crate::basics::MIB;
use crate::formatted;
use crate::root_support::{Sandbox, request};

#[test]
fn volumes_and_devices_are_bound_with_the_access_asked_for() {
    let sandbox = Sandbox::new();
    let mounter = SystemMounter::new();
    let (_file, device) = formatted(&sandbox, "volume", 64 * MIB, FsType::Ext4);
    let stage = sandbox.directory("stage");
    mounter.mount(&request(&device, &stage, FsType::Ext4, Access::ReadWrite)).unwrap();
    std::fs::write(stage.join("file"), b"x").unwrap();
    let root = Root::open(&sandbox.directory("pods")).unwrap();
    let path = |name: &str| sandbox.path("pods").join(name);

    for (name, access) in [("writable", Access::ReadWrite), ("read-only", Access::ReadOnly)] {
        for _ in 0..2 {
            // Through the descriptor, as requests are served.
            let target = root.create(&path(name), NodeKind::Directory).unwrap();
            mounter.bind(&stage, &target.target(), access, &["noexec".to_owned()]).unwrap();
        }
        let entries = mounter.mounts().unwrap();
        assert_eq!(entries.iter().filter(|entry| entry.mount_point == path(name)).count(), 1);
        let entry = topmost(&entries)[path(name).as_path()];
        assert_eq!(entry.access(), access);
        assert!(entry.options.iter().any(|option| option == "noexec"));
        assert_eq!(std::fs::write(path(name).join("file"), b"y").is_ok(), access == Access::ReadWrite);
    }
    let other = root.resolve(&path("read-only")).unwrap();
    assert!(matches!(mounter.bind(&stage, &other.target(), Access::ReadWrite, &[]), Err(MountError::Busy(_))));
    drop(other);

    let block = root.create(&path("block"), NodeKind::File).unwrap();
    for _ in 0..2 {
        mounter.bind(&device.path, &block.target(), Access::ReadWrite, &[]).unwrap();
    }
    drop(block);
    assert_eq!(device::number(&path("block")).unwrap(), mounter.device_number(&device.path).unwrap());
    // Made again while bound, it is taken as it is.
    drop(root.create(&path("block"), NodeKind::File).unwrap());

    for name in ["writable", "read-only", "block"] {
        assert!(matches!(root.remove(&path(name)), Err(MountError::Busy(_))));
        for _ in 0..2 {
            let target = root.resolve(&path(name)).unwrap().into_unmount_target();
            mounter.unmount(&target.path()).unwrap();
        }
        root.remove(&path(name)).unwrap();
    }
    mounter.unmount(&stage).unwrap();
    loop_device::detach(&device).unwrap();
}

#[test]
fn options_reach_the_file_system_and_bad_ones_change_nothing() {
    let sandbox = Sandbox::new();
    let mounter = SystemMounter::new();
    let (_file, device) = formatted(&sandbox, "volume", 64 * MIB, FsType::Ext4);
    let target = sandbox.directory("mount");
    let with = |options: &[&str]| {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        mounter.mount(&windlass::mount::MountRequest { options, ..request(&device, &target, FsType::Ext4, Access::ReadWrite) })
    };
    assert!(
        matches!(with(&["noatime", "journal_path=/dev/sda"]), Err(MountError::Option(option)) if option.0.starts_with("journal_path"))
    );
    assert!(matches!(with(&["noatime", "no-such-option"]), Err(MountError::Option(option)) if option.0 == "no-such-option"));
    let refused = with(&["noatime", "discard", "commit=soon"]).unwrap_err();
    assert!(matches!(&refused, MountError::OptionRefused { option, .. } if option == "commit=soon"), "{refused}");
    assert!(mounter.mounts().unwrap().iter().all(|entry| entry.mount_point != target));
    with(&["noatime,nodev", "data=writeback"]).unwrap();
    let entries = mounter.mounts().unwrap();
    let entry = topmost(&entries)[target.as_path()];
    for option in ["noatime", "nodev"] {
        assert!(entry.options.iter().any(|present| present == option));
    }
    assert!(entry.super_options.iter().any(|option| option == "data=writeback"));
    mounter.unmount(&target).unwrap();
    loop_device::detach(&device).unwrap();
}

#[test]
fn what_does_not_exist_is_not_found() {
    let sandbox = Sandbox::new();
    let mounter = SystemMounter::new();
    let missing = sandbox.path("missing");
    let (_file, device) = formatted(&sandbox, "volume", 64 * MIB, FsType::Ext4);
    assert!(matches!(mounter.stats(&missing), Err(MountError::NotFound(_))));
    assert!(matches!(mounter.probe(&missing), Err(MountError::NotFound(_))));
    assert!(matches!(mounter.device_number(&missing), Err(MountError::NotFound(_))));
    assert!(matches!(mounter.device_number(&sandbox.path("volume")), Err(MountError::Io { .. })));
    let nowhere = mounter.mount(&request(&device, &missing, FsType::Ext4, Access::ReadWrite));
    assert!(matches!(nowhere, Err(MountError::NotFound(_))), "{nowhere:?}");
    mounter.unmount(&missing).unwrap();
    assert_eq!(boot_id().unwrap().len(), 36);
    loop_device::detach(&device).unwrap();
}
