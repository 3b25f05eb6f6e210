//! How far a transfer has come, for bars, logs and services: counters that anyone may read while the pipelines write them.
//!
//! Counters are read one by one, so a snapshot of them may be off by what happened meanwhile. Each alone only grows, unless the
//! transfer begins anew.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use crate::repository::Store;
use crate::repository::time::rfc3339;
use crate::types::Timestamp;

/// What a transfer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Locks the repository and reads its index.
    Preparing,
    Transferring,
    /// Makes what was moved durable and, in an export, visible.
    Committing,
    Done,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Preparing, Self::Transferring, Self::Committing, Self::Done];
}

#[derive(Debug, Default)]
struct Counters {
    phase: AtomicU8,
    total_bytes: AtomicU64,
    done_bytes: AtomicU64,
    moved_bytes: AtomicU64,
    new_bytes: AtomicU64,
    stored_bytes: AtomicU64,
    /// Why the transfer waits, in words for people.
    waiting: Mutex<Option<String>>,
    /// The store of the transfer, which tells whether it is away.
    store: Mutex<Option<Weak<dyn Store>>>,
}

/// Counters of one transfer. Clones are the same counters.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

/// The counters at one time, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressSnapshot {
    pub phase: Phase,
    /// Size of the volume, or of a target that is overwritten whole; 0 until it is known.
    pub total_bytes: u64,
    /// How much of the volume is dealt with, zeros and known chunks included.
    pub done_bytes: u64,
    /// Bytes read from the volume (export), or written to it (restore).
    pub moved_bytes: u64,
    /// Plain bytes that the repository did not have. Stays 0 in a restore.
    pub new_bytes: u64,
    /// Bytes stored in the repository (export), or fetched from it (restore).
    pub stored_bytes: u64,
}

impl Progress {
    /// Counters of a transfer that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    pub fn snapshot(&self) -> ProgressSnapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let phase = usize::from(self.0.phase.load(Ordering::Relaxed));
        ProgressSnapshot {
            phase: Phase::ALL.get(phase).copied().unwrap_or(Phase::Done),
            total_bytes: load(&self.0.total_bytes),
            done_bytes: load(&self.0.done_bytes),
            moved_bytes: load(&self.0.moved_bytes),
            new_bytes: load(&self.0.new_bytes),
            stored_bytes: load(&self.0.stored_bytes),
        }
    }

    /// Why the transfer waits, in words for people; `None` while it works.
    pub fn waiting(&self) -> Option<String> {
        let reason = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone();
        reason.or_else(|| {
            let store = self.0.store.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.upgrade();
            let since = store?.away_since()?;
            let since = rfc3339(Timestamp { nanoseconds: 0, ..since.into() });
            Some(format!("the repository's store has not answered since {since}"))
        })
    }

    /// Notes why the transfer waits, or that it goes on.
    pub fn waits_for(&self, reason: Option<String>) {
        *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// From now on [`Progress::waiting`] tells when `store` is away. Whoever opens a repository for the transfer says so before it asks
    /// anything of the store.
    pub fn watch(&self, store: &Arc<dyn Store>) {
        *self.0.store.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::downgrade(store));
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.0.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn begin(&self, total_bytes: u64) {
        self.0.total_bytes.store(total_bytes, Ordering::Relaxed);
        self.enter(Phase::Transferring);
    }

    /// Resets the counters of what was done.
    pub(super) fn begin_anew(&self) {
        for counter in [&self.0.done_bytes, &self.0.moved_bytes, &self.0.new_bytes, &self.0.stored_bytes] {
            counter.store(0, Ordering::Relaxed);
        }
        self.enter(Phase::Preparing);
    }

    pub(super) fn done(&self, bytes: u64) {
        self.0.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts everything as done, also zeros at the end that nobody had to look at.
    pub(super) fn all_done(&self) {
        self.0.done_bytes.store(self.0.total_bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    pub(super) fn moved(&self, bytes: u64) {
        self.0.moved_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn new_data(&self, bytes: u64) {
        self.0.new_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn stored(&self, bytes: u64) {
        self.0.stored_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;
    use crate::repository::store::Key;
    use crate::repository::store::fault::{Fault, FaultyStore};
    use crate::repository::store::memory::MemoryStore;
    use crate::repository::store::patient::{Patient, PatientStore};
    use crate::repository::store::retry::Patience;

    #[test]
    fn clones_share_their_counters() {
        let progress = Progress::new();
        let other = progress.clone();
        assert_eq!(other.snapshot().phase, Phase::Preparing);
        progress.begin(100);
        progress.done(40);
        progress.moved(30);
        let seen = other.snapshot();
        assert_eq!((seen.phase, seen.total_bytes, seen.done_bytes, seen.moved_bytes), (Phase::Transferring, 100, 40, 30));
        progress.all_done();
        progress.enter(Phase::Done);
        assert_eq!((other.snapshot().done_bytes, other.snapshot().phase), (100, Phase::Done));
    }

    #[tokio::test]
    async fn a_store_that_is_away_shows_as_long_as_it_is() {
        let mut calls = 0;
        let faulty = FaultyStore::new(Arc::new(MemoryStore::new()), move |_| {
            calls += 1;
            (calls == 1).then_some(Fault::Unavailable)
        });
        let patience = Patience { first_pause: Duration::from_millis(1), ..Patience::default() };
        let store: Arc<dyn Store> = Arc::new(PatientStore::new(Arc::new(faulty), Arc::new(Patient::new(patience))));
        let progress = Progress::new();
        progress.watch(&store);
        assert_eq!(progress.waiting(), None);
        let mut call = store.size(Key::Config);
        assert!((&mut call).now_or_never().is_none(), "it waits for its second try");
        assert!(progress.waiting().is_some_and(|reason| reason.contains("has not answered since 20")));
        call.await.unwrap();
        assert_eq!(progress.waiting(), None);
    }
}
