//! Volumes that nobody has: their bytes are made when they are read and compared when they are restored, so that what depends on a
//! volume's size can be measured for sizes that no disk here holds.
//!
//! * `export` reads all of a synthetic volume, or a few chunks of it upon an earlier export;
//! * `fabricate` stores index files, tree and snapshot of a full volume whose packs are [made up](crate::product::fabricated): enough for
//!   an increment, which reads none of their blobs. A full export of 16 TiB takes hours, this a minute;
//! * `index` and `locks` store what others would have left in a repository that many share;
//! * `restore` restores into a sink that compares and keeps nothing.
//!
//! One process each, like the others; the peak of memory is what they are for.

mod fabricate;
mod table;
mod volume;

use std::sync::Arc;

use clap::Subcommand;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use windlass::block::{BlockSink, BlockSource};
use windlass::repository::tree::FileSelector;
use windlass::repository::{Repository, Verification};
use windlass::transfer::metadata::Mode;
use windlass::transfer::{
    self, ChunkSize, ExportOptions, ExportSource, FullReason, Image, Locking, Metadata, Parent, Progress, RestoreOptions, Scope,
    Target,
};
use windlass::types::{LogicalBlockSize, Timestamp};

use crate::error::{BenchError, While};
use crate::product::{BudgetArguments, RepositoryArguments, print, runtime};
use volume::{Allocation, Filling, SyntheticVolume};

const FOLDER: &str = "synthetic";
const PATH: &str = "/synthetic/volume.img";

/// What is done with a synthetic volume.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Export it
    Export(ExportArguments),
    /// Store the lists of a full one, whose packs are made up
    Fabricate(FabricateArguments),
    /// Store index files about packs of others, which are made up
    Index(CountArguments),
    /// Store locks of other hosts
    Locks(CountArguments),
    /// Restore the newest one, comparing
    Restore(RestoreArguments),
    /// Peak memory for volumes of a TiB and of sixteen, sparse and full
    Table(table::Arguments),
}

/// The arguments of `synthetic export`.
#[derive(Debug, Clone, clap::Args)]
pub struct ExportArguments {
    #[command(flatten)]
    repository: RepositoryArguments,
    /// Size of the volume in bytes, a multiple of 4096
    #[arg(long, value_name = "BYTES")]
    size: u64,
    /// How much of it is allocated
    #[arg(long, value_enum, default_value = "full")]
    allocated: Allocation,
    /// Export so many changed chunks upon the first export in the repository
    #[arg(long, value_name = "CHUNKS")]
    changed: Option<u64>,
    /// What its blocks hold
    #[arg(long, value_enum, default_value = "plain")]
    filling: Filling,
    /// Which of the volumes of these properties: no two have a chunk in common
    #[arg(long, value_name = "N", default_value = "0")]
    seed: u16,
    #[command(flatten)]
    budget: BudgetArguments,
}

/// The arguments of `synthetic fabricate`.
#[derive(Debug, Clone, clap::Args)]
pub struct FabricateArguments {
    #[command(flatten)]
    repository: RepositoryArguments,
    /// Size of the volume in bytes, a multiple of 4096
    #[arg(long, value_name = "BYTES")]
    size: u64,
}

/// The arguments of `synthetic index` and `synthetic locks`.
#[derive(Debug, Clone, clap::Args)]
pub struct CountArguments {
    #[command(flatten)]
    repository: RepositoryArguments,
    /// How many blobs or locks
    #[arg(long, value_name = "N")]
    count: u64,
}

/// The arguments of `synthetic restore`.
#[derive(Debug, Clone, clap::Args)]
pub struct RestoreArguments {
    #[command(flatten)]
    repository: RepositoryArguments,
    /// How much of it is allocated
    #[arg(long, value_enum, default_value = "full")]
    allocated: Allocation,
    /// How many chunks of it were changed
    #[arg(long, value_name = "CHUNKS", default_value = "0")]
    changed: u64,
    #[command(flatten)]
    budget: BudgetArguments,
}

