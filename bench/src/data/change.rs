//! A later state of an image: a clone that shares all extents, of which one percent is then overwritten.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use windlass::block::fiemap::{self, FiemapOptions};
use windlass::block::reflink;
use windlass::types::ByteRange;

use super::noise::Noise;
use crate::error::{BenchError, While};

/// Where the changed bytes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Writes of 4 to 64 KiB anywhere in what is allocated, as many small files or a database's pages.
    Scattered,
    /// Eight runs, as files that were replaced or appended to.
    Clustered,
    /// None at all: a snapshot of a volume that nobody wrote to.
    Unchanged,
}

/// Runs of [`Pattern::Clustered`].
const CLUSTERS: u64 = 8;
const BLOCK: u64 = 4096;

/// Makes `target` as a clone of `base` and overwrites `percent` of what is allocated. Returns the bytes written.
///
/// # Errors
/// When the file system cannot share extents, or anything fails.
pub fn make(base: &Path, target: &Path, pattern: Pattern, percent: f64, seed: u64) -> Result<u64, BenchError> {
    let what = || format!("making {}", target.display());
    let source = File::open(base).while_doing(what)?;
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(target).while_doing(what)?;
    reflink::clone_file(&source, &file).while_doing(what)?;
    let area = Area::of(&source).while_doing(what)?;
    let wanted = (area.bytes as f64 * percent / 100.0) as u64;
    let mut noise = Noise::new(seed);
    let mut written = 0;
    while pattern != Pattern::Unchanged && written < wanted {
        let length = match pattern {
            Pattern::Scattered => (1 + noise.below(16)) * BLOCK,
            Pattern::Clustered | Pattern::Unchanged => (wanted / CLUSTERS).next_multiple_of(BLOCK),
        };
        let Some(place) = area.place(noise.below(area.bytes), length) else { continue };
        let mut bytes = vec![0; place.length() as usize];
        let (random, text) = bytes.split_at_mut(place.length() as usize / 2);
        noise.fill(random);
        noise.text(text);
        file.write_all_at(&bytes, place.offset()).while_doing(what)?;
        written += place.length();
    }
    file.sync_all().while_doing(what)?;
    Ok(written)
}

/// Bytes of an image that are allocated.
///
/// # Errors
/// When its extents cannot be listed.
pub fn allocated_bytes(image: &Path) -> Result<u64, BenchError> {
    let area = File::open(image).and_then(|file| Area::of(&file));
    Ok(area.while_doing(|| format!("listing the extents of {}", image.display()))?.bytes)
}

/// What of a file is allocated.
struct Area {
    extents: Vec<ByteRange>,
    bytes: u64,
}

impl Area {
    fn of(file: &File) -> std::io::Result<Self> {
        let mut extents = Vec::new();
        for extent in fiemap::extents(file, FiemapOptions::LIVE) {
            extents.extend(extent?.range());
        }
        let bytes = extents.iter().map(|extent| extent.length()).sum();
        Ok(Self { extents, bytes })
    }

    /// The range of at most `length` bytes from the `position`th allocated byte on, on whole blocks, within one extent. `None`
    /// when that is less than half of it, so that runs stay runs.
    fn place(&self, position: u64, length: u64) -> Option<ByteRange> {
        let mut before = 0;
        for extent in &self.extents {
            if position < before + extent.length() {
                let start = (extent.offset() + position - before) / BLOCK * BLOCK;
                let range = ByteRange::between(start.max(extent.offset()), (start + length).min(extent.end()))?;
                return (range.length() >= length / 2 || self.extents.len() > 10_000).then_some(range);
            }
            before += extent.length();
        }
        None
    }
}
