//! A thin pool that this process owns, and what its verbs (`verbs`) are made of: records, messages, thin ids.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::discarder::{Deletions, Discarder};
use super::health;
use super::ids::first_free_id;
use super::metadata::{Found as FoundRuns, MetadataGate, WalkError};
use super::monitor::Monitor;
use super::stack::Active;
use super::thin_devices::ThinDevices;
use super::usage::UsageTable;
use crate::dm::metadata::KeptMap;
use crate::dm::units::{DataBlockSize, ThinId, ThinTime};
use crate::dm::{DeviceMapper, DmError, DmName, PoolMessage, ThinPoolStatus};
use crate::failpoint;
use crate::pool::PoolError;
use crate::pool::catalogue::Catalogue;
use crate::pool::properties::DeletedSpace;
use crate::pool::record::{ThinObject, ThinStored};
use crate::types::{LogicalBlockSize, Object, RangeStream, SnapshotId};

/// Snapshots that may still be cut when new ones are refused: a mapping's time has 24 bits, and what changed is told by it.
const TIME_MARGIN: u32 = 1 << 10;

/// A thin pool that this process owns.
pub struct ThinPool {
    // Dropped in this order: it may be growing the very devices.
    pub(super) _monitor: Monitor,
    pub(super) discarder: Discarder,
    pub(super) place: String,
    pub(super) dm: Arc<DeviceMapper>,
    pub(super) name: DmName,
    pub(super) devices: Arc<ThinDevices>,
    pub(super) gate: Arc<MetadataGate>,
    pub(super) deletions: Deletions,
    pub(super) catalogue: Catalogue,
    pub(super) block_size: DataBlockSize,
    pub(super) logical_block_size: LogicalBlockSize,
    pub(super) usages: UsageTable,
    /// Thin ids from here on were first given out by this process.
    pub(super) first_own_id: u64,
    /// Ids of that kind under which somebody else's device was found. No object has them.
    pub(super) taken: Mutex<BTreeSet<ThinId>>,
    // The last: everything that holds a device of the pool is gone by then.
    pub(super) _active: Active,
}

impl std::fmt::Debug for ThinPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThinPool").field("name", &self.name).field("place", &self.place).finish_non_exhaustive()
    }
}

impl ThinPool {
    pub(super) fn record(&self, object: Object) -> Result<ThinObject, PoolError> {
        self.catalogue.thin_object(object)?.ok_or(PoolError::Missing(object))
    }

    /// What is mapped of an object's device.
    pub(super) fn mapped(&self, object: Object) -> Result<RangeStream, PoolError> {
        let thin = self.device_record(object)?;
        let found = self.gate.walk(|metadata| {
            let mut found = FoundRuns::new();
            metadata.mapped(thin.id, &mut |run| found.push(run))?;
            Ok(found)
        })?;
        found.into_stream(self.block_size)
    }

    /// The record of an object that has, or should have, a thin device.
    pub(super) fn device_record(&self, object: Object) -> Result<ThinObject, PoolError> {
        let thin = self.record(object)?;
        match thin.stored {
            ThinStored::Device => Ok(thin),
            ThinStored::Map => Err(PoolError::Missing(object)),
        }
    }

    pub(super) fn source_record(&self, object: Object) -> Result<ThinObject, PoolError> {
        self.device_record(object).map_err(|error| match error {
            PoolError::Missing(object) => PoolError::SourceMissing(object),
            other => other,
        })
    }

    pub(super) fn status(&self) -> Result<ThinPoolStatus, PoolError> {
        let status = self.dm.thin_pool_status_uncommitted(&self.name);
        status.map_err(|error| PoolError::io("ask for the status of the pool", io::Error::other(error)))
    }

    /// Refuses a change of a pool that takes none, with what is wrong and what to do about it.
    pub(super) fn check_working(&self) -> Result<(), PoolError> {
        health::serving(&self.status()?, &self.place)?.check_changes(&self.place)
    }

    /// Sends a message; on a pool that takes none, says why.
    pub(super) fn message(&self, message: &PoolMessage) -> Result<(), PoolError> {
        self.send(message).map_err(|error| self.refused(message, error))
    }

    /// Why the kernel did not take a message: a pool that takes none says so itself.
    pub(super) fn refused(&self, message: &PoolMessage, error: DmError) -> PoolError {
        match self.check_working() {
            Err(reason) => reason,
            Ok(()) => failed(message, error),
        }
    }

    pub(super) fn send(&self, message: &PoolMessage) -> Result<(), DmError> {
        self.dm.message(&self.name, message)
    }

