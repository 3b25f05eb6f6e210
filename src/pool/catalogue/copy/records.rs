//! What a copy says: a line for the pool, then one for each record, each a word and the record as JSON, as the catalogue stores it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::pool::properties::PoolProperties;
use crate::pool::record::{Anchor, Snapshot, Volume};
use crate::types::{ExportRecord, Object, PoolId};

/// What a copy says of the pool as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) pool: PoolId,
    pub(super) next_intent: u64,
    #[serde(default)]
    pub(super) first_delta_base: u64,
    #[serde(default)]
    pub(super) properties: PoolProperties,
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
    /// The first cut that can be the base of a delta; see `catalogue::thin`.
    pub(in crate::pool) first_delta_base: u64,
    pub(in crate::pool) volumes: Vec<Volume>,
    pub(in crate::pool) snapshots: Vec<Snapshot>,
    pub(in crate::pool) anchors: Vec<Anchor>,
    pub(in crate::pool) exports: Vec<ExportRecord>,
    /// Objects that were being made, filled or deleted.
    pub(in crate::pool) under_way: Vec<Object>,
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
