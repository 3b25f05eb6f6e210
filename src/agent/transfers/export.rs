//! A snapshot into a repository.
//!
//! Order: slot, lease, repository opened, answer; then, detached from the call: the previous export looked up, the pipeline, the record
//! of the export in the catalogue, the end of the lease. The record is written after the snapshot is durable in the repository and
//! says nothing that the repository does not hold; without it (a crash between the two) the next export reads what changed since
//! the export before, or everything, nothing worse.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use csi_proto::windlass::v1 as windlass;
use csi_proto::windlass::v1::ExportVerification;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::blocks::{Blocks, BlocksError, LeasedSnapshot, SnapshotLease};
use crate::repository::{Id, Repository, Verification};
use crate::transfer::metadata::{Metadata, Mode};
use crate::transfer::{
    self, Budget, ChunkSize, ExportError, ExportOptions, ExportReport, ExportSource, FullReason, Progress, Scope,
};
use crate::types::error::chain;
use crate::types::span::Subject;
use crate::types::{ExportRecord, Timestamp, VolumeMode};

use super::context::{Context, handle_tag};
use super::registry::{Slot, TransferFailure, TransferKind, TransferResult};
use super::{message, previous, status};

/// What the volume is called in the repository, in a folder named by its handle: `restic forget` groups snapshots by host and
/// path, so the path is the volume's and the same for all its snapshots.
const FILE_NAME: &str = "volume.img";

/// Starts an export and returns its id.
///
/// # Errors
/// The status of whatever is wrong with the request.
pub(super) async fn start(context: &Context, request: windlass::StartExportRequest) -> Result<String, Status> {
    let handle = message::snapshot(&request.snapshot_id)?;
    let budget = budget(request.workers, request.memory_bytes)?;
    let chunk_size = match request.chunk_size_bytes {
        0 => None,
        bytes => Some(ChunkSize::new(bytes).map_err(|error| Status::invalid_argument(format!("chunk_size_bytes: {error}")))?),
    };
    let verification = verification(request.verification)?;
    let slot = context.registry.slot(TransferKind::Export).map_err(status::no_slot)?;
    let blocks = Arc::clone(&context.blocks);
    let lease = blocks.lease(handle).await.map_err(|error| status::blocks("snapshot_id", &error))?;
    note(&slot, lease.snapshot());
    let repository = message::open(request.repository, &context.workspace, &slot.progress()).await?;
    let repository = message::locked_for(context, handle.pool, repository, request.retry_lock_seconds);
    let host = if request.host.is_empty() { context.node.to_string() } else { request.host };
    let wish = ExportWish { host, tags: request.tags, chunk_size, verification, budget, is_full: request.full };
    let export = Export::prepare(&blocks, lease, repository, wish, (slot.progress(), slot.cancellation())).await;
    Ok(slot.spawn(export.run()))
}

/// Notes what is exported in the transfer's lines.
fn note(slot: &Slot, snapshot: &LeasedSnapshot) {
    slot.is_about(Subject::Snapshot(snapshot.handle));
    slot.is_about(Subject::Volume(snapshot.source));
    if let Some(claim) = &snapshot.kubernetes.claim {
        slot.is_about(Subject::Claim(claim));
    }
}

/// The budget that a request asks for; zero means the default.
///
/// # Errors
/// INVALID_ARGUMENT for more threads than any machine has.
pub(super) fn budget(workers: u32, memory_bytes: u64) -> Result<Budget, Status> {
    /// More only take memory.
    const MAX_WORKERS: u32 = 256;
    let mut budget = Budget::for_this_machine();
    if workers > MAX_WORKERS {
        return Err(Status::invalid_argument(format!("workers: must be at most {MAX_WORKERS}")));
    }
    if let Some(workers) = usize::try_from(workers).ok().and_then(NonZeroUsize::new) {
        budget = Budget::for_workers(workers);
    }
    if memory_bytes > 0 {
        budget.memory_bytes = memory_bytes;
    }
    Ok(budget)
}

