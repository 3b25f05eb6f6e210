//! Growing volumes. They never shrink.

use super::{OwnedPool, act};
use crate::pool::PoolError;
use crate::pool::intent::Intent;
use crate::pool::record::Volume;
use crate::types::{CapacityRange, Object, VolumeId};

impl OwnedPool {
    /// Grows a volume into a range, attached or not. A volume that lies in it, or above its lower bound without an upper
    /// one, stays as it is. The file system on it is grown by the layer above.
    ///
    /// # Errors
    /// [`PoolError::Missing`], [`PoolError::Size`] (it is larger than the limit, or no size lies in the range),
    /// [`PoolError::NoSpace`], [`PoolError::Busy`]; [`PoolError::Io`], [`PoolError::Catalogue`]: to be repeated.
    pub fn grow_volume(&self, id: VolumeId, capacity: CapacityRange) -> Result<Volume, PoolError> {
        let object = Object::Volume(id);
        let _locked = self.lock_objects([object])?;
        let mut volume = self.catalogue.volume(id)?.ok_or(PoolError::Missing(object))?;
        self.check_sound(object)?;
        let no_size =
            || PoolError::Size(format!("the volume has {} bytes, and volumes do not shrink: no size fits", volume.size.bytes()));
        let size = capacity.choose(volume.size, volume.size).ok_or_else(no_size)?;
        if size == volume.size {
            return Ok(volume);
        }
        self.check_fits(size)?;
        let intent = self.catalogue.commit("grow.intent", |change| {
            // A growth of this volume that failed earlier is superseded: it was to a size that is asked for again, or not.
            for (earlier, intent) in self.catalogue.intents()? {
                if matches!(intent, Intent::Grow { volume, .. } if volume == id) {
                    change.drop_intent(earlier)?;
                }
            }
            change.add_intent(&Intent::Grow { volume: id, size })
        })?;
        // On an error the intent stays: the object may have grown, and the next attempt or start brings the record along.
        act("grow", || self.pool.grow(id, size))?;
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
}
