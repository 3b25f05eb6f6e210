//! The image of a file system with the machine's own files: binaries, libraries, sources, documents, and a little of what real
//! disks hold besides: media that do not compress, files of zeros, a database.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::noise::Noise;
use super::pages::{self, PAGE_BYTES};
use super::place::{self, Mounted};
use crate::error::{BenchError, While};

const MB: u64 = 1_000_000;

/// How large everything is, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// The volume.
    pub volume: u64,
    /// Libraries, binaries, sources, documents; less where the machine has less.
    pub files: [u64; 4],
    /// What does not compress.
    pub random: u64,
    /// Zeros that are written.
    pub zeros: u64,
    /// A database's pages.
    pub pages: u64,
}

impl Shape {
    /// 8 GiB with 2 GB of files.
    pub const FULL: Self = Self {
        volume: 8 << 30,
        files: [700 * MB, 360 * MB, 430 * MB, 140 * MB],
        random: 200 << 20,
        zeros: 128 << 20,
        pages: 160 << 20,
    };
    /// 1.5 GiB with a quarter of the files.
    pub const QUICK: Self = Self {
        volume: 3 << 29,
        files: [150 * MB, 90 * MB, 100 * MB, 40 * MB],
        random: 50 << 20,
        zeros: 32 << 20,
        pages: 40 << 20,
    };
}

/// Folders with each kind of files, in the order in which they are taken. `~` is the home of who runs this.
const SOURCES: [(&str, &[&str]); 4] = [
    ("lib", &["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "~/.rustup/toolchains"]),
    ("bin", &["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/go/pkg/tool", "/usr/local/go/bin", "~/.cargo/bin"]),
    ("src", &["~/.cargo/registry/src", "/usr/local/go/src", "/usr/src", "/usr/include", "/usr/lib/python3"]),
    ("doc", &["/usr/share/doc", "/usr/share/man", "/usr/share"]),
];

/// Makes the image at `image`, mounting it in the empty folder `folder` meanwhile.
///
/// # Errors
/// When anything fails; unreadable files of the machine are passed over.
pub fn make(image: &Path, folder: &Path, shape: &Shape, seed: u64) -> Result<(), BenchError> {
    let what = || format!("making {}", image.display());
    let file = File::create_new(image).while_doing(what)?;
    file.set_len(shape.volume).while_doing(what)?;
    // Fixed ids, so that two runs on one machine differ in times only.
    place::command(
        "mkfs.ext4",
        &[
            "-q",
            "-F",
            "-m",
            "0",
            "-U",
            "3a1c9f0e-5d1b-4c8e-9a55-0c1d2e3f4a5b",
            "-E",
            "nodiscard,hash_seed=3a1c9f0e-5d1b-4c8e-9a55-0c1d2e3f4a5b",
        ],
        &[image],
    )?;
    let mounted = Mounted::mount(image, folder, "loop,noinit_itable")?;
    for ((name, folders), limit) in SOURCES.iter().zip(shape.files) {
        copy_up_to(folders, &folder.join(name), limit)?;
    }
    let mut noise = Noise::new(seed);
    fill(&folder.join("media.bin"), shape.random, |block| noise.fill(block))?;
    fill(&folder.join("preallocated.bin"), shape.zeros, |block| block.fill(0))?;
    fill(&folder.join("table.db"), shape.pages, |block| {
        block.chunks_mut(PAGE_BYTES).for_each(|page| pages::fill(page, &mut noise))
    })?;
    mounted.unmount()?;
    file.sync_all().while_doing(what)
}

/// A file of `bytes` bytes, a whole number of blocks of 1 MiB, each made by `make`.
fn fill(path: &Path, bytes: u64, mut make: impl FnMut(&mut [u8])) -> Result<(), BenchError> {
    let what = || format!("writing {}", path.display());
    let mut file = File::create_new(path).while_doing(what)?;
    let mut block = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        make(&mut block);
        file.write_all(&block).while_doing(what)?;
    }
    Ok(())
}

/// Copies files below `folders`, in the order of their names, until they have `limit` bytes together.
fn copy_up_to(folders: &[&str], target: &Path, limit: u64) -> Result<(), BenchError> {
    let mut left = limit;
    for (number, folder) in folders.iter().enumerate() {
        let source = home(folder);
        copy_tree(&source, &target.join(number.to_string()), &mut left)?;
    }
    Ok(())
}

fn copy_tree(source: &Path, target: &Path, left: &mut u64) -> Result<(), BenchError> {
    let Ok(entries) = fs::read_dir(source) else { return Ok(()) };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(|entry| entry.file_name());
    let mut made = false;
    for entry in entries {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        if *left == 0 {
            return Ok(());
        }
        let copy = target.join(entry.file_name());
        if kind.is_dir() {
            copy_tree(&path, &copy, left)?;
        } else if kind.is_file() {
            let Ok(length) = entry.metadata().map(|metadata| metadata.len()) else { continue };
            // One that does not fit any more is passed over, and smaller ones may follow; none is so large that it matters.
            if length > *left || length > limit_of_one(*left) {
                continue;
            }
            if !made {
                fs::create_dir_all(target).while_doing(|| format!("making {}", target.display()))?;
                made = true;
            }
            match copy_file(&path, &copy) {
                Ok(()) => *left -= length,
                // Unreadable, or gone meanwhile.
                Err(error) if error.kind() != std::io::ErrorKind::StorageFull => {}
                Err(error) => return Err(BenchError::because(format!("writing {}", copy.display()), error)),
            }
        }
    }
    Ok(())
}

/// No file takes more than this of what is left, so that a category is of many files.
fn limit_of_one(left: u64) -> u64 {
    (left / 2).max(MB)
}

/// Reads and writes: a clone or a copy within the kernel would do less than a program that writes files.
fn copy_file(source: &Path, target: &Path) -> std::io::Result<()> {
    let bytes = fs::read(source)?;
    OpenOptions::new().write(true).create_new(true).open(target)?.write_all(&bytes)
}

fn home(folder: &str) -> PathBuf {
    match folder.strip_prefix("~/") {
        Some(rest) => std::env::home_dir().unwrap_or_default().join(rest),
        None => folder.into(),
    }
}
