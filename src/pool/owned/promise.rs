//! What a pool is called and how much it may promise.
//!
//! The sum of all sizes promised to volumes is counted in the transaction that records the intent to promise more, so that two at once
//! cannot both have the last of it. Lowering the ratio takes nothing away from volumes that exist.

use super::pool::OwnedPool;
use crate::pool::catalogue::Change;
use crate::pool::properties::PoolProperties;
use crate::pool::{Changes, PoolError};

/// What a pool may promise to volumes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promises {
    /// Promised by now.
    pub promised: u64,
    /// The most that may be.
    pub limit: u64,
}

impl Promises {
    /// What may still be promised.
    pub fn left(self) -> u64 {
        self.limit.saturating_sub(self.promised)
    }
}

impl OwnedPool {
    /// What was chosen for the pool.
    pub fn properties(&self) -> Result<PoolProperties, PoolError> {
        self.catalogue.properties()
    }

    /// Changes what was chosen for the pool, and says what it is now.
    pub fn set_properties(&self, set: impl FnOnce(&mut PoolProperties)) -> Result<PoolProperties, PoolError> {
        let properties = self.catalogue.commit("set_properties", |change| {
            let mut properties = change.properties()?;
            set(&mut properties);
            change.set_properties(&properties)?;
            Ok(properties)
        })?;
        tracing::info!(
            pool = %self.id(), name = %properties.name, overprovision_ratio = %properties.overprovision_ratio, "pool properties set"
        );
        Ok(properties)
    }

    /// What is promised to volumes, and the limit of it.
    pub fn promises(&self) -> Result<Promises, PoolError> {
        let limit = self.catalogue.properties()?.overprovision_ratio.limit(self.pool.usage()?.total);
        Ok(Promises { promised: self.catalogue.promised()?, limit })
    }

    /// What new volumes may have, in bytes: what is physically free for them, and what may still be promised, where kept restores
    /// give way. Nothing while the pool takes
    /// no changes.
    pub fn room_for_volumes(&self) -> Result<u64, PoolError> {
        if self.pool.health()?.changes == Changes::Refused {
            return Ok(0);
        }
        let left = self.promises()?.left().saturating_add(self.promised_to_kept());
        Ok(self.available_bytes()?.min(left))
    }

    /// Refuses to promise `added` bytes more than are promised, if that is beyond the limit of a pool of `total` bytes. Part of the commit that
    /// promises them.
    pub(super) fn check_promise(&self, change: &mut Change<'_>, total: u64, added: u64) -> Result<(), PoolError> {
        let ratio = change.properties()?.overprovision_ratio;
        let promises = Promises { promised: change.promised()?, limit: ratio.limit(total) };
        if added <= promises.left() {
            return Ok(());
        }
        Err(PoolError::NoSpace(format!(
            "{} bytes are promised to volumes, and {added} more would be above {ratio} times the {total} bytes that the pool has; `windlass pool \
             set --overprovision-ratio` changes that",
            promises.promised
        )))
    }
}
