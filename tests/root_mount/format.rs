//! What is blank, and may be formatted; everything else may not.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::process::Command;

use windlass::block::loop_device::{self};
use windlass::mount::system::SystemMounter;
use windlass::mount::{Formatting, MountError, Mounter, Probe};
use windlass::types::{Access, FsType};

use crate::basics::MIB;
use crate::root_support::{Sandbox, attach, sparse_file};
use crate::{assert_clean, formatted, smallest};

#[test]
fn nothing_is_formatted_over() {
    let sandbox = Sandbox::new();
    let mounter = SystemMounter::new();
    for found in FsType::ALL {
        let (_file, device) = formatted(&sandbox, found.name(), 400 * MIB, found);
        for wanted in FsType::ALL {
            let first = mounter.make_file_system(&device.path, wanted, Formatting::Blank);
            assert!(matches!(first, Err(MountError::NotBlank { .. })), "{wanted} over {found}: {first:?}");
            let again = mounter.make_file_system(&device.path, wanted, Formatting::Unfinished);
            assert_eq!(again.is_ok(), wanted == found, "{wanted} over {found}: {again:?}");
        }
        assert_eq!(mounter.probe(&device.path).unwrap(), Probe::FileSystem(found));
        assert_clean(&device.path, found);
        loop_device::detach(&device).unwrap();
    }
}

#[test]
fn the_remains_of_an_interrupted_attempt_are_formatted_again() {
    let sandbox = Sandbox::new();
    let mounter = SystemMounter::new();
    for fs_type in FsType::ALL {
        let (_file, device) = formatted(&sandbox, fs_type.name(), smallest(fs_type), fs_type);
        // The programs write the superblock last.
        let node = OpenOptions::new().write(true).open(&device.path).unwrap();
        let superblock = if fs_type == FsType::Btrfs { 65_536 } else { 0 };
        node.write_all_at(&[0; 4096], superblock).unwrap();
        node.write_all_at(&[0xff; 512], 32 * 1024).unwrap();
        drop(node);
        let first = mounter.make_file_system(&device.path, fs_type, Formatting::Blank);
        assert!(matches!(first, Err(MountError::NotBlank { .. })), "{fs_type}: {first:?}");
        mounter.make_file_system(&device.path, fs_type, Formatting::Unfinished).unwrap();
        assert_eq!(mounter.probe(&device.path).unwrap(), Probe::FileSystem(fs_type));
        assert_clean(&device.path, fs_type);
        loop_device::detach(&device).unwrap();
    }
}

#[test]
fn one_byte_anywhere_in_the_probed_places_is_content() {
    let sandbox = Sandbox::new();
    let mounter = SystemMounter::new();
    let file = sparse_file(&sandbox.path("volume"), 64 * MIB);
    let device = attach(&file, Access::ReadWrite);
    let node = OpenOptions::new().write(true).open(&device.path).unwrap();
    for offset in [0, 511, 65_000, MIB - 1, 63 * MIB, 64 * MIB - 1] {
        // Through the page cache of the device, unsynced: the probe must see it all the same.
        node.write_all_at(&[1], offset).unwrap();
        assert_eq!(mounter.probe(&device.path).unwrap(), Probe::Other("unknown data".to_owned()), "{offset}");
        node.write_all_at(&[0], offset).unwrap();
        assert_eq!(mounter.probe(&device.path).unwrap(), Probe::Blank, "{offset}");
    }
    drop(node);
    loop_device::detach(&device).unwrap();
}

#[test]
fn what_other_programs_make_is_not_taken_for_blank() {
    let sandbox = Sandbox::new();
    let mounter = SystemMounter::new();
    let probe = |name: &str, program: &str, arguments: &[&str]| {
        let file = sparse_file(&sandbox.path(name), 64 * MIB);
        let output = Command::new(program).args(arguments).arg(sandbox.path(name)).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        let device = attach(&file, Access::ReadWrite);
        let found = mounter.probe(&device.path).unwrap();
        loop_device::detach(&device).unwrap();
        found
    };
    assert_eq!(probe("ext2", "mkfs.ext2", &["-q", "-F"]), Probe::Other("ext2".to_owned()));
    assert_eq!(probe("ext3", "mkfs.ext3", &["-q", "-F"]), Probe::Other("ext3".to_owned()));
    assert_eq!(probe("ext4", "mkfs.ext4", &["-q", "-F", "-b", "1024"]), Probe::FileSystem(FsType::Ext4));
    assert_eq!(probe("swap", "mkswap", &["-q"]), Probe::Other("swap space".to_owned()));
}
