//! Is this file a catalogue that this program understands? Answered without writing to it.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::backends::InMemoryBackend;
use redb::{Builder, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageBackend};

use super::FORMAT;
use super::tables::{ANCHORS, EXPORTS, INTENTS, MAGIC, META, NAMES, PUBLICATIONS, SNAPSHOTS, VOLUMES, later_table};
use crate::pool::PoolError;
use crate::types::PoolId;

/// First bytes of every redb file.
const REDB_MAGIC: &[u8] = b"redb\x1a\n\xa9\r\n";

/// The pool id in the catalogue at `path`.
pub(super) fn file(path: &Path) -> Result<PoolId, PoolError> {
    let bytes = fs::read(path).map_err(|source| PoolError::io(format!("read the catalogue {}", path.display()), source))?;
    let refuse = |text: String| PoolError::Format(format!("{}: {text}; nothing was changed", path.display()));
    if !bytes.starts_with(REDB_MAGIC) {
        return Err(refuse("is no catalogue of a pool".to_owned()));
    }
    // The database asserts in debug builds where a file cannot have come from it; to us that is one more damaged file.
    let examined = catch_unwind(AssertUnwindSafe(|| content(&bytes)));
    examined.unwrap_or_else(|_| Err("is damaged".to_owned())).map_err(refuse)
}

fn content(bytes: &[u8]) -> Result<PoolId, String> {
    let damaged = |error: redb::Error| format!("is damaged or was cut off ({error})");
    let copy = InMemoryBackend::new();
    let length = u64::try_from(bytes.len()).map_err(|_| "is too large".to_owned())?;
    copy.set_len(length).and_then(|()| copy.write(0, bytes)).map_err(|_| "does not fit into memory".to_owned())?;
    let database = Builder::new().create_with_backend(copy).map_err(|error| damaged(error.into()))?;
    let reading = database.begin_read().map_err(|error| damaged(error.into()))?;
    let meta = match reading.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::Storage(error)) => return Err(damaged(error.into())),
        Err(_) => return Err("is the database of another program".to_owned()),
    };
    let value =
        |key: &str| meta.get(key).map(|found| found.map(|text| text.value().to_owned())).map_err(|error| damaged(error.into()));
    if value("magic")?.as_deref() != Some(MAGIC) {
        return Err("is the database of another program".to_owned());
    }
    let format = value("format")?.and_then(|text| text.parse::<u32>().ok()).ok_or("has no format version")?;
    if format > FORMAT {
        return Err(format!("has format {format}, and this version of windlass reads up to {FORMAT}: use a newer one"));
    }
    if format != FORMAT {
        return Err(format!("has the unknown format {format}"));
    }
    // Walked whole, so that a page that is missing or spoilt is found here and not in the middle of a change.
    let walk = |table: ReadOnlyTable<&[u8], &[u8]>| {
        let entries = table.iter().map_err(|error| damaged(error.into()))?;
        entries.into_iter().try_for_each(|entry| entry.map(drop).map_err(|error| damaged(error.into())))
    };
    for table in [VOLUMES, SNAPSHOTS, NAMES, PUBLICATIONS, EXPORTS] {
        walk(reading.open_table(table).map_err(|error| damaged(error.into()))?)?;
    }
    if let Some(table) = later_table(&reading, ANCHORS).map_err(|error| damaged(error.into()))? {
        walk(table)?;
    }
    reading.open_table(INTENTS).map_err(|error| damaged(error.into()))?;
    value("pool")?.and_then(|text| text.parse().ok()).ok_or_else(|| "has no pool id".to_owned())
}
