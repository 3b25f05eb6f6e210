//! Prunes: what is left is what is needed, wherever they are cut, and for restic too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a broken expectation is a failed test")]

mod transfer_fixture;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;
use transfer_fixture::{PASSWORD, Volume, budget, check, copy_of, in_memory, options, remove_locks, reopen, restored};
use windlass::repository::prune::{Extent, MaxUnused, PruneError, PruneOptions, PruneStats};
use windlass::repository::store::fault::{Call, Fault, FaultyStore};
use windlass::repository::store::local::LocalStore;
use windlass::repository::store::memory::MemoryStore;
use windlass::repository::store::{Key, Kind, PutMode};
use windlass::repository::tree::FileSelector;
use windlass::repository::{Cache, Id, LockMode, Repository, RepositoryError, SnapshotChoice, Store, StoreError};
use windlass::scratch::Scratch;
use windlass::transfer::{
    ChunkSize, ExportOptions, Image, Locking, OnDamage, Progress, Reading, RestoreOptions, Target, export, restore,
};

const CHUNK: usize = 256 << 10;
const EXACT: PruneOptions = PruneOptions { max_unused: MaxUnused::Percent(0), extent: Extent::Prune };

/// The binaries of restic that read what we leave: Debian's, and the newest one, which `e2e/setup.sh` builds.
fn restics() -> [PathBuf; 2] {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/restic");
    [PathBuf::from("restic"), std::env::var_os("RESTIC_NEW").map_or(built, PathBuf::from)]
}

fn restic(program: &Path, repository: &Path, arguments: &[&str]) {
    let output = Command::new(program)
        .arg("--no-cache")
        .arg("--repo")
        .arg(repository)
        .args(arguments)
        .env("RESTIC_PASSWORD", PASSWORD)
        .output()
        .expect("restic is there: e2e/setup.sh installs it");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

async fn prune(repository: &Repository, options: PruneOptions) -> Result<PruneStats, PruneError> {
    repository.prune(options, &|_, _, _| {}, &CancellationToken::new()).await
}

async fn export_as(repository: &Repository, path: &str, volume: &Volume, seconds: u64) -> Id {
    let mut options: ExportOptions = options(volume, ChunkSize::MIN);
    options.path = path.to_owned();
    options.time.seconds += seconds;
    options.budget = budget(1);
    let (progress, cancel) = (Progress::new(), CancellationToken::new());
    export(volume.source(), volume.stream(), repository, &options, &progress, &cancel).await.unwrap().snapshot
}

/// A volume whose chunks all differ and compress to a few hundred bytes, so that hundreds of prunes take seconds.
fn volume(chunks: usize, seed: u64) -> Volume {
    let noise = Volume::random(chunks * 512, seed).bytes;
    Volume::empty(chunks * CHUNK).with(
        0,
        chunks * CHUNK,
        |at| if at % CHUNK < 512 { noise[at / CHUNK * 512 + at % CHUNK] } else { 7 },
    )
}

/// What a repository must still give.
type Kept = BTreeMap<Id, Vec<u8>>;

async fn forget(repository: &Repository, id: &Id) {
    let lock = repository.lock(LockMode::Shared).await.unwrap();
    repository.forget(id, &lock).await.unwrap();
    lock.release().await.unwrap();
}

/// A repository with something of everything: packs that are needed whole, in part and not at all, blobs in two packs, small packs and index
/// files, a pack that no index names.
async fn repository() -> (Arc<MemoryStore>, Kept) {
    let (store, repository) = in_memory().await;
    let mut kept = Kept::new();
    let mut volume = volume(6, 71);
    for round in 0..4_u64 {
        for chunk in [0, 1 + round as usize] {
            volume.bytes[chunk * CHUNK..][..64].fill(round as u8 + 1);
        }
        let id = export_as(&repository, "/one", &volume, round).await;
        if round % 2 == 0 { drop(kept.insert(id, volume.bytes.clone())) } else { forget(&repository, &id).await }
    }
    let gone = export_as(&repository, "/gone", &self::volume(3, 81), 10).await;
    forget(&repository, &gone).await;
    // Two who export a clone at once store it twice: the second does not know the first's index.
    let clone = self::volume(3, 91);
    let hidden = copy_of(&store).await;
    let id = export_as(&reopen(hidden.clone()).await.unwrap(), "/two", &clone, 11).await;
    kept.insert(id, clone.bytes.clone());
    let id = export_as(&repository, "/three", &clone, 12).await;
    kept.insert(id, clone.bytes.clone());
    for key in hidden.keys() {
        store.put(key, hidden.get(key).await.unwrap(), PutMode::Overwrite).await.unwrap();
    }
    let junk = Key::File(Kind::Data, Id::of(b"interrupted"));
    store.put(junk, bytes::Bytes::from_static(b"interrupted"), PutMode::Overwrite).await.unwrap();
    (store, kept)
}

async fn is_whole(repository: &Repository, kept: &Kept) {
    let report = check(repository).await;
    assert!(report.is_clean(), "{report:?}");
    for (id, bytes) in kept {
        let found = restored(repository, id, bytes.len(), Locking::Shared).await.unwrap();
        assert!(found == *bytes, "snapshot {id} differs");
    }
}

async fn on_disk(store: &MemoryStore) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let local = LocalStore::new(folder.path().to_owned());
    local.prepare().await.unwrap();
    for key in store.keys() {
        local.put(key, store.get(key).await.unwrap(), PutMode::Overwrite).await.unwrap();
    }
    folder
}

