//! Making pools, and volumes with and without checksums.

use std::fs;
use std::sync::Arc;

use windlass::block::file_ops;
use windlass::mount::system::SystemMounter;
use windlass::mount::{Formatting, Mounter};
use windlass::pool::quiesce::NothingToHold;
use windlass::pool::reflink::{ReflinkPool, create_pool, open_pool};
use windlass::pool::{Cut, ObjectSpec, Pool, PoolError};
use windlass::types::{Access, DataChecksum, FsType, Object, SnapshotId, VolumeId};

use crate::root_support::{Sandbox, attach, request, sparse_file};
use crate::{POOLS, STALL, open, spec};

#[test]
fn a_pool_is_made_once_and_has_one_owner() {
    let sandbox = Sandbox::new();
    for fs_type in POOLS {
        let image = sandbox.pool(fs_type);
        let id = create_pool(image.directory()).unwrap();
        assert!(matches!(create_pool(image.directory()), Err(PoolError::Format(_))));
        let pool = open(image.directory());
        assert_eq!(pool.id(), id);
        assert!(matches!(open_pool(image.directory(), Arc::new(NothingToHold)), Err(PoolError::Owned(_))));
        drop(pool);
        assert_eq!(open(image.directory()).id(), id);
        let image_path = image.image().to_owned();
        image.close().unwrap();
        fs::remove_file(image_path).unwrap();
    }
}

#[test]
fn a_creation_of_a_pool_that_was_cut_off_is_begun_again() {
    let sandbox = Sandbox::new();
    let image = sandbox.pool(FsType::Xfs);
    for name in ["volumes", "snapshots"] {
        fs::create_dir(image.directory().join(name)).unwrap();
    }
    fs::write(image.directory().join("catalogue.new"), "half").unwrap();
    create_pool(image.directory()).unwrap();
    open(image.directory());
    let second = image.directory().join("second");
    fs::create_dir_all(second.join("volumes").join(VolumeId::random().to_string())).unwrap();
    assert!(matches!(create_pool(&second), Err(PoolError::Format(_))));
}

#[test]
fn a_directory_that_cannot_share_extents_is_refused_and_nothing_is_made_in_it() {
    let sandbox = Sandbox::new();
    let file = sparse_file(&sandbox.path("ext4"), 64 << 20);
    let device = attach(&file, Access::ReadWrite);
    let mounter = SystemMounter::new();
    mounter.make_file_system(&device.path, FsType::Ext4, Formatting::Blank).unwrap();
    let target = sandbox.directory("mounted");
    mounter.mount(&request(&device, &target, FsType::Ext4, Access::ReadWrite)).unwrap();
    match create_pool(&target) {
        Err(PoolError::Unsupported(refusal)) => {
            assert!(refusal.to_string().contains("windlass pool create --image"), "{refusal}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read_dir(&target).unwrap().count(), 1, "lost+found alone");
}

#[test]
fn volumes_on_btrfs_are_overwritten_in_place_unless_checksums_are_asked_for() {
    let sandbox = Sandbox::new();
    for fs_type in POOLS {
        let image = sandbox.pool(fs_type);
        create_pool(image.directory()).unwrap();
        let pool = ReflinkPool::open(image.directory()).unwrap();
        let (plain, checked) = (VolumeId::random(), VolumeId::random());
        pool.create(plain, spec(1 << 20)).unwrap();
        let with_checksums = ObjectSpec { checksum: DataChecksum::On, ..spec(1 << 20) };
        if fs_type == FsType::Xfs {
            assert!(matches!(pool.create(checked, with_checksums), Err(PoolError::Unsupported(_))));
            assert_eq!(pool.scan().unwrap().len(), 1);
            continue;
        }
        pool.create(checked, with_checksums).unwrap();
        let copy = VolumeId::random();
        pool.copy(Object::Volume(plain), copy, spec(2 << 20), STALL).unwrap();
        for (id, expected) in [(plain, true), (checked, false), (copy, true)] {
            let file = pool.open(Object::Volume(id), Access::ReadWrite).unwrap();
            assert_eq!(file_ops::is_no_cow(&file).unwrap(), expected);
        }
        // Both kinds are attached with direct I/O, and snapshots only for reading.
        pool.attach(Object::Volume(checked), Access::ReadWrite).unwrap();
        pool.detach(Object::Volume(checked)).unwrap();
        let snapshot = SnapshotId::random();
        pool.snapshot(&[Cut { source: plain, snapshot }], STALL).unwrap();
        let attachment = pool.attach(Object::Snapshot(snapshot), Access::ReadOnly).unwrap();
        assert_eq!(attachment.access, Access::ReadOnly);
        pool.detach(Object::Snapshot(snapshot)).unwrap();
    }
}
