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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::store::fault::{Fault, FaultyStore};
    use crate::repository::store::memory::MemoryStore;
    use crate::repository::store::patient::{Patient, PatientStore};
    use crate::repository::store::retry::Patience;
    use crate::telemetry::metrics::{Metrics, ProcessName};

    #[tokio::test]
    async fn a_call_counts_once_by_how_it_ended_and_its_repetitions_beside_it() {
        let metrics = Metrics::new(ProcessName::Agent);
        let mut calls = 0;
        let busy = FaultyStore::new(Arc::new(MemoryStore::new()), move |_| {
            calls += 1;
            (calls <= 3).then_some(Fault::Busy)
        });
        let patience = Patience { first_pause: Duration::from_millis(1), ..Patience::default() };
        let patient = Arc::new(Patient::new(patience).counting_in(metrics.stores.clone()));
        let store = CountedStore::new(Arc::new(PatientStore::new(Arc::new(busy), patient)), metrics.stores.clone());
        assert!(store.get(Key::Config).await.unwrap_err().is_not_found());
        store.put(Key::Config, Bytes::from_static(b"bytes"), PutMode::IfAbsent).await.unwrap();
        store.put(Key::Config, Bytes::from_static(b"other bytes"), PutMode::IfAbsent).await.unwrap_err();
        assert_eq!(store.get_range(Key::Config, 1..3).await.unwrap(), "yt");

        let text = metrics.text().await.unwrap();
        let calls = |operation, outcome| {
            format!("store_call_duration_seconds_count{{process=\"agent\",operation=\"{operation}\",outcome=\"{outcome}\"}} 1")
        };
        for line in [
            calls("get", "not_found"),
            calls("get", "ok"),
            calls("put", "ok"),
            calls("put", "exists"),
            "store_retries_total{process=\"agent\",reason=\"busy\"} 3".to_owned(),
            "store_sent_bytes_total{process=\"agent\"} 5".to_owned(),
            "store_received_bytes_total{process=\"agent\"} 2".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == format!("windlass_{line}")), "{line} is not in\n{text}");
        }
    }
}
