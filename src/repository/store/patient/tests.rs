use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;

use super::*;
use crate::repository::id::Id;
use crate::repository::store::conformance;
use crate::repository::store::fault::{Call, Fault, FaultyStore};
use crate::repository::store::memory::MemoryStore;
use crate::types::error::chain;

const KEY: Key = Key::Config;

/// A quarter of an hour would be long for a test.
const QUICK: Patience = Patience {
    first_pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(4),
    limit: Duration::from_millis(400),
};

fn bytes() -> Bytes {
    Bytes::from_static(b"bytes")
}

fn over(script: impl FnMut(&Call) -> Option<Fault> + Send + 'static) -> PatientStore {
    patient(Arc::new(FaultyStore::new(Arc::new(MemoryStore::new()), script)))
}

fn patient(inner: Arc<dyn Store>) -> PatientStore {
    PatientStore::new(inner, Arc::new(Patient::new(QUICK)))
}

#[tokio::test]
async fn a_patient_store_keeps_every_promise_of_a_store_of_which_each_third_call_fails() {
    conformance::keeps_its_promises(&over(|_| None)).await;
    for fault in [Fault::Unavailable, Fault::AnswerLost, Fault::Busy] {
        let mut calls = 0;
        let failing = over(move |_| {
            calls += 1;
            (calls % 3 == 0).then_some(fault)
        });
        conformance::keeps_its_promises(&failing).await;
    }
}

#[tokio::test]
async fn a_store_that_is_away_for_a_while_costs_nothing_but_time() {
    let mut calls = 0;
    let store = over(move |_| {
        calls += 1;
        (calls <= 20).then_some(Fault::Unavailable)
    });
    store.put(KEY, bytes(), PutMode::Overwrite).await.unwrap();
    assert_eq!(store.get(KEY).await.unwrap(), bytes());
    assert_eq!(store.away_since(), None);
}

#[tokio::test]
async fn one_that_stays_away_is_given_up_and_then_asked_once_a_call() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let store = over(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Some(Fault::Unavailable)
    });
    let begin = Instant::now();
    let error = store.put(KEY, bytes(), PutMode::Overwrite).await.unwrap_err();
    assert!(begin.elapsed() >= QUICK.limit);
    assert!(error.is_transient() && chain(&error).contains("the last time"), "{error}");
    let before = calls.load(Ordering::Relaxed);
    assert!(before > 20, "{before}");
    // Such as the removal of the lock by a transfer that fails for it.
    store.delete(KEY).await.unwrap_err();
    store.get(KEY).await.unwrap_err();
    assert_eq!(calls.load(Ordering::Relaxed), before + 2);
}

#[tokio::test]
async fn a_single_object_that_never_answers_does_not_hold_its_caller_for_ever() {
    let store = over(|call| matches!(call, Call::Get(_)).then_some(Fault::Unavailable));
    let get = store.get(KEY);
    tokio::pin!(get);
    // The others work all the while, so the store is not away.
    let error = loop {
        match tokio::time::timeout(Duration::from_millis(10), &mut get).await {
            Ok(result) => break result.unwrap_err(),
            Err(_) => drop(store.size(KEY).await.unwrap()),
        }
    };
    assert!(error.is_transient(), "{error}");
}

#[tokio::test]
async fn what_is_final_is_not_repeated() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let store = over(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Some(Fault::Denied)
    });
    assert!(matches!(store.get(KEY).await, Err(StoreError::Denied { .. })));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn who_drops_a_call_that_waits_ends_the_wait_and_it_is_known_since_when() {
    let faulty = FaultyStore::new(Arc::new(MemoryStore::new()), |_| Some(Fault::Unavailable));
    let store = PatientStore::new(Arc::new(faulty), Arc::new(Patient::new(Patience::default())));
    let begin = SystemTime::now();
    let mut get = store.get(KEY);
    // Polled once, it waits for its second try.
    assert!((&mut get).now_or_never().is_none());
    drop(get);
    let since = store.away_since().unwrap();
    assert!(since >= begin && since <= SystemTime::now());
}

#[tokio::test]
async fn a_conditional_put_whose_answer_was_lost_knows_its_own_object() {
    let lost = |call: &Call| matches!(call, Call::Put(_));
    let store = patient(Arc::new(FaultyStore::nth(Arc::new(MemoryStore::new()), 1, Fault::AnswerLost, lost)));
    store.put(KEY, bytes(), PutMode::IfAbsent).await.unwrap();
    assert_eq!(store.get(KEY).await.unwrap(), bytes());

    // The object of another is not taken for our own, even where the first answer was lost.
    let memory = Arc::new(MemoryStore::new());
    memory.put(KEY, Bytes::from_static(b"theirs"), PutMode::Overwrite).await.unwrap();
    let store = patient(Arc::new(FaultyStore::nth(memory, 1, Fault::Unavailable, lost)));
    let refused = store.put(KEY, bytes(), PutMode::IfAbsent).await;
    assert!(matches!(refused, Err(StoreError::AlreadyExists { .. })), "{refused:?}");
}

/// Answers "busy" to a call that comes when as many run as it bears.
#[derive(Debug)]
struct Shop {
    bears: usize,
    inside: AtomicUsize,
    refused: AtomicUsize,
    inner: MemoryStore,
}

impl Store for Shop {
    fn prepare(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.prepare()
    }
    fn put(&self, key: Key, bytes: Bytes, mode: PutMode) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            if self.inside.fetch_add(1, Ordering::Relaxed) >= self.bears {
                self.inside.fetch_sub(1, Ordering::Relaxed);
                self.refused.fetch_add(1, Ordering::Relaxed);
                return Err(StoreError::Busy { object: key.path(), source: "SlowDown".into() });
            }
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            self.inside.fetch_sub(1, Ordering::Relaxed);
            self.inner.put(key, bytes, mode).await
        })
    }
    fn get(&self, key: Key) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        self.inner.get(key)
    }
    fn get_range(&self, key: Key, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, StoreError>> {
        self.inner.get_range(key, range)
    }
    fn list(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Listed>, StoreError>> {
        self.inner.list(kind)
    }
    fn size(&self, key: Key) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        self.inner.size(key)
    }
    fn delete(&self, key: Key) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.delete(key)
    }
}

#[tokio::test]
async fn a_busy_store_gets_as_many_puts_at_a_time_as_it_bears() {
    let shop = Arc::new(Shop { bears: 3, inside: 0.into(), refused: 0.into(), inner: MemoryStore::new() });
    let store = patient(Arc::clone(&shop) as Arc<dyn Store>);
    let puts = (0..400_u32).map(|number| {
        let bytes = Bytes::copy_from_slice(&number.to_le_bytes());
        store.put(Key::File(Kind::Data, Id::of(&bytes)), bytes, PutMode::Overwrite)
    });
    futures::future::try_join_all(puts).await.unwrap();
    assert_eq!(shop.inner.list(Kind::Data).await.unwrap().len(), 400);
    // 61 of the first 64 find no place, and fewer each time. After that one now and then asks for one too many.
    let refused = shop.refused.load(Ordering::Relaxed);
    assert!((61..400).contains(&refused), "{refused}");
    // Those that pause leave few for the end, among whom it may grow: to a quarter of the most it would take 117 in a row that
    // nobody refused.
    assert!(store.patient.puts.crowd().room() < MOST_AT_A_TIME / 4, "{:?}", store.patient.puts.crowd());
}
