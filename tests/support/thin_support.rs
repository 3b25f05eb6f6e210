//! What the tests of thin pools share: the virtual machine's disks, pools on them, and objects in those.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test support; no test uses all of it")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use windlass::block::device;
use windlass::dm::units::Sectors;
use windlass::dm::{DeviceMapper, DeviceNumber, DmName, DmUuid, FileSystem, Flush, Removal, SuspendOptions, Target, TargetKind};
use windlass::pool::owned::OwnedPool;
use windlass::pool::quiesce::NothingToHold;
use windlass::pool::record::{Snapshot, Volume};
use windlass::pool::thin::devices::LabelledDevice;
use windlass::pool::thin::format::{CreateOptions, DevicePaths, Others};
use windlass::pool::thin::{create_pool, open_pool};
use windlass::types::{Access, NewVolume, Object, PoolId};

use crate::basics;
#[allow(unused_imports, reason = "no test uses all of it")]
pub use crate::basics::{MIB, turn, wait_for};

/// The disks that the test file asked for, in its order.
pub fn disks() -> Vec<PathBuf> {
    let disks = std::env::var("WINDLASS_VM_DISKS").expect("WINDLASS_VM_DISKS names the disks of the virtual machine");
    disks.split(':').map(PathBuf::from).collect()
}

/// How a pool is made on devices whatever an earlier test left there.
pub fn over_anything(devices: DevicePaths) -> CreateOptions {
    let first = match &devices {
        DevicePaths::One(path) | DevicePaths::Two { metadata: path, .. } => path.clone(),
    };
    CreateOptions {
        devices,
        others: Others::GivenUp,
        given_up_pool: LabelledDevice::read(&first).ok().map(|device| device.label().pool),
        block_size: None,
        metadata_bytes: None,
    }
}

/// Makes a pool on a device.
pub fn make(device: &Path) -> PoolId {
    create_pool(&over_anything(DevicePaths::One(device.to_owned()))).unwrap()
}

/// Makes a pool with so many bytes of metadata.
pub fn make_with(device: &Path, metadata_bytes: u64) -> PoolId {
    let mut options = over_anything(DevicePaths::One(device.to_owned()));
    options.metadata_bytes = Some(metadata_bytes);
    create_pool(&options).unwrap()
}

pub fn open(device: &Path) -> OwnedPool {
    open_pool(device, Arc::new(NothingToHold)).unwrap()
}

pub fn new_volume(name: &str, bytes: u64, source: Option<Object>) -> NewVolume {
    NewVolume { source, ..basics::new_volume(name, bytes) }
}

pub fn create(pool: &OwnedPool, name: &str, bytes: u64, source: Option<Object>) -> Volume {
    pool.create_volume(&new_volume(name, bytes, source)).unwrap().into_inner()
}

pub fn cut(pool: &OwnedPool, name: &str, volume: &Volume) -> Snapshot {
    pool.create_snapshots(&[basics::new_snapshot(name, volume.id)]).unwrap().remove(0).into_inner()
}

/// Runs a program that must succeed; what it prints.
pub fn output(program: &str, arguments: &[&str]) -> String {
    let ended = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{program} {arguments:?} ended with {}: {text}", ended.status);
    text
}

/// A device over the beginning of a disk that can be made larger, as a disk of a cloud or an LV can. Removed when dropped.
pub struct GrowingDisk {
    dm: DeviceMapper,
    name: DmName,
    disk: DeviceNumber,
}

/// A blank device over the first `bytes` of a disk.
pub fn grown_disk(disk: &Path, bytes: u64) -> GrowingDisk {
    // The label of an earlier test's pool says that the device was larger.
    let file = File::options().write(true).open(disk).unwrap();
    file.write_all_at(&vec![0; MIB as usize], 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let dm = DeviceMapper::open().unwrap();
    let name = DmName::new("growing").unwrap();
    let (major, minor) = device::number(disk).unwrap();
    let grown = GrowingDisk { dm, name, disk: DeviceNumber::new(major, minor).unwrap() };
    let uuid = DmUuid::new("TEST-growing").unwrap();
    grown.dm.activate(&grown.name, &uuid, Access::ReadWrite, &[grown.table(bytes)]).unwrap();
    grown
}

impl GrowingDisk {
    fn table(&self, bytes: u64) -> Target {
        let kind = TargetKind::Linear { device: self.disk, offset: Sectors::default() };
        Target { start: Sectors::default(), length: Sectors::from_bytes(bytes).unwrap(), kind }
    }

    /// Its node.
    pub fn path(&self) -> PathBuf {
        let number = self.dm.info(&self.name).unwrap().unwrap().number;
        // devtmpfs makes it.
        PathBuf::from(format!("/dev/dm-{}", number.minor()))
    }

    /// Makes it larger, under whatever stands on it.
    pub fn grow_to(&self, bytes: u64) {
        self.dm.load(&self.name, Access::ReadWrite, &[self.table(bytes)]).unwrap();
        self.dm.suspend(&self.name, SuspendOptions { file_system: FileSystem::Leave, flush: Flush::Wait }).unwrap();
        self.dm.resume(&self.name).unwrap();
    }
}

impl Drop for GrowingDisk {
    fn drop(&mut self) {
        let removed = self.dm.remove(&self.name, Removal::Now);
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}
