//! Files on the mounted volumes of a pool whose power is cut. The path is always that of the folder with the mount points.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use windlass::types::FsType;

use super::{FILE_SYSTEMS, file_system_of};
use crate::power_cut::scene::run;

/// Blocks of 4096 bytes in which the writes begin that nobody is promised.
const NOISE: u64 = 2048;

/// Makes a file system and mounts it.
///
/// # Panics
/// When that fails.
pub fn format_and_mount(fs_type: FsType, device: &Path, at: &Path) {
    // Blank what is free: a discard would be a promise to nobody. Blocks and sectors as large as any disk's sectors.
    match fs_type {
        FsType::Ext4 => {
            let options = ["-q", "-b", "4096", "-m", "0", "-J", "size=4", "-E", "nodiscard,lazy_itable_init=0"];
            run("mkfs.ext4", &options, &[device]);
        }
        // Smaller than what mkfs supports, whose log alone, of 64 MiB, would be most of what is replayed.
        FsType::Xfs => run("mkfs.xfs", &["-q", "--unsupported", "-K", "-s", "size=4096"], &[device]),
        FsType::Btrfs => panic!("no volume has it"),
    }
    mount(fs_type, device, at);
}

fn place(at: &Path, fs_type: FsType) -> PathBuf {
    at.join(fs_type.name())
}

fn mount(fs_type: FsType, device: &Path, at: &Path) {
    let at = place(at, fs_type);
    fs::create_dir_all(&at).unwrap();
    run("mount", &["-t", fs_type.name(), "-o", "noatime"], &[device, &at]);
}

/// Writes out a file system.
///
/// # Panics
/// When that fails.
pub fn sync(fs_type: FsType, at: &Path) {
    run("sync", &["-f"], &[&place(at, fs_type)]);
}

/// Unmounts a file system.
///
/// # Panics
/// When that fails.
pub fn unmount(fs_type: FsType, at: &Path) {
    run("umount", &[], &[&place(at, fs_type)]);
}

fn name(number: u64) -> String {
    format!("file-{number}")
}

/// What a file holds: some bytes, or some hundred thousand.
fn content(number: u64) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(number);
    let most = if number.is_multiple_of(2) { 200_000 } else { 5_000 };
    let mut bytes = vec![0; random.random_range(1..most)];
    random.fill(&mut bytes[..]);
    bytes
}

/// Writes a file durably.
///
/// # Panics
/// When that fails.
pub fn write(at: &Path, number: u64) {
    let mut file = File::create_new(place(at, file_system_of(number)).join(name(number))).unwrap();
    file.write_all(&content(number)).unwrap();
    file.sync_all().unwrap();
}

/// Begins to write to a file of each file system that nobody is promised, so that whatever is done next finds writes under way.
/// It is not waited for them, and nothing is flushed: what is done next has to see to its own.
///
/// # Panics
/// When that fails.
pub fn disturb(at: &Path, number: u64) {
    let mut random = StdRng::seed_from_u64(number);
    for fs_type in FILE_SYSTEMS {
        let path = place(at, fs_type).join("noise");
        let file = File::options().write(true).create(true).truncate(false).open(path).unwrap();
        for _ in 0..4 {
            let mut bytes = vec![0; 64 << 10];
            random.fill(&mut bytes[..]);
            file.write_all_at(&bytes, random.random_range(0..NOISE) * 4096).unwrap();
        }
        // The kernel begins to write what is not wanted in memory any more.
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    }
}

/// Mounts a file system, which replays its journal, and looks for its files among those promised; unmounts it and checks it. In
/// this order: a check finds fault with an XFS whose log was not replayed.
///
/// # Panics
/// When a file is missing or different, or the file system has an error.
pub fn check(fs_type: FsType, device: &Path, at: &Path, promised: &[u64]) {
    mount(fs_type, device, at);
    for number in promised.iter().filter(|number| file_system_of(**number) == fs_type) {
        let path = place(at, fs_type).join(name(*number));
        let found = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(found == content(*number), "{} holds {} other bytes than were written", path.display(), found.len());
    }
    unmount(fs_type, at);
    match fs_type {
        FsType::Ext4 => run("e2fsck", &["-f", "-n"], &[device]),
        FsType::Xfs => run("xfs_repair", &["-n"], &[device]),
        FsType::Btrfs => panic!("no volume has it"),
    }
}
