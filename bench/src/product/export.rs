//! One export.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use windlass::block::fiemap::{self, FiemapOptions};
use windlass::block::{BlockSource, FileSource};
use windlass::pool::reflink::changed;
use windlass::repository::{Repository, Verification};
use windlass::transfer::metadata::Mode;
use windlass::transfer::{self, ChunkSize, ExportOptions, ExportSource, FullReason, Metadata, Parent, Progress, Scope};
use windlass::types::{LogicalBlockSize, RangeStream, Timestamp, range};

use super::{BudgetArguments, FOLDER, IMAGE, RepositoryArguments, print, runtime};
use crate::error::{BenchError, While};

/// Whether packed blobs are decoded again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Verify {
    /// As the product does.
    On,
    /// Trust the machine.
    Off,
}

/// The arguments of `export`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    repository: RepositoryArguments,
    /// The snapshot's file; its size must be a multiple of 4096
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// The file of the snapshot that was exported last, on the same file system: only what changed since is read
    #[arg(long, value_name = "FILE")]
    parent: Option<PathBuf>,
    /// Size of chunks in bytes; the product's default for the volume's size if not given
    #[arg(long, value_name = "BYTES")]
    chunk_size: Option<u64>,
    /// Decode each packed blob again before it is stored
    #[arg(long, value_enum, default_value = "on")]
    verify: Verify,
    #[command(flatten)]
    budget: BudgetArguments,
}

/// Exports, and prints the report.
///
/// # Errors
/// When anything fails, or everything was read although a parent was given.
pub fn run(arguments: &Arguments) -> Result<(), BenchError> {
    let size = size_of(&arguments.image)?;
    let chunk_size = match arguments.chunk_size {
        Some(bytes) => ChunkSize::new(bytes).while_doing(|| "the size of chunks".to_owned())?,
        None => ChunkSize::for_volume(size),
    };
    let options = ExportOptions {
        path: format!("/{FOLDER}/{IMAGE}"),
        hostname: "bench".to_owned(),
        tags: vec![handle_tag(&arguments.image)],
        time: Timestamp::now(),
        metadata: Metadata {
            volume_handle: Some(FOLDER.to_owned()),
            snapshot_handle: Some(handle(&arguments.image)),
            logical_block_bytes: Some(LogicalBlockSize::B4096.bytes()),
            chunk_bytes: Some(chunk_size.bytes()),
            mode: Some(Mode::Block),
            ..Metadata::of_size(size)
        },
        chunk_size,
        budget: arguments.budget.budget(),
        verification: match arguments.verify {
            Verify::On => Verification::Decode,
            Verify::Off => Verification::Skip,
        },
    };
    let report = runtime()?.block_on(async {
        let repository = arguments.repository.open().await?;
        let since = match &arguments.parent {
            Some(base) => Ok(parent(&repository, base, &arguments.image, &options.path).await?),
            None => Err(FullReason::NoParent),
        };
        let file = open(&arguments.image)?;
        let source: Arc<dyn BlockSource> =
            Arc::new(FileSource::new(file, size, LogicalBlockSize::B4096).while_doing(|| reading(&arguments.image))?);
        let scope = Scope { allocated: allocated(&arguments.image, size)?, since };
        let (progress, cancel) = (Progress::new(), CancellationToken::new());
        let exported = transfer::export(ExportSource::new(source, scope), &repository, &options, &progress, &cancel).await;
        exported.while_doing(|| format!("exporting {}", arguments.image.display()))
    })?;
    if let (Some(_), Some(reason)) = (&arguments.parent, report.mode.full_reason()) {
        return Err(BenchError::new(format!("the export was not incremental: {reason}")));
    }
    let settings = json!({
        "chunk_bytes": options.chunk_size.bytes(),
        "verify": arguments.verify == Verify::On,
        "memory_bytes": options.budget.memory_bytes,
        "workers": options.budget.workers,
    });
    print(report, settings)
}

/// The earlier export of `base` that the repository holds, and what changed since. Blocks for the lists of extents, which are
/// read as the stream is.
async fn parent(repository: &Repository, base: &Path, image: &Path, path: &str) -> Result<Parent, BenchError> {
    let tag = handle_tag(base);
    let stored = repository.snapshots().await.while_doing(|| "listing snapshots".to_owned())?;
    let newest = stored
        .into_iter()
        .rev()
        .find(|stored| stored.snapshot.paths.iter().any(|stored| stored == path) && stored.snapshot.tags.contains(&tag));
    let newest = newest.ok_or_else(|| BenchError::new(format!("the repository holds no export of {}", base.display())))?;
    let extents = |path: &Path| Ok::<_, BenchError>(fiemap::extents(open(path)?, FiemapOptions::LIVE));
    let differing = changed::compare(extents(base)?, extents(image)?);
    Ok(Parent {
        snapshot: newest.id,
        volume_handle: FOLDER.to_owned(),
        snapshot_handle: handle(base),
        size_bytes: size_of(base)?,
        changed: Box::new(range::coalesce(changed::up_to(differing, size_of(image)?))),
    })
}

fn allocated(image: &Path, size: u64) -> Result<RangeStream, BenchError> {
    let extents = fiemap::extents(open(image)?, FiemapOptions::LIVE);
    let ranges = extents.filter_map(|extent| extent.map(|extent| extent.range()).transpose());
    Ok(Box::new(range::coalesce(changed::up_to(ranges, size))))
}

/// The handle of the snapshot that a file stands for: the file's name.
fn handle(image: &Path) -> String {
    image.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn handle_tag(image: &Path) -> String {
    format!("handle={}", handle(image))
}

fn open(path: &Path) -> Result<File, BenchError> {
    File::open(path).while_doing(|| reading(path))
}

fn size_of(path: &Path) -> Result<u64, BenchError> {
    Ok(path.metadata().while_doing(|| reading(path))?.len())
}

fn reading(path: &Path) -> String {
    format!("reading {}", path.display())
}
