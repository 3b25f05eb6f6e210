//! Cutting snapshots: one or a set, at one point in time.

use std::collections::BTreeSet;

use super::pool::OwnedPool;
use crate::failpoint;
use crate::pool::intent::Intent;
use crate::pool::locks::Key;
use crate::pool::record::{NewSnapshot, Outcome, Snapshot};
use crate::pool::{Cut, Demand, FREEZE_DEADLINE, PoolError, idempotent};
use crate::types::{Copies, FormatState, Object, ObjectName, SnapshotId, Timestamp, VolumeId};

impl OwnedPool {
    /// Cuts snapshots of a set of volumes at one point in time, or answers from the records of an equal earlier request.
    /// The answers are in the order of the requests.
    ///
    /// Volumes that are attached for writing are held still, all of them together, for at most
    /// [`FREEZE_DEADLINE`].
    ///
    /// # Errors
    /// [`PoolError::NameTaken`] (also when only some of a set exist), [`PoolError::SourceMissing`], [`PoolError::NoSpace`],
    /// [`PoolError::TooSlow`], [`PoolError::Quiesce`], [`PoolError::CannotQuiesce`], [`PoolError::Busy`]: no member is left behind. [`PoolError::Io`],
    /// [`PoolError::Catalogue`]: to be repeated.
    pub fn create_snapshots(&self, requests: &[NewSnapshot]) -> Result<Vec<Outcome<Snapshot>>, PoolError> {
        check_distinct(requests)?;
        self.settle();
        let _names = self.locks.lock(requests.iter().map(|request| Key::SnapshotName(request.name.clone())))?;
        if let Some(existing) = self.existing_set(requests)? {
            return Ok(existing.into_iter().map(Outcome::Existing).collect());
        }
        let sources: BTreeSet<VolumeId> = requests.iter().map(|request| request.source).collect();
        let _volumes = self.lock_objects(sources.iter().copied().map(Object::Volume))?;
        let mut snapshots = requests.iter().map(|request| self.plan_snapshot(request)).collect::<Result<Vec<_>, _>>()?;
        self.check_room(Demand::Snapshot, "new snapshot")?;
        let devices = self.written_devices(&sources)?;
        if !devices.is_empty() {
            // Before anybody is stopped for it.
            let sources: Vec<Object> = sources.iter().copied().map(Object::Volume).collect();
            self.pool.check_stall(&sources, FREEZE_DEADLINE)?;
        }
        let planned = Intent::CreateSnapshots { snapshots: snapshots.clone(), holds: devices.keys().copied().collect() };
        let objects: Vec<_> = snapshots.iter().map(|snapshot| (Object::Snapshot(snapshot.id), snapshot.size)).collect();
        let intent = self.catalogue.commit("create_snapshots.intent", |change| {
            self.pool.register(change, &objects)?;
            change.add_intent(&planned)
        })?;
        let cuts: Vec<Cut> = snapshots.iter().map(|snapshot| Cut { source: snapshot.source, snapshot: snapshot.id }).collect();
        let cut = self.while_held(&devices, (intent, &planned), || {
            // The one time that every answer gives: between the last write that is in the cut and the first that is not.
            let created = Timestamp::now();
            failpoint::around("pool.snapshot", || self.pool.snapshot(&cuts, FREEZE_DEADLINE))?;
            Ok(created)
        });
        let created = match cut {
            Ok(created) => created,
            Err(error) => {
                let objects: Vec<Object> = objects.into_iter().map(|(object, _)| object).collect();
                return Err(self.undo_creation(intent, &objects, error));
            }
        };
        for snapshot in &mut snapshots {
            snapshot.created = created;
            // Asked after the cut: whoever may write is recorded first, so what is in the snapshot was recorded before.
            snapshot.format = match self.catalogue.volume(snapshot.source) {
                Ok(Some(volume)) => volume.format,
                Ok(None) | Err(_) => FormatState::Content,
            };
            // Intents are numbered in ascending order, and the cuts of one volume come one after the other.
            snapshot.serial = intent.0;
        }
        self.catalogue.commit("create_snapshots.commit", |change| {
            snapshots.iter().try_for_each(|snapshot| change.put_snapshot(snapshot))?;
            change.drop_intent(intent)
        })?;
        for snapshot in &snapshots {
            tracing::info!(snapshot = %snapshot.id, name = %snapshot.name, volume = %snapshot.source, "snapshot cut");
        }
        Ok(snapshots.into_iter().map(Outcome::Created).collect())
    }

    /// The recorded set, if all of it is there and equal to the request.
    fn existing_set(&self, requests: &[NewSnapshot]) -> Result<Option<Vec<Snapshot>>, PoolError> {
        let mut existing = Vec::new();
        for request in requests {
            if let Some(snapshot) = self.catalogue.snapshot_by_name(&request.name)? {
                idempotent::check_snapshot(&snapshot, request)?;
                existing.push(snapshot);
            }
        }
        match existing.first() {
            None if requests.is_empty() => Ok(Some(existing)),
            None => Ok(None),
            Some(_) if existing.len() == requests.len() => Ok(Some(existing)),
            // Cut now, the missing members would be of another moment than these.
            Some(member) => Err(taken(&member.name, "set of snapshots cut with it")),
        }
    }

    fn plan_snapshot(&self, request: &NewSnapshot) -> Result<Snapshot, PoolError> {
        let source = Object::Volume(request.source);
        let volume = self.catalogue.volume(request.source)?.ok_or(PoolError::SourceMissing(source))?;
        self.check_sound(source)?;
        let volume = self.settle_size(volume)?;
        Ok(Snapshot {
            id: SnapshotId::random(),
            name: request.name.clone(),
            source: volume.id,
            size: volume.size,
            logical_block_size: volume.logical_block_size,
            mode: volume.mode,
            format: volume.format,
            checksum: volume.checksum,
            parameters: request.parameters.clone(),
            created: Timestamp::now(),
            serial: 0,
            anchor_limit: volume.anchor_limit(),
            used_by: BTreeSet::new(),
            kubernetes: request.kubernetes.of_snapshot(&volume.kubernetes),
            copies: Copies::default(),
        })
    }

    /// A snapshot by id.
    pub fn snapshot(&self, id: SnapshotId) -> Result<Option<Snapshot>, PoolError> {
        self.catalogue.snapshot(id)
    }

    /// A snapshot by name.
    pub fn snapshot_by_name(&self, name: &ObjectName) -> Result<Option<Snapshot>, PoolError> {
        self.catalogue.snapshot_by_name(name)
    }

    /// All snapshots, by ascending id.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, PoolError> {
        self.catalogue.snapshots()
    }
}

fn taken(name: &ObjectName, difference: &'static str) -> PoolError {
    PoolError::NameTaken { name: name.to_string(), difference }
}

/// A set has each name once. It may have two snapshots of one volume, of little use but harmless.
fn check_distinct(requests: &[NewSnapshot]) -> Result<(), PoolError> {
    let mut names = BTreeSet::new();
    match requests.iter().find(|request| !names.insert(&request.name)) {
        Some(request) => Err(taken(&request.name, "member of the same set")),
        None => Ok(()),
    }
}