fn bytes_of(listed: &[windlass::repository::store::Listed]) -> u64 {
    listed.iter().map(|listed| listed.bytes).sum()
}

#[tokio::test]
async fn what_nobody_needs_goes_and_restic_reads_the_rest() {
    let (store, kept) = repository().await;
    let repository = reopen(store.clone()).await.unwrap();
    let before = bytes_of(&store.list(Kind::Data).await.unwrap());
    let dry = prune(&repository, PruneOptions { extent: Extent::DryRun, ..EXACT }).await.unwrap();
    assert_eq!(bytes_of(&store.list(Kind::Data).await.unwrap()), before, "a dry run changes nothing");
    let stats = prune(&repository, EXACT).await.unwrap();
    assert_eq!(stats, dry, "what was announced was done");
    assert!(
        stats.packs_repacked > 0 && stats.packs_removed > 0 && stats.packs_unnamed == 1 && stats.bytes_unused > 0,
        "{stats:?}"
    );
    is_whole(&repository, &kept).await;
    let after = bytes_of(&store.list(Kind::Data).await.unwrap());
    assert!(before - after >= stats.bytes_unused, "{before} {after} {stats:?}");
    assert_eq!(store.list(Kind::Index).await.unwrap().len(), 1);
    assert_eq!(store.list(Kind::Lock).await.unwrap(), []);
    let again = prune(&repository, EXACT).await.unwrap();
    assert!(again.is_idle(), "a second prune has nothing to do: {stats:?} and then {again:?}");
    let folder = on_disk(&store).await;
    for program in restics() {
        restic(&program, folder.path(), &["check", "--read-data"]);
        restic(&program, folder.path(), &["prune"]);
        restic(&program, folder.path(), &["check", "--read-data"]);
    }
    let repository =
        Repository::open(Arc::new(LocalStore::new(folder.path().to_owned())), &transfer_fixture::password()).await.unwrap();
    let stats = prune(&repository, PruneOptions::default()).await.unwrap();
    assert_eq!(stats.packs_removed + stats.packs_repacked, 0, "restic's prune left nothing to us: {stats:?}");
    is_whole(&repository, &kept).await;
}

/// Cuts that are made side by side: most of each is waiting for locks to settle.
const AT_ONCE: usize = 16;

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

