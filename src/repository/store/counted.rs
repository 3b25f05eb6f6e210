//! A store whose calls are counted: a layer around any other, the outermost, so that a call counts once however often it was repeated.
//!
//! No name of a store, a bucket or an object is in what is counted, and no text of an error.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::contract::Store;
use super::error::StoreError;
use super::key::{Key, Kind, Listed, PutMode};
use crate::scratch::Spill;
use crate::telemetry::metrics::StoreMetrics;

/// A store whose calls are counted.
#[derive(Debug)]
pub struct CountedStore {
    inner: Arc<dyn Store>,
    metrics: StoreMetrics,
}

impl CountedStore {
    /// `inner`, whose calls are counted in `metrics`.
    pub fn new(inner: Arc<dyn Store>, metrics: StoreMetrics) -> Self {
        Self { inner, metrics }
    }

    /// A call that is dropped counts as nothing: nobody knows what became of it.
    fn count<'a, T: Send + 'a>(
        &'a self,
        operation: &'static str,
        call: BoxFuture<'a, Result<T, StoreError>>,
    ) -> BoxFuture<'a, Result<T, StoreError>> {
        Box::pin(async move {
            let begun = Instant::now();
            let result = call.await;
            let outcome = result.as_ref().map_or_else(StoreError::kind, |_| "ok");
            self.metrics.ended(operation, outcome, begun.elapsed());
            result
        })
    }

    fn count_put<'a>(&'a self, bytes: u64, call: BoxFuture<'a, Result<(), StoreError>>) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            self.count("put", call).await?;
            self.metrics.sent(bytes);
            Ok(())
        })
    }

    fn count_get<'a>(&'a self, call: BoxFuture<'a, Result<Bytes, StoreError>>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        Box::pin(async move {
            let bytes = self.count("get", call).await?;
            self.metrics.received(bytes.len() as u64);
            Ok(bytes)
        })
    }
}

impl Store for CountedStore {
    fn prepare(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.count("prepare", self.inner.prepare())
    }

    fn put(&self, key: Key, bytes: Bytes, mode: PutMode) -> BoxFuture<'_, Result<(), StoreError>> {
        self.count_put(bytes.len() as u64, self.inner.put(key, bytes, mode))
    }

    fn put_spill(&self, key: Key, bytes: Arc<Spill>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.count_put(bytes.len(), self.inner.put_spill(key, bytes))
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        self.count_get(self.inner.get(key))
    }

    fn get_range(&self, key: Key, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        self.count_get(self.inner.get_range(key, range))
    }

    fn list(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Listed>, StoreError>> {
        self.count("list", self.inner.list(kind))
    }

    fn size(&self, key: Key) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        self.count("size", self.inner.size(key))
    }

    fn delete(&self, key: Key) -> BoxFuture<'_, Result<(), StoreError>> {
        self.count("delete", self.inner.delete(key))
    }

    fn sweep(&self, older_than: Duration) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.count("sweep", self.inner.sweep(older_than))
    }

    fn away_since(&self) -> Option<SystemTime> {
        self.inner.away_since()
    }
}
