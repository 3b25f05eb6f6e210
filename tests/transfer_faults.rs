//! Stores, sources and sinks that fail, stall and lie: an error that names what failed, nothing visible, and the next attempt
//! completes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod transfer_fixture;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use transfer_fixture::*;
use windlass::repository::store::fault::{Call, Fault, FaultyStore};
use windlass::repository::store::memory::MemoryStore;
use windlass::repository::store::{Key, Kind};
use windlass::repository::tree::FileSelector;
use windlass::repository::{Repository, RepositoryError, Store};
use windlass::transfer::{
    ChunkSize, ExportError, Image, Locking, Progress, RestoreError, RestoreOptions, Target, export, restore,
};
use windlass::types::{ByteRange, RangeStream};

/// A chunk of random bytes, chunks that compress, chunks of zeros that are allocated, and a hole.
fn volume() -> Volume {
    let random = Volume::random(256 << 10, 77).bytes;
    Volume::empty(6 << 20)
        .with(0, 256 << 10, |at| random[at])
        .with(256 << 10, 1 << 20, |at| (at >> 10) as u8)
        .with(3 << 20, 512 << 10, |_| 0)
        .with(5 << 20, 1 << 20, |at| (at >> 12) as u8)
}

/// The repository in `store`, seen through a store that fails at the `nth` call that counts.
async fn faulty(store: &Arc<MemoryStore>, nth: u64, fault: Fault, calls: Arc<AtomicU64>) -> Result<Repository, RepositoryError> {
    // Releasing the lock is no part of what must succeed.
    let counts = |call: &Call| !matches!(call, Call::Delete(_));
    let inner: Arc<dyn Store> = store.clone();
    let script = move |call: &Call| {
        let is_it = counts(call) && calls.fetch_add(1, Ordering::SeqCst) + 1 == nth;
        is_it.then_some(fault)
    };
    Repository::open(Arc::new(FaultyStore::new(inner, script)), &password()).await
}

async fn remove_locks(store: &MemoryStore) {
    for listed in store.list(Kind::Lock).await.unwrap() {
        store.delete(Key::File(Kind::Lock, listed.id)).await.unwrap();
    }
}

/// Whether a fault was met, or the operation made fewer calls.
#[derive(PartialEq)]
enum Met {
    Yes,
    No,
}

