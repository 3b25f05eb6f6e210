//! What a copy says: a line for the pool, then one for each record, each a word and the record as JSON, as the catalogue stores it.

use redb::ReadableDatabase;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::pool::PoolError;
use crate::pool::catalogue::change::NEXT_INTENT;
use crate::pool::catalogue::tables::{
    self, ANCHORS, EXPORTS, INTENTS, META, REVISION, Records as Table, SNAPSHOTS, TableLike, VOLUMES, failed, later_table, number,
};
use crate::pool::catalogue::{Catalogue, thin};
use crate::pool::properties::PoolProperties;
use crate::pool::record::{Anchor, Snapshot, Volume};
use crate::types::{ExportRecord, Object, PoolId};

/// The tables whose values are copied as they are, each with the word of its lines.
const COPIED: [(&str, Table); 4] = [("volume", VOLUMES), ("snapshot", SNAPSHOTS), ("anchor", ANCHORS), ("export", EXPORTS)];

/// What a copy says of the pool as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    pool: PoolId,
    next_intent: u64,
    #[serde(default)]
    first_delta_base: u64,
    #[serde(default)]
    properties: PoolProperties,
}

/// What a catalogue records, publications and what is under way left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::pool) struct Records {
    /// The pool's identity.
    pub(in crate::pool) pool: PoolId,
    /// What was chosen for it.
    pub(in crate::pool) properties: PoolProperties,
    /// More than the number of any intent, and so of any cut.
    pub(in crate::pool) next_intent: u64,
    /// See [`Catalogue::first_delta_base`].
    pub(in crate::pool) first_delta_base: u64,
    pub(in crate::pool) volumes: Vec<Volume>,
    pub(in crate::pool) snapshots: Vec<Snapshot>,
    pub(in crate::pool) anchors: Vec<Anchor>,
    pub(in crate::pool) exports: Vec<ExportRecord>,
    /// Objects that were being made, filled or deleted.
    pub(in crate::pool) under_way: Vec<Object>,
}

impl Catalogue {
    /// The number of commits that this catalogue has seen; those of programs that did not count them left out.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`], as for all that follow.
    pub(in crate::pool) fn revision(&self) -> Result<u64, PoolError> {
        let reading = self.begin_read()?;
        number(&reading.open_table(META).map_err(failed)?, REVISION)
    }

    /// What it records.
    ///
    /// # Errors
    /// [`PoolError::Catalogue`].
    pub(in crate::pool) fn records(&self) -> Result<Records, PoolError> {
        let (_, text) = self.as_text()?;
        Records::decode(&text).map_err(PoolError::Catalogue)
    }

    /// Its revision, and what it records as a copy says it; both of one moment. The records are not decoded.
    pub(super) fn as_text(&self) -> Result<(u64, Vec<u8>), PoolError> {
        let reading = self.connection.reader()?.database.begin_read().map_err(failed)?;
        let meta = reading.open_table(META).map_err(failed)?;
        let head = Head {
            pool: self.id(),
            next_intent: number(&meta, NEXT_INTENT)?,
            first_delta_base: number(&meta, thin::FIRST_DELTA_BASE)?,
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

impl Records {
    /// Of a pool of which nothing is known but its identity.
    pub(in crate::pool) fn unknown(pool: PoolId) -> Self {
        Self::of(Head { pool, next_intent: 1, first_delta_base: 0, properties: PoolProperties::default() })
    }

    fn of(head: Head) -> Self {
        Self {
            pool: head.pool,
            properties: head.properties,
            next_intent: head.next_intent,
            first_delta_base: head.first_delta_base,
            volumes: Vec::new(),
            snapshots: Vec::new(),
            anchors: Vec::new(),
            exports: Vec::new(),
            under_way: Vec::new(),
        }
    }

    /// What the lines say; or what is wrong with them.
    pub(super) fn decode(text: &[u8]) -> Result<Self, String> {
        let mut records = Self::of(head(text)?);
        for line in lines(text).skip(1) {
            let (word, value) = split(line)?;
            match word {
                "volume" => records.volumes.push(parse(word, value)?),
                "snapshot" => records.snapshots.push(parse(word, value)?),
                "anchor" => records.anchors.push(parse(word, value)?),
                "export" => records.exports.push(parse(word, value)?),
                "under_way" => records.under_way.push(parse(word, value)?),
                _ => return Err(format!("a line begins with `{word}`")),
            }
        }
        Ok(records)
    }
}

/// The pool that the lines are of.
pub(super) fn pool_of(text: &[u8]) -> Result<PoolId, String> {
    head(text).map(|head| head.pool)
}

fn head(text: &[u8]) -> Result<Head, String> {
    match lines(text).next().map(split) {
        Some(Ok(("pool", value))) => parse("pool", value),
        _ => Err("it does not say of which pool it is".to_owned()),
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty())
}

fn split(line: &[u8]) -> Result<(&str, &[u8]), String> {
    let blank = line.iter().position(|&byte| byte == b' ').ok_or("a line has one word")?;
    let word = std::str::from_utf8(&line[..blank]).map_err(|_| "a line begins with no word")?;
    Ok((word, &line[blank + 1..]))
}

fn parse<T: DeserializeOwned>(word: &str, value: &[u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| format!("a record of the kind `{word}` does not read back: {error}"))
}
