//! `windlass restore`: what a repository holds, to a volume of a running node or to a file.
//!
//! A volume is made by the node and is invisible until it is whole. A file is written by this process, which needs no node:
//! under a temporary name beside its final one, sparse, and renamed when it is whole and durable. An interrupted restore
//! leaves neither.
//!
//! With `--skip-damaged` what does not read is left out. If anything is, the command says where, ends with an exit code of its own, and
//! leaves what it made under a name that nobody takes for the whole: `NAME-damaged`, `PATH.damaged`.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use csi_proto::windlass::v1 as windlass;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::choice::ChoiceArgs;
use super::client::{Answer, Node};
use super::endpoint::EndpointArgs;
use super::exit::{CliError, Exit};
use super::output::{Format, print_json, print_text};
use super::repository_access::RepositoryArgs;
use super::restore_file;
use super::restore_request::{RestoreSource, RestoreTuning, incomplete};
use super::size::ByteSize;
use super::transfer::{Transfer, follow};
use super::volume::{ModeArgs, Presentation};
use super::wait::Wait;
use crate::transfer::Hole;
use crate::types::LogicalBlockSize;

/// Arguments of `restore`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("target").required(true).args(["volume", "file"])))]
pub struct RestoreArgs {
    /// Snapshot in the repository: its id, the beginning of it, or `latest` of those that the options below leave, which must be of
    /// one volume
    #[arg(long, value_name = "ID", default_value = "latest")]
    snapshot: String,
    #[command(flatten)]
    choice: ChoiceArgs,
    /// Which file of the snapshot; not needed for what `export` made, nor when the snapshot holds only one file
    #[arg(long, value_name = "FILE_IN_REPOSITORY")]
    path: Option<String>,
    /// Name of the volume to make
    #[arg(long, value_name = "NAME")]
    volume: Option<String>,
    /// File to make; it must not exist
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Size of the volume, not smaller than what is restored [default: the same]
    #[arg(long, conflicts_with = "file")]
    size: Option<ByteSize>,
    /// Pool to make the volume in, by its id; needed when the node has several
    #[arg(long, value_name = "ID", conflicts_with = "file")]
    pool: Option<String>,
    /// Logical block size of the volume's device: 512 for what was written to a disk that has it [default: the pool's]
    #[arg(long, value_name = "BYTES", conflicts_with = "file", value_parser = ["512", "4096"])]
    logical_block_size: Option<String>,
    #[command(flatten)]
    mode: ModeArgs,
    #[command(flatten)]
    repository: RepositoryArgs,
    #[command(flatten)]
    tuning: RestoreTuning,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// The volume to make of it.
#[derive(Debug, Clone)]
pub struct RestoreTarget {
    /// Its name.
    pub volume: String,
    /// Its size; that of the source when this is `None`.
    pub size: Option<ByteSize>,
    /// Id of the pool; the node's only one when this is `None`.
    pub pool: Option<String>,
    /// Logical block size of its device; the pool's own when this is `None`.
    pub logical_block_size: Option<LogicalBlockSize>,
    /// How it is presented; as it was exported when this is `None`.
    pub presentation: Option<Presentation>,
}

/// Runs the restore and prints what was made.
pub async fn run(args: RestoreArgs, format: Format, interrupt: &CancellationToken) -> Result<(), CliError> {
    let source = RestoreSource {
        access: args.repository.access()?,
        snapshot: args.snapshot,
        choice: args.choice,
        path: args.path,
        tuning: args.tuning,
    };
    let Some(volume) = args.volume else {
        let path = args.file.ok_or_else(|| CliError::usage("give --volume NAME or --file PATH"))?;
        return restore_file::run(&source, &path, format, interrupt).await;
    };
    let node = Node::connect(&args.endpoint.endpoint()).await?;
    let logical_block_size = args.logical_block_size.as_deref().and_then(LogicalBlockSize::parse);
    let presentation = args.mode.chosen();
    let target = RestoreTarget { volume, size: args.size, pool: args.pool, logical_block_size, presentation };
    let result = restore(&node, &source, &target, format, interrupt).await?;
    match format {
        Format::Text => print_text(&result.volume_id)?,
        Format::Json => print_json(&RestoredVolume::from(&result))?,
    }
    let holes = result.holes.iter().map(hole_of_message);
    let what = format!("the volume was restored with holes, and is called `{}`", result.volume_name);
    incomplete(what, holes, result.hole_bytes, result.unlisted_hole_bytes, format)
}

fn hole_of_message(hole: &windlass::RestoreHole) -> String {
    let windlass::RestoreHole { offset, length, blobs, blob, pack, reason } = hole;
    let pack = pack.parse().ok();
    match blob.parse() {
        Ok(blob) => Hole { offset: *offset, length: *length, blobs: *blobs, blob, pack, reason: reason.clone() }.to_string(),
        // A node of another release may call blobs otherwise.
        Err(_) => format!("bytes {offset}-{}: {reason}", offset.saturating_add(length.saturating_sub(1))),
    }
}

/// The result as it is printed.
#[derive(Debug, Serialize)]
struct RestoredVolume<'a> {
    volume_id: &'a str,
    name: &'a str,
    size_bytes: u64,
    data_bytes: u64,
    present_bytes: u64,
    zero_bytes: u64,
    hole_bytes: u64,
    unlisted_hole_bytes: u64,
    holes: Vec<HoleView<'a>>,
    metadata_lost: &'a str,
}