async fn export_with_a_fault(volume: Volume, nth: u64, fault: Fault) -> Met {
    let (store, repository) = in_memory().await;
    let calls = Arc::new(AtomicU64::new(0));
    let result = match faulty(&store, nth, fault, calls.clone()).await {
        Ok(faulty) => export_volume(&faulty, &volume, ChunkSize::MIN).await.map_err(Some),
        Err(_) => Err(None),
    };
    let was_reached = calls.load(Ordering::SeqCst) >= nth;
    assert_eq!(result.is_err(), was_reached, "{fault:?} at call {nth}: {result:?}");
    let visible = repository.snapshots().await.unwrap().len();
    if let Err(error) = &result {
        if let Some(error) = error {
            assert!(matches!(error, ExportError::Repository(_)), "{error}");
            assert_eq!(error.is_transient(), fault != Fault::Denied, "{error}");
        }
        // A snapshot whose answer was lost exists and is whole; nothing else ever does.
        assert!(visible == 0 || fault == Fault::AnswerLost && visible == 1);
    }
    let found = check(&repository).await;
    assert!(found.is_clean(), "{fault:?} at call {nth}: {:?}", found.errors);
    remove_locks(&store).await;
    export_volume(&repository, &volume, ChunkSize::MIN).await.unwrap();
    let found = check(&repository).await;
    assert!(found.is_clean(), "after {fault:?} at call {nth}: {:?}", found.errors);
    if was_reached { Met::Yes } else { Met::No }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_fails_at_any_call_leaves_nothing_visible_and_the_next_completes() {
    let volume = volume();
    for fault in [Fault::Unavailable, Fault::AnswerLost, Fault::Denied] {
        // Several at a time, since most of each is waiting for locks to settle.
        let attempts = (1..).map(|nth| export_with_a_fault(volume.clone(), nth, fault));
        let met =
            futures::stream::iter(attempts).buffered(8).take_while(|met| std::future::ready(*met == Met::Yes)).count().await;
        assert!(met > 8, "an export makes more calls than {met}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_fails_at_any_call_is_an_error_and_the_next_completes() {
    let volume = volume();
    let (store, repository) = in_memory().await;
    export_volume(&repository, &volume, ChunkSize::MIN).await.unwrap();
    for fault in [Fault::Unavailable, Fault::Truncated, Fault::Denied] {
        for nth in 1.. {
            remove_locks(&store).await;
            let calls = Arc::new(AtomicU64::new(0));
            let sink = fresh_sink(volume.bytes.len());
            let restored = match faulty(&store, nth, fault, calls.clone()).await {
                Ok(faulty) => matches!(restore_latest(&faulty, sink.clone(), Target::Fresh).await, Ok(Ok(_))),
                Err(_) => false,
            };
            if restored {
                assert!(sink.content() == volume.bytes);
            } else {
                assert!(calls.load(Ordering::SeqCst) >= nth);
            }
            if calls.load(Ordering::SeqCst) < nth {
                assert!(restored && nth > 5);
                break;
            }
        }
    }
}

/// The packs in the store.
async fn packs(store: &MemoryStore) -> Vec<Key> {
    store.list(Kind::Data).await.unwrap().into_iter().map(|listed| Key::File(Kind::Data, listed.id)).collect()
}

#[tokio::test]
async fn damage_to_any_pack_is_found_and_named() {
    let volume = volume();
    let (store, repository) = in_memory().await;
    export_volume(&repository, &volume, ChunkSize::MIN).await.unwrap();
    let image = Image::open(&repository, "latest", &FileSelector::Only, Locking::None).await.unwrap();
    let options = RestoreOptions { target: Target::Fresh, budget: budget(2) };
    let mut damaged = 0;
    for key in packs(&store).await {
        for cut in [false, true] {
            let whole = store.get(key).await.unwrap();
            store.tamper(key, |bytes| if cut { bytes.truncate(100) } else { bytes[50] ^= 1 });
            let result = restore(&image, fresh_sink(6 << 20), &options, &Progress::new(), &CancellationToken::new()).await;
            if let Err(error) = result {
                let Key::File(_, pack) = key else { panic!("a pack") };
                assert!(error.to_string().contains(&pack.to_string()), "{error}");
                assert_eq!(matches!(error, RestoreError::Damaged { .. }), !cut, "{error}");
                damaged += 1;
            }
            store.tamper(key, |bytes| *bytes = whole.to_vec());
        }
    }
    // Two workers made up to a pack each; what zeros and the tree lie in is not read again.
    assert!(damaged >= 2 && damaged % 2 == 0, "{damaged}");
    image.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_store_is_left_within_a_second_of_the_cancellation() {
    let volume = volume();
    for stalled in [Kind::Lock, Kind::Data, Kind::Index] {
        let (store, repository) = in_memory().await;
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        let script = move |call: &Call| {
            let stalls = matches!(call, Call::Put(Key::File(kind, _)) if *kind == stalled);
            if stalls {
                token.cancel();
            }
            stalls.then_some(Fault::Stall)
        };
        let faulty = Repository::open(Arc::new(FaultyStore::new(store.clone(), script)), &password()).await.unwrap();
        let started = Instant::now();
        let options = options(&volume, ChunkSize::MIN);
        let result = export(volume.source(), volume.stream(), &faulty, &options, &Progress::new(), &cancel).await;
        assert!(matches!(result, Err(ExportError::Cancelled)), "{stalled:?}: {result:?}");
        assert!(started.elapsed() < Duration::from_secs(3), "{stalled:?}: {:?}", started.elapsed());
        assert!(repository.snapshots().await.unwrap().is_empty());
        assert!(check(&repository).await.is_clean());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_from_a_stalled_store_ends_when_it_is_cancelled() {
    let volume = volume();
    let (store, repository) = in_memory().await;
    export_volume(&repository, &volume, ChunkSize::MIN).await.unwrap();
    let (cancel, armed) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
    let script = {
        let (cancel, armed) = (cancel.clone(), armed.clone());
        move |call: &Call| {
            // Opening the image reads ranges of packs too.
            let stalls = armed.load(Ordering::SeqCst) && matches!(call, Call::GetRange(_));
            if stalls {
                cancel.cancel();
            }
            stalls.then_some(Fault::Stall)
        }
    };
    let faulty = Repository::open(Arc::new(FaultyStore::new(store, script)), &password()).await.unwrap();
    let image = Image::open(&faulty, "latest", &FileSelector::Only, Locking::Shared).await.unwrap();
    armed.store(true, Ordering::SeqCst);
    let started = Instant::now();
    let options = RestoreOptions { target: Target::Fresh, budget: budget(2) };
    let sink = fresh_sink(6 << 20);
    let result = restore(&image, sink.clone(), &options, &Progress::new(), &cancel).await;
    assert!(matches!(result, Err(RestoreError::Cancelled)), "{result:?}");
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(Arc::strong_count(&sink), 1, "the workers have ended");
    image.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_is_dropped_leaves_no_workers_behind() {
    let volume = volume();
    let (store, repository) = in_memory().await;
    let script = |call: &Call| matches!(call, Call::Put(Key::File(Kind::Data, _))).then_some(Fault::Stall);
    let faulty = Repository::open(Arc::new(FaultyStore::new(store, script)), &password()).await.unwrap();
    let source = volume.source();
    let options = options(&volume, ChunkSize::MIN);
    let (progress, cancel) = (Progress::new(), CancellationToken::new());
    let running = export(source.clone(), volume.stream(), &faulty, &options, &progress, &cancel);
    assert!(tokio::time::timeout(Duration::from_millis(800), running).await.is_err());
    // Workers hold the source as long as they run.
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..500 {
        if Arc::strong_count(&source) == 1 {
            break;
        }
        tick.tick().await;
    }
    assert_eq!(Arc::strong_count(&source), 1);
    assert!(repository.snapshots().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_read_error_names_the_range_and_a_broken_list_of_extents_is_no_export() {
    let (_, repository) = in_memory().await;
    let volume = volume();
    let options = options(&volume, ChunkSize::MIN);
    let cancel = CancellationToken::new();
    let source = Arc::new(FailingSource { inner: volume.source(), good_reads: 5.into() });
    let error = export(source, volume.stream(), &repository, &options, &Progress::new(), &cancel).await.unwrap_err();
    assert!(matches!(&error, ExportError::Read { source, .. } if source.raw_os_error() == Some(5)), "{error}");

    let extents = [Ok(ByteRange::new(0, 4096).unwrap()), Err(io::Error::other("the connection closed"))];
    let stream: RangeStream = Box::new(extents.into_iter());
    let error = export(volume.source(), stream, &repository, &options, &Progress::new(), &cancel).await.unwrap_err();
    assert!(matches!(error, ExportError::Extents(_)), "{error}");
    assert!(repository.snapshots().await.unwrap().is_empty());
    assert!(!cancel.is_cancelled());
}

#[tokio::test]
async fn a_sink_that_fails_at_any_call_fails_the_restore() {
    let (_, repository) = in_memory().await;
    let volume = volume();
    export_volume(&repository, &volume, ChunkSize::MIN).await.unwrap();
    for call in 1.. {
        let sink = fresh_sink(6 << 20);
        sink.fail_from(call, io::ErrorKind::StorageFull);
        match restore_latest(&repository, sink, Target::Dirty).await.unwrap() {
            Err(RestoreError::Write { source, .. } | RestoreError::Flush(source)) => {
                assert_eq!(source.kind(), io::ErrorKind::StorageFull);
            }
            Err(error) => panic!("{error}"),
            Ok(_) => {
                assert!(call > 10);
                break;
            }
        }
    }
}

#[tokio::test]
async fn wrong_options_are_refused_before_anything_is_stored() {
    let (store, repository) = in_memory().await;
    let before = store.keys();
    let volume = volume();
    for path in ["volume.img", "/v/meta.json", "/v/"] {
        let mut options = options(&volume, ChunkSize::MIN);
        options.path = path.to_owned();
        let result =
            export(volume.source(), volume.stream(), &repository, &options, &Progress::new(), &CancellationToken::new()).await;
        assert!(matches!(result, Err(ExportError::Options(_))), "{path}");
    }
    let result = export_volume(&repository, &Volume::empty(0), ChunkSize::MIN).await;
    assert!(matches!(result, Err(ExportError::Options(_))));
    assert_eq!(store.keys(), before);
}
