//! Tables, keys and the encoding of records.

use std::collections::BTreeSet;

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::pool::intent::{Intent, IntentId};
use crate::pool::properties::PoolProperties;
use crate::pool::{CatalogueFault, PoolError};
use crate::types::{Object, ObjectName, SnapshotId, VolumeId};

pub(super) type Records = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// A table of records in a reading transaction.
pub(super) type ReadRecords = ReadOnlyTable<&'static [u8], &'static [u8]>;

pub(super) const META: TableDefinition<'static, &'static str, &'static str> = TableDefinition::new("meta");
pub(super) const VOLUMES: Records = TableDefinition::new("volumes");
pub(super) const SNAPSHOTS: Records = TableDefinition::new("snapshots");
pub(super) const NAMES: Records = TableDefinition::new("names");
pub(super) const PUBLICATIONS: Records = TableDefinition::new("publications");
pub(super) const EXPORTS: Records = TableDefinition::new("exports");
pub(super) const ANCHORS: Records = TableDefinition::new("anchors");
pub(super) const THIN_OBJECTS: Records = TableDefinition::new("thin_objects");
pub(super) const KEPT_MAPS: Records = TableDefinition::new("kept_maps");
/// Thin devices whose objects are forgotten, and that are still to be deleted, by their ids.
pub(super) const DELETED_THIN: Records = TableDefinition::new("deleted_thin");
/// Which snapshots a volume has: keys of both ids, and no values.
pub(super) const SNAPSHOTS_OF: Records = TableDefinition::new("snapshots_of");
pub(super) const INTENTS: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("intents");

/// Key in `meta` of what was chosen for the pool, as JSON. Catalogues of the first versions lack it.
pub(super) const PROPERTIES: &str = "properties";

/// Key in `meta` of the number of commits. Catalogues of the first versions lack it.
pub(super) const REVISION: &str = "revision";

/// Format version that this program writes, and the newest it reads.
pub(super) const FORMAT: u32 = 1;

/// Key in `meta` of the counter of intents.
pub(super) const NEXT_INTENT: &str = "next_intent";

/// Key in `meta` of the first cut that can be a base; see `thin`.
pub(super) const FIRST_DELTA_BASE: &str = "first_delta_base";

/// Value of `magic` in `meta`.
pub(super) const MAGIC: &str = "windlass catalogue";

/// An error of the database as one of the pool. A full file system is one too, and never [`PoolError::NoSpace`]: that says that nothing
/// was done, and whoever commits does not know.
pub(super) fn failed(error: impl Into<redb::Error>) -> PoolError {
    match error.into() {
        redb::Error::Io(source) => CatalogueFault::Storage(source).into(),
        other => CatalogueFault::Database(Box::new(other)).into(),
    }
}

/// Names of volumes and of snapshots are two name spaces in one table.
pub(super) fn name_key(of: Records, name: &ObjectName) -> Vec<u8> {
    use redb::TableHandle;
    [of.name().as_bytes(), b"\0", name.as_str().as_bytes()].concat()
}

/// What was chosen for the pool.
pub(super) fn properties(meta: &impl ReadableTable<&'static str, &'static str>) -> Result<PoolProperties, PoolError> {
    match meta.get(PROPERTIES).map_err(failed)? {
        Some(text) => decode(text.value().as_bytes()),
        None => Ok(PoolProperties::default()),
    }
}

/// The names in one of the two name spaces.
pub(super) fn names(table: &ReadRecords, of: Records) -> Result<BTreeSet<ObjectName>, PoolError> {
    use redb::TableHandle;
    let prefix = [of.name().as_bytes(), b"\0"].concat();
    let mut names = BTreeSet::new();
    for entry in table.range(prefix.as_slice()..).map_err(failed)? {
        let (key, _) = entry.map_err(failed)?;
        let Some(name) = key.value().strip_prefix(prefix.as_slice()) else { break };
        let name = String::from_utf8(name.to_vec()).ok().and_then(|name| ObjectName::try_from(name).ok());
        names.insert(name.ok_or_else(|| CatalogueFault::Malformed("a name".to_owned()))?);
    }
    Ok(names)
}

