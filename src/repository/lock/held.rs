//! A lock that this process holds: the document that stands for it, and since when.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::document::Registered;
use crate::repository::id::Id;

/// Others may take a lock of this age for dead.
pub(super) const STALE_AFTER: Duration = Duration::from_secs(30 * 60);
/// 30 minutes less one and a half refreshes.
pub(super) const LOST_AFTER: Duration = Duration::from_secs(22 * 60 + 30);

/// The document that stands for a held lock, and when it was stored.
#[derive(Debug)]
pub(super) struct StoredLock {
    pub(super) registered: Registered,
    pub(super) at: Instant,
    pub(super) by_clock: SystemTime,
}

impl StoredLock {
    pub(super) fn new(registered: Registered) -> Self {
        Self { registered, at: Instant::now(), by_clock: SystemTime::now() }
    }

    pub(super) fn id(&self) -> Id {
        self.registered.id()
    }

    /// The age by the clock that shows more: one stands still while the machine sleeps, the other may be set.
    pub(super) fn age(&self) -> Duration {
        self.at.elapsed().max(self.by_clock.elapsed().unwrap_or_default())
    }
}

/// A held lock, shared by its guard and its refresh. The turn is held during requests that replace or remove the document, so that
/// none is stored after the release; `stored` may be read meanwhile.
#[derive(Debug)]
pub(super) struct HeldLock {
    pub(super) turn: tokio::sync::Mutex<()>,
    pub(super) stored: Mutex<StoredLock>,
}

impl HeldLock {
    pub(super) fn stored(&self) -> MutexGuard<'_, StoredLock> {
        // It is only ever replaced as a whole.
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
