//! What the commits of a catalogue tell the one who keeps its copy.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many commits there were, and whether there will be more.
#[derive(Debug, Default)]
pub(super) struct Commits {
    seen: Mutex<Seen>,
    changed: Condvar,
}

/// What was seen of them up to a moment.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Seen {
    pub(super) commits: u64,
    pub(super) stopped: bool,
}

impl Commits {
    /// Notes a commit.
    pub(super) fn note(&self) {
        self.change(|seen| seen.commits += 1);
    }

    /// Ends all waiting.
    pub(super) fn stop(&self) {
        self.change(|seen| seen.stopped = true);
    }

    pub(super) fn seen(&self) -> Seen {
        *self.lock()
    }

    /// Waits until more commits were seen than `commits`, or it is over.
    pub(super) fn wait(&self, commits: u64) {
        let waiting = |seen: &mut Seen| seen.commits == commits && !seen.stopped;
        drop(self.changed.wait_while(self.lock(), waiting).unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits that long, or until it is over.
    pub(super) fn rest(&self, rest: Duration) {
        drop(self.changed.wait_timeout_while(self.lock(), rest, |seen| !seen.stopped));
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
