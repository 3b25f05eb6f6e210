//! The thread that watches over one place: looks at its pool, closes it when it fails, and tries it again.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::member::{Pace, PoolSource};
use super::state::{Condition, Entry, KnownNames, Shared};
use crate::pool::PoolError;
use crate::pool::owned::{OwnedPool, PoolFigures};
use crate::types::error::chain;

/// The thread that watches over one place.
pub(super) struct Watcher {
    pub(super) shared: Arc<Shared>,
    pub(super) index: usize,
    pub(super) source: Box<dyn PoolSource>,
    /// Attempts that failed since the pool was last open.
    pub(super) failures: u32,
}

/// What the watcher does next.
enum Task {
    Look(Arc<OwnedPool>),
    Open,
    /// Calls that began before the pool was closed still have it.
    Linger,
}

impl Watcher {
    pub(super) fn run(mut self) {
        while let Some(task) = self.next_task() {
            match task {
                Task::Look(pool) => self.look(pool),
                Task::Open => self.open(),
                Task::Linger => self.postpone(),
            }
        }
        self.shared.state().watching -= 1;
        self.shared.changed.notify_all();
    }

    /// Waits until something is due; nothing when the set is closing.
    fn next_task(&self) -> Option<Task> {
        let mut state = self.shared.state();
        loop {
            if state.closing {
                return None;
            }
            let entry = state.entries.get_mut(self.index)?;
            let left = entry.due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let task = match &entry.condition {
                    Condition::Open(opened) => {
                        entry.names.begin_look();
                        Task::Look(Arc::clone(&opened.pool))
                    }
                    Condition::Failed { closed, .. } if closed.strong_count() > 0 => Task::Linger,
                    Condition::Failed { .. } => Task::Open,
                };
                entry.busy_since.get_or_insert_with(Instant::now);
                return Some(task);
            }
            state = self.shared.wait(state, left);
        }
    }

    fn look(&mut self, pool: Arc<OwnedPool>) {
        let looked = guarded(|| -> Result<_, PoolError> {
            pool.check()?;
            Ok((pool.volume_names()?, figures(&pool)))
        });
        match looked {
            Ok(Ok((names, figures))) => {
                drop(pool);
                self.settle(|entry| {
                    entry.names.looked = names;
                    entry.figures = figures;
                });
            }
            Ok(Err(error)) => self.failed(Some(pool), chain(&error)),
            Err(panicked) => self.failed(Some(pool), panicked),
        }
    }

    fn open(&mut self) {
        let opened = match guarded(|| self.source.open()) {
            Ok(Ok(opened)) => opened,
            Ok(Err(reason)) | Err(reason) => return self.failed(None, reason),
        };
        let (names, figures) =
            match guarded(|| -> Result<_, PoolError> { Ok((opened.pool.volume_names()?, figures(&opened.pool))) }) {
                Ok(Ok(seen)) => seen,
                Ok(Err(error)) => return self.failed(None, chain(&error)),
                Err(panicked) => return self.failed(None, panicked),
            };
        let id = opened.pool.id();
        let state = self.shared.state();
        if state.closing {
            // `opened` is dropped after the guard.
            drop(state);
            return;
        }
        let twin =
            state.entries.iter().enumerate().find(|(index, entry)| {
                *index != self.index && entry.id == Some(id) && matches!(entry.condition, Condition::Open(_))
            });
        if let Some((_, twin)) = twin {
            let reason =
                format!("it is the same pool {id} as the one at {}, which is open; one of the two is a copy", twin.place);
            drop(state);
            drop(opened);
            return self.failed(None, reason);
        }
        let shared_names = state.entries.iter().enumerate().filter(|(index, _)| *index != self.index);
        for (_, other) in shared_names {
            for name in names.iter().filter(|name| other.names.contains(name)) {
                tracing::warn!(%name, place = self.source.place(), other = other.place, "two pools have a volume of one name");
            }
        }
        drop(state);
        tracing::info!(pool = %id, place = self.source.place(), "a pool is open");
        self.settle(move |entry| {
            entry.id = Some(id);
            entry.condition = Condition::Open(opened);
            entry.names = KnownNames { looked: names, made: BTreeSet::new() };
            entry.figures = figures;
        });
    }

    /// The end of what went well.
    fn settle(&mut self, change: impl FnOnce(&mut Entry)) {
        self.failures = 0;
        let look = self.shared.pace.look;
        let mut state = self.shared.state();
        let closing = state.closing;
        if let Some(entry) = state.entries.get_mut(self.index) {
            // What is closed stays so.
            if !closing {
                change(entry);
            }
            entry.busy_since = None;
            entry.is_tried = true;
            entry.due = Instant::now() + look;
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// What failed is still held by calls, and cannot be opened yet. Looking whether they have ended costs nothing, so the wait does not
    /// grow.
    fn postpone(&self) {
        let retry = self.shared.pace.retry;
        if let Some(entry) = self.shared.state().entries.get_mut(self.index) {
            entry.busy_since = None;
            entry.due = Instant::now() + retry;
        }
        self.shared.changed.notify_all();
    }

    /// The end of what did not; `pool` is what was looked at.
    fn failed(&mut self, pool: Option<Arc<OwnedPool>>, reason: String) {
        let wait = delay(&self.shared.pace, self.failures);
        self.failures = self.failures.saturating_add(1);
        let place = self.source.place();
        let mut state = self.shared.state();
        let closing = state.closing;
        let mut closed = None;
        if let Some(entry) = state.entries.get_mut(self.index) {
            let known = matches!(&entry.condition, Condition::Failed { reason: known, .. } if *known == reason);
            if !known && !closing {
                // Once for each reason, not for each attempt.
                tracing::warn!(place, reason, "a pool cannot be used now; it is tried again");
            }
            if !closing {
                closed = entry.fail(reason);
            }
            entry.busy_since = None;
            entry.is_tried = true;
            entry.due = Instant::now() + wait;
        }
        drop(state);
        // Not under the lock: the last reference closes files.
        drop((pool, closed));
        self.shared.changed.notify_all();
    }
}

/// How long to wait after so many failures in a row.
pub(super) fn delay(pace: &Pace, failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    pace.retry.saturating_mul(factor).min(pace.retry_most)
}

/// The figures of a pool whose check has said that it works; without them it works too.
fn figures(pool: &OwnedPool) -> Option<Arc<PoolFigures>> {
    let taken =
        pool.figures().inspect_err(|error| tracing::debug!(pool = %pool.id(), error = %chain(error), "no figures of a pool"));
    taken.ok().map(Arc::new)
}

/// A panic in one pool is the failure of that pool.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| "looking at it panicked; see the log".to_owned())
}
