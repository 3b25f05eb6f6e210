//! The writes of one transaction.

use std::collections::BTreeMap;

use redb::{ReadableTable, WriteTransaction};

use super::copy::Records as Copied;
use super::index;
use super::room::{Need, Room};
use super::tables::{
    self, ANCHORS, EXPORTS, FIRST_DELTA_BASE, INTENTS, META, NAMES, NEXT_INTENT, PROPERTIES, PUBLICATIONS, Records, SNAPSHOTS,
    SNAPSHOTS_OF, VOLUMES, all, anchor_key, encode, export_key, failed, get, name_key, number, with_prefix,
};
use crate::pool::intent::{Intent, IntentId};
use crate::pool::properties::PoolProperties;
use crate::pool::record::{Anchor, Consumer, Publication, Snapshot, Volume};
use crate::pool::{CatalogueFault, PoolError};
use crate::types::{AnchorLimit, ExportRecord, ObjectName, SnapshotId, VolumeId};

/// The sizes promised to volumes that exist or are under way. One that is being grown counts with the size it will have.
pub(super) fn promised<'a>(volumes: &[Volume], intents: impl Iterator<Item = &'a Intent>) -> u64 {
    let mut sizes: BTreeMap<VolumeId, u64> = volumes.iter().map(|volume| (volume.id, volume.size.bytes())).collect();
    for intent in intents {
        let (id, size) = match intent {
            Intent::CreateVolume { volume, .. } | Intent::Restore { volume, .. } => (volume.id, volume.size),
            Intent::Grow { volume, size } if sizes.contains_key(volume) => (*volume, *size),
            // What is being deleted is promised to nobody.
            Intent::Grow { .. }
            | Intent::CreateSnapshots { .. }
            | Intent::DeleteVolume { .. }
            | Intent::DeleteSnapshot { .. } => continue,
        };
        let known = sizes.entry(id).or_default();
        *known = size.bytes().max(*known);
    }
    sizes.values().fold(0, |sum, size| sum.saturating_add(*size))
}

/// What a change may do to the catalogue. Nothing is visible to others before the commit.
pub struct Change<'a> {
    pub(super) transaction: &'a WriteTransaction,
    room: Option<&'a Room>,
}

impl<'a> Change<'a> {
    pub(super) fn new(transaction: &'a WriteTransaction, room: Option<&'a Room>) -> Self {
        Self { transaction, room }
    }

    /// Refuses what would make the catalogue larger when there is no room for it.
    pub(super) fn check_room(&self, need: Need) -> Result<(), PoolError> {
        self.room.map_or(Ok(()), |room| room.check(self.transaction, need))
    }

    /// Writes all of this, in a catalogue without records.
    ///
    /// # Errors
    /// [`PoolError::NameTaken`] when two of a kind have one name; [`PoolError::Catalogue`].
    pub(super) fn put_records(&mut self, records: &Copied) -> Result<(), PoolError> {
        self.set_properties(&records.properties)?;
        records.volumes.iter().try_for_each(|volume| self.put_volume(volume))?;
        records.snapshots.iter().try_for_each(|snapshot| self.put_snapshot(snapshot))?;
        records.anchors.iter().try_for_each(|anchor| self.put_anchor(anchor))?;
        records.exports.iter().try_for_each(|export| self.put_export(export))?;
        self.skip_intents(records.next_intent)?;
        let mut meta = self.transaction.open_table(META).map_err(failed)?;
        meta.insert(FIRST_DELTA_BASE, records.first_delta_base.to_string().as_str()).map_err(failed)?;
        Ok(())
    }

    /// Gives no intent a number below `first` any more.
    pub(in crate::pool) fn skip_intents(&mut self, first: u64) -> Result<(), PoolError> {
        let mut meta = self.transaction.open_table(META).map_err(failed)?;
        if number(&meta, NEXT_INTENT)? < first {
            meta.insert(NEXT_INTENT, first.to_string().as_str()).map_err(failed)?;
        }
        Ok(())
    }

    /// Changes nothing that counts, so that its commit shows whether one works.
    pub(super) fn touch(&mut self) -> Result<(), PoolError> {
        let mut meta = self.transaction.open_table(META).map_err(failed)?;
        meta.insert("touched", "").map_err(failed)?;
        Ok(())
    }

    /// What was chosen for the pool, as this transaction sees it.
    pub fn properties(&mut self) -> Result<PoolProperties, PoolError> {
        tables::properties(&self.transaction.open_table(META).map_err(failed)?)
    }

    /// Records what was chosen for the pool.
    pub fn set_properties(&mut self, properties: &PoolProperties) -> Result<(), PoolError> {
        let text = serde_json::to_string(properties).map_err(CatalogueFault::Encode)?;
        self.transaction.open_table(META).map_err(failed)?.insert(PROPERTIES, text.as_str()).map_err(failed)?;
        self.spend(PROPERTIES.len() + text.len());
        Ok(())
    }

