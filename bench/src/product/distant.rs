//! A store that is far away: each request takes so much longer.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use windlass::repository::store::{Key, Kind, Listed, PutMode};
use windlass::repository::{Store, StoreError};
use windlass::scratch::Spill;

/// See the module's header.
#[derive(Debug)]
pub struct DistantStore {
    inner: Arc<dyn Store>,
    latency: Duration,
}

impl DistantStore {
    /// `inner`, each request to which takes `latency` longer.
    pub fn new(inner: Arc<dyn Store>, latency: Duration) -> Self {
        Self { inner, latency }
    }

    fn later<'a, T: Send + 'a>(&'a self, answer: BoxFuture<'a, T>) -> BoxFuture<'a, T> {
        Box::pin(async move {
            // Here the time is the condition itself.
            let _ = tokio::time::timeout(self.latency, std::future::pending::<()>()).await;
            answer.await
        })
    }
}

impl Store for DistantStore {
    fn prepare(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.prepare()
    }

    fn put(&self, key: Key, bytes: Bytes, mode: PutMode) -> BoxFuture<'_, Result<(), StoreError>> {
        self.later(self.inner.put(key, bytes, mode))
    }

    fn put_spill(&self, key: Key, bytes: Arc<Spill>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.later(self.inner.put_spill(key, bytes))
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        self.later(self.inner.get(key))
    }

    fn get_range(&self, key: Key, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        self.later(self.inner.get_range(key, range))
    }

    fn list(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Listed>, StoreError>> {
        self.later(self.inner.list(kind))
    }

    fn size(&self, key: Key) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        self.later(self.inner.size(key))
    }

    fn delete(&self, key: Key) -> BoxFuture<'_, Result<(), StoreError>> {
        self.later(self.inner.delete(key))
    }
}
