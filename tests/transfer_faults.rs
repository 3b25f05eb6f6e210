//! Stores, sources and sinks that fail, stall and lie: an error that names what failed, nothing visible, and the next attempt
//! completes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "support/transfer_fixture.rs"]
mod transfer_fixture;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;
use transfer_fixture::*;
use windlass::repository::store::fault::{Call, Fault, FaultyStore};
use windlass::repository::store::memory::MemoryStore;
use windlass::repository::store::{Key, Kind};
use windlass::repository::tree::FileSelector;
use windlass::repository::{Id, Repository, RepositoryError, Store};
use windlass::transfer::{
    ChunkSize, ExportError, ExportReport, ExportSource, FullReason, Image, Locking, Progress, RestoreError, RestoreOptions,
    Target, export, restore,
};
use windlass::types::error::chain;
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

/// How an export goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Full,
    Increment,
}

/// A repository in which an export is to be made, once or more often.
struct Bench {
    store: Arc<MemoryStore>,
    repository: Repository,
    change: Change,
    /// The parent of an increment.
    before: Option<Id>,
}

impl Bench {
    async fn new(way: Way) -> Self {
        let (store, repository) = in_memory().await;
        let change = Change::small();
        let before = match way {
            Way::Full => None,
            Way::Increment => Some(change.export_before(&repository).await),
        };
        Self { store, repository, change, before }
    }

    async fn export(&self, repository: &Repository, cancel: &CancellationToken) -> Result<ExportReport, ExportError> {
        let since = self.before.map(|before| self.change.parent(before)).ok_or(FullReason::NoParent);
        export_link(repository, &self.change.after, 2, since, cancel).await
    }

    /// Snapshots that were not there before.
    async fn visible(&self) -> usize {
        self.repository.snapshots().await.unwrap().len() - usize::from(self.before.is_some())
    }

    /// The next export completes, and is right.
    async fn goes_on(&self, case: &str) {
        remove_locks(&self.store).await;
        let report = self.export(&self.repository, &CancellationToken::new()).await.unwrap();
        assert_eq!(report.mode.parent(), self.before, "after {case}");
        let size = self.change.after.bytes.len();
        let found = restored(&self.repository, &report.snapshot, size, Locking::None).await.unwrap();
        assert!(found == self.change.after.bytes, "after {case}: another volume");
        let found = check(&self.repository).await;
        assert!(found.is_clean(), "after {case}: {:?}", found.errors);
    }
}

/// A store that fails at one call, and which call that was.
#[derive(Clone)]
struct Trap {
    nth: u64,
    fault: Fault,
    seen: Arc<AtomicU64>,
    met: Arc<Mutex<Option<Call>>>,
}

impl Trap {
    fn new(nth: u64, fault: Fault) -> Self {
        Self { nth, fault, seen: Arc::default(), met: Arc::default() }
    }

    /// The repository in `store`, seen through it.
    async fn open(&self, store: &Arc<MemoryStore>) -> Result<Repository, RepositoryError> {
        let trap = self.clone();
        let script = move |call: &Call| {
            // Releasing the lock is no part of what must succeed.
            let counts = !matches!(call, Call::Delete(_));
            let is_it = counts && trap.seen.fetch_add(1, Ordering::SeqCst) + 1 == trap.nth;
            is_it.then(|| {
                *trap.met.lock().unwrap() = Some(*call);
                trap.fault
            })
        };
        reopen(Arc::new(FaultyStore::new(store.clone(), script))).await
    }

    fn met(&self) -> Option<Call> {
        *self.met.lock().unwrap()
    }
}