impl<'a> From<&'a windlass::RestoreResult> for RestoredVolume<'a> {
    fn from(result: &'a windlass::RestoreResult) -> Self {
        Self {
            volume_id: &result.volume_id,
            name: &result.volume_name,
            size_bytes: result.size_bytes,
            data_bytes: result.data_bytes,
            present_bytes: result.present_bytes,
            zero_bytes: result.zero_bytes,
            hole_bytes: result.hole_bytes,
            unlisted_hole_bytes: result.unlisted_hole_bytes,
            holes: result.holes.iter().map(HoleView::from).collect(),
            metadata_lost: &result.metadata_lost,
        }
    }
}

#[derive(Debug, Serialize)]
struct HoleView<'a> {
    offset: u64,
    length: u64,
    blobs: u64,
    blob: &'a str,
    pack: Option<&'a str>,
    reason: &'a str,
}

impl<'a> From<&'a windlass::RestoreHole> for HoleView<'a> {
    fn from(hole: &'a windlass::RestoreHole) -> Self {
        let windlass::RestoreHole { offset, length, blobs, blob, pack, reason } = hole;
        let pack = Some(pack.as_str()).filter(|pack| !pack.is_empty());
        Self { offset: *offset, length: *length, blobs: *blobs, blob, pack, reason }
    }
}

/// Has the node make a volume from a repository, and waits for it.
pub async fn restore(
    node: &Node,
    source: &RestoreSource,
    target: &RestoreTarget,
    format: Format,
    interrupt: &CancellationToken,
) -> Result<windlass::RestoreResult, CliError> {
    let tuning = &source.tuning;
    let size = target.size.map_or(Ok(0), |size| i64::try_from(size.bytes()));
    let request = windlass::StartRestoreRequest {
        repository: Some(source.access.to_message()),
        repository_snapshot: source.snapshot.clone(),
        file_path: source.path.clone().unwrap_or_default(),
        pool_id: target.pool.clone().unwrap_or_default(),
        volume_name: target.volume.clone(),
        capacity_bytes: size.map_err(|_| CliError::usage("--size is too large"))?,
        fs_type: match target.presentation {
            Some(Presentation::FileSystem(fs_type)) => fs_type.name().to_owned(),
            Some(Presentation::Block) | None => String::new(),
        },
        block: target.presentation == Some(Presentation::Block),
        workers: tuning.workers.unwrap_or(0),
        memory_bytes: tuning.memory.map_or(0, ByteSize::bytes),
        logical_block_bytes: target.logical_block_size.map_or(0, LogicalBlockSize::bytes),
        retry_lock_seconds: tuning.retry_lock.map(Wait::seconds),
        no_lock: tuning.no_lock,
        filter: Some(source.choice.to_message()),
        skip_damaged: tuning.skip_damaged,
    };
    let started = node.transfers().start_restore(request).await.answer("the restore cannot be started")?;
    let ended = follow(node, &started.transfer_id, Transfer::Restore, format, interrupt).await?;
    ended.restore_result.ok_or_else(|| CliError::new(Exit::Failed, "the node's answer holds no result of the restore"))
}
