//! A store that counts what is asked of it: what a case proves that it did, and what an export costs at a store that bills requests.
//!
//! A request is a call of the store's interface. Behind it lies one request of the network, but for a listing of more than 1000 objects,
//! for an object that is sent in parts, and for what is repeated after a fault.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use windlass::repository::store::{Key, Kind, Listed, PutMode};
use windlass::repository::{Store, StoreError};
use windlass::scratch::Spill;

/// How often each kind of call was made on each kind of object: `get locks`, `put data`, `list index`.
#[derive(Debug, Default)]
pub struct Requests(Mutex<BTreeMap<String, u64>>);

impl Requests {
    fn add(&self, verb: &str, folder: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(format!("{verb} {folder}")).or_default() += 1;
    }

    /// The counts so far.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// See the module's header.
#[derive(Debug)]
pub struct CountedStore {
    inner: Arc<dyn Store>,
    requests: Arc<Requests>,
}

impl CountedStore {
    /// `inner`, each call of which is counted in `requests`.
    pub fn new(inner: Arc<dyn Store>, requests: Arc<Requests>) -> Self {
        Self { inner, requests }
    }

    fn count(&self, verb: &str, key: Key) {
        let folder = match key {
            Key::Config => "config",
            Key::File(kind, _) => kind.folder(),
        };
        self.requests.add(verb, folder);
    }
}

impl Store for CountedStore {
    fn prepare(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.prepare()
    }

    fn put(&self, key: Key, bytes: Bytes, mode: PutMode) -> BoxFuture<'_, Result<(), StoreError>> {
        self.count("put", key);
        self.inner.put(key, bytes, mode)
    }

    fn put_spill(&self, key: Key, bytes: Arc<Spill>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.count("put", key);
        self.inner.put_spill(key, bytes)
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        self.count("get", key);
        self.inner.get(key)
    }

    fn get_range(&self, key: Key, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        self.count("get", key);
        self.inner.get_range(key, range)
    }

    fn list(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Listed>, StoreError>> {
        self.requests.add("list", kind.folder());
        self.inner.list(kind)
    }

    fn size(&self, key: Key) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        self.count("size", key);
        self.inner.size(key)
    }

    fn delete(&self, key: Key) -> BoxFuture<'_, Result<(), StoreError>> {
        self.count("delete", key);
        self.inner.delete(key)
    }

    fn sweep(&self, older_than: Duration) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.inner.sweep(older_than)
    }

    fn away_since(&self) -> Option<SystemTime> {
        self.inner.away_since()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass::repository::Id;
    use windlass::repository::store::memory::MemoryStore;

    #[tokio::test]
    async fn each_call_is_counted_under_its_verb_and_kind() {
        let requests = Arc::<Requests>::default();
        let store = CountedStore::new(Arc::new(MemoryStore::new()), Arc::clone(&requests));
        let key = Key::File(Kind::Lock, Id::of(b"lock"));
        store.put(key, Bytes::from_static(b"lock"), PutMode::Overwrite).await.unwrap();
        store.get(key).await.unwrap();
        store.get_range(key, 0..2).await.unwrap();
        store.list(Kind::Lock).await.unwrap();
        store.size(Key::Config).await.unwrap();
        let counts = requests.counts();
        let expected = [("get locks", 2), ("list locks", 1), ("put locks", 1), ("size config", 1)];
        assert_eq!(counts, expected.map(|(name, count)| (name.to_owned(), count)).into());
    }
}
