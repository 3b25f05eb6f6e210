//! The locks of others: which of them exclude ours, and which are left of processes that are gone.

use std::collections::BTreeSet;

use futures::StreamExt;

use super::document::{self, LockFile};
use super::mode::LockMode;
use super::owner;
use crate::repository::damage::Damage;
use crate::repository::error::RepositoryError;
use crate::repository::id::Id;
use crate::repository::open::Repository;
use crate::repository::store::{Key, Kind, StoreError};
use crate::types::error::chain;

/// Locks fetched at once: each has a few hundred bytes.
const PARALLEL_LOADS: usize = 32;

impl Repository {
    /// Looks for locks other than `own` that exclude one of this mode. On the way it removes shared ones whose holders are gone.
    pub(super) async fn refuse_if_excluded(&self, mode: LockMode, own: Option<Id>) -> Result<(), RepositoryError> {
        let listed = self.store().list(Kind::Lock).await?;
        let ids: BTreeSet<Id> =
            listed.iter().filter(|listed| listed.bytes > 0 && Some(listed.id) != own).map(|listed| listed.id).collect();
        let mut locks = document::remembered(self.id(), &ids);
        let unread: Vec<Id> = ids.iter().filter(|id| !locks.contains_key(id)).copied().collect();
        // Futures that own all they use: see `Repository::snapshots`.
        let loads = futures::stream::iter(unread).map(|id| {
            let repository = self.clone();
            async move { (id, repository.load_lock(id).await) }
        });
        let mut failure = None;
        for (id, loaded) in loads.buffer_unordered(PARALLEL_LOADS).collect::<Vec<_>>().await {
            match loaded {
                Ok(Some(lock)) => {
                    document::remember(self.id(), id, &lock);
                    locks.insert(id, lock);
                }
                // Released meanwhile.
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        let mut excluding: Option<LockFile> = None;
        for (id, lock) in locks {
            if self.is_abandoned(&id, &lock) && self.remove_abandoned(id, &lock).await {
                continue;
            }
            // Of several, an exclusive one says most.
            if lock.excludes(mode) && excluding.as_ref().is_none_or(|found| found.mode() == LockMode::Shared) {
                excluding = Some(lock);
            }
        }
        match (excluding, failure) {
            (Some(lock), _) => Err(RepositoryError::Locked { holder: Box::new(lock.holder()) }),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(()),
        }
    }

    /// Whether a lock is a shared one that certainly nobody holds.
    fn is_abandoned(&self, id: &Id, lock: &LockFile) -> bool {
        let (own, other) = (self.lock_owner(), lock.owner());
        let gone = || if own.is_same_process(&other) { !document::is_held(id) } else { own.knows_gone(&other, owner::look) };
        lock.mode() == LockMode::Shared && gone()
    }

    async fn remove_abandoned(&self, id: Id, lock: &LockFile) -> bool {
        tracing::info!(lock = %id, holder = %lock.holder(), "removing a shared lock whose process is gone");
        match self.delete_object(Kind::Lock, id).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(lock = %id, error = %chain(&error), "a lock whose process is gone could not be removed");
                false
            }
        }
    }

    /// `None` when it was released meanwhile.
    async fn load_lock(&self, id: Id) -> Result<Option<LockFile>, RepositoryError> {
        let unreadable = |damage| RepositoryError::UnreadableLock { object: Key::File(Kind::Lock, id).path(), damage };
        match self.load_document(Kind::Lock, id).await {
            Ok(json) => serde_json::from_slice(&json).map(Some).map_err(|error| unreadable(Damage::json(error))),
            Err(RepositoryError::Store(StoreError::NotFound { .. })) => Ok(None),
            Err(RepositoryError::Damaged { damage, .. }) => Err(unreadable(damage)),
            Err(error) => Err(error),
        }
    }
}