/// The verification that a request asks for; without a word it is the default.
///
/// # Errors
/// INVALID_ARGUMENT for a value that has no meaning.
fn verification(value: i32) -> Result<Verification, Status> {
    match ExportVerification::try_from(value) {
        Ok(ExportVerification::Unspecified) => Ok(Verification::default()),
        Ok(ExportVerification::Decode) => Ok(Verification::Decode),
        Ok(ExportVerification::Skip) => Ok(Verification::Skip),
        Err(_) => Err(Status::invalid_argument(format!("verification: {value} has no meaning"))),
    }
}

fn options(
    snapshot: &LeasedSnapshot,
    hostname: String,
    mut tags: Vec<String>,
    chunk_size: ChunkSize,
    budget: Budget,
) -> ExportOptions {
    let volume = snapshot.source;
    let (mode, filesystem) = match snapshot.mode {
        VolumeMode::Block => (Mode::Block, None),
        VolumeMode::Filesystem(fs_type) => (Mode::Filesystem, Some(fs_type.to_string())),
    };
    let names = &snapshot.kubernetes;
    tags.splice(0..0, std::iter::once(handle_tag(snapshot.handle)).chain(names.tags()));
    ExportOptions {
        path: format!("/{volume}/{FILE_NAME}"),
        hostname,
        tags,
        time: snapshot.created,
        metadata: Metadata {
            volume_handle: Some(volume.to_string()),
            snapshot_handle: Some(snapshot.handle.to_string()),
            logical_block_bytes: Some(snapshot.logical_block_size.bytes()),
            chunk_bytes: Some(chunk_size.bytes()),
            mode: Some(mode),
            filesystem,
            unformatted: snapshot.is_unformatted,
            pvc_namespace: names.claim.as_ref().map(|claim| claim.namespace.to_string()),
            pvc_name: names.claim.as_ref().map(|claim| claim.name.to_string()),
            pv_name: names.volume.as_ref().map(ToString::to_string),
            volume_snapshot_namespace: names.snapshot.as_ref().map(|snapshot| snapshot.namespace.to_string()),
            volume_snapshot_name: names.snapshot.as_ref().map(|snapshot| snapshot.name.to_string()),
            volume_snapshot_content_name: names.snapshot_content.as_ref().map(ToString::to_string),
            ..Metadata::of_size(snapshot.size.bytes())
        },
        chunk_size,
        budget,
        verification: Verification::default(),
    }
}

/// What an export is to be like, beside what its snapshot says.
pub(in crate::agent) struct ExportWish {
    pub(in crate::agent) host: String,
    pub(in crate::agent) tags: Vec<String>,
    /// Instead of the one that the volume's exports have.
    pub(in crate::agent) chunk_size: Option<ChunkSize>,
    pub(in crate::agent) verification: Verification,
    pub(in crate::agent) budget: Budget,
    /// Whether nothing that was exported before is built upon.
    pub(in crate::agent) is_full: bool,
}

/// An export with all it needs.
pub(in crate::agent) struct Export {
    blocks: Arc<dyn Blocks>,
    lease: Arc<dyn SnapshotLease>,
    repository: Repository,
    options: ExportOptions,
    progress: Progress,
    cancel: CancellationToken,
    previous: Result<ExportRecord, FullReason>,
}

impl Export {
    /// The export of what is leased; the previous one of its volume is looked up.
    pub(in crate::agent) async fn prepare(
        blocks: &Arc<dyn Blocks>,
        lease: Arc<dyn SnapshotLease>,
        repository: Repository,
        wish: ExportWish,
        (progress, cancel): (Progress, CancellationToken),
    ) -> Self {
        let snapshot = lease.snapshot();
        let previous = previous::export(blocks.as_ref(), snapshot.source, repository.id()).await;
        let chunk_size = previous::chunk_size(wish.chunk_size, previous.as_ref().ok(), snapshot.size);
        let previous = if wish.is_full { Err(FullReason::Asked) } else { previous };
        let options = options(snapshot, wish.host, wish.tags, chunk_size, wish.budget);
        let options = ExportOptions { verification: wish.verification, ..options };
        Self { blocks: Arc::clone(blocks), lease, repository, options, progress, cancel, previous }
    }

