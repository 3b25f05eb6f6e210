#![cfg(feature = "root-tests")]
//! The extents of snapshots on Btrfs: the list from the subvolume's tree says what the kernel's own list of the file says. Needs
//! root.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/random_volumes/mod.rs"]
mod random_volumes;
#[path = "support/root_support/mod.rs"]
mod root_support;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use nix::fcntl::{FallocateFlags, fallocate};
use rand::SeedableRng;
use rand::rngs::StdRng;
use random_volumes::{BLOCK, Way, change};
use root_support::{Sandbox, pattern};
use windlass::block::fiemap::{self, FiemapOptions, FileExtent, Unwritten, WriteOut};
use windlass::block::{btrfs, btrfs_extents, file_ops};
use windlass::types::{Access, FsType};

const SIZE: u64 = 6 << 20;

/// A range, its place (none where it tells nothing), and whether it was written.
type Run = (u64, u64, Option<u64>, bool);

/// Runs of what is stored one behind the other: the two lists cut them at different places.
fn runs(extents: impl Iterator<Item = io::Result<FileExtent>>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for extent in extents {
        let FileExtent { logical, physical, length, flags } = extent.unwrap();
        let place = (!flags.is_opaque()).then_some(physical);
        match runs.last_mut() {
            Some((start, so_far, before, unwritten))
                if *start + *so_far == logical
                    && before.map(|before| before + *so_far) == place
                    && *unwritten == flags.is_unwritten() =>
            {
                *so_far += length;
            }
            _ => runs.push((logical, length, place, flags.is_unwritten())),
        }
    }
    runs
}

/// A new subvolume with an empty file.
fn subvolume(directory: &Path, name: &str) -> File {
    btrfs::create_subvolume(&File::open(directory).unwrap(), OsStr::new(name)).unwrap();
    let path = directory.join(name).join("data");
    OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap()
}

/// The file in a new read-only snapshot.
fn cut(directory: &Path, of: &str, name: &str) -> File {
    let (source, parent) = (File::open(directory.join(of)).unwrap(), File::open(directory).unwrap());
    btrfs::snapshot_subvolume(&source, &parent, OsStr::new(name), Access::ReadOnly).unwrap();
    File::open(directory.join(name).join("data")).unwrap()
}

/// What both lists say of a file.
fn agreed(file: &File) -> Vec<Run> {
    let every = FiemapOptions { write_out: WriteOut::First, unwritten: Unwritten::Report, range: None };
    let expected = runs(fiemap::extents(file, every));
    let found = runs(btrfs_extents::extents(file.try_clone().unwrap()).unwrap());
    assert_eq!(found, expected);
    found
}

#[test]
fn the_tree_says_what_the_file_says_after_whatever_was_written() {
    let sandbox = Sandbox::new();
    let image = sandbox.pool(FsType::Btrfs);
    for (name, in_place) in [("plain", true), ("copied", false)] {
        let file = subvolume(image.directory(), name);
        if in_place {
            file_ops::set_no_cow(&file).unwrap();
        }
        file.set_len(SIZE).unwrap();
        assert!(agreed(&cut(image.directory(), name, &format!("{name}-empty"))).is_empty());
        let (mut random, mut bytes) = (StdRng::seed_from_u64(7), vec![0; SIZE as usize]);
        for round in 0..60 {
            (0..20).for_each(|_| change(&Way::File(&file), &mut bytes, &mut random));
            let snapshot = cut(image.directory(), name, &format!("{name}-{round}"));
            let stored: u64 = agreed(&snapshot).iter().map(|(_, length, ..)| length).sum();
            assert!(stored > 0 && stored <= SIZE);
        }
    }
}

#[test]
fn a_file_of_many_extents_is_listed_whole() {
    const COUNT: u64 = 5000;
    let sandbox = Sandbox::new();
    let image = sandbox.pool(FsType::Btrfs);
    let file = subvolume(image.directory(), "many");
    file.set_len(COUNT * 2 * BLOCK).unwrap();
    for index in 0..COUNT {
        file.write_all_at(&pattern(index, BLOCK as usize), index * 2 * BLOCK).unwrap();
    }
    // Behind the end as well: reserved, never written.
    fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, (COUNT * 2 * BLOCK) as i64, BLOCK as i64).unwrap();
    let snapshot = cut(image.directory(), "many", "many-1");
    let runs = agreed(&snapshot);
    assert_eq!(runs.iter().filter(|(.., unwritten)| !unwritten).count() as u64, COUNT);
    assert_eq!(fiemap::count_by_walking::<512>(&snapshot).unwrap(), fiemap::count(&snapshot).unwrap());
}

#[test]
fn what_is_compressed_has_no_place() {
    let sandbox = Sandbox::new();
    let image = sandbox.pool(FsType::Btrfs);
    let directory = image.directory();
    let file = subvolume(directory, "packed");
    let packed = Command::new("chattr").arg("+c").arg(directory.join("packed/data")).status().unwrap();
    assert!(packed.success());
    file.write_all_at(&vec![b'w'; 1 << 20], 0).unwrap();
    let snapshot = cut(directory, "packed", "packed-1");
    assert!(agreed(&snapshot).iter().all(|(_, _, place, _)| place.is_none()));
}

#[test]
fn a_file_elsewhere_is_refused_in_a_way_that_tells_so() {
    let sandbox = Sandbox::new();
    let image = sandbox.pool(FsType::Xfs);
    let path = image.directory().join("file");
    fs::write(&path, "content").unwrap();
    let refused = btrfs_extents::extents(File::open(&path).unwrap()).map(drop).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOTTY));
}
