//! A store that fails on purpose, for tests: a decorator around any other.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::contract::Store;
use super::error::StoreError;
use super::key::{Key, Kind, Listed, PutMode};

/// A call to a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Put(Key),
    Get(Key),
    GetRange(Key),
    List(Kind),
    Size(Key),
    Delete(Key),
}

impl Call {
    /// What the call is about: the path of an object, or the folder that is listed.
    pub fn object(&self) -> String {
        match self {
            Self::Put(key) | Self::Get(key) | Self::GetRange(key) | Self::Size(key) | Self::Delete(key) => key.path(),
            Self::List(kind) => kind.folder().to_owned(),
        }
    }
}

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The store does not answer, and nothing happened.
    Unavailable,
    /// The store has too much to do, and nothing happened.
    Busy,
    /// The store did what it was asked to, and the answer was lost.
    AnswerLost,
    Denied,
    /// A read returns half of the bytes as if they were all; a put stores half of them.
    Truncated,
    /// The call never returns.
    Stall,
    /// The store did what it was asked to, and the answer comes [`LATE`] later.
    Late,
}

/// How late an answer is that comes late: after those of many other calls.
pub const LATE: Duration = Duration::from_millis(50);

type Script = dyn FnMut(&Call) -> Option<Fault> + Send;

/// A store that fails as a script says.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    script: Mutex<Box<Script>>,
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({:?})", self.inner)
    }
}

impl FaultyStore {
    /// `inner`, whose calls are shown to `script` in the order in which they are made.
    pub fn new(inner: Arc<dyn Store>, script: impl FnMut(&Call) -> Option<Fault> + Send + 'static) -> Self {
        Self { inner, script: Mutex::new(Box::new(script)) }
    }

    /// `inner`, of whose calls that satisfy `matches` the `nth` (from 1) suffers `fault`.
    pub fn nth(inner: Arc<dyn Store>, nth: u64, fault: Fault, matches: impl Fn(&Call) -> bool + Send + 'static) -> Self {
        let mut seen = 0;
        Self::new(inner, move |call| {
            seen += u64::from(matches(call));
            (matches(call) && seen == nth).then_some(fault)
        })
    }

    fn next(&self, call: &Call) -> Option<Fault> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)(call)
    }

    /// Runs `work` unless a fault comes before it; then what comes after it.
    async fn around<T>(
        &self,
        call: Call,
        work: impl AsyncFnOnce(Option<Fault>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let fault = self.next(&call);
        let lost = || StoreError::Unavailable { object: call.object(), source: "a fault made for a test".into() };
        match fault {
            Some(Fault::Unavailable) => Err(lost()),
            Some(Fault::Busy) => Err(StoreError::Busy { object: call.object(), source: "a fault made for a test".into() }),
            Some(Fault::Denied) => Err(StoreError::Denied { object: call.object(), source: "a fault made for a test".into() }),
            Some(Fault::Stall) => std::future::pending().await,
            Some(Fault::AnswerLost) => {
                work(fault).await?;
                Err(lost())
            }
            Some(Fault::Late) => {
                let done = work(fault).await;
                // Nothing is waited for but the time itself.
                let _ = tokio::time::timeout(LATE, std::future::pending::<()>()).await;
                done
            }
            Some(Fault::Truncated) | None => work(fault).await,
        }
    }
}

fn cut(bytes: Bytes, fault: Option<Fault>) -> Bytes {
    if fault == Some(Fault::Truncated) { bytes.slice(..bytes.len() / 2) } else { bytes }
}

impl Store for FaultyStore {
    fn prepare(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.prepare()
    }

    fn put(&self, key: Key, bytes: Bytes, mode: PutMode) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.around(Call::Put(key), async move |fault| self.inner.put(key, cut(bytes, fault), mode).await))
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(self.around(Call::Get(key), async move |fault| Ok(cut(self.inner.get(key).await?, fault))))
    }

    fn get_range(&self, key: Key, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        Box::pin(self.around(Call::GetRange(key), async move |fault| Ok(cut(self.inner.get_range(key, range).await?, fault))))
    }

    fn list(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Listed>, StoreError>> {
        Box::pin(self.around(Call::List(kind), async move |_| self.inner.list(kind).await))
    }

    fn size(&self, key: Key) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        Box::pin(self.around(Call::Size(key), async move |_| self.inner.size(key).await))
    }

    fn delete(&self, key: Key) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.around(Call::Delete(key), async move |_| self.inner.delete(key).await))
    }

    fn sweep(&self, older_than: Duration) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.inner.sweep(older_than)
    }
}
