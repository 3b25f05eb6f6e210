//! What an earlier process left: unfinished objects, strangers, records without an object, devices.

use std::ffi::OsStr;
use std::fs::{self, File};

use windlass::block::{btrfs, device};
use windlass::pool::PoolError;
use windlass::pool::reflink::create_pool;
use windlass::types::{Access, CapacityRange, FsType, Object, VolumeId};

use crate::root_support::{Sandbox, new_volume};
use crate::{POOLS, open, size};

#[test]
fn unfinished_objects_are_swept_and_foreign_ones_reported_and_left_alone() {
    let sandbox = Sandbox::new();
    for fs_type in POOLS {
        let image = sandbox.pool(fs_type);
        create_pool(image.directory()).unwrap();
        let volumes = image.directory().join("volumes");
        let (unfinished, unknown) = (format!(".tmp-{}", VolumeId::random()), VolumeId::random());
        let make = |name: &str| match fs_type {
            FsType::Btrfs => btrfs::create_subvolume(&File::open(&volumes).unwrap(), OsStr::new(name)).unwrap(),
            _ => fs::write(volumes.join(name), "content").unwrap(),
        };
        make(&unfinished);
        make(&unknown.to_string());
        fs::write(volumes.join("notes.txt"), "mine").unwrap();
        fs::write(image.directory().join("readme"), "mine").unwrap();
        let pool = open(image.directory());
        let mut quarantined = pool.status().unwrap().quarantined;
        quarantined.sort_unstable();
        let mut expected = vec!["readme".to_owned(), format!("volume {unknown}"), "volumes/notes.txt".to_owned()];
        expected.sort_unstable();
        assert_eq!(quarantined, expected);
        assert!(!volumes.join(unfinished).exists());
        for path in [volumes.join(unknown.to_string()), volumes.join("notes.txt"), image.directory().join("readme")] {
            assert!(path.exists(), "{}", path.display());
        }
        assert!(pool.volumes().unwrap().is_empty());
        assert!(matches!(pool.attach(Object::Volume(unknown), Access::ReadWrite), Err(PoolError::Missing(_))));
    }
}

#[test]
fn a_record_whose_object_is_gone_is_reported_and_kept() {
    let sandbox = Sandbox::new();
    for fs_type in POOLS {
        let image = sandbox.pool(fs_type);
        create_pool(image.directory()).unwrap();
        let pool = open(image.directory());
        let volume = pool.create_volume(&new_volume("lost", 1 << 20)).unwrap().into_inner();
        drop(pool);
        let path = image.directory().join("volumes").join(volume.id.to_string());
        fs::remove_file(if fs_type == FsType::Btrfs { path.join("data") } else { path }).unwrap();
        let pool = open(image.directory());
        assert_eq!(pool.status().unwrap().damaged.len(), 1);
        assert_eq!(pool.volumes().unwrap(), vec![volume.clone()]);
        assert!(matches!(pool.attach(Object::Volume(volume.id), Access::ReadWrite), Err(PoolError::Io { .. })));
        // An explicit delete is what removes it.
        pool.delete_volume(volume.id).unwrap();
        assert!(pool.status().unwrap().damaged.is_empty());
    }
}

#[test]
fn devices_outlive_the_owner_and_are_found_again() {
    let sandbox = Sandbox::new();
    for fs_type in POOLS {
        let image = sandbox.pool(fs_type);
        create_pool(image.directory()).unwrap();
        let pool = open(image.directory());
        let volume = pool.create_volume(&new_volume("kept", 1 << 20)).unwrap().into_inner();
        let object = Object::Volume(volume.id);
        let attachment = pool.attach(object, Access::ReadWrite).unwrap();
        drop(pool);
        let pool = open(image.directory());
        assert_eq!(pool.attachment(object).unwrap(), Some(attachment.clone()));
        // Held open, it is in use: neither detached nor deleted, and untouched by the attempt.
        let user = File::open(&attachment.device).unwrap();
        assert!(matches!(pool.delete_volume(volume.id), Err(PoolError::InUse { .. })));
        assert_eq!(pool.attachment(object).unwrap(), Some(attachment.clone()));
        let grown = pool.grow_volume(volume.id, CapacityRange::new(Some(4 << 20), None).unwrap()).unwrap();
        assert_eq!(grown.size, size(4 << 20));
        assert_eq!(device::size(&user).unwrap(), 4 << 20);
        drop(user);
        pool.delete_volume(volume.id).unwrap();
        assert!(pool.volume(volume.id).unwrap().is_none());
        assert_eq!(fs::read_dir(image.directory().join("volumes")).unwrap().count(), 0);
    }
}
