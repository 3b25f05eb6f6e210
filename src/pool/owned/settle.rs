//! What failed calls of this process left, finished or undone while it lives.
//!
//! A commit that failed may be on the disk or not, so the call that made it does nothing more about it; an undo that failed leaves
//! its intent. Both are what a crash at that moment would have left, and mean the same: an intent without a record is undone,
//! a deletion or growth is finished. Here this is done before the next change of the pool, and whenever somebody asks whether the
//! catalogue works.
//!
//! * Nothing that is under way is touched: an intent is taken only with the locks of its object and its name, which the operation that made it
//!   holds until it ends (a restore until its commit or abort).
//! * A restore that is kept is nothing that failed.
//! * Nothing that was acknowledged is touched: a creation's record is written by the commit that drops its intent, so where there is an
//!   intent there is no record. A creation that is repeated finds the record, or else makes the object anew under another id.
//! * Holds are not ended here: whoever made one in this process has ended it.

use std::sync::atomic::Ordering;

use super::pool::OwnedPool;
use super::recovery::{Settled, recover_one};
use crate::pool::PoolError;
use crate::pool::intent::Intent;
use crate::pool::locks::Key;
use crate::types::Object;
use crate::types::error::chain;

impl OwnedPool {
    /// Whether the catalogue takes changes: known from the last one, and tried when that one failed. One that failed is opened again for it,
    /// and what failed calls left is finished or undone.
    pub fn check_catalogue(&self) -> Result<(), PoolError> {
        self.catalogue.check_works()?;
        self.settle();
        Ok(())
    }

    /// Whether the last change of the catalogue was recorded, as far as is known. Looks at no disk.
    pub fn catalogue_took_its_last_change(&self) -> bool {
        self.catalogue.took_its_last_change()
    }

    /// Finishes or undoes what failed calls left, if there is anything. What resists is logged and tried again by the next call.
    pub(super) fn settle(&self) {
        // Opens again what failed; whatever that finds is counted.
        if let Err(error) = self.catalogue.check_works() {
            tracing::debug!(error = %chain(&error), "the catalogue takes no changes");
            return;
        }
        let failed = self.catalogue.failed_commits();
        let seen = self.leftovers.settled_at.swap(failed, Ordering::AcqRel);
        let is_unsettled = self.leftovers.others.swap(false, Ordering::AcqRel);
        if seen == failed && !is_unsettled {
            return;
        }
        match self.try_settle() {
            Ok(Settled::Wholly) => {}
            Ok(Settled::InPart) => self.note_unsettled(),
            Err(error) => {
                self.note_unsettled();
                tracing::warn!(error = %chain(&error), "what failed calls left is not settled yet");
            }
        }
    }

    /// Notes that a call left an intent behind.
    pub(super) fn note_unsettled(&self) {
        self.leftovers.others.store(true, Ordering::Release);
    }

    /// Whether an intent is that of a restore that is kept. Steady while its locks are held.
    fn keeps(&self, intent: &Intent) -> bool {
        matches!(intent, Intent::Restore { volume, .. } if self.is_kept(volume.id))
    }

    fn try_settle(&self) -> Result<Settled, PoolError> {
        let mut settled = Settled::Wholly;
        for (id, intent) in self.catalogue.intents()? {
            let done = match &intent {
                // Nothing has failed of it.
                intent if self.keeps(intent) => Ok(()),
                Intent::DeleteVolume { volume } => self.finish_deletion(Object::Volume(volume.id)),
                Intent::DeleteSnapshot { snapshot } => self.finish_deletion(Object::Snapshot(snapshot.id)),
                Intent::CreateVolume { .. } | Intent::CreateSnapshots { .. } | Intent::Restore { .. } | Intent::Grow { .. } => {
                    self.locks.lock(keys(&intent)).and_then(|_locked| {
                        // The operation that had it may have ended meanwhile.
                        let is_there = self.catalogue.intents()?.iter().any(|(other, _)| *other == id) && !self.keeps(&intent);
                        if is_there { recover_one(self.pool.as_ref(), &self.catalogue, id, &intent) } else { Ok(()) }
                    })
                }
            };
            match done {
                Ok(()) => {}
                Err(error @ PoolError::Catalogue(_)) => return Err(error),
                Err(PoolError::Busy(_)) => settled = Settled::InPart,
                Err(error) => {
                    tracing::warn!(intent = id.0, error = %chain(&error), "what a failed call left is not settled yet");
                    settled = Settled::InPart;
                }
            }
        }
        // Evictions that came of a call never fail it.
        self.evict_leftovers()?;
        Ok(settled)
    }
}

/// What the operation that made it holds locked until it ends, or whoever goes on with it.
fn keys(intent: &Intent) -> Vec<Key> {
    match intent {
        Intent::CreateVolume { volume, .. } | Intent::Restore { volume, .. } => {
            vec![Key::VolumeName(volume.name.clone()), Key::Object(Object::Volume(volume.id))]
        }
        Intent::CreateSnapshots { snapshots, .. } => {
            snapshots.iter().map(|snapshot| Key::SnapshotName(snapshot.name.clone())).collect()
        }
        Intent::DeleteVolume { volume } => vec![Key::Object(Object::Volume(volume.id))],
        Intent::DeleteSnapshot { snapshot } => vec![Key::Object(Object::Snapshot(snapshot.id))],
        Intent::Grow { volume, .. } => vec![Key::Object(Object::Volume(*volume))],
    }
}
