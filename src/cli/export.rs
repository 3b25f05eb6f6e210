//! `windlass export`: a snapshot of a running node into a repository.

use clap::Args;
use csi_proto::windlass::v1 as windlass;
use csi_proto::windlass::v1::ExportVerification;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::client::{Answer, Node};
use super::endpoint::EndpointArgs;
use super::exit::{CliError, Exit};
use super::output::{Format, print_json, print_text};
use super::repository_access::{RepositoryAccess, RepositoryArgs};
use super::size::ByteSize;
use super::transfer::{Transfer, follow};
use super::wait::Wait;

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Snapshot to export (name or handle)
    snapshot: String,
    #[command(flatten)]
    repository: RepositoryArgs,
    #[command(flatten)]
    tuning: ExportTuning,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

/// How an export is made; each has a default.
#[derive(Debug, Clone, Default, Args)]
pub struct ExportTuning {
    /// Host to name in the repository [default: the node's name]
    #[arg(long)]
    host: Option<String>,
    /// Tag to set in the repository; may be given more than once
    #[arg(long = "tag")]
    tags: Vec<String>,
    /// Size of the pieces the volume is cut into
    #[arg(long, value_name = "SIZE")]
    chunk_size: Option<ByteSize>,
    /// Number of threads
    #[arg(long, value_name = "NUMBER")]
    workers: Option<u32>,
    /// Memory that the export may take, 128MiB at least [default: 256MiB, and 32MiB more for each processor beyond four, up to 1GiB]
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Read everything that is allocated, not only what changed since the last export
    #[arg(long)]
    full: bool,
    /// How long locks of others in the repository, such as a prune's, are waited for [default: 5m]
    #[arg(long, value_name = "DURATION")]
    retry_lock: Option<Wait>,
    /// Whether everything packed is decoded again and compared before it is stored: finds faulty memory before it damages a backup
    #[arg(long, value_enum, default_value_t)]
    verify: Verify,
}

impl ExportTuning {
    /// The request to export a snapshot to a repository in this way.
    pub fn request(self, snapshot_id: &str, access: &RepositoryAccess) -> windlass::StartExportRequest {
        windlass::StartExportRequest {
            snapshot_id: snapshot_id.to_owned(),
            repository: Some(access.to_message()),
            host: self.host.unwrap_or_default(),
            tags: self.tags,
            workers: self.workers.unwrap_or(0),
            memory_bytes: self.memory.map_or(0, ByteSize::bytes),
            chunk_size_bytes: self.chunk_size.map_or(0, ByteSize::bytes),
            verification: ExportVerification::from(self.verify).into(),
            retry_lock_seconds: self.retry_lock.map(Wait::seconds),
            full: self.full,
        }
    }
}

/// Whether everything packed is decoded again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Verify {
    /// Decode and compare
    #[default]
    On,
    /// Trust the memory of this machine
    Off,
}

impl From<Verify> for ExportVerification {
    fn from(verify: Verify) -> Self {
        match verify {
            Verify::On => Self::Decode,
            Verify::Off => Self::Skip,
        }
    }
}

/// Runs the export and prints the new snapshot's id in the repository.
pub async fn run(args: ExportArgs, format: Format, interrupt: &CancellationToken) -> Result<(), CliError> {
    let access = args.repository.access()?;
    let node = Node::connect(&args.endpoint.endpoint()).await?;
    let snapshot_id = node.snapshot_handle(&args.snapshot).await?;
    let result = export(&node, args.tuning.request(&snapshot_id, &access), format, interrupt).await?;
    match format {
        Format::Text => print_text(&format!(
            "exported {} of {} to snapshot {} ({}): {} new, {} stored{}",
            ByteSize::new(result.data_bytes),
            ByteSize::new(result.size_bytes),
            result.repository_snapshot,
            mode(&result),
            ByteSize::new(result.new_bytes),
            ByteSize::new(result.stored_bytes),
            if is_verified(&result) { "" } else { ", not verified before it was stored" },
        )),
        Format::Json => print_json(&Exported {
            snapshot_id: &snapshot_id,
            repository_snapshot: &result.repository_snapshot,
            size_bytes: result.size_bytes,
            data_bytes: result.data_bytes,
            new_bytes: result.new_bytes,
            stored_bytes: result.stored_bytes,
            chunks: result.chunks,
            new_chunks: result.new_chunks,
            mode: &result.mode,
            full_reason: &result.full_reason,
            parent: &result.parent,
            verified: is_verified(&result),
        }),
    }
}

/// The result as it is printed.
#[derive(Debug, Serialize)]
struct Exported<'a> {
    snapshot_id: &'a str,
    repository_snapshot: &'a str,
    size_bytes: u64,
    data_bytes: u64,
    new_bytes: u64,
    stored_bytes: u64,
    chunks: u64,
    new_chunks: u64,
    mode: &'a str,
    full_reason: &'a str,
    parent: &'a str,
    verified: bool,
}

fn is_verified(result: &windlass::ExportResult) -> bool {
    result.verification() == ExportVerification::Decode
}

/// How it was made, for people.
fn mode(result: &windlass::ExportResult) -> String {
    match result.full_reason.as_str() {
        "" => result.mode.clone(),
        reason => format!("{}: {reason}", result.mode),
    }
}

/// Has the node export a snapshot, and waits for it.
pub async fn export(
    node: &Node,
    request: windlass::StartExportRequest,
    format: Format,
    interrupt: &CancellationToken,
) -> Result<windlass::ExportResult, CliError> {
    let started = node.transfers().start_export(request).await.answer("the export cannot be started")?;
    let ended = follow(node, &started.transfer_id, Transfer::Export, format, interrupt).await?;
    ended.export_result.ok_or_else(|| CliError::new(Exit::Failed, "the node's answer holds no result of the export"))
}
