//! Images that hold no file system: a database's pages, what does not compress, and large volumes that are nearly empty.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::noise::Noise;
use super::pages::{self, PAGE_BYTES};
use crate::error::{BenchError, While};

const MIB: u64 = 1 << 20;

/// What an image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A database's pages.
    Pages,
    /// Bytes that do not compress.
    Random,
    /// Half rows of text, half pages.
    Mixed,
}

/// Makes an image of `volume` bytes with `data` bytes of content, in runs of `run` bytes at equal distances. All are multiples
/// of 1 MiB.
///
/// # Errors
/// When it cannot be written.
pub fn make(image: &Path, volume: u64, data: u64, run: u64, content: Content, seed: u64) -> Result<(), BenchError> {
    let what = || format!("making {}", image.display());
    let file = File::create_new(image).while_doing(what)?;
    file.set_len(volume).while_doing(what)?;
    let mut noise = Noise::new(seed);
    let runs = (data / run).max(1);
    let distance = volume / runs / MIB * MIB;
    let mut block = vec![0; MIB as usize];
    for number in 0..runs {
        for at in 0..run / MIB {
            match content {
                Content::Random => noise.fill(&mut block),
                Content::Mixed if at % 2 == 0 => noise.text(&mut block),
                Content::Pages | Content::Mixed => block.chunks_mut(PAGE_BYTES).for_each(|page| pages::fill(page, &mut noise)),
            }
            file.write_all_at(&block, number * distance + at * MIB).while_doing(what)?;
        }
    }
    file.sync_all().while_doing(what)
}
