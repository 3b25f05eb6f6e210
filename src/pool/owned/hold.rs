//! Holding the volumes of a cut still, and leaving alone those that somebody else holds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::pool::OwnedPool;
use crate::failpoint;
use crate::pool::intent::{Intent, IntentId};
use crate::pool::{FREEZE_DEADLINE, Held, PoolError, Release};
use crate::types::{Access, Object, VolumeId};

/// Volumes that somebody may be writing to, with their devices.
type Written = BTreeMap<VolumeId, PathBuf>;

impl OwnedPool {
    /// The devices of those volumes that somebody may be writing to.
    pub(super) fn written_devices(&self, volumes: &BTreeSet<VolumeId>) -> Result<Written, PoolError> {
        let mut devices = Written::new();
        for &volume in volumes {
            if let Some(attachment) = self.pool.attachment(Object::Volume(volume))?
                && attachment.access == Access::ReadWrite
            {
                devices.insert(volume, attachment.device);
            }
        }
        Ok(devices)
    }

    /// Runs `cut`, which `intent` is about, while the devices are held still. An error means that whatever the cut made must be thrown
    /// away.
    pub(super) fn while_held<T>(
        &self,
        devices: &Written,
        intent: (IntentId, &Intent),
        cut: impl FnOnce() -> Result<T, PoolError>,
    ) -> Result<T, PoolError> {
        if devices.is_empty() {
            return cut();
        }
        let paths: Vec<PathBuf> = devices.values().cloned().collect();
        let held = failpoint::around("pool.hold", || self.quiesce.hold(&paths, FREEZE_DEADLINE))?;
        let result = self.disown(held.as_ref(), devices, intent).and_then(|()| cut());
        failpoint::hit("pool.release.before");
        let released = held.release();
        failpoint::hit("pool.release.after");
        match (result, released) {
            (Err(error), _) => Err(error),
            (Ok(value), Release::InTime) => Ok(value),
            (Ok(_), Release::Expired) => {
                let limit = FREEZE_DEADLINE.as_secs();
                Err(PoolError::Quiesce(
                    format!("the cut took longer than {limit} s and its volumes were released before it was done").into(),
                ))
            }
        }
    }

    /// Takes those volumes from the intent that somebody else holds: should this process die in the cut, the next start leaves them.
    fn disown(&self, held: &dyn Held, devices: &Written, (id, intent): (IntentId, &Intent)) -> Result<(), PoolError> {
        let is_foreign = |(_, device): &(&VolumeId, &PathBuf)| held.foreign().contains(*device);
        let foreign: BTreeSet<VolumeId> = devices.iter().filter(is_foreign).map(|(&volume, _)| volume).collect();
        if foreign.is_empty() {
            return Ok(());
        }
        self.catalogue.commit("hold.foreign", |change| change.replace_intent(id, &intent.without_holds(&foreign)))
    }
}
