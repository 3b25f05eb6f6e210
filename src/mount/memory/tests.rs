use std::io;
use std::path::{Path, PathBuf};

use super::*;
use crate::mount::{Formatting, Freeze, MountError, MountRequest, Mounter, Probe};
use crate::types::{Access, FsType};

struct Fixture {
    directory: tempfile::TempDir,
    mounter: MemoryMounter,
}

impl Fixture {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), mounter: MemoryMounter::new() }
    }

    fn target(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn mount(&self, device: &str, target: &Path, fs_type: FsType) -> Result<(), MountError> {
        let (device, target) = (device.into(), target.to_owned());
        self.mounter.mount(&MountRequest { device, target, fs_type, options: Vec::new(), access: Access::ReadWrite })
    }
}

const DEVICE: &str = "/dev/volume-a";

#[test]
fn a_volume_is_made_staged_published_and_taken_down() {
    let fixture = Fixture::new();
    let (stage, publish) = (fixture.target("stage"), fixture.target("publish"));
    assert!(fixture.mount(DEVICE, &stage, FsType::Ext4).is_err());
    fixture.mounter.make_file_system(Path::new(DEVICE), FsType::Ext4, Formatting::Blank).unwrap();
    for _ in 0..2 {
        fixture.mount(DEVICE, &stage, FsType::Ext4).unwrap();
        fixture.mounter.bind(&stage, &publish, Access::ReadOnly, &[]).unwrap();
    }
    let mounts = fixture.mounter.mounts().unwrap();
    assert_eq!(mounts.len(), 2);
    let number = fixture.mounter.device_number(Path::new(DEVICE)).unwrap();
    assert!(mounts.iter().all(|entry| entry.shows(Path::new(DEVICE), number)));
    assert_eq!((mounts[0].access(), mounts[1].access()), (Access::ReadWrite, Access::ReadOnly));
    let opened = fixture.mounter.open_mounted(Path::new(DEVICE)).unwrap().unwrap();
    assert_eq!(opened.freeze().unwrap(), Freeze::Ours);
    assert_eq!(opened.freeze().unwrap(), Freeze::Foreign);
    opened.thaw().unwrap();
    for _ in 0..2 {
        fixture.mounter.unmount(&publish).unwrap();
        fixture.mounter.unmount(&stage).unwrap();
    }
    assert!(fixture.mounter.mounts().unwrap().is_empty());
    assert!(fixture.mounter.open_mounted(Path::new(DEVICE)).unwrap().is_none());
}

#[test]
fn a_device_with_content_is_not_formatted() {
    let mounter = MemoryMounter::new();
    let device = Path::new(DEVICE);
    mounter.set_content(device, Probe::Other("swap space".to_owned()));
    for over in [Formatting::Blank, Formatting::Unfinished] {
        assert!(matches!(mounter.make_file_system(device, FsType::Xfs, over), Err(MountError::NotBlank { .. })));
    }
}

#[test]
fn a_btrfs_copy_mounts_beside_its_source_only_with_an_identity_of_its_own() {
    let fixture = Fixture::new();
    let copy = "/dev/volume-b";
    fixture.mounter.make_file_system(Path::new(DEVICE), FsType::Btrfs, Formatting::Blank).unwrap();
    fixture.mounter.copy_content(Path::new(DEVICE), Path::new(copy));
    fixture.mount(DEVICE, &fixture.target("a"), FsType::Btrfs).unwrap();
    assert!(fixture.mount(copy, &fixture.target("b"), FsType::Btrfs).is_err());
    fixture.mounter.renew_identity(Path::new(copy), FsType::Btrfs).unwrap();
    fixture.mount(copy, &fixture.target("b"), FsType::Btrfs).unwrap();
}

#[test]
fn injected_failures_are_used_up_in_order() {
    let fixture = Fixture::new();
    let target = fixture.target("a");
    fixture.mounter.fail_next(Verb::Unmount, Failure::Busy);
    fixture.mounter.fail_next(Verb::Unmount, Failure::Io(io::ErrorKind::Other));
    assert!(matches!(fixture.mounter.unmount(&target), Err(MountError::Busy(_))));
    assert!(matches!(fixture.mounter.unmount(&target), Err(MountError::Io { .. })));
    fixture.mounter.unmount(&target).unwrap();
    assert_eq!(fixture.mounter.count(Verb::Unmount), 3);
}
