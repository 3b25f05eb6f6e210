//! Looking things up. Each question is a transaction of its own.

use std::collections::BTreeSet;

use super::open::Catalogue;
use super::tables::{
    self, ANCHORS, EXPORTS, INTENTS, NAMES, PUBLICATIONS, SNAPSHOTS, SNAPSHOTS_OF, VOLUMES, anchor_key, export_key, failed,
    later_table, name_key,
};
use super::{change, index};
use crate::pool::PoolError;
use crate::pool::intent::{Intent, IntentId};
use crate::pool::record::{Anchor, Publication, Snapshot, Volume};
use crate::types::{ExportRecord, ObjectName, SnapshotId, VolumeId};

impl Catalogue {
    /// A volume by id.
    pub fn volume(&self, id: VolumeId) -> Result<Option<Volume>, PoolError> {
        let reading = self.begin_read()?;
        tables::get(&reading.open_table(VOLUMES).map_err(failed)?, id.as_bytes())
    }

    /// A volume by name.
    pub fn volume_by_name(&self, name: &ObjectName) -> Result<Option<Volume>, PoolError> {
        let reading = self.begin_read()?;
        match tables::get::<VolumeId>(&reading.open_table(NAMES).map_err(failed)?, &name_key(VOLUMES, name))? {
            Some(id) => tables::get(&reading.open_table(VOLUMES).map_err(failed)?, id.as_bytes()),
            None => Ok(None),
        }
    }

    /// All volumes, by ascending id.
    pub fn volumes(&self) -> Result<Vec<Volume>, PoolError> {
        let reading = self.begin_read()?;
        tables::all(&reading.open_table(VOLUMES).map_err(failed)?)
    }

    /// The names of all volumes.
    pub fn volume_names(&self) -> Result<BTreeSet<ObjectName>, PoolError> {
        let reading = self.begin_read()?;
        tables::names(&reading.open_table(NAMES).map_err(failed)?, VOLUMES)
    }

    /// The sizes of all volumes, and of those that are being made, restored or grown, in bytes.
    pub fn promised(&self) -> Result<u64, PoolError> {
        // The intents first: one that ends in between is a volume by then, and counts once.
        let intents = self.intents()?;
        Ok(change::promised(&self.volumes()?, intents.iter().map(|(_, intent)| intent)))
    }

    /// A snapshot by id.
    pub fn snapshot(&self, id: SnapshotId) -> Result<Option<Snapshot>, PoolError> {
        let reading = self.begin_read()?;
        tables::get(&reading.open_table(SNAPSHOTS).map_err(failed)?, id.as_bytes())
    }

    /// A snapshot by name.
    pub fn snapshot_by_name(&self, name: &ObjectName) -> Result<Option<Snapshot>, PoolError> {
        let reading = self.begin_read()?;
        match tables::get::<SnapshotId>(&reading.open_table(NAMES).map_err(failed)?, &name_key(SNAPSHOTS, name))? {
            Some(id) => tables::get(&reading.open_table(SNAPSHOTS).map_err(failed)?, id.as_bytes()),
            None => Ok(None),
        }
    }

    /// All snapshots, by ascending id.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>, PoolError> {
        let reading = self.begin_read()?;
        tables::all(&reading.open_table(SNAPSHOTS).map_err(failed)?)
    }

    /// The snapshots of a volume, anchors left out, by ascending id. No others are read.
    pub fn snapshots_of(&self, volume: VolumeId) -> Result<Vec<Snapshot>, PoolError> {
        let reading = self.begin_read()?;
        let index = reading.open_table(SNAPSHOTS_OF).map_err(failed)?;
        index::snapshots_of(&index, &reading.open_table(SNAPSHOTS).map_err(failed)?, volume)
    }

    /// A deleted snapshot of a volume, if it is kept.
    pub fn anchor(&self, volume: VolumeId, id: SnapshotId) -> Result<Option<Anchor>, PoolError> {
        let reading = self.begin_read()?;
        match later_table(&reading, ANCHORS).map_err(failed)? {
            Some(table) => tables::get(&table, &anchor_key(volume, id)),
            None => Ok(None),
        }
    }

    /// All deleted snapshots that are kept, volume by volume.
    pub fn anchors(&self) -> Result<Vec<Anchor>, PoolError> {
        let reading = self.begin_read()?;
        later_table(&reading, ANCHORS).map_err(failed)?.map_or(Ok(Vec::new()), |table| tables::all(&table))
    }

    /// The deleted snapshots of a volume that are kept.
    pub fn anchors_of(&self, volume: VolumeId) -> Result<Vec<Anchor>, PoolError> {
        let reading = self.begin_read()?;
        let table = later_table(&reading, ANCHORS).map_err(failed)?;
        table.map_or(Ok(Vec::new()), |table| tables::with_prefix(&table, volume.as_bytes()))
    }

    /// Everything under way or interrupted, oldest first.
    pub fn intents(&self) -> Result<Vec<(IntentId, Intent)>, PoolError> {
        let reading = self.begin_read()?;
        tables::numbered(&reading.open_table(INTENTS).map_err(failed)?)
    }

    /// Where a volume is staged and published, as recorded in any boot.
    pub fn publications(&self, volume: VolumeId) -> Result<Vec<Publication>, PoolError> {
        let reading = self.begin_read()?;
        let stored = tables::get(&reading.open_table(PUBLICATIONS).map_err(failed)?, volume.as_bytes())?;
        Ok(stored.unwrap_or_default())
    }

    /// The export of a volume to one repository.
    pub fn export(&self, repository: &str, volume: VolumeId) -> Result<Option<ExportRecord>, PoolError> {
        let reading = self.begin_read()?;
        tables::get(&reading.open_table(EXPORTS).map_err(failed)?, &export_key(volume, repository))
    }

    /// The exports of all volumes, also of those that are deleted.
    pub fn all_exports(&self) -> Result<Vec<ExportRecord>, PoolError> {
        let reading = self.begin_read()?;
        tables::all(&reading.open_table(EXPORTS).map_err(failed)?)
    }

    /// The exports of a volume to all repositories.
    pub fn exports(&self, volume: VolumeId) -> Result<Vec<ExportRecord>, PoolError> {
        let reading = self.begin_read()?;
        tables::with_prefix(&reading.open_table(EXPORTS).map_err(failed)?, volume.as_bytes())
    }
}
