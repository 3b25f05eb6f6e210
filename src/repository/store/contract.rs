//! The contract of every store, wherever it keeps its objects.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::error::StoreError;
use super::key::{Key, Kind, Listed, PutMode};
use crate::scratch::{ScratchError, Spill};

/// Where the objects of one repository lie. See [the module's header](super) for what each implementation promises.
pub trait Store: fmt::Debug + Send + Sync {
    /// Makes what must exist before the first `put` (folders, for a directory). Idempotent.
    fn prepare(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Stores `bytes` under `key`, durably.
    fn put(&self, key: Key, bytes: Bytes, mode: PutMode) -> BoxFuture<'_, Result<(), StoreError>>;

    /// As [`Store::put`] with [`PutMode::Overwrite`], for an object that may be longer than the memory. This default takes it into
    /// memory all the same.
    fn put_spill(&self, key: Key, bytes: Arc<Spill>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let bytes = read_spill(&bytes, 0..bytes.len()).map_err(|error| spill_failed(key, error))?;
            self.put(key, bytes, PutMode::Overwrite).await
        })
    }

    /// Reads the whole object.
    fn get(&self, key: Key) -> BoxFuture<'_, Result<Bytes, StoreError>>;

    /// Reads exactly the bytes `range` of the object.
    fn get_range(&self, key: Key, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, StoreError>>;

    /// All objects of `kind`, in any order. Names that are not ids are left out.
    fn list(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Listed>, StoreError>>;

    /// Length of the object in bytes; `None` when it does not exist.
    fn size(&self, key: Key) -> BoxFuture<'_, Result<Option<u64>, StoreError>>;

    /// Deletes the object, which need not exist.
    fn delete(&self, key: Key) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Removes leftovers of interrupted puts that are older than `older_than`; returns how many files. Most stores leave none.
    fn sweep(&self, older_than: Duration) -> BoxFuture<'_, Result<u64, StoreError>> {
        let _ = older_than;
        Box::pin(std::future::ready(Ok(0)))
    }

    /// Since when the store has not answered, while calls are repeated for that; `None` when it answers.
    fn away_since(&self) -> Option<SystemTime> {
        None
    }
}

/// A part of `spill`, in memory.
pub(super) fn read_spill(spill: &Spill, range: Range<u64>) -> Result<Bytes, ScratchError> {
    let mut bytes = vec![0; range.end.saturating_sub(range.start) as usize];
    spill.read_at(range.start, &mut bytes)?;
    Ok(bytes.into())
}

pub(super) fn spill_failed(key: Key, error: ScratchError) -> StoreError {
    StoreError::Io { object: key.path(), source: error.into() }
}