pub(super) fn export_key(volume: VolumeId, repository: &str) -> Vec<u8> {
    [volume.as_bytes(), repository.as_bytes()].concat()
}

/// Of an anchor, and of an entry in the index of snapshots.
pub(super) fn anchor_key(volume: VolumeId, snapshot: SnapshotId) -> Vec<u8> {
    [volume.as_bytes().as_slice(), snapshot.as_bytes()].concat()
}

/// Volumes and snapshots in one table, told apart by a letter.
pub(super) fn object_key(object: Object) -> Vec<u8> {
    match object {
        Object::Volume(id) => [b"v".as_slice(), id.as_bytes()].concat(),
        Object::Snapshot(id) => [b"s".as_slice(), id.as_bytes()].concat(),
    }
}

/// A table that catalogues made before it was thought of do not have.
pub(super) fn later_table(reading: &ReadTransaction, table: Records) -> Result<Option<ReadRecords>, redb::TableError> {
    match reading.open_table(table) {
        Ok(table) => Ok(Some(table)),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A stored counter; zero when it was never set.
pub(super) fn number(meta: &impl ReadableTable<&'static str, &'static str>, key: &str) -> Result<u64, PoolError> {
    let stored = meta.get(key).map_err(failed)?.map(|value| value.value().to_owned());
    let unreadable = |_| CatalogueFault::Malformed(format!("the counter `{key}`")).into();
    stored.map_or(Ok(0), |text| text.parse()).map_err(unreadable)
}

pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>, PoolError> {
    serde_json::to_vec(value).map_err(|error| CatalogueFault::Encode(error).into())
}

#[cfg(test)]
thread_local! {
    /// How many records this thread has read.
    pub(super) static DECODED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, PoolError> {
    #[cfg(test)]
    DECODED.set(DECODED.get() + 1);
    serde_json::from_slice(bytes).map_err(|error| CatalogueFault::Decode(error).into())
}

type Table<'a> = dyn TableLike + 'a;

/// The two reads of a table, whichever transaction it belongs to.
pub(super) trait TableLike {
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, PoolError>;
    fn from(&self, key: &[u8], while_prefix: &[u8]) -> Result<Vec<Vec<u8>>, PoolError>;
}

impl<T: ReadableTable<&'static [u8], &'static [u8]>> TableLike for T {
    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, PoolError> {
        Ok(self.get(key).map_err(failed)?.map(|guard| guard.value().to_vec()))
    }

    fn from(&self, key: &[u8], while_prefix: &[u8]) -> Result<Vec<Vec<u8>>, PoolError> {
        let mut values = Vec::new();
        for entry in self.range::<&[u8]>(key..).map_err(failed)? {
            let (key, value) = entry.map_err(failed)?;
            if !key.value().starts_with(while_prefix) {
                break;
            }
            values.push(value.value().to_vec());
        }
        Ok(values)
    }
}

pub(super) fn get<T: DeserializeOwned>(table: &Table<'_>, key: &[u8]) -> Result<Option<T>, PoolError> {
    table.value(key)?.map(|bytes| decode(&bytes)).transpose()
}

pub(super) fn all<T: DeserializeOwned>(table: &Table<'_>) -> Result<Vec<T>, PoolError> {
    with_prefix(table, &[])
}

pub(super) fn with_prefix<T: DeserializeOwned>(table: &Table<'_>, prefix: &[u8]) -> Result<Vec<T>, PoolError> {
    table.from(prefix, prefix)?.iter().map(|bytes| decode(bytes)).collect()
}

pub(super) fn numbered(table: &impl ReadableTable<u64, &'static [u8]>) -> Result<Vec<(IntentId, Intent)>, PoolError> {
    let entry = |entry: Result<(redb::AccessGuard<'_, u64>, redb::AccessGuard<'_, &'static [u8]>), redb::StorageError>| {
        let (key, value) = entry.map_err(failed)?;
        Ok((IntentId(key.value()), decode(value.value())?))
    };
    table.iter().map_err(failed)?.map(entry).collect()
}
