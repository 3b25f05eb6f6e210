//! The state of the set: its places, each with the condition of its pool. No lock is held while a disk is waited for.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::member::{FailedPool, Member, OpenedPool, Pace};
use crate::pool::owned::{OwnedPool, PoolFigures};
use crate::types::{ObjectName, PoolId, Timestamp};

pub(super) struct Shared {
    pub(super) pace: Pace,
    pub(super) state: Mutex<State>,
    pub(super) changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) entries: Vec<Entry>,
    pub(super) closing: bool,
    /// Threads that watch.
    pub(super) watching: usize,
}

pub(super) struct Entry {
    pub(super) place: String,
    pub(super) id: Option<PoolId>,
    pub(super) condition: Condition,
    pub(super) names: KnownNames,
    /// As of the last look.
    pub(super) figures: Option<Arc<PoolFigures>>,
    /// Since when a look or an attempt runs.
    pub(super) busy_since: Option<Instant>,
    /// When the next one begins.
    pub(super) due: Instant,
    pub(super) is_watched: bool,
    /// Whether it has been opened, or an attempt has failed.
    pub(super) is_tried: bool,
}

pub(super) enum Condition {
    Open(OpenedPool),
    Failed { reason: String, since: Timestamp, closed: Weak<OwnedPool> },
}

/// The names of a pool's volumes, as far as they are known without asking it.
#[derive(Default)]
pub(super) struct KnownNames {
    /// As of the last look.
    pub(super) looked: BTreeSet<ObjectName>,
    /// Made since that look began.
    pub(super) made: BTreeSet<ObjectName>,
}

impl KnownNames {
    pub(super) fn begin_look(&mut self) {
        self.looked.append(&mut self.made);
    }

    pub(super) fn contains(&self, name: &ObjectName) -> bool {
        self.looked.contains(name) || self.made.contains(name)
    }
}

impl Entry {
    /// The pool, if it can be used.
    pub(super) fn open(&self, pace: &Pace) -> Option<&Arc<OwnedPool>> {
        match &self.condition {
            Condition::Open(opened) if !self.hangs(pace) => Some(&opened.pool),
            Condition::Open(_) | Condition::Failed { .. } => None,
        }
    }

    pub(super) fn hangs(&self, pace: &Pace) -> bool {
        self.busy_since.is_some_and(|since| since.elapsed() > pace.answer)
    }

    pub(super) fn member(&self, pace: &Pace) -> Member {
        if let Some(pool) = self.open(pace) {
            return Member::Open(Arc::clone(pool));
        }
        let next_attempt = self.busy_since.is_none().then(|| self.due.saturating_duration_since(Instant::now()));
        let (reason, since) = match &self.condition {
            Condition::Failed { reason, since, .. } => (reason.clone(), *since),
            Condition::Open(_) => {
                let waited = self.busy_since.map_or(Duration::ZERO, |since| since.elapsed());
                let since = std::time::SystemTime::now().checked_sub(waited).unwrap_or(std::time::UNIX_EPOCH);
                (format!("its disk has not answered for more than {} s", pace.answer.as_secs()), Timestamp::from(since))
            }
        };
        Member::Failed(FailedPool { place: self.place.clone(), id: self.id, reason, since, next_attempt })
    }

    /// Takes the pool out, to be dropped when the lock is not held. What failed already keeps the time since when.
    pub(super) fn fail(&mut self, reason: String) -> Option<OpenedPool> {
        let (since, closed) = match &self.condition {
            Condition::Failed { since, closed, .. } => (*since, Weak::clone(closed)),
            Condition::Open(opened) => (Timestamp::now(), Arc::downgrade(&opened.pool)),
        };
        match std::mem::replace(&mut self.condition, Condition::Failed { reason, since, closed }) {
            Condition::Open(opened) => Some(opened),
            Condition::Failed { .. } => None,
        }
    }
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait<'a>(&self, state: MutexGuard<'a, State>, bound: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, bound).unwrap_or_else(PoisonError::into_inner).0
    }
}
