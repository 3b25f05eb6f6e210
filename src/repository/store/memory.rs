//! A store in memory, for tests and trials.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::{self, BoxFuture};

use super::contract::Store;
use super::error::StoreError;
use super::key::{Key, Kind, Listed, PutMode};

/// A store whose objects are in memory.
#[derive(Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<Key, Bytes>>,
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }

    /// Names of all objects.
    pub fn keys(&self) -> Vec<Key> {
        self.objects().keys().copied().collect()
    }

    /// Replaces the bytes of an object behind everyone's back.
    pub fn tamper(&self, key: Key, change: impl FnOnce(&mut Vec<u8>)) {
        let mut objects = self.objects();
        let mut bytes = objects.get(&key).map(|bytes| bytes.to_vec()).unwrap_or_default();
        change(&mut bytes);
        objects.insert(key, bytes.into());
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<Key, Bytes>> {
        // No code panics while it holds the lock, and the map is whole at each step anyway.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({} objects)", self.objects().len())
    }
}

impl Store for MemoryStore {
    fn prepare(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(future::ready(Ok(())))
    }

    fn put(&self, key: Key, bytes: Bytes, mode: PutMode) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let mut objects = self.objects();
            if mode == PutMode::IfAbsent && objects.contains_key(&key) {
                return Err(StoreError::AlreadyExists { object: key.path() });
            }
            objects.insert(key, bytes);
            Ok(())
        })
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(async move { self.objects().get(&key).cloned().ok_or_else(|| StoreError::NotFound { object: key.path() }) })
    }

    fn get_range(&self, key: Key, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let bytes = self.get(key).await?;
            let found = bytes.len() as u64;
            if found < range.end || range.end < range.start {
                return Err(StoreError::Truncated { object: key.path(), expected: range.end, found });
            }
            Ok(bytes.slice(range.start as usize..range.end as usize))
        })
    }

    fn list(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Listed>, StoreError>> {
        Box::pin(async move {
            let objects = self.objects();
            let of_kind = objects.iter().filter_map(|(key, bytes)| match key {
                Key::File(of, id) if *of == kind => Some(Listed { id: *id, bytes: bytes.len() as u64 }),
                _ => None,
            });
            Ok(of_kind.collect())
        })
    }

    fn size(&self, key: Key) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        Box::pin(async move { Ok(self.objects().get(&key).map(|bytes| bytes.len() as u64)) })
    }

    fn delete(&self, key: Key) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.objects().remove(&key);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::store::conformance;

    #[tokio::test]
    async fn memory_keeps_every_promise_of_a_store() {
        conformance::keeps_its_promises(&MemoryStore::new()).await;
    }
}
