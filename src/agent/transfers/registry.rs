//! The transfers that run, and the last that have ended.
//!
//! A transfer takes a [`Slot`] first, which bounds how many run, and is then [`spawned`](Slot::spawn): from there on it belongs
//! to the registry, not to the call that started it. A slot that is dropped before leaves no trace. Each transfer has one
//! state, which only its own task writes, and counters, which its pipeline raises and everybody may read; watchers see the
//! latest, never each one, so a slow watcher costs nothing. The final state is written exactly once, also when the work panics.
//!
//! Nothing is stored: after a crash transfers are gone, and what they had begun is undone by its owner (the pool drops
//! hidden targets at start, the repository ignores packs that no index names).

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use csi_proto::windlass::v1::{ExportResult, RestoreResult, TransferProgress, TransferState};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;
use tracing::{Instrument, Span};

use crate::telemetry::metrics::{EndedTransfer, FinishedExport, TransferMetrics, TransferOutcome};
use crate::transfer::progress::ProgressSnapshot;
use crate::transfer::{FullReason, Phase, Progress};
use crate::types::span::{self, Subject};

/// Transfers that run at once. Each has its own memory budget and worker threads; more of them share the same disk and network
/// without finishing sooner.
pub const MAX_RUNNING: usize = 4;

/// Transfers that have ended and are remembered, the oldest forgotten first: enough that whoever started one finds its end.
pub const MAX_ENDED: usize = 64;

/// What a transfer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferKind {
    /// A snapshot into a repository.
    Export,
    /// A repository into a volume.
    Restore,
}

impl TransferKind {
    /// The name in the protocol.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Export => "export",
            Self::Restore => "restore",
        }
    }
}

/// What a transfer that succeeded has done.
#[derive(Debug, Clone, PartialEq)]
pub enum TransferResult {
    /// Of an export.
    Export(ExportResult),
    /// Of a restore.
    Restore(RestoreResult),
}

/// Why a transfer did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferFailure {
    /// It was asked to stop, and did.
    Cancelled,
    /// It failed; the reason holds no secret. The code is that of a start which is refused for it.
    Failed {
        /// What kind of failure it was.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// It is not to be: the same request would always end so. The text says why.
    Refused(String),
}

impl TransferFailure {
    /// A failure that is nobody's but this program's, or its machine's.
    pub fn inside(reason: String) -> Self {
        Self::Failed { code: Code::Internal, reason }
    }
}

/// Why no slot was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// As many as may run are running.
    #[error("{MAX_RUNNING} transfers are running, which is the most; wait for one to end or cancel one")]
    Full,
    /// The process is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// All transfers of a process. Clones are the same registry.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    transfers: Mutex<Transfers>,
    tasks: TaskTracker,
    stop: CancellationToken,
    metrics: TransferMetrics,
}

#[derive(Debug, Default)]
struct Transfers {
    by_id: BTreeMap<String, Transfer>,
    /// Ids of those that have ended, in that order.
    ended: VecDeque<String>,
}

#[derive(Debug)]
struct Transfer {
    state: watch::Sender<TransferProgress>,
    progress: Progress,
    cancel: CancellationToken,
}

/// A transfer, as whoever watches it sees it.
#[derive(Debug)]
pub struct TransferWatch {
    state: watch::Receiver<TransferProgress>,
    progress: Progress,
}

impl TransferWatch {
    /// Where it stands now. A final state comes with its result.
    pub fn now(&mut self) -> TransferProgress {
        let state = self.state.borrow_and_update().clone();
        with_counters(state, &self.progress)
    }

    /// Returns when the state has changed since it was last looked at; the counters do not count.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            // Its sender is kept by the registry and by the task. Both gone: nothing will ever change.
            std::future::pending::<()>().await;
        }
    }
}

