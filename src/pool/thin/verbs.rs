//! The verbs of a pool, on a thin pool.
//!
//! What an object is in the kernel (its thin id) and how large it is stands in the catalogue, written by [`Pool::register`] in the
//! commit of the intent: so whatever a crash leaves in the metadata has a record, and a thin id without one is nobody's of ours.
//! Thin ids are never used twice. Every message to the pool is durable when it returns: the kernel commits its metadata with it.
//!
//! **A thin device that no record names is somebody's data**, and is neither given out nor deleted. So the owner gives out ids above
//! everything that is stored (`ids`), and where a new id turns out to be taken all the same (another program made a device
//! meanwhile), the object gets another one, and nothing is done to what was found. Only below the ids of this process can there be the
//! remains of an interrupted attempt at the same object. What is left open: a device that another program makes under the very id
//! of an object between the commit of its intent and its creation, if the process dies there as well, is undone with the object.
//!
//! | verb | acts |
//! |---|---|
//! | create | `create_thin` |
//! | snapshot, copy | suspend those that are written to, `create_snap` for each, resume |
//! | delete | `delete`; refused by the kernel while the object has a device. With discards: noted for the `discarder` |
//! | grow | the size in the catalogue, then the device's table |
//! | condense | the map of what a deleted snapshot held into the catalogue, then `delete`, as above |
//!
//! A repeated verb finds that the kernel did it already and goes on. Snapshots and copies have no device until they are opened.
//!
//! A pool that takes no changes (its metadata is used up) refuses these messages. A deleted snapshot that is kept stays whole then, until
//! the pool takes changes again; looking ([`Pool::scan`]) changes nothing, so that such a pool opens whatever was interrupted.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::cut::while_suspended;
use super::health;
use super::metadata::{Found as FoundRuns, WalkError};
use super::pool::{ThinPool, failed};
use crate::block::device;
use crate::dm::metadata::KeptMapBuilder;
use crate::dm::units::ThinId;
use crate::dm::{DmError, DmName, PoolMessage};
use crate::failpoint;
use crate::pool::catalogue::Change;
use crate::pool::record::{ThinObject, ThinStored};
use crate::pool::{Attachment, Cut, Found, ObjectSpec, ObjectUsage, Pool, PoolError, PoolHealth, PoolKind, PoolUsage};
use crate::types::error::chain;
use crate::types::{Access, ByteRange, DataChecksum, LogicalBlockSize, Object, RangeStream, SnapshotId, VolumeId, VolumeSize};

/// Runs of a kept map at most: 64 Ki of them take some 300 KiB of the catalogue. What is more finely scattered is kept coarser, and
/// over-reported.
const KEPT_RUNS: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();

impl Pool for ThinPool {
    fn kind(&self) -> PoolKind {
        PoolKind::Thin
    }

    fn register(&self, change: &mut Change<'_>, objects: &[(Object, VolumeSize)]) -> Result<(), PoolError> {
        objects.iter().try_for_each(|&(object, size)| change.add_thin_object(object, size).map(drop))
    }

    fn unregister(&self, change: &mut Change<'_>, object: Object) -> Result<(), PoolError> {
        change.remove_thin_object(object)
    }

    fn location(&self) -> String {
        self.place.clone()
    }

