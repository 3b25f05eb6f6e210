//! One attempt at the export of a snapshot.
//!
//! Order: the task is recorded as running; the repository is opened, and its id recorded, so that a deletion knows from here on where to
//! look; the snapshot is leased; if an earlier attempt got so far, its export is looked for; the pipeline; the record of the export, which
//! ends the task; the end of the lease; the local copy, if the class wants it gone.
//!
//! A crash between any two leaves the task running with nobody to run it, which the next call notices; after the record, at most a local
//! copy, which the node's next start gives up. Cancelled, it stops at the next point that the pipeline stops at, and leaves the same.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use csi_proto::windlass::v1 as windlass;

use crate::agent::events::{TransferReporter, Work, text};
use crate::agent::secrets::RepositorySecret;
use crate::agent::transfers::context::{Context, handle_tag};
use crate::agent::transfers::export::{Export, ExportWish};
use crate::agent::transfers::registry::{TransferFailure, TransferResult};
use crate::blocks::{BlocksError, LeasedSnapshot};
use crate::repository::tree::FileSelector;
use crate::repository::{Repository, StoredSnapshot, Verification};
use crate::transfer::image::{Image, Locking};
use crate::transfer::{Budget, ChunkSize, Progress};
use crate::types::error::chain;
use crate::types::{
    ExportOrder, ExportRecord, ExportTask, KubernetesNames, LocalCopyPolicy, SnapshotHandle, TaskState, Timestamp,
    VerificationOrder,
};

use super::fault::{Ended, Fault};
use super::place;

/// An attempt with all it needs.
pub(super) struct Attempt {
    pub(super) context: Context,
    pub(super) snapshot: SnapshotHandle,
    pub(super) order: ExportOrder,
    pub(super) secret: RepositorySecret,
    pub(super) task: ExportTask,
    pub(super) progress: Progress,
    pub(super) cancel: CancellationToken,
}

impl Attempt {
    /// Runs it to its end, and records how it ended.
    pub(super) async fn run(mut self) -> Result<TransferResult, TransferFailure> {
        let (told, progress) = (self.reporter().await, self.progress.clone());
        told.started();
        let ended = told.follow(&progress, self.try_run()).await;
        match &ended {
            Ok(TransferResult::Export(result)) => told.finished(&text::exported(result)),
            // A call that ends it says why, and so does the end of the process.
            Ok(TransferResult::Restore(_)) | Err(Ended { failure: TransferFailure::Cancelled, .. }) => {}
            Err(Ended { fault, .. }) => told.failed(fault.text()),
        }
        let Err(Ended { failure, fault }) = ended else { return ended.map_err(|ended| ended.failure) };
        // Whoever cancels it has something else in mind for the task.
        if failure != TransferFailure::Cancelled {
            let stored = self.progress.snapshot().stored_bytes;
            self.task.stored_bytes = self.task.stored_bytes.saturating_add(stored);
            self.task.state = TaskState::failed(fault.text(), Timestamp::now());
            if let Err(error) = self.note().await {
                tracing::warn!(snapshot = %self.snapshot, error = %chain(&error), "it is not recorded why an export failed");
            }
        }
        Err(failure)
    }

    /// Who tells how it goes, by the names that are recorded with the snapshot: an event that cannot be told for want of them is none.
    async fn reporter(&self) -> TransferReporter {
        let names = match self.context.events.is_heard() {
            true => self.context.blocks.lease(self.snapshot).await.map(|lease| lease.snapshot().kubernetes.clone()),
            false => Ok(KubernetesNames::default()),
        };
        let names = names.unwrap_or_default();
        TransferReporter::new(&self.context.events, Work::Export, &names, self.snapshot.to_string())
    }

    async fn note(&self) -> Result<(), BlocksError> {
        self.context.blocks.put_task(self.snapshot, self.task.clone()).await
    }

    async fn try_run(&mut self) -> Result<TransferResult, Ended> {
        self.task.state = TaskState::Running;
        self.task.attempts = self.task.attempts.saturating_add(1);
        self.note().await?;
        let opening = place::open(&self.context, self.snapshot.pool, &self.secret, self.order.repository, &self.progress);
        let repository = self.cancel.run_until_cancelled(opening).await.ok_or_else(Ended::cancelled)??;
        let may_be_there = self.task.repository.replace(repository.id().to_string()).is_some();
        self.note().await?;
        let result = match self.found(&repository, may_be_there).await? {
            Some(result) => result,
            None => self.export(self.paced(repository)).await?,
        };
        // A record that failed was logged where it was made.
        if !self.context.blocks.copies(self.snapshot).await?.copies.is_task_finished() {
            return Err(Ended::inside(Fault::Unrecorded));
        }
        if self.order.local_copy == LocalCopyPolicy::Drop {
            self.drop_copy().await;
        }
        Ok(result)
    }

