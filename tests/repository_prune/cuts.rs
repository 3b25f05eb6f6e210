//! A prune that is cut, or cancelled, at any call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use windlass::repository::Store;
use windlass::repository::prune::PruneError;
use windlass::repository::store::Kind;
use windlass::repository::store::fault::{Call, Fault, FaultyStore};
use windlass::repository::store::memory::MemoryStore;

use crate::transfer_fixture::{check, copy_of, remove_locks, reopen};
use crate::{AT_ONCE, EXACT, Kept, bytes_of, is_whole, on_disk, prune, repository, restic, restics};

/// Makes the cases 1, 2, ... side by side until one says that it came after the end; returns how many came before.
async fn every_case<F: Future<Output = bool>>(case: impl FnMut(u64) -> F) -> usize {
    let cases = futures::stream::iter(1..).map(case).buffered(AT_ONCE);
    cases.take_while(|was_reached| std::future::ready(*was_reached)).count().await
}

/// A prune whose nth call is cut, and the one after it. False when it has fewer.
async fn cut(pristine: &MemoryStore, kept: &Kept, ideal: u64, fault: Fault, nth: u64) -> bool {
    let store = copy_of(pristine).await;
    let calls = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&calls);
    // From the nth call on the store is away, as it is for a process that is killed: nothing is tidied up.
    let faulty = FaultyStore::new(store.clone(), move |call: &Call| {
        // A lost answer is news only where something was changed.
        if fault == Fault::AnswerLost && !matches!(call, Call::Put(_) | Call::Delete(_)) {
            return None;
        }
        let call = seen.fetch_add(1, Ordering::SeqCst) + 1;
        match call.cmp(&nth) {
            std::cmp::Ordering::Less => None,
            std::cmp::Ordering::Equal => Some(fault),
            std::cmp::Ordering::Greater => Some(Fault::Unavailable),
        }
    });
    let Ok(repository) = reopen(Arc::new(faulty)).await else { return true };
    let result = prune(&repository, EXACT).await;
    drop(repository);
    if calls.load(Ordering::SeqCst) < nth {
        result.unwrap();
        return false;
    }
    remove_locks(&store).await;
    let repository = reopen(store.clone()).await.unwrap();
    is_whole(&repository, kept).await;
    if nth.is_multiple_of(31) {
        let folder = on_disk(&store).await;
        restics().iter().for_each(|program| restic(program, folder.path(), &["check", "--read-data"]));
    }
    prune(&repository, EXACT).await.unwrap();
    let report = check(&repository).await;
    assert!(report.is_clean() && report.snapshots == kept.len() as u64, "{report:?}");
    let left = bytes_of(&store.list(Kind::Data).await.unwrap());
    assert!(left <= ideal + ideal / 100, "cut at call {nth}: {left} bytes are left of an ideal of {ideal}");
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_that_is_cut_at_any_call_loses_nothing_and_the_next_one_ends_it() {
    let (pristine, kept) = repository().await;
    let ideal = {
        let store = copy_of(&pristine).await;
        prune(&reopen(store.clone()).await.unwrap(), EXACT).await.unwrap();
        bytes_of(&store.list(Kind::Data).await.unwrap())
    };
    let mut cuts = 0;
    for fault in [Fault::Unavailable, Fault::AnswerLost] {
        cuts += every_case(|nth| cut(&pristine, &kept, ideal, fault, nth)).await;
    }
    assert!(cuts > 40, "{cuts} cuts");
}

/// A prune that is cancelled at its nth call; whether it was asked to, and whether it was.
async fn cancelled_at(pristine: &MemoryStore, kept: &Kept, nth: u64) -> (bool, bool) {
    let store = copy_of(pristine).await;
    let cancel = CancellationToken::new();
    let (mut calls, token) = (0, cancel.clone());
    let counting = FaultyStore::new(store.clone(), move |_: &Call| {
        calls += 1;
        if calls == nth {
            token.cancel();
        }
        None
    });
    let repository = reopen(Arc::new(counting)).await.unwrap();
    let result = repository.prune(EXACT, &|_, _, _| {}, &cancel).await;
    let was_cancelled = match result {
        Err(PruneError::Cancelled) => true,
        // The last deletes are under way by then.
        Ok(_) => false,
        Err(error) => panic!("cancelled at call {nth}: {error}"),
    };
    assert_eq!(store.list(Kind::Lock).await.unwrap(), [], "cancelled at call {nth}");
    is_whole(&reopen(store.clone()).await.unwrap(), kept).await;
    (cancel.is_cancelled(), was_cancelled)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_that_is_cancelled_at_any_call_ends_in_order_and_the_next_one_goes_on() {
    let (pristine, kept) = repository().await;
    let cancelled = AtomicU64::new(0);
    every_case(|nth| {
        let (pristine, kept, cancelled) = (&pristine, &kept, &cancelled);
        async move {
            let (was_asked, was_cancelled) = cancelled_at(pristine, kept, 2 * nth - 1).await;
            cancelled.fetch_add(was_cancelled.into(), Ordering::SeqCst);
            was_asked
        }
    })
    .await;
    assert!(cancelled.load(Ordering::SeqCst) > 10, "{cancelled:?}");
}
