//! Locks, in restic's protocol, so that restic and we may use one repository at a time.
//!
//! A lock is a small document that says who uses the repository and how. Taking one: look for locks that exclude ours, store
//! ours, wait 200 ms, look again; a process that then finds another that excludes it takes its own away and fails. Two competitors may
//! both fail, never both succeed. A holder refreshes every 5 minutes (a new document, then the old one is deleted).
//!
//! | | export, restore, list, forget, check | prune, key removal |
//! |---|---|---|
//! | **lock** | shared | exclusive |
//! | beside a shared one | yes: they only add objects, or remove one snapshot object | no: they delete packs that others may be about to refer to |
//! | beside an exclusive one | no | no |
//!
//! # Why an export that succeeds refers to nothing that a prune deletes
//! A prune deletes only while it holds the exclusive lock, an export looks for blobs that it need not store only while it holds a
//! shared one, and the two never hold at once: of two that store their locks, one at least sees the other's 200 ms later. What
//! could break this is a lock that vanishes under its holder:
//!
//! | who may remove a lock | what follows |
//! |---|---|
//! | its holder | nothing: it no longer relies on it |
//! | we, of another, exclusive | never, since its document proves nothing: its holder may be in another namespace, on another host of the same name, or have another clock |
//! | we, of another, shared | only of a process that is [known to be gone](owner): what it was about to refer to, it never will |
//! | restic's `unlock`, by a person, or with a clock that is half an hour off | the holder finds out before its commit ([`LockGuard::check`]) and fails |
//!
//! A lock that was not refreshed for 30 minutes may be taken for dead, so an export whose lock is 22.5 minutes old goes no further,
//! and the commit itself is given up when it is not done in what is left of the 30 ([`LockGuard::during`]). Ages are
//! measured by the holder, by the larger of its two clocks; nobody else's clock is asked.
//!
//! # Waiting
//! A process that finds the repository locked waits as long as [`Repository::with_retry_lock`] says, without holding a lock unless it is
//! a prune. It looks again at growing intervals, so that a prune of hours is not disturbed, and many agents do not look in step. An empty
//! lock object does not count: some stores leave one behind an upload that was cut off. One that cannot be read may be half written, and
//! is looked at again for half a minute; then it is an error, since it may exclude us.
//!
//! A prune that finds no moment without exports [announces](ahead) its exclusive lock after half of its patience, for a minute at a
//! time: exports that come then wait, those that work end, and it has its turn. restic's prune has no such turn: it looks again at
//! intervals of 5 to 60 s, and beside exports that overlap for the whole of its `--retry-lock` it fails, having changed nothing. A prune
//! of ours fails so only beside an export that works for longer than that minute whenever it asks, or beside another exclusive lock.
//!
//! # Cost
//! Two listings, one put, one delete, and a read of each lock of others that this process has not read before, 32 at a time.
//!
//! # What a crash leaves
//! A lock. The next one that takes a shared lock and [knows](owner) that its holder is gone removes it: another process of the same
//! host and namespace, or the node that serves the pool it was taken for. Everybody else leaves it to `restic unlock`, which
//! takes it for dead after half an hour, or at once with `--remove-all`.
//!
//! # Reading without a lock
//! A restore and a check may do without: all that they read is authenticated and hashed, so that a prune beside them makes them fail,
//! and never gives wrong data. They ask for a lock all the same, since that failure would come after hours.
//!
//! A restore works during those 200 ms: it changes nothing of the repository, and what it writes is not published before the lock
//! was found to hold ([`LockGuard::confirm`]). At worst it reads what a competitor is removing. Then it takes its lock back, waits for
//! the other as long as it is to wait for anyone, and begins anew.

pub(super) mod ahead;
mod document;
mod guard;
mod held;
pub(super) mod holder;
pub(super) mod mode;
mod others;
pub(super) mod owner;
mod patience;
mod refresh;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tracing::Instrument;

use super::error::RepositoryError;
use super::file;
use super::id::Id;
use super::open::Repository;
use super::store::{Kind, StoreError};
use crate::types::error::chain;
use document::{LockFile, Registered};
use held::{HeldLock, StoredLock};
use refresh::{REFRESH_TICK, refresh};

pub use guard::LockGuard;
pub use holder::LockHolder;
pub use mode::{LockMode, Locking};
pub use owner::LockOwner;
pub(crate) use patience::Patience;
pub use patience::{RETRY_LOCK, Waiting};

/// Leftovers of puts are swept when they are this old: far longer than any put takes.
const SWEEP_AFTER: Duration = Duration::from_secs(24 * 3600);