    /// Deletes a thin device; absent is fine. Waits for the kernel to be done with a device that went with its last descriptor.
    pub(super) fn delete_thin(&self, thin: &ThinObject) -> Result<(), PoolError> {
        if self.is_taken(thin) {
            return Ok(());
        }
        self.deletions.delete(thin)?.map_err(|error| self.refused(&PoolMessage::Delete { id: thin.id }, error))?;
        failpoint::hit("thin.delete.after");
        Ok(())
    }

    /// Whether somebody else's device was found under the id of an object.
    pub(super) fn is_taken(&self, thin: &ThinObject) -> bool {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).contains(&thin.id)
    }

    /// Whether the device of an object is to be discarded before it is deleted.
    pub(super) fn is_discarded(&self, thin: &ThinObject) -> Result<bool, PoolError> {
        let is_wanted = self.catalogue.properties()?.deleted_space == DeletedSpace::Discarded;
        Ok(is_wanted && thin.stored == ThinStored::Device && !self.is_taken(thin))
    }

    /// Whether what the kernel has under the id of an object that is being made can be of an interrupted attempt at it.
    pub(super) fn may_be_remains(&self, thin: &ThinObject) -> bool {
        u64::from(thin.id.number()) < self.first_own_id
    }

    /// Gives an object, whose id somebody else's device turned out to have, one that nothing stored has.
    pub(super) fn renumber(&self, thin: &ThinObject) -> Result<ThinObject, PoolError> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(thin.id);
        tracing::error!(id = thin.id.number(), object = %thin.object, pool = %self.name,
            "a thin device that no record names has an id that was never given out: another program uses the pool; it is left alone");
        let first = first_free_id(&self.gate, 0)?;
        self.catalogue.commit("renumber", |change| {
            change.skip_thin_ids(first)?;
            change.renumber_thin_object(thin)
        })
    }

    /// The object whose record was read before it may have got another id.
    pub(super) fn delete_made(&self, object: Object) -> Result<(), PoolError> {
        self.catalogue.thin_object(object)?.map_or(Ok(()), |thin| self.delete_thin(&thin))
    }

    /// Makes `target` share everything that `origin` refers to; remains of an interrupted attempt at it are made anew.
    pub(super) fn share(&self, origin: &ThinObject, target: &ThinObject) -> Result<(), PoolError> {
        let message = PoolMessage::CreateSnap { id: target.id, origin: origin.id };
        match self.send(&message) {
            Ok(()) => {}
            Err(DmError::ExistsThin(_)) if self.may_be_remains(target) => {
                self.delete_thin(target)?;
                self.message(&message)?;
            }
            Err(DmError::ExistsThin(_)) => {
                let target = self.renumber(target)?;
                self.message(&PoolMessage::CreateSnap { id: target.id, origin: origin.id })?;
            }
            Err(error) => return Err(self.refused(&message, error)),
        }
        failpoint::hit("thin.create_snap.after");
        Ok(())
    }

    /// Refuses what raises the pool's clock when that is nearly at its end.
    pub(super) fn check_time(&self, cuts: usize) -> Result<(), PoolError> {
        let time = self.catalogue_time()?;
        let left = ThinTime::MAX.number().saturating_sub(time.number()).saturating_sub(TIME_MARGIN);
        if usize::try_from(left).is_ok_and(|left| cuts <= left) {
            return Ok(());
        }
        Err(PoolError::NoSpace("this pool has taken 16.7 million snapshots, all that its format can tell apart".to_owned()))
    }

    /// An upper bound of the pool's clock: every snapshot and every copy had a thin id of its own, and nothing else raises it.
    pub(super) fn catalogue_time(&self) -> Result<ThinTime, PoolError> {
        let next = self.catalogue.next_thin_id()?;
        Ok(u32::try_from(next).ok().and_then(ThinTime::new).unwrap_or(ThinTime::MAX))
    }

    pub(super) fn kept(&self, snapshot: SnapshotId) -> Result<KeptMap, PoolError> {
        let object = Object::Snapshot(snapshot);
        let encoded = self.catalogue.kept_map(snapshot)?.ok_or(PoolError::Missing(object))?;
        KeptMap::decode(&encoded)
            .map_err(|error| PoolError::io(format!("read what is kept of {object}"), io::Error::other(error)))
    }

    /// Everything that the pool's metadata holds, with its number of blocks.
    pub(super) fn stored_ids(&self) -> Result<BTreeMap<ThinId, u64>, PoolError> {
        self.gate.walk(|metadata| {
            let devices = metadata.devices()?;
            Ok::<_, WalkError>(devices.into_iter().map(|(id, details)| (id, details.mapped_blocks)).collect())
        })
    }
}

pub(super) fn failed(message: &PoolMessage, error: DmError) -> PoolError {
    PoolError::io(format!("send `{message}` to the pool"), io::Error::other(error))
}