    /// Runs it to its end, which is recorded.
    pub(in crate::agent) async fn run(mut self) -> Result<TransferResult, TransferFailure> {
        let previous = std::mem::replace(&mut self.previous, Err(FullReason::NoParent));
        let report = self.copy(previous).await.map_err(|error| status::export(&error))?;
        self.record(&report).await;
        Ok(TransferResult::Export(windlass::ExportResult {
            repository_snapshot: report.snapshot.to_string(),
            size_bytes: report.size_bytes,
            data_bytes: report.read_bytes,
            new_bytes: report.new_bytes,
            stored_bytes: report.stored_bytes,
            chunks: report.chunks,
            new_chunks: report.new_chunks,
            mode: report.mode.name().to_owned(),
            full_kind: report.mode.full_reason().map(|reason| reason.kind().to_owned()).unwrap_or_default(),
            full_reason: report.mode.full_reason().map(ToString::to_string).unwrap_or_default(),
            parent: report.mode.parent().map(|id| id.to_string()).unwrap_or_default(),
            verification: match report.verification {
                Verification::Decode => ExportVerification::Decode,
                Verification::Skip => ExportVerification::Skip,
            }
            .into(),
        }))
    }

    async fn copy(&self, previous: Result<ExportRecord, FullReason>) -> Result<ExportReport, ExportError> {
        let source = self.lease.source().map_err(ExportError::Extents)?;
        let allocated = self.lease.allocated().await.map_err(unknown_extents)?;
        let since = match previous {
            Ok(record) => previous::parent(self.lease.as_ref(), &record).await,
            Err(reason) => Err(reason),
        };
        let scope = Scope { allocated, since };
        transfer::export(
            ExportSource::new(Arc::new(source), scope),
            &self.repository,
            &self.options,
            &self.progress,
            &self.cancel,
        )
        .await
    }

    /// Records what the repository holds now, and with it that the next export builds upon this snapshot, whose deletion then leaves
    /// an anchor. The export is done whether this succeeds or not.
    async fn record(&self, report: &ExportReport) {
        let snapshot = self.lease.snapshot();
        let record = ExportRecord {
            repository: self.repository.id().to_string(),
            volume: snapshot.source.volume,
            snapshot: snapshot.handle.snapshot,
            repository_snapshot: Id::to_string(&report.snapshot),
            size: snapshot.size,
            chunk_size: self.options.chunk_size.bytes(),
            finished: Timestamp::now(),
        };
        if let Err(error) = self.blocks.put_export(snapshot.handle.pool, record).await {
            tracing::warn!(snapshot = %snapshot.handle, error = %chain(&error), "an export was made but not recorded");
        }
    }
}

fn unknown_extents(error: BlocksError) -> ExportError {
    ExportError::Extents(io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_asks_for_the_default_and_too_many_threads_are_refused() {
        assert_eq!(budget(0, 0).unwrap(), Budget::for_this_machine());
        let given = budget(3, 64 << 20).unwrap();
        assert_eq!((given.workers.get(), given.memory_bytes), (3, 64 << 20));
        assert_eq!(budget(1000, 0).unwrap_err().code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn a_verification_of_no_meaning_is_refused_and_none_is_the_default() {
        assert_eq!(verification(0).unwrap(), Verification::Decode);
        assert_eq!(verification(ExportVerification::Skip.into()).unwrap(), Verification::Skip);
        assert_eq!(verification(7).unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}
