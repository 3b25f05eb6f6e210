//! The exclusive lock, announced while others still work: transfers that come later wait, and it holds once the earlier ones have ended.
//!
//! Where exports overlap without end, an exclusive lock that is taken only when nobody holds one never is. This one is stored first, and
//! waits then. Its holder deletes nothing meanwhile. It holds when a look 200 ms or more after it was stored finds no other: a process
//! that stores a lock after that look finds this one at its own second look. So it protects as any lock does.
//!
//! It keeps out everybody who comes, so it does not last long: an export of hours that is under way must not make all others wait as long.
//! Of two processes that do this at once, the second finds the first one's lock and stores none; two that look at the same moment both
//! take theirs back.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::guard::LockGuard;
use super::mode::LockMode;
use crate::repository::error::RepositoryError;
use crate::repository::open::Repository;

/// Longest time between two looks for the end of others' locks. A look costs a listing.
pub(in crate::repository) const LOOK_AGAIN: Duration = Duration::from_secs(3);

/// Waits until it is time to look again, not in step with others, or `cancel` is cancelled.
pub(in crate::repository) async fn look_again(cancel: &CancellationToken) {
    // Nothing announces the end of a lock.
    let interval = LOOK_AGAIN.mul_f64(rand::random_range(0.5..=1.0));
    let _ = tokio::time::timeout(interval, cancel.cancelled()).await;
}

impl Repository {
    /// Announces the exclusive lock, and waits for the shared ones that are there for at most `limit`. It is taken back when they are not
    /// gone by then.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`] names another holder, at once if its lock is exclusive.
    pub(in crate::repository) async fn lock_ahead(
        &self,
        limit: Duration,
        cancel: &CancellationToken,
    ) -> Result<LockGuard, RepositoryError> {
        self.refuse_if_excluded(LockMode::Shared, None).await?;
        let guard = self.hold(LockMode::Exclusive).await?;
        let began = Instant::now();
        loop {
            let error = match guard.confirm().await {
                Ok(()) => return Ok(guard),
                Err(error) => error,
            };
            let is_shared = matches!(&error, RepositoryError::Locked { holder } if holder.mode == LockMode::Shared);
            if !is_shared || began.elapsed() >= limit || cancel.is_cancelled() {
                guard.release().await?;
                return Err(error);
            }
            look_again(cancel).await;
        }
    }
}