impl Registry {
    /// A registry without transfers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same, whose transfers are counted in `metrics`.
    pub fn counting_in(metrics: TransferMetrics) -> Self {
        Self { shared: Arc::new(Shared { metrics, ..Shared::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Transfers> {
        // Every change under this lock is one insertion or removal: a panic elsewhere leaves the maps whole.
        self.shared.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the right to run one more transfer.
    ///
    /// # Errors
    /// [`SlotError`].
    pub fn slot(&self, kind: TransferKind) -> Result<Slot, SlotError> {
        let mut transfers = self.lock();
        if self.shared.stop.is_cancelled() {
            return Err(SlotError::Stopping);
        }
        if transfers.by_id.len() - transfers.ended.len() >= MAX_RUNNING {
            return Err(SlotError::Full);
        }
        let id = uuid::Uuid::new_v4().to_string();
        let state = watch::Sender::new(TransferProgress {
            transfer_id: id.clone(),
            kind: kind.name().to_owned(),
            state: TransferState::Pending.into(),
            ..Default::default()
        });
        let (cancel, progress) = (self.shared.stop.child_token(), Progress::new());
        let transfer = Transfer { state: state.clone(), progress: progress.clone(), cancel: cancel.clone() };
        transfers.by_id.insert(id.clone(), transfer);
        let span = span::transfer(&id, kind.name());
        // The line of the call that starts it names it too.
        Subject::Transfer(&id).note();
        Ok(Slot { registry: self.clone(), kind, id, state, progress, cancel, span, spawned: false })
    }

    /// A transfer to watch; `None` when there is no such transfer (any more).
    pub fn watch(&self, id: &str) -> Option<TransferWatch> {
        let transfers = self.lock();
        let transfer = transfers.by_id.get(id)?;
        Some(TransferWatch { state: transfer.state.subscribe(), progress: transfer.progress.clone() })
    }

    /// Asks a transfer to stop. One that has ended is left as it is. False when there is no such transfer.
    pub fn cancel(&self, id: &str) -> bool {
        self.lock().by_id.get(id).map(|transfer| transfer.cancel.cancel()).is_some()
    }

    /// The state of each transfer, those that run first, then those that have ended, the latest first.
    pub fn list(&self) -> Vec<TransferProgress> {
        let transfers = self.lock();
        let running = transfers.by_id.iter().filter(|(id, _)| !transfers.ended.contains(id)).map(|(_, transfer)| transfer);
        let ended = transfers.ended.iter().rev().filter_map(|id| transfers.by_id.get(id));
        let view = |transfer: &Transfer| {
            let mut state = with_counters(transfer.state.borrow().clone(), &transfer.progress);
            // Of each that is long; whoever watches the transfer gets them.
            if let Some(result) = &mut state.restore_result {
                result.holes.clear();
            }
            state
        };
        running.chain(ended).map(view).collect()
    }

    /// Gives no more slots, cancels all transfers and waits for their ends.
    pub async fn stop(&self) {
        {
            // Under the lock, so that no slot is given after it.
            let _transfers = self.lock();
            self.shared.stop.cancel();
        }
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    fn ended(&self, id: &str) {
        let mut transfers = self.lock();
        transfers.ended.push_back(id.to_owned());
        while transfers.ended.len() > MAX_ENDED {
            if let Some(oldest) = transfers.ended.pop_front() {
                transfers.by_id.remove(&oldest);
            }
        }
    }
}

/// The right to run a transfer, from before its work is known to be possible until it is spawned.
#[derive(Debug)]
pub struct Slot {
    registry: Registry,
    kind: TransferKind,
    id: String,
    state: watch::Sender<TransferProgress>,
    progress: Progress,
    cancel: CancellationToken,
    span: Span,
    spawned: bool,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.spawned {
            self.registry.lock().by_id.remove(&self.id);
        }
    }
}

impl Slot {
    /// Cancelled when the transfer is to stop.
    pub fn cancellation(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Notes in the transfer's state and in its lines what it is about.
    pub fn is_about(&self, subject: Subject<'_>) {
        subject.note_in(&self.span);
        self.state.send_modify(|progress| match subject {
            Subject::Snapshot(handle) => progress.snapshot_id = handle.to_string(),
            Subject::Volume(handle) => progress.volume_id = handle.to_string(),
            Subject::Claim(name) => progress.pvc = name.to_string(),
            Subject::Transfer(_) => {}
        });
    }

    /// The counters of the transfer, for its pipeline.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// Runs the transfer to its end, whoever still listens. Returns its id.
    pub fn spawn(mut self, work: impl Future<Output = Result<TransferResult, TransferFailure>> + Send + 'static) -> String {
        self.spawned = true;
        let (registry, id, state) = (self.registry.clone(), self.id.clone(), self.state.clone());
        state.send_modify(|progress| progress.set_state(TransferState::Running));
        let span = self.span.clone();
        span.in_scope(|| tracing::info!("transfer started"));
        let (metrics, kind, begun) = (self.registry.shared.metrics.clone(), self.kind.name(), Instant::now());
        metrics.began(kind);
        let counters = self.progress.clone();
        let running = self.registry.shared.tasks.spawn(work.instrument(span.clone()));
        let ending = async move {
            let result = running.await.unwrap_or_else(|error| Err(TransferFailure::inside(format!("its task ended: {error}"))));
            match &result {
                Ok(_) => tracing::info!("transfer succeeded"),
                Err(TransferFailure::Cancelled) => tracing::info!("transfer cancelled"),
                Err(TransferFailure::Failed { reason, .. }) => tracing::warn!(reason, "transfer failed"),
                Err(TransferFailure::Refused(reason)) => tracing::warn!(reason, "transfer refused"),
            }
            count(&metrics, &result, (kind, begun.elapsed()), counters.snapshot());
            state.send_modify(|progress| finish(progress, result));
            registry.ended(&id);
        };
        self.registry.shared.tasks.spawn(ending.instrument(span));
        self.id.clone()
    }
}

/// Counts the end of a transfer, and what it has moved by then.
fn count(
    metrics: &TransferMetrics,
    result: &Result<TransferResult, TransferFailure>,
    (kind, elapsed): (&'static str, Duration),
    counters: ProgressSnapshot,
) {
    let outcome = match result {
        Ok(_) => TransferOutcome::Succeeded,
        Err(TransferFailure::Cancelled) => TransferOutcome::Cancelled,
        Err(TransferFailure::Failed { .. }) => TransferOutcome::Failed,
        Err(TransferFailure::Refused(_)) => TransferOutcome::Refused,
    };
    let (volume_bytes, repository_bytes) = (counters.moved_bytes, counters.stored_bytes);
    metrics.ended(EndedTransfer { kind, outcome, elapsed, volume_bytes, repository_bytes });
    // One that an earlier attempt had made has read nothing.
    if let Ok(TransferResult::Export(result)) = result
        && !result.mode.is_empty()
    {
        let reason = FullReason::KINDS.into_iter().find(|kind| *kind == result.full_kind);
        let mode = if reason.is_some() { "full" } else { "incremental" };
        let (read_bytes, size_bytes) = (result.data_bytes, result.size_bytes);
        metrics.exported(FinishedExport { mode, reason: reason.unwrap_or_default(), read_bytes, size_bytes });
    }
}

fn finish(transfer: &mut TransferProgress, result: Result<TransferResult, TransferFailure>) {
    match result {
        Ok(done) => {
            transfer.set_state(TransferState::Succeeded);
            match done {
                TransferResult::Export(result) => transfer.export_result = Some(result),
                TransferResult::Restore(result) => transfer.restore_result = Some(result),
            }
        }
        Err(TransferFailure::Cancelled) => {
            transfer.set_state(TransferState::Canceled);
            transfer.message = "cancelled on request".to_owned();
        }
        Err(TransferFailure::Failed { code, reason }) => {
            transfer.set_state(TransferState::Failed);
            transfer.failure_code = code as u32;
            transfer.message = reason;
        }
        Err(TransferFailure::Refused(reason)) => {
            transfer.set_state(TransferState::Refused);
            transfer.message = reason;
        }
    }
}

fn with_counters(mut transfer: TransferProgress, progress: &Progress) -> TransferProgress {
    let counters = progress.snapshot();
    let phase = match counters.phase {
        Phase::Preparing => "preparing",
        Phase::Transferring => "copying",
        Phase::Committing => "committing",
        Phase::Done => "done",
    };
    if transfer.state() == TransferState::Running {
        let waiting = progress.waiting();
        if waiting.is_some() { "waiting" } else { phase }.clone_into(&mut transfer.phase);
        transfer.message = waiting.unwrap_or_default();
    }
    transfer.bytes_done = counters.done_bytes;
    transfer.bytes_total = counters.total_bytes;
    transfer.bytes_stored = counters.stored_bytes;
    transfer
}

/// True for a state that does not change any more.
pub fn is_final(transfer: &TransferProgress) -> bool {
    use TransferState::{Canceled, Failed, Refused, Succeeded};
    matches!(transfer.state(), Succeeded | Failed | Canceled | Refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn end_of(registry: &Registry, id: &str) -> TransferProgress {
        let mut watched = registry.watch(id).unwrap();
        loop {
            let now = watched.now();
            if is_final(&now) {
                return now;
            }
            watched.changed().await;
        }
    }

    fn result() -> TransferResult {
        TransferResult::Restore(RestoreResult { volume_id: "v".to_owned(), ..Default::default() })
    }

    #[tokio::test]
    async fn a_transfer_ends_with_its_result_whoever_listens() {
        let registry = Registry::new();
        let id = registry.slot(TransferKind::Restore).unwrap().spawn(async { Ok(result()) });
        let end = end_of(&registry, &id).await;
        assert_eq!(end.state(), TransferState::Succeeded);
        assert_eq!((end.kind.as_str(), end.transfer_id), ("restore", id));
        assert_eq!(end.restore_result.unwrap().volume_id, "v");
    }

    #[tokio::test]
    async fn a_transfer_that_panics_has_failed() {
        let registry = Registry::new();
        let id = registry.slot(TransferKind::Export).unwrap().spawn(async { panic!("oops") });
        assert_eq!(end_of(&registry, &id).await.state(), TransferState::Failed);
    }

    #[tokio::test]
    async fn a_cancelled_transfer_ends_as_cancelled_and_frees_its_slot() {
        let registry = Registry::new();
        let start = || {
            let slot = registry.slot(TransferKind::Export)?;
            let cancel = slot.cancellation();
            Ok::<_, SlotError>(slot.spawn(async move {
                cancel.cancelled().await;
                Err(TransferFailure::Cancelled)
            }))
        };
        let ids: Vec<_> = (0..MAX_RUNNING).map(|_| start().unwrap()).collect();
        assert_eq!(start(), Err(SlotError::Full));
        assert!(registry.cancel(&ids[0]));
        assert_eq!(end_of(&registry, &ids[0]).await.state(), TransferState::Canceled);
        registry.stop().await;
        assert!(registry.list().iter().all(|transfer| transfer.state() == TransferState::Canceled));
        assert_eq!(registry.slot(TransferKind::Export).unwrap_err(), SlotError::Stopping);
    }

    #[tokio::test]
    async fn a_slot_that_was_not_used_leaves_no_trace() {
        let registry = Registry::new();
        for _ in 0..=MAX_RUNNING {
            drop(registry.slot(TransferKind::Export).unwrap());
        }
        assert!(registry.list().is_empty());
        assert!(!registry.cancel("none"));
        assert!(registry.watch("none").is_none());
    }

    #[tokio::test]
    async fn only_the_latest_ended_transfers_are_remembered() {
        let registry = Registry::new();
        let mut ids = Vec::new();
        for _ in 0..MAX_ENDED + 3 {
            let id = registry.slot(TransferKind::Restore).unwrap().spawn(async { Ok(result()) });
            // TransferFailure is told apart from running only after the watcher was told: wait until the slot is free again too.
            end_of(&registry, &id).await;
            while registry.lock().ended.back() != Some(&id) {
                tokio::task::yield_now().await;
            }
            ids.push(id);
        }
        assert_eq!(registry.list().len(), MAX_ENDED);
        assert!(registry.watch(&ids[2]).is_none() && registry.watch(&ids[3]).is_some());
        assert_eq!(registry.list()[0].transfer_id, *ids.last().unwrap());
    }
}
