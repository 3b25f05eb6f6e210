//! Is this a catalogue that this program understands? Answered without writing to it: what is stored is copied into memory and
//! opened there.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::backends::InMemoryBackend;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, StorageBackend};

use super::tables::{
    ANCHORS, DELETED_THIN, EXPORTS, FORMAT, INTENTS, KEPT_MAPS, MAGIC, META, NAMES, PUBLICATIONS, ReadRecords, SNAPSHOTS,
    SNAPSHOTS_OF, THIN_OBJECTS, VOLUMES, later_table,
};
use crate::pool::PoolError;
use crate::types::PoolId;

/// First bytes of every redb file.
const REDB_MAGIC: &[u8; 9] = b"redb\x1a\n\xa9\r\n";

/// Bytes that are copied at once.
const PIECE: usize = 1 << 20;

/// The pool id in the catalogue at `path`, and a copy of it in memory.
pub(super) fn file(path: &Path) -> Result<(PoolId, Database), PoolError> {
    let what = path.display().to_string();
    let io = |source| PoolError::io(format!("read the catalogue {what}"), source);
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    examined(length, |offset, piece: &mut [u8]| file.read_exact_at(piece, offset).map_err(io), &what)
}

/// The pool id in the catalogue that `storage` holds, and a copy of it in memory. `what` names it in errors.
pub(super) fn storage(storage: &(impl StorageBackend + ?Sized), what: &str) -> Result<(PoolId, Database), PoolError> {
    let io = |source| PoolError::io(format!("read the catalogue of {what}"), source);
    let length = storage.len().map_err(io)?;
    examined(length, |offset, piece: &mut [u8]| storage.read(offset, piece).map_err(io), what)
}

fn examined(
    length: u64,
    read: impl Fn(u64, &mut [u8]) -> Result<(), PoolError>,
    what: &str,
) -> Result<(PoolId, Database), PoolError> {
    let refuse = |why: Unusable| match why {
        Unusable::Newer(text) => PoolError::Format(format!("{what}: {text}; nothing was changed").into()),
        Unusable::Lost(text) => PoolError::CatalogueLost(format!("{what}: {text}; nothing was changed")),
    };
    let mut magic = [0; REDB_MAGIC.len()];
    // Before memory is taken for all of it.
    if length >= magic.len() as u64 {
        read(0, &mut magic)?;
    }
    if magic != *REDB_MAGIC {
        return Err(refuse("is no catalogue of a pool".into()));
    }
    let copy = InMemoryBackend::new();
    let no_memory = |error| PoolError::io(format!("read the catalogue of {what} into memory"), error);
    copy.set_len(length).map_err(no_memory)?;
    let mut piece = vec![0; PIECE];
    let mut offset = 0;
    while offset < length {
        let piece = &mut piece[..usize::try_from(length - offset).unwrap_or(PIECE).min(PIECE)];
        read(offset, piece)?;
        copy.write(offset, piece).map_err(no_memory)?;
        offset += piece.len() as u64;
    }
    // The database asserts in debug builds where a file cannot have come from it; to us that is one more damaged file.
    let examined = catch_unwind(AssertUnwindSafe(|| content(copy)));
    examined.unwrap_or_else(|_| Err("is damaged".into())).map_err(refuse)
}

/// Why a catalogue cannot be used.
enum Unusable {
    /// A later version made it.
    Newer(String),
    /// It is damaged, or none.
    Lost(String),
}

impl From<&str> for Unusable {
    fn from(text: &str) -> Self {
        Self::Lost(text.to_owned())
    }
}

fn damaged(error: impl Into<redb::Error>) -> Unusable {
    Unusable::Lost(format!("is damaged or was cut off ({})", error.into()))
}

fn content(copy: InMemoryBackend) -> Result<(PoolId, Database), Unusable> {
    let database = Builder::new().create_with_backend(copy).map_err(damaged)?;
    let id = id(&database)?;
    Ok((id, database))
}

/// Reads everything, so that a page that is missing or spoilt is found here and not in the middle of a change.
fn id(database: &Database) -> Result<PoolId, Unusable> {
    let reading = database.begin_read().map_err(damaged)?;
    let meta = match reading.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::Storage(error)) => return Err(damaged(error)),
        Err(_) => return Err("is the database of another program".into()),
    };
    let value = |key: &str| meta.get(key).map(|found| found.map(|text| text.value().to_owned())).map_err(damaged);
    if value("magic")?.as_deref() != Some(MAGIC) {
        return Err("is the database of another program".into());
    }
    let format = value("format")?.and_then(|text| text.parse::<u32>().ok()).ok_or("has no format version")?;
    if format > FORMAT {
        return Err(Unusable::Newer(format!(
            "has format {format}, and this version of windlass reads up to {FORMAT}: use a newer one"
        )));
    }
    if format != FORMAT {
        return Err(Unusable::Lost(format!("has the unknown format {format}")));
    }
    let walk = |table: ReadRecords| {
        let entries = table.iter().map_err(damaged)?;
        entries.into_iter().try_for_each(|entry| entry.map(drop).map_err(damaged))
    };
    for table in [VOLUMES, SNAPSHOTS, NAMES, PUBLICATIONS, EXPORTS] {
        walk(reading.open_table(table).map_err(damaged)?)?;
    }
    for table in [ANCHORS, SNAPSHOTS_OF, THIN_OBJECTS, KEPT_MAPS, DELETED_THIN] {
        if let Some(table) = later_table(&reading, table).map_err(damaged)? {
            walk(table)?;
        }
    }
    reading.open_table(INTENTS).map_err(damaged)?;
    value("pool")?.and_then(|text| text.parse().ok()).ok_or_else(|| "has no pool id".into())
}