/// False when the export made fewer calls.
async fn export_with_a_fault(way: Way, nth: u64, fault: Fault) -> bool {
    let bench = Bench::new(way).await;
    let trap = Trap::new(nth, fault);
    let result = match trap.open(&bench.store).await {
        Ok(faulty) => bench.export(&faulty, &CancellationToken::new()).await.map_err(|error| (chain(&error), Some(error))),
        Err(error) => Err((chain(&error), None)),
    };
    let Some(call) = trap.met() else {
        result.unwrap();
        return false;
    };
    let case = format!("{way:?}, {fault:?} at call {nth}, {call:?}");
    if let Err((text, error)) = &result {
        assert!(text.contains(&call.object()), "{case}: the object is not named: {text}");
        if let Some(error) = error {
            assert!(matches!(error, ExportError::Repository(_)), "{case}: {error}");
            assert_eq!(
                error.is_transient(),
                matches!(fault, Fault::Unavailable | Fault::Busy | Fault::AnswerLost),
                "{case}: {error}"
            );
        }
    }
    match fault {
        Fault::Unavailable | Fault::Busy | Fault::Denied | Fault::AnswerLost => assert!(result.is_err(), "{case}"),
        Fault::Late => assert!(result.is_ok(), "{case}: {result:?}"),
        // A part of the parent that does not read makes the export full; most lists cannot be cut.
        Fault::Truncated | Fault::Stall => {}
    }
    if let (Fault::Truncated, Call::Put(key)) = (fault, call) {
        // A store that says that it has what it has not breaks its promise: what is left to us is that a check tells.
        let is_lock = matches!(key, Key::File(Kind::Lock, _));
        let found = check(&bench.repository).await;
        assert!(is_lock || found.errors.iter().any(|error| error.contains(&key.path())), "{case}: {:?}", found.errors);
        return true;
    }
    // A snapshot whose answer was lost exists and is whole; nothing else ever does.
    let visible = bench.visible().await;
    assert!(visible == usize::from(result.is_ok()) || fault == Fault::AnswerLost && visible == 1, "{case}: {visible} visible");
    let found = check(&bench.repository).await;
    assert!(found.is_clean(), "{case}: {:?}", found.errors);
    bench.goes_on(&case).await;
    true
}

