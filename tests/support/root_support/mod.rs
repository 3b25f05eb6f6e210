//! What the tests that need root share: a folder that takes everything made in it along when it goes, also on a panic.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test support; no test uses all of it")]

pub mod fuse;

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use windlass::block::freeze;
use windlass::block::loop_device::{self, DirectIo, LoopDevice, LoopOptions};
use windlass::mount::image::{self, ImageFileSystem};
use windlass::mount::system::SystemMounter;
use windlass::mount::{MountRequest, Mounter};
use windlass::types::{Access, FsType, LogicalBlockSize};

#[allow(unused_imports, reason = "no test uses all of it")]
pub use crate::basics::{new_snapshot, new_volume};

/// A temporary folder. Dropping it thaws, unmounts and detaches whatever lies in it.
pub struct Sandbox {
    directory: tempfile::TempDir,
    real: PathBuf,
}

impl Sandbox {
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root: run it as root or leave out --features root-tests");
        let directory = tempfile::Builder::new().prefix("windlass-test-").tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        Self { directory, real }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.real.join(name)
    }

    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// A mounted pool image.
    pub fn pool(&self, fs_type: FsType) -> ImageFileSystem {
        let image = self.path(&format!("{fs_type}.img"));
        image::create(&image, 1 << 30, fs_type).unwrap();
        image::open(&image).unwrap()
    }

    fn loops(&self) -> Vec<LoopDevice> {
        loop_device::beneath(&self.real).unwrap()
    }

    fn mount_points(&self) -> Vec<PathBuf> {
        let mut entries = SystemMounter::new().mounts().unwrap();
        entries.retain(|entry| entry.mount_point.starts_with(&self.real));
        entries.into_iter().rev().map(|entry| entry.mount_point).collect()
    }

    /// What is still mounted or attached here.
    pub fn leftovers(&self) -> (Vec<PathBuf>, Vec<LoopDevice>) {
        (self.mount_points(), self.loops())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let mounter = SystemMounter::new();
        for mount_point in self.mount_points() {
            let _ = File::open(&mount_point).and_then(|directory| freeze::thaw(&directory));
        }
        // Pools lie in images in pools: each round frees what the one before was holding.
        for _ in 0..4 {
            for mount_point in self.mount_points() {
                let _ = mounter.unmount(&mount_point);
            }
            for device in self.loops() {
                let _ = loop_device::detach(&device);
            }
        }
        let left = self.leftovers();
        if left != (Vec::new(), Vec::new()) && !std::thread::panicking() {
            panic!("the test left behind: {left:?}");
        }
    }
}

/// A sparse file of this size, open for reading and writing.
pub fn sparse_file(path: &Path, bytes: u64) -> File {
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
    file.set_len(bytes).unwrap();
    file
}

pub fn options(access: Access, label: &str) -> LoopOptions<'_> {
    LoopOptions { access, block_size: LogicalBlockSize::B4096, label, direct_io: DirectIo::Required }
}

pub fn attach(file: &File, access: Access) -> LoopDevice {
    loop_device::attach(file, &options(access, "windlass-test")).unwrap()
}

pub fn request(device: &LoopDevice, target: &Path, fs_type: FsType, access: Access) -> MountRequest {
    MountRequest { device: device.path.clone(), target: target.to_owned(), fs_type, options: Vec::new(), access }
}

/// Deterministic bytes.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..length).map(|_| next() as u8).collect()
}