    fn mechanism(&self) -> &'static str {
        "dm-thin"
    }

    fn logical_block_size(&self) -> LogicalBlockSize {
        self.logical_block_size
    }

    fn create(&self, volume: VolumeId, spec: ObjectSpec) -> Result<(), PoolError> {
        if spec.checksum == DataChecksum::On {
            return Err(PoolError::Unsupported(format!(
                "{}: a thin pool keeps no checksums of data; leave out the parameter `checksum`, or use a reflink pool on Btrfs",
                self.place
            ).into()));
        }
        let thin = self.device_record(Object::Volume(volume))?;
        let message = PoolMessage::CreateThin { id: thin.id };
        match self.send(&message) {
            Ok(()) => {}
            // By an attempt that was interrupted: nobody has written to it.
            Err(DmError::ExistsThin(_)) if self.may_be_remains(&thin) && self.stored_ids()?.get(&thin.id) == Some(&0) => {}
            Err(DmError::ExistsThin(_)) => {
                let thin = self.renumber(&thin)?;
                self.message(&PoolMessage::CreateThin { id: thin.id })?;
            }
            Err(error) => return Err(failed(&message, error)),
        }
        failpoint::hit("thin.create_thin.after");
        Ok(())
    }

    fn snapshot(&self, cuts: &[Cut], stall: Duration) -> Result<(), PoolError> {
        self.check_time(cuts.len())?;
        let mut members = Vec::new();
        for cut in cuts {
            let origin = self.source_record(Object::Volume(cut.source))?;
            members.push((origin, self.device_record(Object::Snapshot(cut.snapshot))?));
        }
        let mut written = Vec::new();
        for (origin, _) in &members {
            written.extend(self.devices.writable(origin.object)?);
        }
        written.sort_unstable();
        written.dedup();
        let cut_all = || members.iter().try_for_each(|(origin, target)| self.share(origin, target));
        while_suspended(&self.dm, &written, stall, cut_all).inspect_err(|_| {
            for (_, target) in &members {
                if let Err(error) = self.delete_made(target.object) {
                    // The caller deletes again, and the next start does.
                    tracing::warn!(object = %target.object, error = %chain(&error), "part of a failed set of snapshots is left");
                }
            }
        })
    }

    fn copy(&self, source: Object, volume: VolumeId, spec: ObjectSpec, stall: Duration) -> Result<(), PoolError> {
        if spec.checksum == DataChecksum::On {
            return Err(PoolError::Unsupported("a thin pool keeps no checksums of data".into()));
        }
        self.check_time(1)?;
        let origin = self.source_record(source)?;
        let target = self.device_record(Object::Volume(volume))?;
        let written: Vec<DmName> = self.devices.writable(source)?.into_iter().collect();
        while_suspended(&self.dm, &written, stall, || self.share(&origin, &target)).inspect_err(|_| {
            if let Err(error) = self.delete_made(target.object) {
                tracing::warn!(object = %target.object, error = %chain(&error), "a failed copy is left");
            }
        })
    }

    fn delete(&self, object: Object) -> Result<(), PoolError> {
        let Some(thin) = self.catalogue.thin_object(object)? else { return Ok(()) };
        if self.catalogue.is_deleted_thin(thin.id)? {
            return Ok(());
        }
        self.devices.check_none(object)?;
        if !self.is_discarded(&thin)? {
            return self.delete_thin(&thin);
        }
        self.catalogue.commit("thin_delete", |change| {
            change.put_deleted_thin(&thin)?;
            change.remove_thin_object(object)
        })?;
        self.discarder.wake();
        Ok(())
    }

    fn condense(&self, snapshot: SnapshotId) -> Result<(), PoolError> {
        let object = Object::Snapshot(snapshot);
        let Some(thin) = self.catalogue.thin_object(object)? else { return Ok(()) };
        if thin.stored == ThinStored::Device {
            // A pool that could not delete the device afterwards keeps it whole, and its base exact.
            self.check_working()?;
            self.devices.check_none(object)?;
            let map = self.gate.walk(|metadata| {
                let mut map = KeptMapBuilder::new(metadata.details(thin.id)?.creation_time, KEPT_RUNS);
                metadata.mapped(thin.id, &mut |run| Ok::<_, WalkError>(map.push(run)?))?;
                Ok(map.finish())
            })?;
            let is_discarded = self.is_discarded(&thin)?;
            self.catalogue.commit("condense", |change| {
                change.keep_map(&thin, snapshot, &map.encode())?;
                if is_discarded { change.put_deleted_thin(&thin) } else { Ok(()) }
            })?;
            if is_discarded {
                self.discarder.wake();
            }
        }
        // Also when the map was kept already: an earlier attempt may have ended between the two.
        if self.catalogue.is_deleted_thin(thin.id)? { Ok(()) } else { self.delete_thin(&thin) }
    }

    fn grow(&self, volume: VolumeId, size: VolumeSize) -> Result<(), PoolError> {
        let object = Object::Volume(volume);
        let thin = self.device_record(object)?;
        if thin.size < size {
            self.catalogue.commit("thin_grow", |change| change.put_thin_object(&ThinObject { size, ..thin }))?;
        }
        // Also when it was that large: an earlier attempt may have ended between the two.
        self.devices.resize(&thin, size.max(thin.size))
    }

    fn size(&self, object: Object) -> Result<VolumeSize, PoolError> {
        self.record(object).map(|thin| thin.size)
    }

    fn attach(&self, object: Object, access: Access) -> Result<Attachment, PoolError> {
        self.devices.attach(&self.device_record(object)?, access)
    }

    fn detach(&self, object: Object) -> Result<(), PoolError> {
        self.devices.detach(object)
    }

    fn attachment(&self, object: Object) -> Result<Option<Attachment>, PoolError> {
        self.device_record(object)?;
        self.devices.attachment(object)
    }

    fn open(&self, object: Object, access: Access) -> Result<File, PoolError> {
        self.devices.open(&self.device_record(object)?, access)
    }

    /// Takes the device away, which is made anew for whoever opens the object next.
    fn seal(&self, object: Object) -> Result<(), PoolError> {
        self.device_record(object)?;
        self.devices.check_none(object)
    }

    fn stored(&self, volume: VolumeId) -> Result<RangeStream, PoolError> {
        self.mapped(Object::Volume(volume))
    }

    fn granule(&self) -> u64 {
        self.block_size.bytes()
    }

    fn give_back(&self, file: &File, range: ByteRange) -> Result<(), PoolError> {
        device::discard(file, range).map_err(|error| PoolError::io("give space back", error))
    }

    fn allocated(&self, snapshot: SnapshotId) -> Result<RangeStream, PoolError> {
        self.mapped(Object::Snapshot(snapshot))
    }

    fn changed(&self, base: SnapshotId, target: SnapshotId) -> Result<RangeStream, PoolError> {
        let before = self.record(Object::Snapshot(base))?;
        let after = self.device_record(Object::Snapshot(target))?;
        let kept = match before.stored {
            ThinStored::Device => None,
            ThinStored::Map => Some(self.kept(base)?),
        };
        let found = self.gate.walk(|metadata| {
            let mut found = FoundRuns::new();
            let mut sink = |run| found.push(run);
            match &kept {
                None => metadata.changed(before.id, after.id, &mut sink)?,
                // The times of a target that was cut before the base do not tell what was written between the two.
                Some(kept) if metadata.details(after.id)?.creation_time <= kept.creation_time() => return Ok(None),
                Some(kept) => metadata.changed_since(kept, after.id, &mut sink)?,
            }
            Ok(Some(found))
        })?;
        let younger =
            || format!("snapshot {base} was cut after {target} and is deleted: what differs between the two is not known");
        found.ok_or_else(|| PoolError::Unsupported(younger().into()))?.into_stream(self.block_size)
    }

    fn usage(&self) -> Result<PoolUsage, PoolError> {
        Ok(health::usage(&self.status()?, self.block_size))
    }

    /// What a transaction copied of the metadata and let go of is free from its commit on. Room is worth more than discards.
    fn usage_after_commit(&self) -> Result<PoolUsage, PoolError> {
        if let Err(error) = self.deletions.finish() {
            tracing::warn!(pool = %self.name, error = %chain(&error), "what was deleted keeps its space for now");
        }
        let status = self.dm.thin_pool_status(&self.name);
        let status = status.map_err(|error| PoolError::io("ask for the status of the pool", io::Error::other(error)))?;
        Ok(health::usage(&status, self.block_size))
    }

    fn object_usage(&self, object: Object) -> Result<ObjectUsage, PoolError> {
        let thin = self.record(object)?;
        if thin.stored == ThinStored::Map {
            return Ok(ObjectUsage { allocated: 0, exclusive: 0, extents: 0 });
        }
        self.usages.of(thin.id, &self.gate, self.block_size)?.ok_or(PoolError::Missing(object))
    }

    fn scan(&self) -> Result<Vec<Found>, PoolError> {
        let mut stored = self.stored_ids()?;
        for thin in self.catalogue.deleted_thin()? {
            stored.remove(&thin.id);
        }
        let mut found = Vec::new();
        for thin in self.catalogue.thin_objects()? {
            let is_stored = stored.remove(&thin.id).is_some();
            match thin.stored {
                ThinStored::Device if is_stored => {
                    found.push(Found::Object { object: thin.object, size: thin.size.bytes() });
                }
                ThinStored::Device => {}
                // Where the device is still there, it was about to be deleted: whoever reduces anchors goes on with that.
                ThinStored::Map => {
                    if let Object::Snapshot(id) = thin.object
                        && self.kept(id).is_ok()
                    {
                        found.push(Found::Object { object: thin.object, size: thin.size.bytes() });
                    }
                }
            }
        }
        let foreign = |(id, blocks): (ThinId, u64)| Found::Foreign(format!("thin device {id} with {blocks} data blocks"));
        found.extend(stored.into_iter().map(foreign));
        Ok(found)
    }

    fn health(&self) -> Result<PoolHealth, PoolError> {
        health::serving(&self.status()?, &self.place)
    }
}