    /// Gives the local copy up. What fails is done by the node's next start.
    async fn drop_copy(&self) {
        // The lease of the export ends at a node that is another process a moment after it ended here.
        const WITHIN: Duration = Duration::from_secs(10);
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        let giving_up = async {
            loop {
                tick.tick().await;
                match self.context.blocks.give_up_local_copy(self.snapshot).await {
                    Err(BlocksError::InUse(_) | BlocksError::Busy(_)) => {}
                    given_up => return given_up,
                }
            }
        };
        match tokio::time::timeout(WITHIN, giving_up).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(snapshot = %self.snapshot, error = %chain(&error), "a local copy is kept until the node's next start")
            }
            Err(_) => {
                tracing::warn!(snapshot = %self.snapshot, "somebody reads a local copy, which is kept until the node's next start")
            }
        }
    }

    /// The repository, to which packs are sent no faster than the class wants.
    fn paced(&self, repository: Repository) -> Repository {
        match self.order.bandwidth {
            Some(bandwidth) => {
                let line = self.context.paces.line(repository.id(), bandwidth);
                repository.with_pace(line)
            }
            None => repository,
        }
    }

    async fn export(&self, repository: Repository) -> Result<TransferResult, Ended> {
        let blocks = &self.context.blocks;
        let lease = blocks.lease(self.snapshot).await?;
        let wish = ExportWish {
            host: self.context.node.to_string(),
            tags: self.order.tags(),
            // Checked when the snapshot was asked for, by the same rule.
            chunk_size: self.order.chunk_bytes.and_then(|bytes| ChunkSize::new(bytes).ok()),
            verification: match self.order.verification {
                None => Verification::default(),
                Some(VerificationOrder::Decode) => Verification::Decode,
                Some(VerificationOrder::Skip) => Verification::Skip,
            },
            budget: Budget::for_this_machine(),
            is_full: false,
        };
        let counters = (self.progress.clone(), self.cancel.clone());
        Ok(Export::prepare(blocks, lease, repository, wish, counters).await.run().await?)
    }

    /// The export that an earlier attempt made and did not record; recorded now.
    async fn found(&self, repository: &Repository, may_be_there: bool) -> Result<Option<TransferResult>, Ended> {
        if !may_be_there {
            return Ok(None);
        }
        let tag = handle_tag(self.snapshot);
        let snapshots = repository.snapshots().await?;
        let Some(stored) = snapshots.into_iter().rfind(|stored| stored.snapshot.tags.contains(&tag)) else { return Ok(None) };
        let lease = self.context.blocks.lease(self.snapshot).await?;
        let Some(record) = record(repository, &stored, lease.snapshot()).await? else { return Ok(None) };
        let result = windlass::ExportResult {
            repository_snapshot: record.repository_snapshot.clone(),
            size_bytes: record.size.bytes(),
            ..Default::default()
        };
        self.context.blocks.put_export(self.snapshot.pool, record).await?;
        tracing::info!(snapshot = %self.snapshot, "an export that an earlier attempt had made is recorded");
        Ok(Some(TransferResult::Export(result)))
    }
}

/// The record of an export that is in the repository; `None` for one that is not of this snapshot as a whole.
async fn record(
    repository: &Repository,
    stored: &StoredSnapshot,
    snapshot: &LeasedSnapshot,
) -> Result<Option<ExportRecord>, Ended> {
    let image = Image::open(repository, &stored.id.to_string(), &FileSelector::Only, Locking::None).await?;
    let chunk_size = image.metadata().and_then(|metadata| metadata.chunk_bytes);
    let is_whole = image.size_bytes() == snapshot.size.bytes();
    image.close().await;
    Ok(chunk_size.filter(|_| is_whole).map(|chunk_size| ExportRecord {
        repository: repository.id().to_string(),
        volume: snapshot.source.volume,
        snapshot: snapshot.handle.snapshot,
        repository_snapshot: stored.id.to_string(),
        size: snapshot.size,
        chunk_size,
        finished: Timestamp::now(),
    }))
}
