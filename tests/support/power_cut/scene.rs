//! What pools of the embedded sort lie on in the tests of power cuts.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use windlass::mount::image::{self, ImageFileSystem};
use windlass::pool::owned::OwnedPool;
use windlass::pool::quiesce::NothingToHold;
use windlass::pool::reflink::{create_pool, open_pool};
use windlass::types::FsType;

use super::workload::Checksums;
use crate::basics::MIB;

/// A pool on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scene {
    /// A pool directory on XFS.
    Xfs,
    /// A pool directory on Btrfs.
    Btrfs,
    /// A pool image, with XFS in it, on ext4.
    Image,
}

/// An open pool with what it lies in.
#[derive(Debug)]
pub struct Opened {
    /// The pool.
    pub pool: OwnedPool,
    /// Its directory.
    pub directory: PathBuf,
    image: Option<ImageFileSystem>,
}

impl Opened {
    /// Closes it; nothing of it is in use any more.
    ///
    /// # Panics
    /// When something is.
    pub fn close(self) {
        drop(self.pool);
        if let Some(image) = self.image {
            image.close().unwrap();
            check("xfs_repair", &["-n", "-f"], image.image());
        }
    }
}

impl Scene {
    /// For messages and names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Image => "image",
        }
    }

    /// Which two disks it has of those that the workload is given: the first of the two, the second is the log's.
    pub fn disk_number(self) -> usize {
        match self {
            Self::Xfs => 0,
            Self::Btrfs => 2,
            Self::Image => 4,
        }
    }

    /// How many operations its workload has. They flush the disk some 550 times: 3 times each on XFS, where one flush covers what
    /// several writers had asked for, 5 and 6 times on Btrfs and in an image.
    pub fn operations(self) -> usize {
        match self {
            Self::Xfs => 185,
            Self::Btrfs => 115,
            Self::Image => 95,
        }
    }

    /// Which volumes its workload makes with checksums.
    pub fn checksums(self) -> Checksums {
        match self {
            Self::Btrfs => Checksums::Half,
            Self::Xfs | Self::Image => Checksums::Never,
        }
    }

    /// Of its workload.
    pub fn seed(self) -> u64 {
        self.disk_number() as u64
    }

    /// Size of the disk in bytes.
    pub fn disk(self) -> u64 {
        match self {
            Self::Xfs | Self::Btrfs => 640 * MIB,
            Self::Image => 1024 * MIB,
        }
    }

    /// Where the marks are: the file system ends before.
    pub fn marks(self) -> u64 {
        self.disk() - MIB
    }

    /// Makes the file system.
    ///
    /// # Panics
    /// When that fails.
    pub fn format(self, device: &Path) {
        let bytes = self.marks().to_string();
        let (size, kib) = (format!("size={bytes}"), format!("{}k", self.marks() / 1024));
        // Sectors of 4096 bytes, so that the file system can also be mounted where a disk's sectors are that large.
        match self {
            Self::Xfs => run("mkfs.xfs", &["-q", "-s", "size=4096", "-d", &size], &[device]),
            Self::Btrfs => run("mkfs.btrfs", &["-q", "-b", &bytes], &[device]),
            Self::Image => run("mkfs.ext4", &["-q", "-b", "4096", "-m", "0"], &[device, Path::new(&kib)]),
        }
    }

    /// Mounts it, as the driver's manual says where it is a pool's.
    ///
    /// # Panics
    /// When that fails.
    pub fn mount(self, device: &Path, at: &Path) {
        let (fs_type, options) = match self {
            Self::Xfs => ("xfs", "noatime"),
            Self::Btrfs => ("btrfs", "noatime,max_inline=0"),
            // Zeros written in the background would only fill the log.
            Self::Image => ("ext4", "noatime,noinit_itable"),
        };
        run("mount", &["-t", fs_type, "-o", options], &[device, at]);
    }

    /// Makes the pool on the mounted file system.
    ///
    /// # Panics
    /// When that fails.
    pub fn create(self, mounted: &Path) {
        match self {
            Self::Xfs | Self::Btrfs => drop(create_pool(&mounted.join("pool")).unwrap()),
            Self::Image => {
                image::create(&mounted.join("pool.img"), image::MINIMUM_BYTES, FsType::Xfs).unwrap();
                let image = image::open(&mounted.join("pool.img")).unwrap();
                create_pool(image.directory()).unwrap();
                image.close().unwrap();
            }
        }
    }

    /// Opens and recovers the pool on the mounted file system.
    ///
    /// # Panics
    /// When that fails.
    pub fn open(self, mounted: &Path) -> Opened {
        let (image, directory) = match self {
            Self::Xfs | Self::Btrfs => (None, mounted.join("pool")),
            Self::Image => {
                let image = image::open(&mounted.join("pool.img")).unwrap();
                let directory = image.directory().to_owned();
                (Some(image), directory)
            }
        };
        let pool = open_pool(&directory, Arc::new(NothingToHold)).unwrap();
        Opened { pool, directory, image }
    }

    /// Checks the file system in a file, after it was mounted.
    ///
    /// # Panics
    /// When anything is wrong with it.
    pub fn check(self, file: &Path) {
        match self {
            Self::Xfs => check("xfs_repair", &["-n", "-f"], file),
            // It reads all data that has checksums, and compares.
            Self::Btrfs => check("btrfs", &["check", "--readonly", "--check-data-csum"], file),
            Self::Image => check("e2fsck", &["-f", "-n"], file),
        }
    }
}

/// Nothing lies in the pool's directory but what its records name.
///
/// # Panics
/// When something does.
pub fn verify_stored(opened: &Opened) {
    let names = |path: &Path| -> BTreeSet<String> {
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let expected = ["catalogue.redb", "lock", "snapshots", "volumes"].map(str::to_owned);
    // The copy of the catalogue is made by a thread of its own, and what that left half done is gone when it is made again.
    let is_copy = |name: &String| ["catalogue.copy", "catalogue.copy-new"].contains(&name.as_str());
    let found = names(&opened.directory).into_iter().filter(|name| !is_copy(name));
    assert_eq!(found.collect::<BTreeSet<_>>(), BTreeSet::from(expected));
    let volumes: BTreeSet<String> = opened.pool.volumes().unwrap().iter().map(|volume| volume.id.to_string()).collect();
    let snapshots = opened.pool.snapshots().unwrap().into_iter().map(|snapshot| snapshot.id);
    let anchors = opened.pool.anchors().unwrap().into_iter().map(|anchor| anchor.snapshot.id);
    let snapshots: BTreeSet<String> = snapshots.chain(anchors).map(|id| id.to_string()).collect();
    let stored = |directory: &str| -> BTreeSet<String> {
        let stem = |name: String| name.split('.').next().unwrap_or_default().to_owned();
        names(&opened.directory.join(directory)).into_iter().map(stem).collect()
    };
    assert_eq!(stored("volumes"), volumes, "files of volumes");
    assert_eq!(stored("snapshots"), snapshots, "files of snapshots");
}

/// Runs a program that must succeed.
///
/// # Panics
/// When it does not.
pub fn run(program: &str, arguments: &[&str], paths: &[&Path]) {
    let output = Command::new(program).args(arguments).args(paths).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?} {paths:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn check(program: &str, arguments: &[&str], file: &Path) {
    run(program, arguments, &[file]);
}
