//! Prunes: what is left is what is needed, wherever they are cut, and for restic too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a broken expectation is a failed test")]

mod transfer_fixture;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;
use transfer_fixture::{PASSWORD, Volume, budget, check, copy_of, in_memory, options, remove_locks, reopen, restored};
use windlass::repository::prune::{Extent, MaxUnused, PruneError, PruneOptions, PruneStats};
use windlass::repository::store::fault::{Call, Fault, FaultyStore};
use windlass::repository::store::local::LocalStore;
use windlass::repository::store::memory::MemoryStore;
use windlass::repository::store::{Key, Kind, PutMode};
use windlass::repository::{Id, LockMode, Repository, RepositoryError, Store, StoreError};
use windlass::scratch::Scratch;
use windlass::transfer::{ChunkSize, ExportOptions, Locking, Progress, export};

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

#[tokio::test]
async fn a_prune_that_is_cut_at_any_call_loses_nothing_and_the_next_one_ends_it() {
    let (pristine, kept) = repository().await;
    let ideal = {
        let store = copy_of(&pristine).await;
        prune(&reopen(store.clone()).await.unwrap(), EXACT).await.unwrap();
        bytes_of(&store.list(Kind::Data).await.unwrap())
    };
    let mut cuts = 0;
    for fault in [Fault::Unavailable, Fault::AnswerLost] {
        for nth in 1.. {
            let store = copy_of(&pristine).await;
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
            let Ok(repository) = reopen(Arc::new(faulty)).await else { continue };
            let result = prune(&repository, EXACT).await;
            drop(repository);
            if calls.load(Ordering::SeqCst) < nth {
                result.unwrap();
                break;
            }
            cuts += 1;
            remove_locks(&store).await;
            let repository = reopen(store.clone()).await.unwrap();
            is_whole(&repository, &kept).await;
            if nth % 31 == 0 {
                let folder = on_disk(&store).await;
                restics().iter().for_each(|program| restic(program, folder.path(), &["check", "--read-data"]));
            }
            prune(&repository, EXACT).await.unwrap();
            let report = check(&repository).await;
            assert!(report.is_clean() && report.snapshots == kept.len() as u64, "{report:?}");
            let left = bytes_of(&store.list(Kind::Data).await.unwrap());
            assert!(left <= ideal + ideal / 100, "cut at call {nth}: {left} bytes are left of an ideal of {ideal}");
        }
    }
    assert!(cuts > 40, "{cuts} cuts");
}

#[tokio::test]
async fn a_prune_that_is_cancelled_at_any_call_ends_in_order_and_the_next_one_goes_on() {
    let (pristine, kept) = repository().await;
    let mut cancelled = 0;
    for nth in (1..).step_by(2) {
        let store = copy_of(&pristine).await;
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
        let was_asked = cancel.is_cancelled();
        match result {
            Err(PruneError::Cancelled) => cancelled += 1,
            // The last deletes are under way by then.
            Ok(_) => {}
            Err(error) => panic!("cancelled at call {nth}: {error}"),
        }
        assert_eq!(store.list(Kind::Lock).await.unwrap(), [], "cancelled at call {nth}");
        is_whole(&reopen(store.clone()).await.unwrap(), &kept).await;
        if !was_asked {
            break;
        }
    }
    assert!(cancelled > 10, "{cancelled}");
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