impl Repository {
    /// Locks the repository, after it has waited for locks that exclude this one as long as the repository's
    /// [patience](Self::with_retry_lock) lasts.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`] names the holder that excludes this lock; a lock that cannot be read may exclude it.
    pub async fn lock(&self, mode: LockMode) -> Result<LockGuard, RepositoryError> {
        self.lock_or_wait(mode, &|_| {}).await
    }

    /// [`lock`](Self::lock), telling `waiting` what is waited for.
    pub async fn lock_or_wait(&self, mode: LockMode, waiting: Waiting<'_>) -> Result<LockGuard, RepositoryError> {
        let mut patience = Patience::new(self.retry_lock());
        loop {
            let error = match self.announce(mode).await {
                Ok(guard) => match guard.confirm().await {
                    Ok(()) => return Ok(guard),
                    Err(error) => {
                        guard.release().await?;
                        error
                    }
                },
                Err(error) => error,
            };
            patience.wait(error, waiting).await?;
        }
    }

    /// The patience of a wait for this repository's lock that begins now.
    pub(crate) fn patience(&self) -> Patience {
        Patience::new(self.retry_lock())
    }

    /// Announces a shared lock for work that only reads, if that is [to lock](Self::with_locking). The lock holds if
    /// [`LockGuard::confirm`] says so.
    ///
    /// `None`, and a warning, when no lock can be stored or one cannot be read: a read-only medium, a full disk or credentials that may
    /// not write must not keep anybody from restoring.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`] names the holder that excludes this lock.
    pub(crate) async fn announce_to_read(
        &self,
        patience: &mut Patience,
        waiting: Waiting<'_>,
    ) -> Result<Option<LockGuard>, RepositoryError> {
        if self.locking() == Locking::None {
            return Ok(None);
        }
        let failure = loop {
            let error = match self.announce(LockMode::Shared).await {
                Ok(guard) => return Ok(Some(guard)),
                Err(error) => error,
            };
            if let Err(error) = patience.wait(error, waiting).await {
                break error;
            }
        };
        if !cannot_be_taken(&failure) {
            return Err(failure);
        }
        tracing::warn!(error = %chain(&failure), "the repository is read without a lock; a prune meanwhile would end this with an error");
        Ok(None)
    }

    /// [`announce_to_read`](Self::announce_to_read), and waits until the lock is known to hold.
    pub(super) async fn lock_to_read(&self) -> Result<Option<LockGuard>, RepositoryError> {
        let mut patience = self.patience();
        loop {
            let Some(guard) = self.announce_to_read(&mut patience, &|_| {}).await? else { return Ok(None) };
            match guard.confirm().await {
                Ok(()) => return Ok(Some(guard)),
                Err(error) => {
                    guard.release().await?;
                    patience.wait(error, &|_| {}).await?;
                }
            }
        }
    }

    async fn announce(&self, mode: LockMode) -> Result<LockGuard, RepositoryError> {
        self.refuse_if_excluded(mode, None).await?;
        self.hold(mode).await
    }

    /// Stores a lock without looking for others.
    async fn hold(&self, mode: LockMode) -> Result<LockGuard, RepositoryError> {
        let stored = self.store_lock(mode).await?;
        // From here on the guard's drop takes it away again.
        let held = Arc::new(HeldLock { turn: tokio::sync::Mutex::new(()), stored: Mutex::new(stored) });
        let refresh = tokio::spawn(refresh(self.clone(), mode, Arc::clone(&held), REFRESH_TICK).in_current_span());
        Ok(LockGuard { repository: self.clone(), mode, held, refresh, released: false })
    }

    /// Removes old leftovers of puts that were cut off, once a day for each process; returns how many.
    pub async fn sweep_leftovers(&self) -> Result<u64, RepositoryError> {
        if document::sweep_is_due(self.id(), SWEEP_AFTER) { Ok(self.store().sweep(SWEEP_AFTER).await?) } else { Ok(0) }
    }

    /// Stores a lock. This process counts as its holder before it can be listed.
    async fn store_lock(&self, mode: LockMode) -> Result<StoredLock, RepositoryError> {
        let json = file::to_json(Kind::Lock, &LockFile::new(mode, self.lock_owner()))?;
        let sealed = file::encode(&self.sealer(), &json)?;
        let stored = StoredLock::new(Registered::new(Id::of(&sealed)));
        self.put_object(Kind::Lock, stored.id(), Bytes::from(sealed)).await?;
        Ok(stored)
    }
}

/// Whether a lock cannot be stored or judged, rather than being excluded by another.
fn cannot_be_taken(error: &RepositoryError) -> bool {
    match error {
        RepositoryError::UnreadableLock { .. } => true,
        RepositoryError::Store(StoreError::Denied { object, .. } | StoreError::Io { object, .. }) => {
            object.starts_with(Kind::Lock.folder())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
