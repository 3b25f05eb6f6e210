use std::fs::File;
use std::os::unix::fs::FileExt;

use super::*;
use crate::dm::metadata::{SUPERBLOCK_SEED, checksum};
use crate::pool::thin::devices::LabelledDevice;
use crate::pool::thin::label::{Label, Link};
use crate::pool::thin::layout::{self, LayoutOptions};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 100 * MIB;

/// A superblock of a pool that was just made, as the kernel writes it.
fn superblock_bytes(block_size: DataBlockSize) -> [u8; BLOCK_BYTES] {
    let mut bytes = [0; BLOCK_BYTES];
    let mut put = |at: usize, value: u64, length: usize| bytes[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
    put(32, 27_022_010, 8);
    put(40, 2, 4);
    put(48, 5, 8);
    put(320, 1, 8);
    put(328, 2, 8);
    put(336, block_size.sectors().count(), 4);
    put(344, 4096, 8);
    let sum = checksum(&bytes, SUPERBLOCK_SEED);
    bytes[..4].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// A pool in a file, made but for what only device-mapper could.
fn pool(folder: &Path, state: State) -> (PathBuf, Label) {
    let path = folder.join("disk");
    let file = File::create(&path).unwrap();
    file.set_len(SIZE).unwrap();
    let plan = layout::plan(SIZE, LayoutOptions::default()).unwrap();
    let label = Label {
        pool: PoolId::random(),
        link: Link::random(),
        generation: 1,
        epoch: None,
        role: Role::Whole,
        state,
        device_bytes: SIZE,
        block_size: plan.block_size,
        segments: plan.segments,
    };
    OpenDevice::open(&path, Access::ReadWrite).unwrap().write_label(&label).unwrap();
    // The region as a device of its own, as it will be.
    let region = label.segments.catalogue.unwrap().range();
    let alone = folder.join("region");
    let open = || File::options().read(true).write(true).create(true).truncate(false).open(&alone).unwrap();
    open().set_len(region.length()).unwrap();
    drop(Catalogue::create_device(open(), label.pool).unwrap());
    file.write_all_at(&std::fs::read(&alone).unwrap(), region.offset()).unwrap();
    file.write_all_at(&superblock_bytes(label.block_size), label.segments.metadata[0].range().offset()).unwrap();
    (path, label)
}

#[test]
fn a_disk_tells_what_it_is_without_being_changed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, label) = pool(folder.path(), State::Ready);
    let before = std::fs::read(&path).unwrap();
    let found = examine(&path).unwrap();
    assert_eq!((found.pool, found.state, found.activity), (label.pool, State::Ready, Activity::None));
    assert_eq!((found.metadata_bytes, found.data_bytes), (16 * MIB, 73 * MIB));
    let catalogue = found.catalogue.unwrap();
    assert_eq!((catalogue.volumes.len(), catalogue.snapshots.len(), catalogue.interrupted), (0, 0, 0));
    assert_eq!(found.superblock.unwrap().transaction_id, 5);
    assert_eq!(found.devices.len(), 1);
    assert!(std::fs::read(&path).unwrap() == before);
}

#[test]
fn a_part_that_is_spoilt_says_so_and_the_others_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let (path, label) = pool(folder.path(), State::Ready);
    let file = File::options().write(true).open(&path).unwrap();
    let (catalogue, metadata) = (label.segments.catalogue.unwrap().range(), label.segments.metadata[0].range());
    file.write_all_at(&[0; BLOCK_BYTES], metadata.offset()).unwrap();
    let found = examine(&path).unwrap();
    assert!(found.superblock.unwrap_err().contains("all zeros"));
    assert!(found.catalogue.is_ok());
    file.write_all_at(&superblock_bytes(DataBlockSize::from_bytes(128 << 10).unwrap()), metadata.offset()).unwrap();
    file.write_all_at(&[0; 100], catalogue.offset() + 2 * 4096).unwrap();
    let found = examine(&path).unwrap();
    assert!(found.superblock.unwrap_err().contains("131072"));
    assert!(found.catalogue.unwrap_err().contains("is no catalogue"));
    file.write_all_at(&[0; 8192], catalogue.offset()).unwrap();
    assert!(examine(&path).unwrap().catalogue.unwrap_err().contains("there is no region"));
}

#[test]
fn a_catalogue_of_another_pool_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, label) = pool(folder.path(), State::Ready);
    let mut device = LabelledDevice::read(&path).unwrap();
    device.write(Label { pool: PoolId::random(), ..label }).unwrap();
    assert!(examine(&path).unwrap().catalogue.unwrap_err().contains("another pool"));
}

#[test]
fn of_a_pool_that_was_never_finished_nothing_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = pool(folder.path(), State::Making);
    let found = examine(&path).unwrap();
    assert_eq!(found.state, State::Making);
    assert!(found.catalogue.is_err() && found.superblock.is_err());
}