/// Does it, and prints a report as one JSON line.
///
/// # Errors
/// When anything fails.
pub fn run(command: &Command) -> Result<(), BenchError> {
    match command {
        Command::Export(arguments) => export(arguments),
        Command::Fabricate(arguments) => runtime()?.block_on(fabricate::run(&arguments.repository, arguments.size)),
        Command::Index(arguments) => runtime()?.block_on(fabricate::index(&arguments.repository, arguments.count)),
        Command::Locks(arguments) => runtime()?.block_on(fabricate::locks(&arguments.repository, arguments.count)),
        Command::Restore(arguments) => restore(arguments),
        Command::Table(arguments) => table::run(arguments),
    }
}

fn metadata(size: u64, snapshot: &str) -> Metadata {
    Metadata {
        volume_handle: Some(FOLDER.to_owned()),
        snapshot_handle: Some(snapshot.to_owned()),
        logical_block_bytes: Some(LogicalBlockSize::B4096.bytes()),
        chunk_bytes: Some(ChunkSize::for_volume(size).bytes()),
        mode: Some(Mode::Block),
        ..Metadata::of_size(size)
    }
}

fn export(arguments: &ExportArguments) -> Result<(), BenchError> {
    let size = arguments.size;
    let volume = SyntheticVolume::new(size, arguments.allocated, arguments.changed.unwrap_or(0));
    let volume = volume.filled_with(arguments.filling, arguments.seed);
    let budget = arguments.budget.budget();
    let (report, requests) = runtime()?.block_on(async {
        let (repository, requests) = arguments.repository.open_counted().await?;
        let since = match arguments.changed {
            Some(_) => Ok(parent(&repository, &volume).await?),
            None => Err(FullReason::NoParent),
        };
        let options = ExportOptions {
            path: PATH.to_owned(),
            hostname: format!("bench-{}", arguments.seed),
            tags: Vec::new(),
            time: Timestamp::now(),
            metadata: metadata(size, if arguments.changed.is_some() { "second" } else { "first" }),
            chunk_size: ChunkSize::for_volume(size),
            budget,
            verification: Verification::Decode,
        };
        let scope = Scope { allocated: volume.allocated(), since };
        let source: Arc<dyn BlockSource> = Arc::new(volume.clone());
        let (progress, cancel) = (Progress::new(), CancellationToken::new());
        let exported = transfer::export(ExportSource::new(source, scope), &repository, &options, &progress, &cancel).await;
        let report = exported.while_doing(|| "exporting a synthetic volume".to_owned())?;
        Ok::<_, BenchError>((report, requests.counts()))
    })?;
    if let (Some(_), Some(reason)) = (arguments.changed, report.mode.full_reason()) {
        return Err(BenchError::new(format!("the export was not incremental: {reason}")));
    }
    print(report, json!({ "memory_bytes": budget.memory_bytes, "workers": budget.workers, "requests": requests }))
}

/// The first export in the repository, and what changed since by definition.
async fn parent(repository: &Repository, volume: &SyntheticVolume) -> Result<Parent, BenchError> {
    let stored = repository.snapshots().await.while_doing(|| "finding the first export".to_owned())?;
    let first = stored.into_iter().min_by(|one, other| one.snapshot.time.cmp(&other.snapshot.time));
    let first = first.ok_or_else(|| BenchError::new("there is no export to build upon"))?;
    Ok(Parent {
        snapshot: first.id,
        volume_handle: FOLDER.to_owned(),
        snapshot_handle: "first".to_owned(),
        size_bytes: BlockSource::size(volume),
        changed: volume.changed(),
    })
}

fn restore(arguments: &RestoreArguments) -> Result<(), BenchError> {
    let budget = arguments.budget.budget();
    let report = runtime()?.block_on(async {
        let repository = arguments.repository.open().await?;
        let opened = Image::open(&repository, "latest", &FileSelector::Path(PATH.to_owned()), Locking::Shared).await;
        let mut image = opened.while_doing(|| "opening the image".to_owned())?;
        let volume = SyntheticVolume::new(image.size_bytes(), arguments.allocated, arguments.changed);
        let sink: Arc<dyn BlockSink> = Arc::new(volume);
        let options = RestoreOptions { target: Target::Fresh, budget };
        let restored = transfer::restore(&mut image, sink, &options, &Progress::new(), &CancellationToken::new()).await;
        image.close().await;
        restored.while_doing(|| "restoring a synthetic volume".to_owned())
    })?;
    print(report, json!({ "memory_bytes": budget.memory_bytes, "workers": budget.workers }))
}