#[tokio::test]
async fn where_a_snapshot_misses_a_blob_nothing_is_deleted_and_the_blob_is_named() {
    let (pristine, _) = repository().await;
    let packs = pristine.list(Kind::Data).await.unwrap();
    let mut refused = 0;
    for pack in packs {
        for is_short in [false, true] {
            let store = copy_of(&pristine).await;
            let key = Key::File(Kind::Data, pack.id);
            if is_short {
                store.tamper(key, |bytes| bytes.truncate(bytes.len() / 2))
            } else {
                store.delete(key).await.unwrap()
            }
            let before = store.keys();
            let repository = reopen(store.clone()).await.unwrap();
            match prune(&repository, EXACT).await {
                // Nothing of it was needed, or another pack has it.
                Ok(_) => assert!(check(&repository).await.is_clean()),
                Err(error) => {
                    refused += 1;
                    assert_eq!(store.keys(), before, "{error}");
                    assert!(error.to_string().contains(&pack.id.to_string()), "{error} does not name {}", pack.id);
                }
            }
        }
    }
    assert!(refused > 4, "{refused}");
}

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

#[tokio::test]
async fn tables_that_do_not_fit_the_memory_are_in_scratch_space_and_make_the_same_plan() {
    let (store, kept) = repository().await;
    let folder = tempfile::tempdir().unwrap();
    let small = Scratch::new(folder.path(), 1 << 30, 512);
    let dry = PruneOptions { extent: Extent::DryRun, ..EXACT };
    let expected = prune(&reopen(store.clone()).await.unwrap(), dry).await.unwrap();
    let peak = Arc::new(AtomicU64::new(0));
    let (seen, space) = (Arc::clone(&peak), small.clone());
    let watched = FaultyStore::new(store.clone(), move |_: &Call| {
        seen.fetch_max(space.used_bytes(), Ordering::SeqCst);
        None
    });
    let repository = reopen(Arc::new(watched)).await.unwrap().with_scratch(small.clone());
    assert_eq!(prune(&repository, EXACT).await.unwrap(), expected);
    let rows = 40 * 77;
    assert!(peak.load(Ordering::SeqCst) > rows, "{peak:?} bytes of scratch space for {rows} of rows");
    drop(repository);
    assert_eq!(small.used_bytes(), 0);
    is_whole(&reopen(store).await.unwrap(), &kept).await;
}

/// The exclusive lock of another, in `store`; its key.
async fn leave_exclusive_lock(repository: &Repository, store: &MemoryStore) -> Key {
    let lock = r#"{"time":"2026-01-01T00:00:00Z","exclusive":true,"hostname":"elsewhere","username":"pruner","pid":7}"#;
    let sealed = repository.sealer().seal(lock.as_bytes()).unwrap();
    let key = Key::File(Kind::Lock, Id::of(&sealed));
    store.put(key, sealed.into(), PutMode::Overwrite).await.unwrap();
    key
}

/// What a prune made of a store, without its locks.
async fn become_pruned(store: &MemoryStore, pruned: &MemoryStore) {
    let is_lock = |key: &Key| matches!(key, Key::File(Kind::Lock, _));
    for key in store.keys().into_iter().filter(|key| !is_lock(key) && !pruned.keys().contains(key)) {
        store.delete(key).await.unwrap();
    }
    for key in pruned.keys() {
        store.put(key, pruned.get(key).await.unwrap(), PutMode::Overwrite).await.unwrap();
    }
}

