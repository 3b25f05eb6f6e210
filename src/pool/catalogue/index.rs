//! Which snapshots a volume has, without reading those of all others.
//!
//! A table of keys (volume, snapshot), kept by every change of a snapshot's record. Catalogues of the first versions lack it, and a
//! version that does not know it leaves it behind: so it is compared with the records whenever a catalogue is opened, and made anew
//! when it is not theirs. A snapshot's volume never changes, so the ids say whether it is; no record is read for it.

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableError, WriteTransaction};

use super::tables::{SNAPSHOTS, SNAPSHOTS_OF, TableLike, anchor_key, decode, failed, get, later_table};
use crate::pool::record::Snapshot;
use crate::pool::{CatalogueFault, PoolError};
use crate::types::VolumeId;

/// Bytes of an id at the end of a key.
const ID: usize = 16;

/// Makes the index if it is missing or is not the records'.
pub(super) fn ensure(database: &Database) -> Result<(), PoolError> {
    if is_right(database)? {
        return Ok(());
    }
    let transaction = database.begin_write().map_err(failed)?;
    let made = rebuild(&transaction)?;
    transaction.commit().map_err(failed)?;
    tracing::info!(snapshots = made, "the index of snapshots was made");
    Ok(())
}

fn is_right(database: &Database) -> Result<bool, PoolError> {
    let reading = database.begin_read().map_err(failed)?;
    let Some(index) = later_table(&reading, SNAPSHOTS_OF).map_err(failed)? else { return Ok(false) };
    let snapshots = reading.open_table(SNAPSHOTS).map_err(failed)?;
    if index.len().map_err(failed)? != snapshots.len().map_err(failed)? {
        return Ok(false);
    }
    for entry in index.iter().map_err(failed)? {
        let (key, _) = entry.map_err(failed)?;
        let key = key.value();
        let is_recorded = key.len() == 2 * ID && snapshots.get(&key[ID..]).map_err(failed)?.is_some();
        if !is_recorded {
            return Ok(false);
        }
    }
    Ok(true)
}

fn rebuild(transaction: &WriteTransaction) -> Result<usize, PoolError> {
    match transaction.delete_table(SNAPSHOTS_OF) {
        Ok(_) | Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(failed(error)),
    }
    let mut index = transaction.open_table(SNAPSHOTS_OF).map_err(failed)?;
    let snapshots = transaction.open_table(SNAPSHOTS).map_err(failed)?;
    let mut made = 0;
    for entry in snapshots.iter().map_err(failed)? {
        let (_, value) = entry.map_err(failed)?;
        let snapshot: Snapshot = decode(value.value())?;
        index.insert(anchor_key(snapshot.source, snapshot.id).as_slice(), [].as_slice()).map_err(failed)?;
        made += 1;
    }
    Ok(made)
}

/// The keys of a volume's snapshots in their table.
pub(super) fn keys_of(
    index: &impl ReadableTable<&'static [u8], &'static [u8]>,
    volume: VolumeId,
) -> Result<Vec<Vec<u8>>, PoolError> {
    let prefix = volume.as_bytes().as_slice();
    let mut keys = Vec::new();
    for entry in index.range::<&[u8]>(prefix..).map_err(failed)? {
        let (key, _) = entry.map_err(failed)?;
        let Some(id) = key.value().strip_prefix(prefix) else { break };
        keys.push(id.to_vec());
    }
    Ok(keys)
}

/// The records of a volume's snapshots.
pub(super) fn snapshots_of(
    index: &impl ReadableTable<&'static [u8], &'static [u8]>,
    snapshots: &dyn TableLike,
    volume: VolumeId,
) -> Result<Vec<Snapshot>, PoolError> {
    let missing = || PoolError::from(CatalogueFault::DanglingIndex);
    keys_of(index, volume)?.iter().map(|key| get(snapshots, key)?.ok_or_else(missing)).collect()
}
