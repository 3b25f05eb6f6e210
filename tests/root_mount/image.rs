//! Image files that carry a pool.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;

use windlass::block::loop_device::{self};
use windlass::block::reflink;
use windlass::mount::image::{self, ImageError};
use windlass::mount::system::SystemMounter;
use windlass::mount::{MountError, Mounter};
use windlass::types::{Access, FsType};

use crate::basics::MIB;
use crate::root_support::{Sandbox, attach, pattern};

fn leftovers(sandbox: &Sandbox) -> Vec<PathBuf> {
    let names = std::fs::read_dir(sandbox.path("")).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<_> = names.filter(|path| path.extension().is_none_or(|extension| extension != "img")).collect();
    names.sort();
    names
}

#[test]
fn an_image_is_made_opened_found_again_and_closed() {
    let sandbox = Sandbox::new();
    for fs_type in [FsType::Xfs, FsType::Btrfs] {
        let path = sandbox.path(&format!("{fs_type}.img"));
        File::create(&path).unwrap();
        image::create(&path, image::MINIMUM_BYTES, fs_type).unwrap();
        assert!(matches!(image::create(&path, image::MINIMUM_BYTES, fs_type), Err(ImageError::Exists(_))));
        assert_eq!(leftovers(&sandbox), Vec::<PathBuf>::new());
        let opened = image::open(&path).unwrap();
        assert_eq!(opened.directory(), image::mount_point(&path).unwrap());
        assert_eq!(opened.fs_type(), fs_type);
        assert!(opened.device().direct_io);
        assert!(reflink::supports_reflink(opened.directory()).unwrap());
        std::fs::write(opened.directory().join("file"), b"kept").unwrap();
        assert!(matches!(image::open(&path), Err(ImageError::Locked(_))));

        // The process ends without closing it: the next finds the same device and mount.
        let device = opened.device().clone();
        drop(opened);
        let opened = image::open(&path).unwrap();
        assert_eq!(*opened.device(), device);
        // Ended between unmount and detach.
        SystemMounter::new().unmount(opened.directory()).unwrap();
        drop(opened);
        let opened = image::open(&path).unwrap();
        assert_eq!(*opened.device(), device);
        assert_eq!(std::fs::read(opened.directory().join("file")).unwrap(), b"kept");

        let user = File::open(opened.directory().join("file")).unwrap();
        assert!(matches!(opened.close(), Err(ImageError::Mount(MountError::Busy(_)))));
        drop(user);
        opened.close().unwrap();
        opened.close().unwrap();
        drop(opened);
        assert_eq!(sandbox.leftovers(), (Vec::new(), Vec::new()));
        assert_eq!(leftovers(&sandbox), Vec::<PathBuf>::new());
        let opened = image::open(&path).unwrap();
        assert_eq!(std::fs::read(opened.directory().join("file")).unwrap(), b"kept");
        opened.close().unwrap();
    }
}

#[test]
fn an_image_is_refused_where_it_cannot_be_or_is_none() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("pool.img");
    assert!(matches!(image::create(&path, MIB, FsType::Xfs), Err(ImageError::Size { .. })));
    assert!(matches!(image::create(&path, image::MINIMUM_BYTES + 1, FsType::Xfs), Err(ImageError::Size { .. })));
    assert!(matches!(image::create(&path, image::MINIMUM_BYTES, FsType::Ext4), Err(ImageError::Unsuitable { .. })));
    assert!(matches!(image::create(&path, 1 << 50, FsType::Xfs), Err(ImageError::NoSpace { .. })));
    assert!(matches!(image::open(&path), Err(ImageError::Io { .. })));
    std::fs::write(&path, b"something else").unwrap();
    assert!(matches!(image::create(&path, image::MINIMUM_BYTES, FsType::Xfs), Err(ImageError::Exists(_))));
    assert!(matches!(image::open(&path), Err(ImageError::Unsuitable { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"something else");
    assert_eq!(leftovers(&sandbox), Vec::<PathBuf>::new());
}

#[test]
fn an_interrupted_creation_is_begun_anew() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path(".pool.img.creating"), pattern(1, 3 << 20)).unwrap();
    image::create(&sandbox.path("pool.img"), image::MINIMUM_BYTES, FsType::Btrfs).unwrap();
    assert_eq!(leftovers(&sandbox), Vec::<PathBuf>::new());
    image::open(&sandbox.path("pool.img")).unwrap().close().unwrap();
}

#[test]
fn an_image_attached_by_others_is_used_or_refused() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("pool.img");
    image::create(&path, image::MINIMUM_BYTES, FsType::Xfs).unwrap();
    let read_only = attach(&File::open(&path).unwrap(), Access::ReadOnly);
    assert!(matches!(image::open(&path), Err(ImageError::Attached { .. })));
    loop_device::detach(&read_only).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let writable = attach(&file, Access::ReadWrite);
    let opened = image::open(&path).unwrap();
    assert_eq!(opened.device().number, writable.number);
    opened.close().unwrap();
}
