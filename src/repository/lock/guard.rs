//! A lock that is held, until its guard is released or dropped.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::held::{HeldLock, LOST_AFTER, STALE_AFTER};
use super::mode::LockMode;
use crate::repository::error::RepositoryError;
use crate::repository::open::Repository;
use crate::repository::store::{Key, Kind};
use crate::types::error::chain;

/// Time for a competitor's lock to become visible.
const SETTLE: Duration = Duration::from_millis(200);
/// A commit that is under way is given up when the lock has this age: the minute is for a request that is cut off to end at the store.
pub(super) const GIVEN_UP_AFTER: Duration = Duration::from_secs(29 * 60);
/// How often the lock's age is looked at during a commit.
const COMMIT_TICK: Duration = Duration::from_secs(1);
/// How long cancelled work, which is to end within a second, waits for the removal.
const LET_GO_WITHIN: Duration = Duration::from_millis(500);

/// A lock that is held and refreshed until it is released. Dropping it before [`release`](LockGuard::release) has ended removes it in
/// the background if a runtime is there, else leaves it.
pub struct LockGuard {
    pub(super) repository: Repository,
    pub(super) mode: LockMode,
    pub(super) held: Arc<HeldLock>,
    pub(super) refresh: JoinHandle<()>,
    pub(super) released: bool,
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard").field("repository", &self.repository.id()).finish_non_exhaustive()
    }
}

impl LockGuard {
    /// The second half of taking a lock: waits until a competitor's lock would show, and looks for one. Until this has
    /// succeeded the lock protects nothing: what was read meanwhile may have been about to be removed.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`] names the other; the lock must then be released.
    pub async fn confirm(&self) -> Result<(), RepositoryError> {
        let (own, age) = {
            let stored = self.held.stored();
            (stored.id(), stored.at.elapsed())
        };
        // Nothing announces a competitor's lock: the protocol is to wait this long and look.
        let _ = tokio::time::timeout(SETTLE.saturating_sub(age), std::future::pending::<()>()).await;
        self.repository.refuse_if_excluded(self.mode, Some(own)).await
    }

    /// Makes sure that the lock still holds. To be called before every step that relies on nothing having been removed.
    ///
    /// # Errors
    /// [`RepositoryError::LockLost`] when it was removed, or not refreshed for 22.5 minutes.
    pub async fn check(&self) -> Result<(), RepositoryError> {
        loop {
            let (id, age) = {
                let stored = self.held.stored();
                (stored.id(), stored.age())
            };
            if age > LOST_AFTER {
                return Err(RepositoryError::LockLost("it could not be refreshed in time"));
            }
            if self.repository.store().size(Key::File(Kind::Lock, id)).await?.is_some() {
                return Ok(());
            }
            // It may have been replaced meanwhile; each refresh lets this look once more.
            if self.held.stored().id() == id {
                return Err(RepositoryError::LockLost("someone removed it"));
            }
        }
    }

    /// Does `work` while the lock holds: checks it, and gives the work up when the lock comes to the age at which others need not
    /// respect it. Work that is given up may have been done.
    ///
    /// # Errors
    /// [`RepositoryError::LockLost`] when the lock does not hold, also when the work was done too late; and the errors of `work`.
    pub async fn during<T>(&self, work: impl Future<Output = Result<T, RepositoryError>>) -> Result<T, RepositoryError> {
        self.check().await?;
        let too_old = async {
            let mut tick = tokio::time::interval(COMMIT_TICK);
            while self.held.stored().age() <= GIVEN_UP_AFTER {
                tick.tick().await;
            }
        };
        let lost = RepositoryError::LockLost("it could not be refreshed while the last step was under way");
        tokio::select! {
            biased;
            done = work => if self.held.stored().age() > STALE_AFTER { Err(lost) } else { done },
            () = too_old => Err(lost),
        }
    }

    /// Removes the lock. When the future is dropped before the store has answered, the removal goes on in the background, as it does
    /// when the guard is dropped.
    ///
    /// # Errors
    /// When the store refuses; the lock then stays, and the next one that this process takes removes it.
    pub async fn release(mut self) -> Result<(), RepositoryError> {
        let held = Arc::clone(&self.held);
        // In its turn no refresh is under way, and the aborted task begins none after.
        let _turn = held.turn.lock().await;
        self.refresh.abort();
        let id = held.stored().id();
        let removed = self.repository.delete_object(Kind::Lock, id).await;
        // The refresh that was aborted may live a little longer and with it what it shares with this.
        held.stored().registered.release();
        self.released = true;
        removed
    }

    /// Removes the lock at the end of work that is done or has failed. A refusal is only logged, since it does not change the outcome.
    /// Once `cancel` is cancelled, a store that does not answer is not waited for.
    pub async fn let_go(self, cancel: &CancellationToken) {
        let given_up = async {
            cancel.cancelled().await;
            // The time is the bound itself; nothing else is waited for.
            let _ = tokio::time::timeout(LET_GO_WITHIN, std::future::pending::<()>()).await;
        };
        tokio::select! {
            released = self.release() => if let Err(error) = released {
                tracing::warn!(error = %chain(&error), "the repository's lock could not be removed; the next transfer of this node removes it");
            },
            () = given_up => tracing::warn!("the store does not answer; the repository's lock may stay until the next transfer"),
        }
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        self.refresh.abort();
        let (repository, held) = (self.repository.clone(), Arc::clone(&self.held));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _turn = held.turn.lock().await;
                let id = held.stored().id();
                if let Err(error) = repository.delete_object(Kind::Lock, id).await {
                    tracing::warn!(error = %chain(&error), lock = %id, "lock not removed; the next transfer of this node removes it");
                }
                held.stored().registered.release();
            });
        }
    }
}
