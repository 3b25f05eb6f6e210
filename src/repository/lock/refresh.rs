//! A held lock is replaced by a new document every few minutes, so that nobody takes it for dead.

use std::sync::Arc;
use std::time::Duration;

use super::held::{HeldLock, LOST_AFTER};
use super::mode::LockMode;
use crate::repository::error::RepositoryError;
use crate::repository::open::Repository;
use crate::repository::store::{Key, Kind};
use crate::types::error::chain;

pub(super) const REFRESH_EVERY: Duration = Duration::from_secs(5 * 60);
/// How often the refresh task looks whether it is time, which bounds how late a failed refresh is repeated.
pub(super) const REFRESH_TICK: Duration = Duration::from_secs(60);

pub(super) async fn refresh(repository: Repository, mode: LockMode, held: Arc<HeldLock>, tick: Duration) {
    let mut ticks = tokio::time::interval(tick);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (id, age) = {
            let stored = held.stored();
            (stored.id(), stored.age())
        };
        if age < REFRESH_EVERY {
            continue;
        }
        if age > LOST_AFTER {
            // A fresh document would hide that others were free to remove what we rely on.
            tracing::error!(lock = %id, "lock lost: it could not be refreshed in time");
            return;
        }
        match renew(&repository, mode, &held).await {
            Ok(()) => {}
            Err(error @ RepositoryError::LockLost(_)) => {
                tracing::error!(error = %chain(&error), lock = %id, "lock lost");
                return;
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), lock = %id, age_seconds = age.as_secs(), "lock not refreshed; trying again")
            }
        }
    }
}

pub(super) async fn renew(repository: &Repository, mode: LockMode, held: &HeldLock) -> Result<(), RepositoryError> {
    let _turn = held.turn.lock().await;
    let id = held.stored().id();
    // A lock that was removed must not come back: the process that removed it no longer respects it.
    if repository.store().size(Key::File(Kind::Lock, id)).await?.is_none() {
        return Err(RepositoryError::LockLost("someone removed it"));
    }
    let renewed = repository.store_lock(mode).await?;
    // Registered until its document is removed, or is known to stay.
    let before = std::mem::replace(&mut *held.stored(), renewed);
    if let Err(error) = repository.delete_object(Kind::Lock, before.id()).await {
        tracing::warn!(error = %chain(&error), lock = %before.id(), "previous lock not removed; the next transfer of this node removes it");
    }
    Ok(())
}