    /// The sizes of all volumes, and of those that are being made, restored or grown, in bytes, as this transaction sees them.
    pub fn promised(&mut self) -> Result<u64, PoolError> {
        let volumes: Vec<Volume> = all(&self.transaction.open_table(VOLUMES).map_err(failed)?)?;
        let intents = tables::numbered(&self.transaction.open_table(INTENTS).map_err(failed)?)?;
        Ok(promised(&volumes, intents.iter().map(|(_, intent)| intent)))
    }

    /// Writes a volume's record and claims its name.
    ///
    /// # Errors
    /// [`PoolError::NameTaken`] when the name belongs to another volume; [`PoolError::Catalogue`], as for all that follow.
    pub fn put_volume(&mut self, volume: &Volume) -> Result<(), PoolError> {
        self.claim(VOLUMES, &volume.name, &volume.id)?;
        self.put(VOLUMES, volume.id.as_bytes(), &encode(volume)?)
    }

    /// A volume, as this transaction sees it.
    pub fn volume(&mut self, id: VolumeId) -> Result<Option<Volume>, PoolError> {
        get(&self.transaction.open_table(VOLUMES).map_err(failed)?, id.as_bytes())
    }

    /// Removes a volume's record, name and publications.
    pub fn remove_volume(&mut self, volume: &Volume) -> Result<(), PoolError> {
        self.remove(NAMES, &name_key(VOLUMES, &volume.name))?;
        self.remove(PUBLICATIONS, volume.id.as_bytes())?;
        self.remove(VOLUMES, volume.id.as_bytes())
    }

