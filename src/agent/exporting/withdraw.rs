//! What a deletion does to an export: it ends it if it runs, and forgets it in the repository.

use std::collections::HashMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::agent::secrets::RepositorySecret;
use crate::agent::transfers::context::handle_tag;
use crate::agent::transfers::{message, status};
use crate::blocks::BlocksError;
use crate::csi::locks::Guard;
use crate::repository::{self, Id, LockMode, Repository, RepositoryError};
use crate::transfer::forget_checkpoint;
use crate::types::{ExportTask, SnapshotHandle};

use super::{Exporting, SNAPSHOT_ID};

/// How long the end of a cancelled export is waited for: it stops between two requests to its store.
const CANCELLED_WITHIN: Duration = Duration::from_secs(10);
/// How long a repository is waited for. Far more than a store that is well takes, and less than a sidecar's minute.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(50);

impl Exporting {
    /// Holds a snapshot that is about to be deleted, and whose export does not run, as long as the guard is held.
    ///
    /// # Errors
    /// ABORTED while it runs, or beside another call for the snapshot.
    pub(in crate::agent) fn hold_idle(&self, snapshot: SnapshotHandle) -> Result<Guard, Status> {
        let guard = self.lock(snapshot)?;
        if self.is_running(snapshot) {
            return Err(Status::aborted(format!("{SNAPSHOT_ID}: it is being exported; call again")));
        }
        // It is about to go.
        self.told.forget(snapshot);
        Ok(guard)
    }

    /// The same as [`Exporting::withdraw`] for a snapshot whose export does not run, by credentials that were checked.
    ///
    /// # Errors
    /// As there.
    pub(in crate::agent) async fn withdraw_with(
        &self,
        snapshot: SnapshotHandle,
        secret: RepositorySecret,
    ) -> Result<Guard, Status> {
        let guard = self.hold_idle(snapshot)?;
        let task = self.copies(snapshot).await?.copies.task;
        if let Some(task) = task.filter(|task| task.repository.is_some()) {
            in_time(self.forget_by(snapshot, &task, secret)).await?;
        }
        Ok(guard)
    }

    /// Withdraws the export of a snapshot that is about to be deleted. No other call decides about it while the guard is held. `None` when
    /// nothing was ordered for it, or it does not exist.
    ///
    /// # Errors
    /// ABORTED while the export is still ending; FAILED_PRECONDITION without the credentials of the repository that holds it, or with
    /// those of another; as for [`status::repository`], but never NOT_FOUND; UNAVAILABLE when the repository or the pool does not answer.
    pub(in crate::agent) async fn withdraw(
        &self,
        snapshot: SnapshotHandle,
        secrets: HashMap<String, String>,
    ) -> Result<Option<Guard>, Status> {
        match self.context.blocks.copies(snapshot).await {
            Ok(known) if known.order.is_some() => {}
            Ok(_) | Err(BlocksError::Missing(_)) => return Ok(None),
            Err(error) => return Err(status::blocks(SNAPSHOT_ID, &error)),
        }
        let guard = self.lock(snapshot)?;
        let id = self.running().get(&snapshot).cloned();
        if let Some(id) = id {
            self.context.registry.cancel(&id);
            if !self.await_end(snapshot, CANCELLED_WITHIN).await {
                return Err(Status::aborted(format!("{SNAPSHOT_ID}: its export is being cancelled; call again")));
            }
        }
        // One that was cancelled before it had its turn did not take itself away.
        self.running().remove(&snapshot);
        // What the attempt recorded last.
        let task = self.copies(snapshot).await?.copies.task;
        if let Some(task) = task.filter(|task| task.repository.is_some()) {
            in_time(self.forget(snapshot, &task, secrets)).await?;
        }
        self.told.forget(snapshot);
        Ok(Some(guard))
    }

    /// Forgets every export of the snapshot in the repository of its task.
    async fn forget(&self, snapshot: SnapshotHandle, task: &ExportTask, secrets: HashMap<String, String>) -> Result<(), Status> {
        let secret = RepositorySecret::parse(secrets).map_err(|error| {
            Status::failed_precondition(format!("{error}; it is needed to forget the export that the repository may hold"))
        })?;
        self.forget_by(snapshot, task, secret).await
    }

    async fn forget_by(&self, snapshot: SnapshotHandle, task: &ExportTask, secret: RepositorySecret) -> Result<(), Status> {
        let RepositorySecret { location, password, environment } = secret;
        let opened = repository::open_at(&location, &environment, &password, &self.context.workspace).await;
        let repository = opened.map_err(|error| refusal(&error))?;
        if Some(repository.id().to_string()) != task.repository {
            return Err(Status::failed_precondition(
                "secrets: they name another repository than the one that the snapshot was exported to",
            ));
        }
        let repository = message::locked_for(&self.context, snapshot.pool, repository, Some(0));
        let forgotten = forget_tagged(&repository, &handle_tag(snapshot)).await.map_err(|error| refusal(&error))?;
        forget_checkpoint(&repository, &snapshot.to_string()).await;
        if forgotten > 0 {
            tracing::info!(%snapshot, forgotten, "the export was forgotten in the repository");
        }
        Ok(())
    }
}

/// Waits for a repository no longer than a deletion may.
async fn in_time(forgetting: impl Future<Output = Result<(), Status>>) -> Result<(), Status> {
    let late = |_| Status::unavailable("secrets: the repository that they name does not answer in time");
    tokio::time::timeout(FORGOTTEN_WITHIN, forgetting).await.map_err(late)?
}

/// Forgets the snapshots with this tag; how many.
async fn forget_tagged(repository: &Repository, tag: &String) -> Result<usize, RepositoryError> {
    let lock = repository.lock(LockMode::Shared).await?;
    let forgetting = async {
        let snapshots = repository.snapshots().await?;
        let tagged: Vec<Id> =
            snapshots.iter().filter(|stored| stored.snapshot.tags.contains(tag)).map(|stored| stored.id).collect();
        let forgotten = repository.forget_all(&tagged, &lock, &CancellationToken::new()).await?;
        Ok(forgotten.len())
    };
    let forgotten = forgetting.await;
    lock.let_go(&CancellationToken::new()).await;
    forgotten
}

/// What a deletion is told of a repository that does not let itself be opened. It is never "not found": to a sidecar that would mean that
/// the snapshot is gone.
fn refusal(error: &RepositoryError) -> Status {
    let status = status::repository(error);
    match status.code() {
        Code::NotFound => Status::failed_precondition(status.message()),
        _ => status,
    }
}
