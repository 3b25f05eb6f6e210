//! A prune beside exports and beside another prune.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use windlass::repository::prune::{PruneError, PruneStats};
use windlass::repository::store::fault::Call;
use windlass::repository::store::memory::MemoryStore;
use windlass::repository::store::{Key, Kind, PutMode};
use windlass::repository::{LockMode, RepositoryError, Store, StoreError};

use crate::transfer_fixture::{remove_locks, reopen};
use crate::{EXACT, export_as, is_whole, prune, repository, volume};

/// Calls `work` before the first call that satisfies `when`, beside a prune in `store`.
async fn prune_beside<F: Future<Output = ()> + Send>(
    store: Arc<MemoryStore>,
    when: impl Fn(&Call) -> bool + Send + Sync + 'static,
    work: impl FnOnce() -> F + Send,
) -> Result<PruneStats, PruneError> {
    let (reached, wait) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let gate = Gate { inner: store, when: Box::new(when), reached: reached.clone(), go: wait.clone(), passed: AtomicU64::new(0) };
    let repository = reopen(Arc::new(gate)).await.unwrap();
    let pruning = tokio::spawn(async move { prune(&repository, EXACT).await });
    reached.notified().await;
    work().await;
    wait.notify_one();
    pruning.await.unwrap()
}

/// A store that stands still once, before a call of a kind.
struct Gate {
    inner: Arc<MemoryStore>,
    when: Box<dyn Fn(&Call) -> bool + Send + Sync>,
    reached: Arc<tokio::sync::Notify>,
    go: Arc<tokio::sync::Notify>,
    passed: AtomicU64,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

impl Gate {
    async fn pass(&self, call: Call) {
        if (self.when)(&call) && self.passed.fetch_add(1, Ordering::SeqCst) == 0 {
            self.reached.notify_one();
            self.go.notified().await;
        }
    }
}

type Answer<'a, T> = futures::future::BoxFuture<'a, Result<T, StoreError>>;

impl Store for Gate {
    fn prepare(&self) -> Answer<'_, ()> {
        self.inner.prepare()
    }

    fn put(&self, key: Key, bytes: bytes::Bytes, mode: PutMode) -> Answer<'_, ()> {
        Box::pin(async move {
            self.pass(Call::Put(key)).await;
            self.inner.put(key, bytes, mode).await
        })
    }

    fn get(&self, key: Key) -> Answer<'_, bytes::Bytes> {
        self.inner.get(key)
    }

    fn get_range(&self, key: Key, range: std::ops::Range<u64>) -> Answer<'_, bytes::Bytes> {
        self.inner.get_range(key, range)
    }

    fn list(&self, kind: Kind) -> Answer<'_, Vec<windlass::repository::store::Listed>> {
        self.inner.list(kind)
    }

    fn size(&self, key: Key) -> Answer<'_, Option<u64>> {
        self.inner.size(key)
    }

    fn delete(&self, key: Key) -> Answer<'_, ()> {
        Box::pin(async move {
            self.pass(Call::Delete(key)).await;
            self.inner.delete(key).await
        })
    }
}

fn is_pack_put(call: &Call) -> bool {
    matches!(call, Call::Put(Key::File(Kind::Data, _)))
}

fn is_index_delete(call: &Call) -> bool {
    matches!(call, Call::Delete(Key::File(Kind::Index, _)))
}

#[tokio::test]
async fn a_snapshot_that_is_stored_while_a_prune_repacks_keeps_what_it_refers_to() {
    let (store, mut kept) = repository().await;
    // Of volumes whose only snapshots were forgotten: packs that are to go, and blobs of packs that are to be repacked.
    let gone = volume(3, 81);
    let stored = store.clone();
    let mut ids = Vec::new();
    let work = || async {
        let repository = reopen(stored).await.unwrap();
        ids.push(export_as(&repository, "/again", &gone, 100).await);
    };
    let stats = prune_beside(store.clone(), is_pack_put, work).await.unwrap();
    assert!(stats.packs_rescued > 0, "{stats:?}");
    kept.insert(ids[0], gone.bytes.clone());
    let repository = reopen(store).await.unwrap();
    is_whole(&repository, &kept).await;
    prune(&repository, EXACT).await.unwrap();
    is_whole(&repository, &kept).await;
}

#[tokio::test]
async fn an_export_that_starts_while_a_prune_deletes_is_refused_and_one_that_waits_is_whole() {
    let (store, mut kept) = repository().await;
    let gone = volume(3, 81);
    let stored = store.clone();
    let waiting = reopen(store.clone()).await.unwrap().with_retry_lock(std::time::Duration::from_secs(60));
    let volume = gone.clone();
    let mut exporting = None;
    let work = || async {
        let repository = reopen(stored).await.unwrap();
        let refused = repository.lock(LockMode::Shared).await;
        assert!(matches!(refused, Err(RepositoryError::Locked { .. })), "{refused:?}");
        exporting = Some(tokio::spawn(async move { export_as(&waiting, "/again", &volume, 100).await }));
    };
    prune_beside(store.clone(), is_index_delete, work).await.unwrap();
    kept.insert(exporting.unwrap().await.unwrap(), gone.bytes.clone());
    is_whole(&reopen(store).await.unwrap(), &kept).await;
}

#[tokio::test]
async fn a_prune_that_another_overtook_plans_anew() {
    let (store, kept) = repository().await;
    let stored = store.clone();
    let overtaken = AtomicU64::new(0);
    // After the first has stored its copies, and before it looks for the exclusive lock.
    let when = |call: &Call| matches!(call, Call::Delete(Key::File(Kind::Lock, _)));
    let work = || async {
        remove_locks(&stored).await;
        let stats = prune(&reopen(stored.clone()).await.unwrap(), EXACT).await.unwrap();
        overtaken.fetch_add(stats.index_files_superseded, Ordering::SeqCst);
    };
    prune_beside(store.clone(), when, work).await.unwrap();
    assert!(overtaken.into_inner() > 0);
    let repository = reopen(store).await.unwrap();
    is_whole(&repository, &kept).await;
    assert!(prune(&repository, EXACT).await.unwrap().is_idle());
}
