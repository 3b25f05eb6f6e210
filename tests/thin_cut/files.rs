//! Files on the mounted volume of a pool whose power is cut.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::power_cut::scene::run;

/// Blocks of 4096 bytes in which the writes begin that nobody is promised.
const NOISE: u64 = 2048;

/// Makes an ext4 and mounts it.
///
/// # Panics
/// When that fails.
pub fn format_and_mount(device: &Path, at: &Path) {
    // Blank what is free: a discard would be a promise to nobody. Blocks as large as any disk's sectors.
    run("mkfs.ext4", &["-q", "-b", "4096", "-m", "0", "-J", "size=4", "-E", "nodiscard,lazy_itable_init=0"], &[device]);
    mount(device, at);
}

fn mount(device: &Path, at: &Path) {
    run("mount", &["-t", "ext4", "-o", "noatime"], &[device, at]);
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
    let mut file = File::create_new(at.join(name(number))).unwrap();
    file.write_all(&content(number)).unwrap();
    file.sync_all().unwrap();
}

/// Begins to write to a file that nobody is promised, so that whatever is done next finds writes under way. It is not waited for
/// them, and nothing is flushed: what is done next has to see to its own.
///
/// # Panics
/// When that fails.
pub fn disturb(at: &Path, number: u64) {
    let file = File::options().write(true).create(true).truncate(false).open(at.join("noise")).unwrap();
    let mut random = StdRng::seed_from_u64(number);
    for _ in 0..4 {
        let mut bytes = vec![0; 64 << 10];
        random.fill(&mut bytes[..]);
        file.write_all_at(&bytes, random.random_range(0..NOISE) * 4096).unwrap();
    }
    // The kernel begins to write what is not wanted in memory any more.
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
}

/// Mounts the file system, which replays its journal, and looks for the files; unmounts it and checks it.
///
/// # Panics
/// When a file is missing or different, or the file system has an error.
pub fn check(device: &Path, at: &Path, promised: &[u64]) {
    mount(device, at);
    for number in promised {
        let path = at.join(name(*number));
        let found = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(found == content(*number), "{} holds {} other bytes than were written", path.display(), found.len());
    }
    run("umount", &[], &[at]);
    run("e2fsck", &["-f", "-n"], &[device]);
}
