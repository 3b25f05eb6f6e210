//! How long, and at which intervals, a locked repository is tried again.

use std::time::{Duration, Instant};

use crate::repository::error::RepositoryError;
use crate::types::error::chain;

/// Is told what is waited for, each time before the wait goes on.
pub type Waiting<'a> = &'a (dyn Fn(&RepositoryError) + Send + Sync);

/// How long programs wait for locks of others by default: longer than most prunes keep everybody out.
pub const RETRY_LOCK: Duration = Duration::from_secs(5 * 60);

/// The first interval. A prune's shortest lock lasts a fifth of a second.
const FIRST: Duration = Duration::from_secs(1);
/// The longest interval: little of a wait for a prune is lost, and each look costs a listing.
const LONGEST: Duration = Duration::from_secs(20);
/// As long as restic looks again at a lock that it cannot read.
const UNREADABLE: Duration = Duration::from_secs(35);

/// One wait for a lock, from its first failure to its last, however often it was announced meanwhile.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    began: Instant,
    interval: Duration,
}

impl Patience {
    /// Patience that lasts for at most `limit` in all.
    pub(in crate::repository) fn new(limit: Duration) -> Self {
        Self { limit, began: Instant::now(), interval: FIRST }
    }

    /// Waits until it is time to look again.
    ///
    /// # Errors
    /// `error` itself, when it does not pass by itself or the time is up.
    pub(crate) async fn wait(&mut self, error: RepositoryError, waiting: Waiting<'_>) -> Result<(), RepositoryError> {
        let Some(longest) = next(&error, self.began.elapsed(), self.limit, self.interval) else { return Err(error) };
        waiting(&error);
        if self.interval == FIRST {
            tracing::warn!(reason = %chain(&error), seconds = self.limit.as_secs(), "waiting for the repository's lock");
        }
        // Between half of it and all of it, so that many who wait do not look in step.
        let interval = longest.mul_f64(rand::random_range(0.5..=1.0));
        // Nothing announces the end of a lock: it is looked for again.
        let _ = tokio::time::timeout(interval, std::future::pending::<()>()).await;
        self.interval = (self.interval * 2).min(LONGEST);
        Ok(())
    }
}

/// The longest wait before the next look; `None` when there must be none.
fn next(error: &RepositoryError, waited: Duration, limit: Duration, interval: Duration) -> Option<Duration> {
    let limit = match error {
        RepositoryError::Locked { .. } => limit,
        RepositoryError::UnreadableLock { .. } => limit.min(UNREADABLE),
        _ => return None,
    };
    let left = limit.saturating_sub(waited);
    (!left.is_zero()).then(|| interval.min(left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::damage::Damage;
    use crate::repository::lock::{LockHolder, LockMode};

    #[test]
    fn a_lock_is_waited_for_until_the_time_is_up_and_one_that_is_unreadable_not_as_long() {
        let holder = LockHolder {
            mode: LockMode::Exclusive,
            hostname: String::new(),
            username: String::new(),
            process: 1,
            since: String::new(),
        };
        let locked = RepositoryError::Locked { holder: Box::new(holder) };
        let unreadable = RepositoryError::UnreadableLock { object: "locks/x".into(), damage: Damage::Forged };
        let seconds = Duration::from_secs;
        let next = |error, waited| next(error, seconds(waited), seconds(300), seconds(8));
        assert_eq!(next(&locked, 0), Some(seconds(8)));
        assert_eq!(next(&locked, 299), Some(seconds(1)), "the last look is at the end");
        assert_eq!(next(&locked, 300), None);
        assert_eq!((next(&unreadable, 34), next(&unreadable, 35)), (Some(seconds(1)), None));
        assert_eq!(next(&RepositoryError::NoRepository, 0), None);
    }
}
