//! A set of keys that only grows.
//!
//! The newest keys are in a hash table; when that is full it becomes a sorted run. Runs of similar length are merged, so that
//! there are never more than about log2 of the number of times the table was full, and each key is merged as often.

use std::collections::HashSet;

use super::sorted::merge;
use super::{KEY_BYTES, Key, Scratch, ScratchError, SortedRows, Sorter};

/// Bytes that a key takes in the hash table, with what a table that has just doubled leaves free.
const TABLE_ENTRY_BYTES: usize = 2 * (KEY_BYTES + 1);

/// A set of keys.
#[derive(Debug)]
pub struct KeySet {
    scratch: Scratch,
    recent: HashSet<Key>,
    /// Sorted runs, the longest first.
    runs: Vec<SortedRows<KEY_BYTES>>,
}

/// Whether a key was new to a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    New,
    Known,
}

impl KeySet {
    pub fn new(scratch: &Scratch) -> Self {
        Self { scratch: scratch.clone(), recent: HashSet::new(), runs: Vec::new() }
    }

    pub fn len(&self) -> u64 {
        self.recent.len() as u64 + self.runs.iter().map(SortedRows::len).sum::<u64>()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds `key`.
    ///
    /// # Errors
    /// The set may then lack keys and must not be used.
    pub fn insert(&mut self, key: Key) -> Result<Inserted, ScratchError> {
        if self.recent.contains(&key) {
            return Ok(Inserted::Known);
        }
        for run in &self.runs {
            if run.find(&key)?.is_some() {
                return Ok(Inserted::Known);
            }
        }
        self.recent.insert(key);
        if self.recent.len() * TABLE_ENTRY_BYTES > self.scratch.memory_bytes() {
            self.sort_recent()?;
        }
        Ok(Inserted::New)
    }

    fn sort_recent(&mut self) -> Result<(), ScratchError> {
        let mut sorter = Sorter::new(&self.scratch);
        self.recent.drain().try_for_each(|key| sorter.push(key))?;
        self.runs.push(sorter.finish()?);
        while let [.., longer, last] = &self.runs[..]
            && longer.len() <= last.len() * 2
        {
            let pair = self.runs.split_off(self.runs.len() - 2);
            let pair: Vec<_> = pair.iter().map(|run| (run.rows(), 0..run.len())).collect();
            self.runs.push(merge(&self.scratch, &pair)?);
        }
        Ok(())
    }
}
