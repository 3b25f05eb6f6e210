//! Deleting volumes and snapshots: out of sight first, then gone, or kept as an anchor (`anchors`).

use super::anchors::{Fate, fate};
use super::pool::OwnedPool;
use crate::failpoint;
use crate::pool::PoolError;
use crate::pool::intent::{Intent, IntentId};
use crate::pool::locks::Key;
use crate::pool::record::{Snapshot, Volume};
use crate::types::error::chain;
use crate::types::{Object, SnapshotId, VolumeId};

impl OwnedPool {
    /// Deletes a volume. Absent is success. Its snapshots stay.
    ///
    /// # Errors
    /// [`PoolError::InUse`] when its data is there without a record, and while it is staged or published in this boot, or its device is in use; [`PoolError::Busy`];
    /// [`PoolError::Io`], [`PoolError::Catalogue`]: to be repeated.
    pub fn delete_volume(&self, id: VolumeId) -> Result<(), PoolError> {
        self.settle();
        let object = Object::Volume(id);
        let Some(seen) = self.catalogue.volume(id)? else { return self.finish_deletion(object) };
        let _locked = self.locks.lock([Key::Object(object), Key::VolumeName(seen.name)])?;
        let Some(volume) = self.catalogue.volume(id)? else { return Ok(()) };
        let published = self.drop_stale_publications(id)?;
        if let Some(publication) = published.first() {
            return Err(PoolError::InUse { object, by: publication.path.display().to_string() });
        }
        // A device without a publication is a remnant: of another boot's mounts, or of an attach whose caller died.
        self.detach_remnant(object)?;
        let interrupted = self.growths(id)?;
        let intent = self.catalogue.commit("delete_volume.intent", |change| {
            // Publications are recorded without this lock: one that came since the look above is decided on here.
            if let Some(publication) = change.publications(id)?.first() {
                return Err(PoolError::InUse { object, by: publication.path.display().to_string() });
            }
            change.remove_volume(&volume)?;
            // A growth that was interrupted is over with the volume.
            interrupted.iter().try_for_each(|&growth| change.drop_intent(growth))?;
            change.add_intent(&Intent::DeleteVolume { volume: volume.clone() })
        })?;
        self.delete_object(object, intent, |pool| {
            // An interrupted growth may have made it larger than its record, and its device must follow: both are again
            // what they were, but for the record, which is as large as the object.
            let stored = pool.pool.size(object)?;
            let reinstated = Volume { size: volume.size.max(stored), ..volume.clone() };
            pool.catalogue.commit("delete_volume.reinstate", |change| {
                change.put_volume(&reinstated)?;
                if !interrupted.is_empty() {
                    change.add_intent(&Intent::Grow { volume: id, size: reinstated.size })?;
                }
                change.drop_intent(intent)
            })
        })?;
        self.forget_volume(&volume, intent)?;
        self.evict_surplus(id);
        Ok(())
    }

    /// Deletes a snapshot. Absent is success. When somebody used it, its data may be kept as an anchor, which nobody sees.
    ///
    /// # Errors
    /// [`PoolError::InUse`] when its data is there without a record, and while it is leased, copied or attached; [`PoolError::Busy`]; [`PoolError::Io`],
    /// [`PoolError::Catalogue`]: to be repeated.
    pub fn delete_snapshot(&self, id: SnapshotId) -> Result<(), PoolError> {
        self.settle();
        let object = Object::Snapshot(id);
        let Some(seen) = self.catalogue.snapshot(id)? else { return self.finish_deletion(object) };
        if !seen.is_here() {
            // Of which something may still be there.
            self.finish_deletion(object)?;
        }
        let _locked = self.locks.lock([Key::Object(object), Key::SnapshotName(seen.name)])?;
        let Some(snapshot) = self.catalogue.snapshot(id)? else { return Ok(()) };
        if !snapshot.is_here() {
            return self.delete_record(&snapshot);
        }
        if self.locks.is_pinned(id) {
            return Err(PoolError::InUse { object, by: "an export or a copy that reads it".to_owned() });
        }
        self.detach_remnant(object)?;
        let is_base = self.check_sound(object).is_ok() && snapshot.serial >= self.catalogue.first_delta_base()?;
        let intent = self.catalogue.commit("delete_snapshot.intent", |change| {
            // Uses are recorded without this lock: one that came since the look above is decided on here.
            let snapshot = change.snapshot(id)?.unwrap_or_else(|| snapshot.clone());
            change.remove_snapshot(&snapshot)?;
            match fate(change, &snapshot)? {
                Fate::Kept(anchor) if is_base => change.put_anchor(&anchor).map(|()| None),
                _ => change.add_intent(&Intent::DeleteSnapshot { snapshot }).map(Some),
            }
        })?;
        let Some(intent) = intent else {
            tracing::info!(snapshot = %id, name = %snapshot.name, "snapshot deleted, and kept as an anchor");
            self.condense_left();
            self.condense(id);
            self.evict_surplus(snapshot.source);
            return Ok(());
        };
        self.delete_object(object, intent, |pool| {
            pool.catalogue.commit("delete_snapshot.reinstate", |change| {
                change.put_snapshot(&snapshot)?;
                change.drop_intent(intent)
            })
        })?;
        self.forget_snapshot(&snapshot, intent)?;
        tracing::info!(snapshot = %id, name = %snapshot.name, "snapshot deleted");
        self.evict_surplus(snapshot.source);
        Ok(())
    }

