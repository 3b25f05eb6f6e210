//! Random changes of the files in a mounted file system.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rand::RngExt;
use rand::rngs::StdRng;

use super::content;

/// Names in use: few, so that most are written over.
const FILES: u32 = 12;
/// Most bytes of a file: all of them together fit into the smallest volume used.
const LARGEST: u64 = 300_000;

/// Writes, cuts, extends, renames or removes a file, or makes it durable.
pub fn change(directory: &Path, random: &mut StdRng) {
    let mut name = || directory.join(format!("file-{}", random.random_range(0..FILES)));
    let (file, other) = (name(), name());
    let length = random.random_range(1..LARGEST);
    let open = |file: &Path| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(file).unwrap();
    match random.random_range(0..8) {
        0 => drop(fs::remove_file(&file)),
        1 => open(&file).set_len(length).unwrap(),
        2 => drop(fs::rename(&file, &other)),
        3 => File::open(directory).unwrap().sync_all().unwrap(),
        4 => open(&file).sync_all().unwrap(),
        5 => fs::write(&file, content(random, length as usize)).unwrap(),
        _ => {
            let at = random.random_range(0..LARGEST - 20_000);
            let length = random.random_range(1..20_000);
            open(&file).write_all_at(&content(random, length), at).unwrap();
        }
    }
}
