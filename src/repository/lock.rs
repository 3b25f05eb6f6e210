//! Locks, in restic's protocol.

use std::fmt;

use super::error::RepositoryError;
use super::open::Repository;

/// How a repository is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Beside others: export, restore, forget of one snapshot, listing.
    Shared,
    /// Alone: check, prune.
    Exclusive,
}

/// Who holds a lock, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// How.
    pub mode: LockMode,
    /// On which machine.
    pub hostname: String,
    /// Which user.
    pub username: String,
    /// Which process.
    pub process: u32,
    /// Since when, RFC 3339.
    pub since: String,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            LockMode::Shared => "by",
            LockMode::Exclusive => "exclusively by",
        };
        write!(f, "{mode} {}@{} (process {}) since {}", self.username, self.hostname, self.process, self.since)
    }
}

/// A lock that is held and refreshed until it is released. Dropping it without [`release`](LockGuard::release) removes it in
/// the background if a runtime is there, else leaves it to become stale in 30 minutes.
pub struct LockGuard(());

impl LockGuard {
    /// Makes sure that the lock still holds. To be called before every step that relies on nobody having removed anything.
    ///
    /// # Errors
    /// [`RepositoryError::LockLost`] when it was removed, or not refreshed for 22.5 minutes.
    pub async fn check(&self) -> Result<(), RepositoryError> {
        unimplemented!()
    }

    /// Removes the lock.
    ///
    /// # Errors
    /// When the store refuses; the lock then becomes stale by itself.
    pub async fn release(self) -> Result<(), RepositoryError> {
        unimplemented!()
    }
}

impl Repository {
    /// Locks the repository, or says who excludes it. Does not wait for them.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`] naming the other.
    pub async fn lock(&self, mode: LockMode) -> Result<LockGuard, RepositoryError> {
        let _ = mode;
        unimplemented!()
    }

    /// Removes locks that nobody refreshes any more; returns how many.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn remove_stale_locks(&self) -> Result<u64, RepositoryError> {
        unimplemented!()
    }
}
