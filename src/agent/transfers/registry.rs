//! The transfers that run, and the last that have ended.
//!
//! A transfer takes a [`Slot`] first, which bounds how many run, and is then [`spawned`](Slot::spawn): from there on it belongs
//! to the registry, not to the call that started it. A slot that is dropped before leaves no trace. Each transfer has one
//! state, which only its own task writes, and counters, which its pipeline raises and everybody may read; watchers see the
//! latest, never each one, so a slow watcher costs nothing. The final state is written exactly once, also when the work panics.
//!
//! **Turns.** A transfer that may wait ([`Registry::slot_or_turn`]) and finds all slots taken is pending after it was spawned, and has its
//! turn when one that runs ends, as `queue` says. One that is cancelled while it waits ends at once.
//!
//! Nothing is stored: after a crash transfers are gone, and what they had begun is undone by its owner (the pool deletes
//! hidden targets that are not to be kept, the repository ignores packs that no index names).

mod count;
mod queue;
mod state;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use csi_proto::windlass::v1::{TransferProgress, TransferState};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span};

use crate::telemetry::metrics::TransferMetrics;
use crate::transfer::Progress;
use crate::types::span::{self, Subject};

use queue::Queue;
use state::{finish, with_counters};

pub use queue::Precedence;
pub use state::{TransferFailure, TransferKind, TransferResult, is_final, is_waiting};

/// Transfers that run at once. Each has its own memory budget and worker threads; more of them share the same disk and network
/// without finishing sooner.
pub const MAX_RUNNING: usize = 4;

/// Transfers that have ended and are remembered, the oldest forgotten first: enough that whoever started one finds its end.
pub const MAX_ENDED: usize = 64;

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
    waiting: Queue<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    id: String,
    turn: oneshot::Sender<()>,
}

impl Transfers {
    /// Those that take a slot.
    fn running(&self) -> usize {
        self.by_id.len() - self.ended.len() - self.waiting.len()
    }

    /// Gives free slots to those that wait.
    fn admit(&mut self) {
        while self.running() < MAX_RUNNING {
            let Some(Waiting { id, turn }) = self.waiting.next() else { return };
            if turn.send(()).is_err() {
                // It is gone already: its end, or that of its slot, counts it out.
                tracing::debug!(transfer = %id, "a transfer that waited is over");
            }
        }
    }
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
        self.take(kind, None)
    }

    /// Takes the right to run one more transfer when it has its turn.
    ///
    /// # Errors
    /// [`SlotError`]; [`SlotError::Full`] when as many wait as may.
    pub fn slot_or_turn(&self, kind: TransferKind, precedence: Precedence) -> Result<Slot, SlotError> {
        self.take(kind, Some(precedence))
    }

    fn take(&self, kind: TransferKind, precedence: Option<Precedence>) -> Result<Slot, SlotError> {
        let mut transfers = self.lock();
        if self.shared.stop.is_cancelled() {
            return Err(SlotError::Stopping);
        }
        let id = uuid::Uuid::new_v4().to_string();
        let turn = match precedence {
            _ if transfers.running() < MAX_RUNNING => None,
            Some(precedence) => {
                let (turn, wait) = oneshot::channel();
                let waiting = Waiting { id: id.clone(), turn };
                transfers.waiting.push(precedence, waiting).map_err(|_| SlotError::Full)?;
                Some(wait)
            }
            None => return Err(SlotError::Full),
        };
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
        Ok(Slot { registry: self.clone(), kind, id, state, progress, cancel, span, turn, spawned: false })
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
        transfers.waiting.retain(|waiting| waiting.id != id);
        transfers.admit();
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
    /// What tells that it may run; `None` when it may.
    turn: Option<oneshot::Receiver<()>>,
    spawned: bool,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.spawned {
            let mut transfers = self.registry.lock();
            transfers.by_id.remove(&self.id);
            transfers.waiting.retain(|waiting| waiting.id != self.id);
            transfers.admit();
        }
    }
}

impl Slot {
    /// Cancelled when the transfer is to stop.
    pub fn cancellation(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Cancelled, and so is every transfer, when this process is to end: nobody has given the transfer up then.
    pub fn stopping(&self) -> CancellationToken {
        self.registry.shared.stop.clone()
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

    /// Runs the transfer to its end when it has its turn, whoever still listens. Returns its id.
    pub fn spawn(mut self, work: impl Future<Output = Result<TransferResult, TransferFailure>> + Send + 'static) -> String {
        self.spawned = true;
        let (registry, id, state) = (self.registry.clone(), self.id.clone(), self.state.clone());
        let span = self.span.clone();
        let (metrics, kind, counters) = (self.registry.shared.metrics.clone(), self.kind.name(), self.progress.clone());
        let (turn, cancel, started) = (self.turn.take(), self.cancel.clone(), self.state.clone());
        // When it began; never, for one that was cancelled while it waited.
        let begun = Arc::<OnceLock<Instant>>::default();
        let (begins, counted) = (Arc::clone(&begun), metrics.clone());
        let start = move || {
            started.send_modify(|progress| progress.set_state(TransferState::Running));
            begins.get_or_init(Instant::now);
            counted.began(kind);
            tracing::info!("transfer started");
        };
        if turn.is_none() {
            // So that whoever asks for it now sees it run.
            span.in_scope(&start);
        }
        let work = async move {
            if let Some(turn) = turn {
                tracing::info!("transfer waits for its turn");
                // Its sender goes with the registry's last clone, of which the end of this transfer has one.
                let Some(Ok(())) = cancel.run_until_cancelled(turn).await else { return Err(TransferFailure::Cancelled) };
                start();
            }
            work.await
        };
        let running = self.registry.shared.tasks.spawn(work.instrument(span.clone()));
        let ending = async move {
            let result = running.await.unwrap_or_else(|error| Err(TransferFailure::inside(format!("its task ended: {error}"))));
            match &result {
                Ok(_) => tracing::info!("transfer succeeded"),
                Err(TransferFailure::Cancelled) => tracing::info!("transfer cancelled"),
                Err(TransferFailure::Failed { reason, .. }) => tracing::warn!(reason, "transfer failed"),
                Err(TransferFailure::Refused(reason)) => tracing::warn!(reason, "transfer refused"),
            }
            if let Some(begun) = begun.get() {
                count::ended(&metrics, &result, (kind, begun.elapsed()), counters.snapshot());
            }
            state.send_modify(|progress| finish(progress, result));
            registry.ended(&id);
        };
        self.registry.shared.tasks.spawn(ending.instrument(span));
        self.id.clone()
    }
}

#[cfg(test)]
mod tests;
