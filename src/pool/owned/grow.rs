//! Growing volumes. They never shrink.
//!
//! The steps are an intent, the growth of the object and its device, and a commit of the record. A growth that fails half way may leave the
//! object larger than its record. A record that says less than the device holds would cut snapshots and exports short, so the
//! record is brought to the object's size ([`OwnedPool::settle_size`]) as soon as the failure is seen, and again before anything is
//! read from the record that must be whole: the next growth, to whatever size, and each snapshot and copy. The intent of the
//! failed growth stays until a later one or the next start has made the device follow as well.

use super::pool::OwnedPool;
use crate::failpoint;
use crate::pool::PoolError;
use crate::pool::intent::{Intent, IntentId};
use crate::pool::record::Volume;
use crate::types::error::chain;
use crate::types::{CapacityRange, Object, VolumeId};

impl OwnedPool {
    /// Grows a volume into a range, attached or not. A volume that lies in it, or above its lower bound without an upper
    /// one, stays as it is. The file system on it is grown by the layer above. When an earlier growth failed half way, the
    /// volume is at least as large as that one left it.
    ///
    /// # Errors
    /// [`PoolError::Missing`], [`PoolError::Size`] (it is larger than the limit, no size lies in the range, or it is more than the pool has),
    /// [`PoolError::NoSpace`], [`PoolError::Busy`]; [`PoolError::Io`], [`PoolError::Catalogue`]: to be repeated.
    pub fn grow_volume(&self, id: VolumeId, capacity: CapacityRange) -> Result<Volume, PoolError> {
        self.settle();
        let object = Object::Volume(id);
        let _locked = self.lock_objects([object])?;
        let volume = self.catalogue.volume(id)?.ok_or(PoolError::Missing(object))?;
        self.check_sound(object)?;
        let mut volume = self.settle_size(volume)?;
        let no_size =
            || PoolError::Size(format!("the volume has {} bytes, and volumes do not shrink: no size fits", volume.size.bytes()));
        let size = capacity.choose(volume.size, volume.size).ok_or_else(no_size)?;
        let interrupted = self.growths(id)?;
        if size == volume.size && interrupted.is_empty() {
            return Ok(volume);
        }
        self.check_working()?;
        let total = self.pool.usage()?.total;
        if size.bytes() > total {
            // It will not go to another pool, so more room elsewhere is no hope.
            return Err(PoolError::Size(format!("{} bytes are more than the whole pool of {total} bytes", size.bytes())));
        }
        self.make_promises_of_kept(size.bytes() - volume.size.bytes())?;
        let intent = self.catalogue.commit("grow.intent", |change| {
            // Growths of this volume that failed earlier are superseded: the record has the size they came to, and this one
            // brings the device along.
            interrupted.iter().try_for_each(|&earlier| change.drop_intent(earlier))?;
            self.check_promise(change, total, size.bytes() - volume.size.bytes())?;
            change.add_intent(&Intent::Grow { volume: id, size })
        })?;
        if let Err(error) = failpoint::around("pool.grow", || self.pool.grow(id, size)) {
            if let Err(unsettled) = self.settle_size(volume) {
                tracing::warn!(volume = %id, error = %chain(&unsettled), "after a failed growth the size of a volume is not recorded yet");
            }
            return Err(error);
        }
        volume.size = size;
        self.catalogue.commit("grow.commit", |change| {
            // Read again: publications and format are recorded without this lock's knowledge of the rest of the record.
            let mut current = change.volume(id)?.ok_or(PoolError::Missing(object))?;
            current.size = size;
            change.put_volume(&current)?;
            change.drop_intent(intent)
        })?;
        tracing::info!(volume = %id, size = size.bytes(), "volume grown");
        Ok(volume)
    }

    /// The record of a volume, whose lock is held, brought to at least the size that its object has.
    pub(super) fn settle_size(&self, mut volume: Volume) -> Result<Volume, PoolError> {
        let object = Object::Volume(volume.id);
        let stored = match self.pool.size(object) {
            Ok(stored) => stored,
            // Whatever is wanted of it says so.
            Err(PoolError::Missing(_)) => return Ok(volume),
            Err(error) => return Err(error),
        };
        if stored <= volume.size {
            return Ok(volume);
        }
        self.catalogue.commit("settle_size", |change| {
            let mut current = change.volume(volume.id)?.ok_or(PoolError::Missing(object))?;
            current.size = current.size.max(stored);
            change.put_volume(&current)
        })?;
        tracing::warn!(volume = %volume.id, recorded = volume.size.bytes(), size = stored.bytes(),
            "a volume had grown further than its record said: the record follows");
        volume.size = stored;
        Ok(volume)
    }

    /// Growths of a volume that were begun and not finished.
    pub(super) fn growths(&self, id: VolumeId) -> Result<Vec<IntentId>, PoolError> {
        let mut growths = self.catalogue.intents()?;
        growths.retain(|(_, intent)| matches!(intent, Intent::Grow { volume, .. } if *volume == id));
        Ok(growths.into_iter().map(|(id, _)| id).collect())
    }
}