    /// Writes a snapshot's record and claims its name.
    pub fn put_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), PoolError> {
        self.claim(SNAPSHOTS, &snapshot.name, &snapshot.id)?;
        self.put(SNAPSHOTS_OF, &anchor_key(snapshot.source, snapshot.id), &[])?;
        self.put(SNAPSHOTS, snapshot.id.as_bytes(), &encode(snapshot)?)
    }

    /// Writes what was noted about a snapshot that is recorded.
    ///
    /// # Errors
    /// [`PoolError::NoSpace`] when the catalogue has no room; [`PoolError::Catalogue`].
    pub fn note_of_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), PoolError> {
        self.check_room(Need::Note)?;
        self.put_snapshot(snapshot)
    }

    /// A snapshot, as this transaction sees it.
    pub fn snapshot(&mut self, id: SnapshotId) -> Result<Option<Snapshot>, PoolError> {
        get(&self.transaction.open_table(SNAPSHOTS).map_err(failed)?, id.as_bytes())
    }

    /// Removes a snapshot's record and name.
    pub fn remove_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), PoolError> {
        self.remove(NAMES, &name_key(SNAPSHOTS, &snapshot.name))?;
        self.remove(SNAPSHOTS_OF, &anchor_key(snapshot.source, snapshot.id))?;
        self.remove(SNAPSHOTS, snapshot.id.as_bytes())
    }

    /// Records an intent.
    ///
    /// # Errors
    /// [`PoolError::NoSpace`] for one to create when the catalogue has no room; [`PoolError::Catalogue`].
    pub fn add_intent(&mut self, intent: &Intent) -> Result<IntentId, PoolError> {
        match intent {
            Intent::CreateVolume { .. } | Intent::CreateSnapshots { .. } | Intent::Restore { .. } => {
                self.check_room(Need::New)?
            }
            Intent::DeleteVolume { .. } | Intent::DeleteSnapshot { .. } | Intent::Grow { .. } => {}
        }
        // The counter is stored, so that the id of a dropped intent does not come back.
        let mut meta = self.transaction.open_table(META).map_err(failed)?;
        let stored = meta.get(NEXT_INTENT).map_err(failed)?.map(|value| value.value().to_owned());
        let unreadable = |_| PoolError::from(CatalogueFault::Malformed("the counter of intents".to_owned()));
        let id = stored.map_or(Ok(1), |text| text.parse::<u64>()).map_err(unreadable)?;
        meta.insert(NEXT_INTENT, (id + 1).to_string().as_str()).map_err(failed)?;
        let encoded = encode(intent)?;
        self.transaction.open_table(INTENTS).map_err(failed)?.insert(id, encoded.as_slice()).map_err(failed)?;
        self.spend(encoded.len());
        Ok(IntentId(id))
    }

    /// Records an intent anew, in place of what it said.
    pub fn replace_intent(&mut self, id: IntentId, intent: &Intent) -> Result<(), PoolError> {
        let encoded = encode(intent)?;
        self.transaction.open_table(INTENTS).map_err(failed)?.insert(id.0, encoded.as_slice()).map_err(failed)?;
        self.spend(encoded.len());
        Ok(())
    }

    /// Drops an intent. Absent is fine.
    pub fn drop_intent(&mut self, id: IntentId) -> Result<(), PoolError> {
        self.transaction.open_table(INTENTS).map_err(failed)?.remove(id.0).map_err(failed)?;
        Ok(())
    }

    /// The publications of a volume, as this transaction sees them.
    pub fn publications(&mut self, volume: VolumeId) -> Result<Vec<Publication>, PoolError> {
        let table = self.transaction.open_table(PUBLICATIONS).map_err(failed)?;
        Ok(get(&table, volume.as_bytes())?.unwrap_or_default())
    }

    /// Replaces the publications of a volume.
    ///
    /// # Errors
    /// [`PoolError::NoSpace`] for more of them than before when the catalogue has no room; [`PoolError::Catalogue`].
    pub fn set_publications(&mut self, volume: VolumeId, publications: &[Publication]) -> Result<(), PoolError> {
        if publications.is_empty() {
            return self.remove(PUBLICATIONS, volume.as_bytes());
        }
        if publications.len() > self.publications(volume)?.len() {
            self.check_room(Need::Note)?;
        }
        self.put(PUBLICATIONS, volume.as_bytes(), &encode(&publications)?)
    }

    /// Writes the record of an export, in place of an earlier one of this volume to this repository.
    ///
    /// # Errors
    /// [`PoolError::NoSpace`] when the catalogue has no room; [`PoolError::Catalogue`].
    pub fn put_export(&mut self, export: &ExportRecord) -> Result<(), PoolError> {
        self.check_room(Need::Note)?;
        self.put(EXPORTS, &export_key(export.volume, &export.repository), &encode(export)?)
    }

    /// Removes all exports of a volume.
    pub fn remove_exports(&mut self, volume: VolumeId) -> Result<(), PoolError> {
        let exports: Vec<ExportRecord> = with_prefix(&self.transaction.open_table(EXPORTS).map_err(failed)?, volume.as_bytes())?;
        exports.iter().try_for_each(|export| self.remove(EXPORTS, &export_key(volume, &export.repository)))
    }

    /// Whether any snapshot of a volume is recorded.
    pub fn has_snapshots(&mut self, volume: VolumeId) -> Result<bool, PoolError> {
        let index = self.transaction.open_table(SNAPSHOTS_OF).map_err(failed)?;
        Ok(!index::keys_of(&index, volume)?.is_empty())
    }

    /// The snapshots of a volume, anchors left out.
    pub fn snapshots_of(&mut self, volume: VolumeId) -> Result<Vec<Snapshot>, PoolError> {
        let index = self.transaction.open_table(SNAPSHOTS_OF).map_err(failed)?;
        index::snapshots_of(&index, &self.transaction.open_table(SNAPSHOTS).map_err(failed)?, volume)
    }

    /// Records that a consumer used a snapshot; whether that is news. Nothing is recorded of a snapshot that does not exist or
    /// leaves no anchor.
    pub fn add_use(&mut self, id: SnapshotId, consumer: &Consumer) -> Result<bool, PoolError> {
        let Some(mut snapshot) = self.snapshot(id)? else { return Ok(false) };
        let is_news = snapshot.anchor_limit != AnchorLimit::NONE && snapshot.used_by.insert(consumer.clone());
        if is_news {
            self.put_snapshot(&snapshot)?;
        }
        Ok(is_news)
    }

    /// The deleted snapshots of a volume that are kept.
    pub fn anchors_of(&mut self, volume: VolumeId) -> Result<Vec<Anchor>, PoolError> {
        with_prefix(&self.transaction.open_table(ANCHORS).map_err(failed)?, volume.as_bytes())
    }

    /// A deleted snapshot of a volume, if it is kept.
    pub fn anchor(&mut self, volume: VolumeId, id: SnapshotId) -> Result<Option<Anchor>, PoolError> {
        get(&self.transaction.open_table(ANCHORS).map_err(failed)?, &anchor_key(volume, id))
    }

    /// Records a deleted snapshot that is kept.
    pub fn put_anchor(&mut self, anchor: &Anchor) -> Result<(), PoolError> {
        self.put(ANCHORS, &anchor_key(anchor.snapshot.source, anchor.snapshot.id), &encode(anchor)?)
    }

    /// Forgets a deleted snapshot that was kept.
    pub fn remove_anchor(&mut self, anchor: &Anchor) -> Result<(), PoolError> {
        self.remove(ANCHORS, &anchor_key(anchor.snapshot.source, anchor.snapshot.id))
    }

    fn claim<Id>(&mut self, of: Records, name: &ObjectName, id: &Id) -> Result<(), PoolError>
    where
        Id: serde::Serialize + serde::de::DeserializeOwned + PartialEq,
    {
        let key = name_key(of, name);
        let owner: Option<Id> = get(&self.transaction.open_table(NAMES).map_err(failed)?, &key)?;
        match owner {
            Some(owner) if owner != *id => Err(PoolError::NameTaken { name: name.to_string(), difference: "id" }),
            Some(_) => Ok(()),
            None => self.put(NAMES, &key, &encode(id)?),
        }
    }

    pub(super) fn put(&mut self, table: Records, key: &[u8], value: &[u8]) -> Result<(), PoolError> {
        self.transaction.open_table(table).map_err(failed)?.insert(key, value).map_err(failed)?;
        self.spend(key.len() + value.len());
        Ok(())
    }

    fn spend(&self, bytes: usize) {
        if let Some(room) = self.room {
            room.spend(bytes);
        }
    }

    pub(super) fn remove(&mut self, table: Records, key: &[u8]) -> Result<(), PoolError> {
        self.transaction.open_table(table).map_err(failed)?.remove(key).map_err(failed)?;
        Ok(())
    }
}
