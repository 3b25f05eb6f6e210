//! The lines of a copy ([`Records`]), made of an open catalogue.

use redb::ReadableDatabase;

use super::records::{Head, Records};
use crate::pool::catalogue::open::Catalogue;
use crate::pool::catalogue::tables::{
    self, ANCHORS, EXPORTS, FIRST_DELTA_BASE, INTENTS, META, NEXT_INTENT, REVISION, Records as Table, SNAPSHOTS, TableLike,
    VOLUMES, failed, later_table, number,
};
use crate::pool::{CatalogueFault, PoolError};

/// The tables whose values are copied as they are, each with the word of its lines.
const COPIED: [(&str, Table); 4] = [("volume", VOLUMES), ("snapshot", SNAPSHOTS), ("anchor", ANCHORS), ("export", EXPORTS)];

impl Catalogue {
    /// The number of commits that this catalogue has seen; those of programs that did not count them left out.
    pub(in crate::pool) fn revision(&self) -> Result<u64, PoolError> {
        let reading = self.begin_read()?;
        number(&reading.open_table(META).map_err(failed)?, REVISION)
    }

    /// What it records.
    pub(in crate::pool) fn records(&self) -> Result<Records, PoolError> {
        let (_, text) = self.as_text()?;
        Records::decode(&text).map_err(|text| CatalogueFault::Records(text).into())
    }

    /// Its revision, and what it records as a copy says it; both of one moment. The records are not decoded.
    pub(super) fn as_text(&self) -> Result<(u64, Vec<u8>), PoolError> {
        let reading = self.connection.reader()?.database.begin_read().map_err(failed)?;
        let meta = reading.open_table(META).map_err(failed)?;
        let head = Head {
            pool: self.id(),
            next_intent: number(&meta, NEXT_INTENT)?,
            first_delta_base: number(&meta, FIRST_DELTA_BASE)?,
            properties: tables::properties(&meta)?,
        };
        let mut text = Vec::new();
        push(&mut text, "pool", &tables::encode(&head)?);
        for (word, table) in COPIED {
            let values = later_table(&reading, table).map_err(failed)?.map_or(Ok(Vec::new()), |table| table.from(&[], &[]))?;
            values.iter().for_each(|value| push(&mut text, word, value));
        }
        for (_, intent) in tables::numbered(&reading.open_table(INTENTS).map_err(failed)?)? {
            for object in intent.objects() {
                push(&mut text, "under_way", &tables::encode(&object)?);
            }
        }
        Ok((number(&meta, REVISION)?, text))
    }
}

fn push(text: &mut Vec<u8>, word: &str, value: &[u8]) {
    // JSON as it is stored has no line feeds.
    for part in [word.as_bytes(), b" ", value, b"\n"] {
        text.extend_from_slice(part);
    }
}