    /// Deletes a snapshot that has no local copy: its record is all that there is. An anchor of it stays as long as it is a base.
    fn delete_record(&self, snapshot: &Snapshot) -> Result<(), PoolError> {
        self.catalogue.commit("delete_record", |change| {
            change.remove_snapshot(snapshot)?;
            if change.volume(snapshot.source)?.is_none() && !change.has_snapshots(snapshot.source)? {
                change.remove_exports(snapshot.source)?;
            }
            Ok(())
        })?;
        tracing::info!(snapshot = %snapshot.id, name = %snapshot.name, "snapshot deleted, whose local copy was given up before");
        self.evict_surplus(snapshot.source);
        Ok(())
    }

    pub(super) fn detach_remnant(&self, object: Object) -> Result<(), PoolError> {
        match self.pool.attachment(object) {
            Ok(None) | Err(PoolError::Missing(_)) => Ok(()),
            Ok(Some(_)) => failpoint::around("pool.detach", || self.pool.detach(object)),
            Err(error) => Err(error),
        }
    }

    /// The act of a deletion. An object that turns out to be in use comes back into sight; after any other error the
    /// deletion goes on when it is repeated, or at the next start.
    pub(super) fn delete_object(
        &self,
        object: Object,
        intent: IntentId,
        reinstate: impl FnOnce(&Self) -> Result<(), PoolError>,
    ) -> Result<(), PoolError> {
        match failpoint::around("pool.delete", || self.pool.delete(object)) {
            Err(error @ PoolError::InUse { .. }) => {
                reinstate(self)?;
                Err(error)
            }
            Err(error) => {
                tracing::warn!(%object, error = %chain(&error), intent = intent.0, "deletion interrupted");
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Goes on with a deletion whose act failed earlier in this process; without one there is nothing to delete.
    pub(super) fn finish_deletion(&self, object: Object) -> Result<(), PoolError> {
        let pending = |pool: &Self| -> Result<Option<(IntentId, Intent)>, PoolError> {
            Ok(pool.catalogue.intents()?.into_iter().find(|(_, intent)| match intent {
                Intent::DeleteVolume { volume } => Object::Volume(volume.id) == object,
                Intent::DeleteSnapshot { snapshot } => Object::Snapshot(snapshot.id) == object,
                _ => false,
            }))
        };
        if pending(self)?.is_none() {
            return self.check_not_quarantined(object);
        }
        let _locked = self.lock_objects([object])?;
        let Some((id, intent)) = pending(self)? else { return Ok(()) };
        failpoint::around("pool.delete", || self.pool.delete(object))?;
        match intent {
            Intent::DeleteVolume { volume } => {
                self.forget_volume(&volume, id)?;
                self.evict_surplus(volume.id);
            }
            Intent::DeleteSnapshot { snapshot } => {
                self.forget_snapshot(&snapshot, id)?;
                self.evict_surplus(snapshot.source);
            }
            _ => {}
        }
        Ok(())
    }

    /// Data without a record is left alone, so it is not said to be gone either.
    fn check_not_quarantined(&self, object: Object) -> Result<(), PoolError> {
        let text = object.to_string();
        if self.quarantined.iter().all(|found| *found != text) {
            return Ok(());
        }
        let by = "whoever it belongs to: its data lies in the pool and no record names it, so it is left alone".to_owned();
        Err(PoolError::InUse { object, by })
    }

    fn forget_volume(&self, volume: &Volume, intent: IntentId) -> Result<(), PoolError> {
        self.damaged().remove(&Object::Volume(volume.id));
        self.catalogue.commit("delete_volume.commit", |change| {
            if !change.has_snapshots(volume.id)? {
                change.remove_exports(volume.id)?;
            }
            self.pool.unregister(change, Object::Volume(volume.id))?;
            change.drop_intent(intent)
        })?;
        tracing::info!(volume = %volume.id, name = %volume.name, "volume deleted");
        Ok(())
    }

    pub(super) fn forget_snapshot(&self, snapshot: &Snapshot, intent: IntentId) -> Result<(), PoolError> {
        self.damaged().remove(&Object::Snapshot(snapshot.id));
        self.catalogue.commit("delete_snapshot.commit", |change| {
            // The exports of a volume are of use while the volume or a snapshot of it can be exported again.
            if change.volume(snapshot.source)?.is_none() && !change.has_snapshots(snapshot.source)? {
                change.remove_exports(snapshot.source)?;
            }
            self.pool.unregister(change, Object::Snapshot(snapshot.id))?;
            change.drop_intent(intent)
        })?;
        Ok(())
    }
}