/// A restore that announced its lock in the same moment as a prune, which deletes what the restore is about to read.
async fn restore_beside_a_prune(
    pristine: &MemoryStore,
    pruned: Arc<MemoryStore>,
    (id, bytes): (&Id, &Vec<u8>),
    reading: Reading,
) {
    let store = copy_of(pristine).await;
    let sealing = reopen(store.clone()).await.unwrap();
    let progress = Progress::new();
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (inner, watched, said) = (store.clone(), progress.clone(), Arc::clone(&told));
    let (mut other, mut is_announced, mut is_pruned, mut looks) = (None, false, false, 0);
    let script = move |call: &Call| {
        match call {
            // The prune has looked for locks before this one is there, and this one before the prune's.
            Call::Put(Key::File(Kind::Lock, _)) if !is_announced => {
                is_announced = true;
                other = leave_exclusive_lock(&sealing, &inner).now_or_never();
            }
            Call::GetRange(_) if !is_pruned => {
                is_pruned = true;
                become_pruned(&inner, &pruned).now_or_never().unwrap();
            }
            Call::List(Kind::Lock) if is_pruned => {
                looks += 1;
                said.lock().unwrap().extend(watched.waiting());
                // The prune has ended when it is looked for the second time.
                if let (true, Some(key)) = (looks > 2, other) {
                    assert_eq!(inner.keys().into_iter().filter(|key| matches!(key, Key::File(Kind::Lock, _))).count(), 1);
                    inner.delete(key).now_or_never().unwrap().unwrap();
                    other = None;
                }
            }
            _ => {}
        }
        None
    };
    let repository = reopen(Arc::new(FaultyStore::new(store.clone(), script))).await.unwrap();
    let repository = repository.with_retry_lock(std::time::Duration::from_secs(60));
    let waiting = |reason: &RepositoryError| progress.waits_for(Some(reason.to_string()));
    let choice = SnapshotChoice::from(&id.to_string());
    let opened = Image::open_or_wait(&repository, choice, &FileSelector::Only, reading, &waiting).await;
    let mut image = opened.unwrap_or_else(|error| panic!("{reading:?}: {error}"));
    let sink = transfer_fixture::fresh_sink(bytes.len());
    let options = RestoreOptions { target: Target::Fresh, budget: budget(2) };
    let restored = restore(&mut image, sink.clone(), &options, &progress, &CancellationToken::new()).await;
    let report = restored.unwrap_or_else(|error| panic!("{reading:?}: {error}"));
    assert!(report.holes.is_empty() && sink.content() == *bytes, "{reading:?}: {:?}", report.holes);
    image.close().await;
    assert_eq!(store.list(Kind::Lock).await.unwrap(), []);
    let told = told.lock().unwrap();
    assert!(told.iter().any(|reason| reason.contains("locked exclusively by pruner@elsewhere")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_meets_a_prune_in_the_same_moment_waits_and_begins_anew() {
    let (pristine, kept) = repository().await;
    let pruned = copy_of(&pristine).await;
    prune(&reopen(pruned.clone()).await.unwrap(), EXACT).await.unwrap();
    let cases = kept.iter().flat_map(|kept| [OnDamage::Fail, OnDamage::Skip].map(|on_damage| (kept, on_damage)));
    let cases = cases.map(|(kept, on_damage)| {
        let reading = Reading { locking: Locking::Shared, on_damage };
        restore_beside_a_prune(&pristine, pruned.clone(), kept, reading)
    });
    futures::future::join_all(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_beside_exports_that_overlap_without_end_has_its_turn() {
    let (store, kept) = repository().await;
    let exporter = reopen(store.clone()).await.unwrap();
    // One export holds its lock until the next one has its own.
    let held = std::sync::Mutex::new(Some(exporter.lock(LockMode::Shared).await.unwrap()));
    let pruner = reopen(store.clone()).await.unwrap().with_retry_lock(std::time::Duration::from_secs(4));
    let pruning = tokio::spawn(async move { prune(&pruner, EXACT).await });
    let mut turns = 0;
    loop {
        match exporter.lock(LockMode::Shared).await {
            Ok(next) => {
                turns += 1;
                let last = held.lock().unwrap().replace(next);
                last.unwrap().release().await.unwrap();
            }
            // Newcomers are kept out; whoever is there ends his work.
            Err(RepositoryError::Locked { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    let last = held.lock().unwrap().take();
    last.unwrap().release().await.unwrap();
    let stats = pruning.await.unwrap().unwrap();
    assert!(turns > 0 && stats.packs_removed > 0, "{turns} exports: {stats:?}");
    is_whole(&exporter, &kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_that_had_no_turn_leaves_no_lock_and_has_lost_nothing() {
    let (store, kept) = repository().await;
    let exporter = reopen(store.clone()).await.unwrap();
    let held = exporter.lock(LockMode::Shared).await.unwrap();
    let pruner = reopen(store.clone()).await.unwrap().with_retry_lock(std::time::Duration::from_secs(2));
    let error = prune(&pruner, EXACT).await.unwrap_err();
    assert!(matches!(error, PruneError::Repository(RepositoryError::Locked { .. })), "{error}");
    held.check().await.unwrap();
    held.release().await.unwrap();
    assert_eq!(store.list(Kind::Lock).await.unwrap(), []);
    is_whole(&exporter, &kept).await;
}

/// What happens to a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Flipped,
    Halved,
    Missing,
}

async fn damage(store: &MemoryStore, key: Key, how: Damage) {
    match how {
        Damage::Flipped => store.tamper(key, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }),
        Damage::Halved => store.tamper(key, |bytes| bytes.truncate(bytes.len() / 2)),
        Damage::Missing => store.delete(key).await.unwrap(),
    }
}

/// A repository of which a pack was damaged, and healed by an export by a machine that keeps its doubts in `folder`: the store, and what it
/// must give.
async fn healed(pack: usize, how: Damage, folder: &Path) -> Option<(Arc<MemoryStore>, Kept)> {
    let (store, repository) = in_memory().await;
    let volume = volume(6, 71);
    let first = export_as(&repository, "/one", &volume, 1).await;
    let packs = store.list(Kind::Data).await.unwrap();
    let key = Key::File(Kind::Data, packs.get(pack)?.id);
    damage(&store, key, how).await;
    let cache = Cache::new(folder.to_owned(), 1 << 20);
    let healing = reopen(store.clone()).await.unwrap().with_doubts_in(&cache);
    assert!(!check(&healing).await.is_clean(), "{how:?}");
    let healed = export_as(&healing, "/one", &volume, 2).await;
    let mut kept = Kept::from([(healed, volume.bytes.clone())]);
    // Its tree has another time in it, and no export makes that again.
    match restored(&healing, &first, volume.bytes.len(), Locking::None).await {
        Ok(_) => drop(kept.insert(first, volume.bytes)),
        Err(_) => forget(&healing, &first).await,
    }
    Some((store, kept))
}

/// Whoever prunes, and whatever he knows of the damage, stock restic finds nothing wrong afterwards.
async fn is_clean_after_a_prune(pack: usize, how: Damage, knows: bool) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let Some((store, kept)) = healed(pack, how, folder.path()).await else { return false };
    let repository = reopen(store.clone()).await.unwrap();
    let cache = Cache::new(folder.path().to_owned(), 1 << 20);
    let repository = if knows { repository.with_doubts_in(&cache) } else { repository };
    // Of what is small everything would be copied, and so verified, in any case.
    for max_unused in [MaxUnused::Unlimited, MaxUnused::Percent(0)] {
        let options = PruneOptions { max_unused, extent: Extent::Prune };
        prune(&repository, options).await.unwrap_or_else(|error| panic!("{pack} {how:?} {knows}: {error}"));
        let report = check(&repository).await;
        let is_needed = || report.errors.join("; ");
        assert!(report.is_clean(), "{pack} {how:?} {knows}: {}", is_needed());
        for (id, bytes) in &kept {
            assert!(restored(&repository, id, bytes.len(), Locking::Shared).await.unwrap() == *bytes, "{pack} {how:?} {knows}");
        }
    }
    let disk = on_disk(&store).await;
    restics().iter().for_each(|program| restic(program, disk.path(), &["check", "--read-data"]));
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_an_export_healed_passes_restic_s_check_after_a_prune() {
    let cases = (0..8).flat_map(|pack| [Damage::Flipped, Damage::Halved, Damage::Missing].map(|how| (pack, how)));
    let cases = cases.flat_map(|(pack, how)| [true, false].map(|knows| (pack, how, knows)));
    let cases = futures::stream::iter(cases).map(|(pack, how, knows)| is_clean_after_a_prune(pack, how, knows));
    let made: Vec<bool> = cases.buffer_unordered(AT_ONCE / 2).collect().await;
    assert!(made.iter().filter(|made| **made).count() >= 12, "{made:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_damaged_pack_has_stays_and_the_rest_is_pruned() {
    let folder = tempfile::tempdir().unwrap();
    let (store, kept) = repository().await;
    let cache = Cache::new(folder.path().to_owned(), 1 << 20);
    let repository = reopen(store.clone()).await.unwrap().with_doubts_in(&cache);
    // A pack of data of which a snapshot needs something that nobody else has.
    let mut lost = None;
    for listed in store.list(Kind::Data).await.unwrap() {
        let other = copy_of(&store).await;
        let key = Key::File(Kind::Data, listed.id);
        damage(&other, key, Damage::Flipped).await;
        let other = reopen(other).await.unwrap();
        for (id, bytes) in &kept {
            let is_data = other.snapshots().await.is_ok()
                && Image::open(&other, &id.to_string(), &FileSelector::Only, Locking::None).await.is_ok();
            if is_data && restored(&other, id, bytes.len(), Locking::None).await.is_err() {
                lost = Some((key, *id));
            }
        }
    }
    let (key, of) = lost.unwrap();
    damage(&store, key, Damage::Flipped).await;
    assert!(!check(&repository).await.is_clean());
    let stats = prune(&repository, EXACT).await.unwrap();
    assert!(stats.packs_doubted == 1 && stats.packs_removed > 0, "{stats:?}");
    assert!(store.keys().contains(&key), "it may hold what somebody can still read");
    for (id, bytes) in &kept {
        match restored(&repository, id, bytes.len(), Locking::None).await {
            Ok(found) => assert!(found == *bytes),
            Err(_) => assert_eq!(*id, of),
        }
    }
}

/// Runs a verb on a repository that is locked, once to fail at once and once to wait until the lock is gone.
async fn waits_for_the_lock(place: &Path, verb: &[&str]) {
    let repository = Repository::open(Arc::new(LocalStore::new(place.to_owned())), &transfer_fixture::password()).await.unwrap();
    let held = repository.lock(LockMode::Exclusive).await.unwrap();
    let command = |wait: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
        command.arg("repository").args(verb).args(["--retry-lock", wait, "--repository"]).arg(place);
        command.env("RESTIC_PASSWORD", PASSWORD).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let refused = command("0").output().unwrap();
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    let mut patient = command("5m").spawn().unwrap();
    let mut said = BufReader::new(patient.stderr.take().unwrap());
    let said = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        (line, said)
    });
    // The rest of what it says is read until it ends, so that it never waits for us.
    let (line, mut said) = said.await.unwrap();
    assert!(line.contains("waiting for the repository's lock"), "{verb:?}: {line}");
    held.release().await.unwrap();
    let ended = tokio::task::spawn_blocking(move || {
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        (patient.wait().unwrap(), rest)
    });
    let (status, rest) = ended.await.unwrap();
    assert!(status.success(), "{verb:?}: {status}: {rest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forget_and_prune_wait_for_a_lock_as_long_as_they_are_told_to() {
    let (store, _) = repository().await;
    let folder = on_disk(&store).await;
    waits_for_the_lock(folder.path(), &["forget", "--keep-last", "1"]).await;
    waits_for_the_lock(folder.path(), &["prune"]).await;
}
