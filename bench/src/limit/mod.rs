//! The arithmetic limit: how long the bytes take through each stage at that stage's own speed, spread evenly over the processors.
//!
//! One thread takes the image's chunks through every stage, one stage after the other, a batch at a time, and adds up what each
//! takes. Nothing waits for anything, nothing is copied from stage to stage that the stage does not need, nothing is shared.
//! The limit of an export is the sum of its stages divided by the number of processors: what a pipeline would take that keeps all
//! of them busy with nothing else. The speeds come from the same bytes in the same run.
//!
//! Two things take time whatever the bytes: deriving the key from the password, which runs on one processor, and taking the
//! repository's lock, which the format makes a wait (write, wait 200 ms, look for others). Both are measured by doing them on an
//! empty repository, and given apart.
//!
//! Stages use the fastest implementation at hand on this processor, not necessarily the product's. Packs are hashed four at a
//! time, which a worker with a quarter of the default memory could do.

pub mod stages;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use windlass::block::fiemap::{self, FiemapOptions};
use windlass::block::{BlockSource, FileSource};
use windlass::pool::reflink::changed;
use windlass::repository::LockMode;
use windlass::transfer::plan::Plan;
use windlass::transfer::{ChunkSize, hash, zeros};
use windlass::types::{ByteRange, LogicalBlockSize, RangeStream, range};

use crate::error::{BenchError, While};
use crate::product::{self, RepositoryArguments};
use stages::{Account, Chain};

/// The arguments of `limit`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The image whose bytes go through the stages
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// Only the chunks that changed since this one
    #[arg(long, value_name = "FILE")]
    parent: Option<PathBuf>,
    /// An empty repository, for what opening and locking take, beside which packs are written
    #[command(flatten)]
    repository: RepositoryArguments,
    /// An empty folder where packs and a restored image are written
    #[arg(long, value_name = "DIR")]
    scratch: PathBuf,
    /// Size of chunks in bytes; the product's default for the volume's size if not given
    #[arg(long, value_name = "BYTES")]
    chunk_size: Option<u64>,
}

/// A stage of an export, a restore or a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Read the image.
    Read,
    /// Find chunks that are zeros.
    ZeroTest,
    /// Name chunks.
    ChunkHash,
    /// Compress chunks.
    Compress,
    /// Encrypt what is packed.
    Encrypt,
    /// Make its code.
    Authenticate,
    /// Name packs.
    PackHash,
    /// Write packs and sync them.
    WritePack,
    /// Verify the code.
    VerifyCode,
    /// Decrypt.
    Decrypt,
    /// Decompress.
    Decompress,
    /// Compare with what was read.
    Compare,
    /// Read packs.
    ReadPack,
    /// Write the image and sync it.
    WriteImage,
}

impl Stage {
    /// What an export does without decoding again.
    pub const EXPORT: [Self; 8] = [
        Self::Read,
        Self::ZeroTest,
        Self::ChunkHash,
        Self::Compress,
        Self::Encrypt,
        Self::Authenticate,
        Self::PackHash,
        Self::WritePack,
    ];
    /// What decoding again adds.
    pub const VERIFY: [Self; 4] = [Self::VerifyCode, Self::Decrypt, Self::Decompress, Self::Compare];
    /// What a restore does.
    pub const RESTORE: [Self; 6] =
        [Self::ReadPack, Self::VerifyCode, Self::Decrypt, Self::Decompress, Self::ChunkHash, Self::WriteImage];
    /// What a check of all data does.
    pub const CHECK: [Self; 6] =
        [Self::ReadPack, Self::PackHash, Self::VerifyCode, Self::Decrypt, Self::Decompress, Self::ChunkHash];
}

/// What went through a stage, and how long that took one thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Passage {
    /// Bytes.
    pub bytes: u64,
    /// Seconds of one thread.
    pub seconds: f64,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Each stage.
    pub stages: BTreeMap<Stage, Passage>,
    /// Size of chunks in bytes.
    pub chunk_bytes: u64,
    /// Bytes of the packs.
    pub packed_bytes: u64,
    /// Seconds of one thread for opening a repository, most of which derives a key.
    pub open_seconds: f64,
    /// Seconds from asking for a lock to having it.
    pub lock_seconds: f64,
    /// Processor seconds of both.
    pub fixed_cpu_seconds: f64,
}

/// When a work waits for the repository's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockWait {
    /// Before the first byte, since what is found to be stored must not go away.
    Before,
    /// While it works, since nothing comes of it before the lock is known to hold.
    Meanwhile,
}

impl Report {
    /// Seconds of one thread for all bytes through these stages.
    pub fn thread_seconds(&self, stages: impl IntoIterator<Item = Stage>) -> f64 {
        stages.into_iter().filter_map(|stage| self.stages.get(&stage)).map(|passage| passage.seconds).sum()
    }

    /// Seconds from the start of a work to its end whose bytes take `bytes_seconds`. The lock counts only where nothing can be done
    /// meanwhile.
    pub fn wall_seconds(&self, bytes_seconds: f64, waiting: LockWait) -> f64 {
        self.open_seconds
            + match waiting {
                LockWait::Before => self.lock_seconds + bytes_seconds,
                LockWait::Meanwhile => self.lock_seconds.max(bytes_seconds),
            }
    }
}