async fn exports_with_faults(way: Way, faults: &[Fault]) {
    for &fault in faults {
        // Several at a time, since most of each is waiting for locks to settle.
        let attempts = (1..).map(|nth| export_with_a_fault(way, nth, fault));
        let met = futures::stream::iter(attempts).buffered(12).take_while(|&met| std::future::ready(met)).count().await;
        assert!(met > 8, "an export makes more calls than {met}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_fails_at_any_call_leaves_nothing_visible_and_the_next_completes() {
    exports_with_faults(Way::Full, &[Fault::Unavailable, Fault::AnswerLost, Fault::Denied]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_whose_answers_are_cut_or_late_at_any_call_is_whole_or_names_the_object() {
    exports_with_faults(Way::Full, &[Fault::Truncated, Fault::Late]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_increment_that_fails_at_any_call_leaves_nothing_visible_and_the_next_completes() {
    exports_with_faults(Way::Increment, &[Fault::Unavailable, Fault::AnswerLost, Fault::Denied]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_increment_whose_answers_are_cut_or_late_at_any_call_is_whole_or_names_the_object() {
    exports_with_faults(Way::Increment, &[Fault::Truncated, Fault::Late]).await;
}

/// A store that from one call on answers nothing any more, and says so by cancelling.
#[derive(Clone)]
struct DeadFrom {
    nth: u64,
    seen: Arc<AtomicU64>,
    armed: Arc<AtomicBool>,
    since: Arc<Mutex<Option<Instant>>>,
    cancel: CancellationToken,
}

/// How long after its cancellation an operation may go on: five seconds for the index file of what an export stored, one for the lock,
/// and what a busy machine takes to look.
const CANCELLED_WITHIN: Duration = Duration::from_secs(8);

impl DeadFrom {
    fn new(nth: u64) -> Self {
        let cancel = CancellationToken::new();
        Self { nth, seen: Arc::default(), armed: Arc::default(), since: Arc::default(), cancel }
    }

    /// The repository in `store`, opened while it answers; calls are counted from here.
    async fn open(&self, store: &Arc<MemoryStore>) -> Repository {
        let dead = self.clone();
        let script = move |_: &Call| {
            if !dead.armed.load(Ordering::SeqCst) || dead.seen.fetch_add(1, Ordering::SeqCst) + 1 < dead.nth {
                return None;
            }
            dead.since.lock().unwrap().get_or_insert_with(Instant::now);
            dead.cancel.cancel();
            Some(Fault::Stall)
        };
        let repository = reopen(Arc::new(FaultyStore::new(store.clone(), script))).await.unwrap();
        self.armed.store(true, Ordering::SeqCst);
        repository
    }

    fn calls(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }

    /// Asserts that it did not take long since the store died, if it did.
    fn assert_soon(&self, case: &str) {
        let since = self.since.lock().unwrap().map(|since| since.elapsed());
        assert!(since.is_none_or(|since| since < CANCELLED_WITHIN), "{case}: {since:?}");
    }
}

async fn export_with_a_store_that_dies(way: Way, nth: u64) {
    let (bench, dead) = (Bench::new(way).await, DeadFrom::new(nth));
    let repository = dead.open(&bench.store).await;
    let result = bench.export(&repository, &dead.cancel).await;
    let case = format!("{way:?}, dead from call {nth} on");
    dead.assert_soon(&case);
    assert!(matches!(result, Err(ExportError::Cancelled)), "{case}: {result:?}");
    assert_eq!(bench.visible().await, 0, "{case}");
    let found = check(&bench.repository).await;
    assert!(found.is_clean(), "{case}: {:?}", found.errors);
    bench.goes_on(&case).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_whose_store_dies_at_any_call_ends_when_it_is_cancelled() {
    for way in [Way::Full, Way::Increment] {
        let (bench, alive) = (Bench::new(way).await, DeadFrom::new(u64::MAX));
        bench.export(&alive.open(&bench.store).await, &alive.cancel).await.unwrap();
        // From the last look at the lock on, which the snapshot's put follows, there is no way back. Then the lock is released.
        let calls = alive.calls() - 3;
        assert!(calls > 6, "{calls} calls");
        let attempts = (1..=calls).map(|nth| export_with_a_store_that_dies(way, nth));
        assert_eq!(futures::stream::iter(attempts).buffered(32).count().await as u64, calls);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_whose_store_dies_before_the_lock_is_released_is_done() {
    let (bench, alive) = (Bench::new(Way::Increment).await, DeadFrom::new(u64::MAX));
    bench.export(&alive.open(&bench.store).await, &alive.cancel).await.unwrap();
    let (bench, dead) = (Bench::new(Way::Increment).await, DeadFrom::new(alive.calls()));
    let report = bench.export(&dead.open(&bench.store).await, &dead.cancel).await.unwrap();
    dead.assert_soon("dead at the last call");
    let found = restored(&bench.repository, &report.snapshot, bench.change.after.bytes.len(), Locking::None).await.unwrap();
    assert!(found == bench.change.after.bytes);
}

/// A store with an increment, its snapshot and its bytes.
async fn incremented() -> (Arc<MemoryStore>, Id, Vec<u8>) {
    let bench = Bench::new(Way::Increment).await;
    let report = bench.export(&bench.repository, &CancellationToken::new()).await.unwrap();
    assert_eq!(report.mode.name(), "incremental");
    (bench.store, report.snapshot, bench.change.after.bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_fails_at_any_call_is_an_error_that_names_the_object() {
    let (store, snapshot, bytes) = incremented().await;
    for fault in [Fault::Unavailable, Fault::AnswerLost, Fault::Truncated, Fault::Denied, Fault::Late] {
        let mut harmless = 0;
        for nth in 1.. {
            remove_locks(&store).await;
            let trap = Trap::new(nth, fault);
            let result = match trap.open(&store).await {
                Ok(faulty) => restored(&faulty, &snapshot, bytes.len(), Locking::Shared).await,
                Err(error) => Err(chain(&error)),
            };
            let Some(call) = trap.met() else {
                assert!(result.unwrap() == bytes && nth > 8, "{fault:?}: {nth} calls");
                break;
            };
            match result {
                Ok(found) => {
                    assert!(found == bytes, "{fault:?} at call {nth}: another volume");
                    // Who may not write reads without a lock.
                    assert!(fault != Fault::Denied || is_of_a_lock(&call), "{call:?} was refused");
                    harmless += 1;
                }
                Err(error) => assert!(error.contains(&call.object()), "{fault:?} at call {nth}, {call:?}: {error}"),
            }
            assert!(fault != Fault::Late || harmless == nth, "a late answer failed call {nth}");
        }
        // The lock that was stored half is none of the restore's business; lists and sizes are not cut.
        let may_be_harmless = matches!(fault, Fault::Late | Fault::Truncated | Fault::Denied);
        assert_eq!(harmless > 0, may_be_harmless, "{fault:?}: {harmless}");
    }
}

fn is_of_a_lock(call: &Call) -> bool {
    let of_lock = |key: &Key| matches!(key, Key::File(Kind::Lock, _));
    match call {
        Call::List(kind) => *kind == Kind::Lock,
        Call::Put(key) | Call::Get(key) | Call::GetRange(key) | Call::Size(key) | Call::Delete(key) => of_lock(key),
    }
}

async fn restore_from_a_store_that_dies(store: &Arc<MemoryStore>, snapshot: &Id, size: usize, dead: &DeadFrom) -> bool {
    let repository = dead.open(store).await;
    let snapshot = snapshot.to_string();
    let opening = Image::open(&repository, &snapshot, &FileSelector::Only, Locking::Shared);
    // As everyone does who opens one: it holds nothing that waits.
    let Some(image) = dead.cancel.run_until_cancelled(opening).await else { return false };
    let (mut image, sink) = (image.unwrap(), fresh_sink(size));
    let options = RestoreOptions { target: Target::Fresh, budget: budget(2) };
    let result = restore(&mut image, sink.clone(), &options, &Progress::new(), &dead.cancel).await;
    assert!(result.is_ok() || matches!(result, Err(RestoreError::Cancelled)), "{result:?}");
    assert_eq!(Arc::strong_count(&sink), 1, "the workers have ended");
    image.let_go(&dead.cancel).await;
    result.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_whose_store_dies_at_any_call_ends_when_it_is_cancelled() {
    let (store, snapshot, bytes) = incremented().await;
    let alive = DeadFrom::new(u64::MAX);
    assert!(restore_from_a_store_that_dies(&store, &snapshot, bytes.len(), &alive).await);
    assert!(alive.calls() > 8);
    for nth in 1..=alive.calls() {
        remove_locks(&store).await;
        let dead = DeadFrom::new(nth);
        let done = restore_from_a_store_that_dies(&store, &snapshot, bytes.len(), &dead).await;
        dead.assert_soon(&format!("dead from call {nth} on"));
        assert_eq!(done, nth == alive.calls(), "dead from call {nth} on");
    }
    remove_locks(&store).await;
    let repository = reopen(store).await.unwrap();
    assert!(restored(&repository, &snapshot, bytes.len(), Locking::Shared).await.unwrap() == bytes);
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
    let mut image = Image::open(&repository, "latest", &FileSelector::Only, Locking::None).await.unwrap();
    let options = RestoreOptions { target: Target::Fresh, budget: budget(2) };
    let mut damaged = 0;
    for key in packs(&store).await {
        for cut in [false, true] {
            let whole = store.get(key).await.unwrap();
            store.tamper(key, |bytes| if cut { bytes.truncate(100) } else { bytes[50] ^= 1 });
            let result = restore(&mut image, fresh_sink(6 << 20), &options, &Progress::new(), &CancellationToken::new()).await;
            if let Err(error) = result {
                let Key::File(_, pack) = key else { panic!("a pack") };
                assert!(chain(&error).contains(&pack.to_string()), "{error}");
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
async fn a_stalled_store_is_left_soon_after_the_cancellation() {
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
        let result =
            export(ExportSource::new(volume.source(), volume.stream()), &faulty, &options, &Progress::new(), &cancel).await;
        assert!(matches!(result, Err(ExportError::Cancelled)), "{stalled:?}: {result:?}");
        assert!(started.elapsed() < CANCELLED_WITHIN + Duration::from_secs(1), "{stalled:?}: {:?}", started.elapsed());
        assert!(repository.snapshots().await.unwrap().is_empty());
        assert!(check(&repository).await.is_clean());
    }
}

/// Packs of an export that ends at its third put of a pack, and how many of them no index names then.
async fn ended_at_the_third_pack(
    end: impl Fn(&CancellationToken, &MemoryStore) -> Fault + Send + 'static,
) -> (Arc<MemoryStore>, u64) {
    let (store, _) = in_memory().await;
    let (cancel, mut puts) = (CancellationToken::new(), 0);
    let (token, inner) = (cancel.clone(), store.clone());
    let script = move |call: &Call| {
        puts += u32::from(matches!(call, Call::Put(Key::File(Kind::Data, _))));
        (matches!(call, Call::Put(Key::File(Kind::Data, _))) && puts >= 3).then(|| end(&token, &inner))
    };
    let faulty = reopen(Arc::new(FaultyStore::new(store.clone(), script))).await.unwrap();
    let volume = large();
    let options = options(&volume, ChunkSize::MIN);
    let result = export(ExportSource::new(volume.source(), volume.stream()), &faulty, &options, &Progress::new(), &cancel).await;
    result.unwrap_err();
    remove_locks(&store).await;
    let found = check(&reopen(store.clone()).await.unwrap()).await;
    assert!(found.is_clean() && found.snapshots == 0, "{found:?}");
    (store, found.packs_unindexed)
}

/// A volume of several packs.
fn large() -> Volume {
    Volume::random(28 << 20, 5)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_export_stored_before_it_was_cancelled_or_failed_is_not_sent_again() {
    let cancelled = |cancel: &CancellationToken, _: &MemoryStore| {
        cancel.cancel();
        Fault::Stall
    };
    for (store, unindexed) in [ended_at_the_third_pack(cancelled).await, ended_at_the_third_pack(|_, _| Fault::Denied).await] {
        assert_eq!((unindexed, packs(&store).await.len()), (0, 2));
        let repository = reopen(store.clone()).await.unwrap();
        let (volume, stored) = (large(), repository.load_index().await.unwrap().len());
        assert!(stored > 10, "{stored} chunks");
        let report = export_volume(&repository, &volume, ChunkSize::MIN).await.unwrap();
        assert_eq!(report.new_chunks + stored, report.chunks);
        assert!(restored(&repository, &report.snapshot, volume.bytes.len(), Locking::None).await.unwrap() == volume.bytes);
        let found = check(&repository).await;
        assert!(found.is_clean() && found.packs_unindexed == 0, "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_lost_its_lock_names_nothing_that_a_prune_may_have_removed() {
    let without_lock = |cancel: &CancellationToken, store: &MemoryStore| {
        remove_locks(store).now_or_never().unwrap();
        cancel.cancel();
        Fault::Stall
    };
    let (store, unindexed) = ended_at_the_third_pack(without_lock).await;
    assert_eq!((unindexed, packs(&store).await.len()), (2, 2));
    assert!(store.list(Kind::Index).await.unwrap().is_empty());
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
    let mut image = Image::open(&faulty, "latest", &FileSelector::Only, Locking::Shared).await.unwrap();
    armed.store(true, Ordering::SeqCst);
    let started = Instant::now();
    let options = RestoreOptions { target: Target::Fresh, budget: budget(2) };
    let sink = fresh_sink(6 << 20);
    let result = restore(&mut image, sink.clone(), &options, &Progress::new(), &cancel).await;
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
    let running = export(ExportSource::new(source.clone(), volume.stream()), &faulty, &options, &progress, &cancel);
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
    // Neighbouring chunks are read at once: the three extents are three reads.
    let source = Arc::new(FailingSource { inner: volume.source(), good_reads: 1.into() });
    let error =
        export(ExportSource::new(source, volume.stream()), &repository, &options, &Progress::new(), &cancel).await.unwrap_err();
    assert!(matches!(&error, ExportError::Read { source, .. } if source.raw_os_error() == Some(5)), "{error}");

    let extents = [Ok(ByteRange::new(0, 4096).unwrap()), Err(io::Error::other("the connection closed"))];
    let stream: RangeStream = Box::new(extents.into_iter());
    let error =
        export(ExportSource::new(volume.source(), stream), &repository, &options, &Progress::new(), &cancel).await.unwrap_err();
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
    for path in ["volume.img", "/v/meta.json", "/meta.json/v", "/v/"] {
        let mut options = options(&volume, ChunkSize::MIN);
        options.path = path.to_owned();
        let result = export(
            ExportSource::new(volume.source(), volume.stream()),
            &repository,
            &options,
            &Progress::new(),
            &CancellationToken::new(),
        )
        .await;
        assert!(matches!(result, Err(ExportError::Options(_))), "{path}");
    }
    let result = export_volume(&repository, &Volume::empty(0), ChunkSize::MIN).await;
    assert!(matches!(result, Err(ExportError::Options(_))));
    assert_eq!(store.keys(), before);
}