/// Measures, and prints the report as one line.
///
/// # Errors
/// When anything fails.
pub fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let report = measure(arguments)?;
    println!("{}", serde_json::to_string(&report).while_doing(|| "writing the report".to_owned())?);
    Ok(())
}

fn measure(arguments: &Arguments) -> Result<Report, BenchError> {
    let cpu_before = cpu_seconds()?;
    let (open_seconds, lock_seconds) = open_and_lock(&arguments.repository)?;
    let fixed_cpu_seconds = cpu_seconds()? - cpu_before;

    let what = || format!("reading {}", arguments.image.display());
    let size = arguments.image.metadata().while_doing(what)?.len();
    let chunk_size = match arguments.chunk_size {
        Some(bytes) => ChunkSize::new(bytes).while_doing(|| "the size of chunks".to_owned())?,
        None => ChunkSize::for_volume(size),
    };
    let source =
        FileSource::new(File::open(&arguments.image).while_doing(what)?, size, LogicalBlockSize::B4096).while_doing(what)?;
    let touched = arguments.parent.as_ref().map(|parent| touched(parent, &arguments.image, size, chunk_size)).transpose()?;
    let plan = Plan::new(size, chunk_size, allocated(&arguments.image, size)?);

    let mut account = Account::default();
    let mut chain = Chain::new(&arguments.scratch, size, chunk_size)?;
    let mut batch = Vec::new();
    let lanes = hash::lanes().max(4);
    for chunk in plan {
        let chunk = chunk.while_doing(what)?;
        // Both ascend, so looking each up is cheap enough, and it is not timed.
        if touched.as_ref().is_some_and(|touched| touched.binary_search(&chunk.index).is_err()) {
            continue;
        }
        batch.push(chunk);
        if batch.len() == lanes {
            chain.pass(&source, &batch, &mut account)?;
            batch.clear();
        }
    }
    chain.pass(&source, &batch, &mut account)?;
    let packed_bytes = chain.finish(&mut account)?;
    let stages = account.into_stages();
    Ok(Report { stages, chunk_bytes: chunk_size.bytes(), packed_bytes, open_seconds, lock_seconds, fixed_cpu_seconds })
}

fn open_and_lock(repository: &RepositoryArguments) -> Result<(f64, f64), BenchError> {
    product::runtime()?.block_on(async {
        // It computes on one thread, so its processor time is its time, whoever else is on the machine.
        let started = cpu_seconds()?;
        let repository = repository.open().await?;
        let opened = cpu_seconds()? - started;
        let started = Instant::now();
        let lock = repository.lock(LockMode::Shared).await.while_doing(|| "locking the repository".to_owned())?;
        let locked = started.elapsed().as_secs_f64();
        lock.release().await.while_doing(|| "unlocking the repository".to_owned())?;
        Ok((opened, locked))
    })
}

fn cpu_seconds() -> Result<f64, BenchError> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).while_doing(|| "reading the clock".to_owned())?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

fn allocated(image: &Path, size: u64) -> Result<RangeStream, BenchError> {
    let file = File::open(image).while_doing(|| format!("reading {}", image.display()))?;
    let ranges = fiemap::extents(file, FiemapOptions::LIVE).filter_map(|extent| extent.map(|extent| extent.range()).transpose());
    Ok(Box::new(range::coalesce(changed::up_to(ranges, size))))
}

/// Numbers of the chunks that the changes since `parent` touch, ascending.
fn touched(parent: &Path, image: &Path, size: u64, chunk_size: ChunkSize) -> Result<Vec<u32>, BenchError> {
    let extents = |path: &Path| {
        let file = File::open(path).while_doing(|| format!("reading {}", path.display()))?;
        Ok::<_, BenchError>(fiemap::extents(file, FiemapOptions::LIVE))
    };
    let mut touched = Vec::new();
    for range in changed::up_to(changed::compare(extents(parent)?, extents(image)?), size) {
        let range: ByteRange = range.while_doing(|| format!("comparing with {}", parent.display()))?;
        let (first, last) = (range.offset() / chunk_size.bytes(), (range.end() - 1) / chunk_size.bytes());
        touched.extend((first..=last).map(|number| number as u32));
    }
    touched.dedup();
    Ok(touched)
}

/// True when the chunk is zeros, as the product tests it.
fn is_zero(bytes: &[u8]) -> bool {
    zeros::is_zero(bytes)
}

/// Fills what the plan reads of a chunk, the rest being zeros.
fn read(source: &dyn BlockSource, chunk: &windlass::transfer::plan::Chunk, buffer: &mut [u8]) -> std::io::Result<u64> {
    let mut bytes = 0;
    for range in &chunk.reads {
        let start = (range.offset() - chunk.range.offset()) as usize;
        source.read_at(range.offset(), &mut buffer[start..start + range.length() as usize])?;
        bytes += range.length();
    }
    Ok(bytes)
}
