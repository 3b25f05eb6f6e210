//! Repositories in which an object is damaged, cut, missing or another's, that are locked, or whose clocks jump: full exports,
//! increments, restores and checks name what is wrong or are right, and go on as soon as it is put right.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "support/transfer_fixture.rs"]
mod transfer_fixture;

use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;
use transfer_fixture::*;
use windlass::repository::check::Depth;
use windlass::repository::store::fault::{Call, Fault, FaultyStore};
use windlass::repository::store::memory::MemoryStore;
use windlass::repository::store::{Key, Kind, PutMode};
use windlass::repository::tree::FileSelector;
use windlass::repository::{Cache, Id, LockMode, LockOwner, Repository, RepositoryError, Store};
use windlass::transfer::{ExportError, FullReason, Image, ImageReader, Locking, Progress, RestoreOptions, Target, restore};
use windlass::types::error;

/// What happens to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Flipped,
    Halved,
    Emptied,
    Missing,
    /// The bytes of another object of its kind.
    Exchanged,
}

const DAMAGES: [Damage; 5] = [Damage::Flipped, Damage::Halved, Damage::Emptied, Damage::Missing, Damage::Exchanged];

/// False when there is nothing to exchange it with.
async fn damage(store: &MemoryStore, key: Key, how: Damage) -> bool {
    let others = || store.keys().into_iter().filter(|other| *other != key);
    let other = others().find(|other| matches!((key, other), (Key::File(one, _), Key::File(two, _)) if one == *two));
    match (how, other) {
        (Damage::Flipped, _) => store.tamper(key, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }),
        (Damage::Halved, _) => store.tamper(key, |bytes| bytes.truncate(bytes.len() / 2)),
        (Damage::Emptied, _) => store.tamper(key, Vec::clear),
        (Damage::Missing, _) => store.delete(key).await.unwrap(),
        (Damage::Exchanged, Some(other)) => {
            let bytes = store.get(other).await.unwrap();
            store.tamper(key, |old| *old = bytes.to_vec());
        }
        (Damage::Exchanged, None) => return false,
    }
    true
}

/// Everything that an error about this object may call it by.
fn is_named(text: &str, key: Key) -> bool {
    match key {
        Key::Config => text.contains("config") || text.contains("no repository"),
        Key::File(_, id) => text.contains(&id.to_string()) || text.contains(&id.short()),
    }
}

/// A repository with two links of a chain, and what they hold.
struct Chain {
    store: Arc<MemoryStore>,
    change: Change,
    first: Id,
    second: Id,
}

impl Chain {
    async fn new() -> Self {
        let (store, repository) = in_memory().await;
        let change = Change::small();
        let first = change.export_before(&repository).await;
        let report = change.export_after(&repository, first).await.unwrap();
        assert_eq!(report.mode.name(), "incremental");
        Self { store, change, first, second: report.snapshot }
    }

    fn size(&self) -> usize {
        self.change.before.bytes.len()
    }

    /// A third state of the volume, with the same chunks and one more.
    fn next(&self) -> Change {
        let mut next = Change { before: self.change.after.clone(), ..self.change.clone() };
        next.after = next.before.clone();
        next.after.bytes[5000..9000].fill(10);
        next.changed.truncate(1);
        next
    }
}

/// What came of one object's damage.
#[derive(Default)]
struct Outcome {
    exports_refused: u32,
    restores_refused: u32,
    checks_that_found: u32,
    increments_made_full: u32,
}

async fn with_damage(chain: &Chain, key: Key, how: Damage) -> Outcome {
    let case = format!("{key} {how:?}");
    let mut outcome = Outcome::default();
    let store = copy_of(&chain.store).await;
    if !damage(&store, key, how).await {
        return outcome;
    }
    let before = store.keys();
    let next = chain.next();
    let folder = tempfile::tempdir().unwrap();
    let repository = match reopen(store.clone()).await {
        Ok(repository) => repository.with_doubts_in(&Cache::new(folder.path().to_owned(), 1 << 20)),
        Err(error) => {
            // A key that is gone is like a wrong password: which one is missing cannot be known.
            let without_key = matches!(error, RepositoryError::WrongPassword) && how == Damage::Missing;
            assert!(matches!(key, Key::Config | Key::File(Kind::Key, _)), "{case}: {error}");
            assert!(is_named(&error.to_string(), key) || without_key, "{case}: {error}");
            assert_eq!(store.keys(), before, "{case}");
            return Outcome { exports_refused: 1, restores_refused: 1, checks_that_found: 1, ..outcome };
        }
    };

    for (id, bytes) in [(&chain.first, &chain.change.before.bytes), (&chain.second, &chain.change.after.bytes)] {
        match restored(&repository, id, chain.size(), Locking::Shared).await {
            Ok(found) => assert!(found == *bytes, "{case}: another volume"),
            Err(error) => {
                // Without an index, what it named is missing, under its own name.
                let named = is_named(&error, key) || how == Damage::Missing && error.contains("is in no index");
                assert!(named, "{case}: {error}");
                outcome.restores_refused += 1;
            }
        }
    }
    match repository.check(Depth::ReadData, &|_, _| {}).await {
        Ok(report) if report.is_clean() => {
            // A snapshot that is gone was forgotten, as far as anyone can tell.
            assert!(how == Damage::Missing && matches!(key, Key::File(Kind::Snapshot, _)), "{case}: nothing was found");
        }
        Ok(report) => {
            let named = report.errors.iter().any(|error| is_named(error, key));
            assert!(named || how == Damage::Missing, "{case}: {:?}", report.errors);
            outcome.checks_that_found += 1;
        }
        Err(error) => panic!("{case}: {error}"),
    }

    let cancel = CancellationToken::new();
    for incremental in [true, false] {
        let visible = store.list(Kind::Snapshot).await.unwrap().len();
        let since = if incremental {
            Ok(parent_of(chain.second, 2, &next.before, next.changed.clone()))
        } else {
            Err(FullReason::NoParent)
        };
        match export_link(&repository, &next.after, 3 + u64::from(incremental), since, &cancel).await {
            Ok(report) => {
                assert_eq!(store.list(Kind::Snapshot).await.unwrap().len(), visible + 1, "{case}");
                outcome.increments_made_full += u32::from(incremental && report.mode.name() == "full");
                if let Some(reason) = report.mode.full_reason().filter(|_| incremental).map(ToString::to_string) {
                    // A pack that is doubted is out of the index's sight.
                    let gone = matches!(key, Key::File(Kind::Data, _)) || how == Damage::Missing;
                    let gone = gone && (reason.contains("is in no index") || reason.contains("no longer"));
                    assert!(is_named(&reason, key) || gone, "{case}: {reason}");
                }
                // What the check found damaged was stored again.
                let found = restored(&repository, &report.snapshot, chain.size(), Locking::None).await;
                assert!(found.unwrap_or_else(|error| panic!("{case}: {error}")) == next.after.bytes, "{case}: another volume");
            }
            Err(error) => {
                assert!(is_named(&error.to_string(), key), "{case}: {error}");
                assert_eq!(store.list(Kind::Snapshot).await.unwrap().len(), visible, "{case}");
                outcome.exports_refused += 1;
            }
        }
    }

    // Put right, everything goes on.
    store.put(key, chain.store.get(key).await.unwrap(), PutMode::Overwrite).await.unwrap();
    assert!(store.list(Kind::Lock).await.unwrap().is_empty(), "{case}: a lock was left");
    let repository = reopen(store.clone()).await.unwrap();
    let since = parent_of(chain.second, 2, &next.before, next.changed.clone());
    let report = export_link(&repository, &next.after, 9, Ok(since), &cancel).await.unwrap();
    assert_eq!(report.mode.name(), "incremental", "{case}");
    assert!(restored(&repository, &report.snapshot, chain.size(), Locking::None).await.unwrap() == next.after.bytes, "{case}");
    let found = check(&repository).await;
    assert!(found.is_clean(), "{case}: {:?}", found.errors);
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_object_is_damaged_is_named_and_nothing_wrong_comes_of_it() {
    let chain = Chain::new().await;
    let cases: Vec<_> = chain.store.keys().into_iter().flat_map(|key| DAMAGES.map(|how| (key, how))).collect();
    assert!(cases.len() > 50, "{} cases", cases.len());
    // Several at a time, since most of each is waiting for locks to settle.
    let cases = futures::stream::iter(cases).map(|(key, how)| with_damage(&chain, key, how));
    let outcomes: Vec<_> = cases.buffer_unordered(12).collect().await;
    let sum = |count: fn(&Outcome) -> u32| outcomes.iter().map(count).sum::<u32>();
    // Every kind of outcome is met.
    assert!(sum(|outcome| outcome.exports_refused) > 10);
    assert!(sum(|outcome| outcome.restores_refused) > 20);
    assert!(sum(|outcome| outcome.checks_that_found) as usize > outcomes.len() / 2);
    assert!(sum(|outcome| outcome.increments_made_full) > 5);
}

/// All packs that the store holds.
async fn packs(store: &MemoryStore) -> Vec<Key> {
    store.list(Kind::Data).await.unwrap().into_iter().map(|listed| Key::File(Kind::Data, listed.id)).collect()
}

/// A volume that still has its blocks is exported after a check found a pack damaged.
async fn healed(chain: &Chain, key: Key, how: Damage) {
    let (case, folder, store) = (format!("{key} {how:?}"), tempfile::tempdir().unwrap(), copy_of(&chain.store).await);
    assert!(damage(&store, key, how).await);
    let kept = Cache::new(folder.path().to_owned(), 1 << 20);
    let repository = reopen(store.clone()).await.unwrap().with_doubts_in(&kept);
    let (size, after) = (chain.size(), &chain.change.after);
    let mut lost = Vec::new();
    for (id, bytes) in [(chain.first, &chain.change.before.bytes), (chain.second, &after.bytes)] {
        match restored(&repository, &id, size, Locking::None).await {
            Ok(found) => assert!(found == *bytes, "{case}"),
            Err(_) => lost.push((id, bytes)),
        }
    }
    let found = check(&repository).await;
    assert!(found.errors.iter().any(|error| is_named(error, key)), "{case}: {:?}", found.errors);
    for (id, _) in &lost {
        let named = found.errors.iter().find(|error| error.contains(&id.short()));
        let named = named.unwrap_or_else(|| panic!("{case}: {} is not named: {:?}", id.short(), found.errors));
        assert!(named.contains("cannot be read at bytes ") || named.contains("used by snapshot"), "{case}: {named}");
    }

    let since = parent_of(chain.second, 2, after, Vec::new());
    let report = export_link(&repository, after, 2, Ok(since), &CancellationToken::new()).await.unwrap();
    assert!(restored(&repository, &report.snapshot, size, Locking::None).await.unwrap() == after.bytes, "{case}");
    // It has the tree and all chunks of the one before, which reads again with it.
    assert!(restored(&repository, &chain.second, size, Locking::None).await.unwrap() == after.bytes, "{case}");
    let found = check(&repository).await;
    assert!(
        found.errors.iter().all(|error| is_named(error, key) || error.contains(&chain.first.short())),
        "{case}: {:?}",
        found.errors
    );
    if lost.iter().all(|(id, _)| *id != chain.first) {
        assert!(restored(&repository, &chain.first, size, Locking::None).await.unwrap() == chain.change.before.bytes, "{case}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_damaged_pack_held_is_stored_again_by_the_next_export() {
    let chain = Chain::new().await;
    let cases: Vec<_> = packs(&chain.store)
        .await
        .into_iter()
        .flat_map(|key| [Damage::Flipped, Damage::Halved, Damage::Missing].map(|how| (key, how)))
        .collect();
    assert!(cases.len() >= 18, "{} cases", cases.len());
    let cases = futures::stream::iter(cases).map(|(key, how)| healed(&chain, key, how));
    cases.buffer_unordered(8).collect::<Vec<()>>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_are_listed_when_the_last_listing_is_old_or_something_failed() {
    let (chain, folder) = (Chain::new().await, tempfile::tempdir().unwrap());
    let listings = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = listings.clone();
    let script = move |call: &Call| {
        counted.fetch_add(u64::from(matches!(call, Call::List(Kind::Data))), std::sync::atomic::Ordering::SeqCst);
        None
    };
    let repository = reopen(Arc::new(FaultyStore::new(chain.store.clone(), script))).await.unwrap();
    let repository = repository.with_doubts_in(&Cache::new(folder.path().to_owned(), 1 << 20));
    let (after, cancel) = (&chain.change.after, CancellationToken::new());
    let mut seen = Vec::new();
    let mut export = async |number| {
        let since = parent_of(chain.second, 2, after, Vec::new());
        export_link(&repository, after, number, Ok(since), &cancel).await.unwrap();
        seen.push(listings.load(std::sync::atomic::Ordering::SeqCst));
    };
    export(3).await;
    export(4).await;
    // A pack that is gone makes a restore fail, and that the next export look.
    let size = chain.size();
    for key in packs(&chain.store).await {
        let whole = chain.store.get(key).await.unwrap();
        chain.store.delete(key).await.unwrap();
        if restored(&repository, &chain.second, size, Locking::None).await.is_err() {
            break;
        }
        chain.store.put(key, whole, PutMode::Overwrite).await.unwrap();
    }
    export(5).await;
    export(6).await;
    assert_eq!(seen, [1, 1, 2, 2]);
    assert!(
        restored(&repository, &repository.snapshots().await.unwrap().pop().unwrap().id, size, Locking::None).await.unwrap()
            == after.bytes
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_pack_that_no_check_has_met_is_found_by_the_sample_and_healed_by_the_same_export() {
    // So few packs that all of them are in the sample.
    let (store, repository) = in_memory().await;
    let volume = Volume::random(512 << 10, 5);
    let first = export_volume(&repository, &volume, windlass::transfer::ChunkSize::MIN).await.unwrap().snapshot;
    let keys = packs(&store).await;
    assert!(keys.len() <= windlass::repository::doubts::SAMPLE_PACKS, "{} packs", keys.len());
    let mut healed = 0;
    for key in keys {
        let (store, folder) = (copy_of(&store).await, tempfile::tempdir().unwrap());
        // Of the same length, so that no listing tells.
        assert!(damage(&store, key, Damage::Flipped).await);
        let is_data = restored(&reopen(store.clone()).await.unwrap(), &first, volume.bytes.len(), Locking::None).await;
        let is_data = is_data.is_err_and(|error| error.contains("data") || error.contains("is damaged"));
        let repository = reopen(store.clone()).await.unwrap();
        let repository = repository.with_doubts_in(&Cache::new(folder.path().to_owned(), 1 << 20));
        let report = export_volume(&repository, &volume, windlass::transfer::ChunkSize::MIN).await.unwrap();
        assert!(restored(&repository, &report.snapshot, volume.bytes.len(), Locking::None).await.unwrap() == volume.bytes);
        assert!(restored(&repository, &first, volume.bytes.len(), Locking::None).await.unwrap() == volume.bytes, "healed");
        assert!(report.stored_bytes > 0, "what the pack held was stored again");
        healed += u32::from(is_data && report.new_chunks > 0);
    }
    assert!(healed > 0);
}

/// Every byte of the image, read at random.
async fn read(repository: &Repository, id: &Id, bytes: usize) -> Vec<u8> {
    let image = Image::open(repository, &id.to_string(), &FileSelector::Only, Locking::None).await.unwrap();
    let (reader, mut read) = (ImageReader::open(image).await.unwrap(), vec![1; bytes]);
    reader.read_at(0, &mut read).await.unwrap();
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_is_stored_twice_is_restored_from_the_copy_that_reads() {
    let (store, repository) = in_memory().await;
    let change = Change::small();
    let first = change.export_before(&repository).await;
    let once = packs(&store).await;
    // Exports that run at once do not see each other's index files.
    let mut hidden = Vec::new();
    for listed in store.list(Kind::Index).await.unwrap() {
        let key = Key::File(Kind::Index, listed.id);
        hidden.push((key, store.get(key).await.unwrap()));
        store.delete(key).await.unwrap();
    }
    let second = change.export_before(&repository).await;
    for (key, bytes) in hidden {
        store.put(key, bytes, PutMode::Overwrite).await.unwrap();
    }
    let twice: Vec<Key> = packs(&store).await.into_iter().filter(|key| !once.contains(key)).collect();
    assert!(once.len() >= 3 && twice.len() == once.len(), "{} and {}", once.len(), twice.len());

    let size = change.before.bytes.len();
    for (lost, kept) in [(&once, &twice), (&twice, &once)] {
        for how in [Damage::Flipped, Damage::Halved, Damage::Missing] {
            let store = copy_of(&store).await;
            for key in lost {
                assert!(damage(&store, *key, how).await);
            }
            let repository = reopen(store.clone()).await.unwrap();
            for id in [&first, &second] {
                assert!(restored(&repository, id, size, Locking::None).await.unwrap() == change.before.bytes, "{how:?}");
                assert!(read(&repository, id, size).await == change.before.bytes, "{how:?}");
            }
            // With the other copies gone too, the error names a pack.
            for key in kept {
                assert!(damage(&store, *key, Damage::Flipped).await);
            }
            let error = restored(&repository, &first, size, Locking::None).await.err().unwrap();
            assert!(once.iter().chain(&twice).any(|key| is_named(&error, *key)), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_bad_once_are_fetched_again() {
    let chain = Chain::new().await;
    // Image and metadata lie in several packs, each of which answers with too little the first time.
    let seen = std::sync::Mutex::new(std::collections::HashSet::new());
    let script = move |call: &Call| match call {
        Call::GetRange(key) => seen.lock().unwrap().insert(*key).then_some(Fault::Truncated),
        _ => None,
    };
    let repository = reopen(Arc::new(FaultyStore::new(chain.store.clone(), script))).await.unwrap();
    assert!(restored(&repository, &chain.second, chain.size(), Locking::None).await.unwrap() == chain.change.after.bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_is_locked_exclusively_refuses_all_and_says_by_whom() {
    let chain = Chain::new().await;
    let other = LockOwner { hostname: "elsewhere".to_owned(), username: "pruner".to_owned(), process: 7 };
    let pruner = reopen(chain.store.clone()).await.unwrap().with_lock_owner(other);
    let repository = reopen(chain.store.clone()).await.unwrap();
    let held = pruner.lock(LockMode::Exclusive).await.unwrap();
    let before = chain.store.keys();
    let (next, cancel) = (chain.next(), CancellationToken::new());
    let since = || parent_of(chain.second, 2, &next.before, next.changed.clone());
    for since in [Ok(since()), Err(FullReason::NoParent)] {
        let error = export_link(&repository, &next.after, 3, since, &cancel).await.unwrap_err();
        assert!(error.is_transient() && error::chain(&error).contains("pruner@elsewhere (process 7)"), "{error}");
    }
    let error = restored(&repository, &chain.second, chain.size(), Locking::Shared).await.unwrap_err();
    assert!(error.contains("pruner@elsewhere"), "{error}");
    let error = repository.check(Depth::Structure, &|_, _| {}).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Locked { .. }), "{error}");
    assert_eq!(chain.store.keys(), before, "something was stored");
    // Who reads at his own risk does not ask.
    assert!(restored(&repository, &chain.second, chain.size(), Locking::None).await.unwrap() == chain.change.after.bytes);

    held.release().await.unwrap();
    let report = export_link(&repository, &next.after, 3, Ok(since()), &cancel).await.unwrap();
    assert_eq!(report.mode.name(), "incremental");
    assert!(restored(&repository, &report.snapshot, chain.size(), Locking::Shared).await.unwrap() == next.after.bytes);
}

/// Puts a lock of another machine in, dated by its clock.
async fn leave_lock(repository: &Repository, store: &MemoryStore, time: &str, exclusive: bool) -> Key {
    let lock = format!(r#"{{"time":"{time}","exclusive":{exclusive},"hostname":"elsewhere","username":"u","pid":7}}"#);
    let sealed = repository.sealer().seal(lock.as_bytes()).unwrap();
    let key = Key::File(Kind::Lock, Id::of(&sealed));
    store.put(key, sealed.into(), PutMode::Overwrite).await.unwrap();
    key
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_whose_lock_turns_out_not_to_hold_fails_and_says_by_whom() {
    let chain = Chain::new().await;
    let repository = reopen(chain.store.clone()).await.unwrap();
    let id = chain.second.to_string();
    let open = || Image::open(&repository, &id, &FileSelector::Only, Locking::Shared);
    let (mut image, read_at_random) = (open().await.unwrap(), open().await.unwrap());
    // Of one who looked for locks before this one was stored.
    leave_lock(&repository, &chain.store, "2999-01-01T00:00:00Z", true).await;
    let options = RestoreOptions { target: Target::Fresh, budget: budget(2) };
    let restored = restore(&mut image, fresh_sink(chain.size()), &options, &Progress::new(), &CancellationToken::new()).await;
    let error = restored.unwrap_err();
    assert!(error.is_transient() && error::chain(&error).contains("since 2999"), "{error}");
    let error = ImageReader::open(read_at_random).await.err().unwrap();
    assert!(error::chain(&error).contains("since 2999"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exclusive_lock_holds_whatever_clock_it_was_dated_by_and_a_shared_one_stays() {
    let chain = Chain::new().await;
    let repository = reopen(chain.store.clone()).await.unwrap();
    let (next, cancel) = (chain.next(), CancellationToken::new());
    let since = || Ok(parent_of(chain.second, 2, &next.before, next.changed.clone()));
    for time in ["2999-01-01T00:00:00Z", "1999-01-01T00:00:00Z"] {
        let exclusive = leave_lock(&repository, &chain.store, time, true).await;
        let error = export_link(&repository, &next.after, 3, since(), &cancel).await.unwrap_err();
        assert!(error::chain(&error).contains(&format!("since {}", &time[..4])), "{error}");
        assert!(chain.store.keys().contains(&exclusive), "{time}: it was removed");
        chain.store.delete(exclusive).await.unwrap();
    }
    let mut shared = Vec::new();
    for time in ["2999-01-01T00:00:00Z", "1999-01-01T00:00:00Z"] {
        shared.push(leave_lock(&repository, &chain.store, time, false).await);
    }
    let report = export_link(&repository, &next.after, 3, since(), &cancel).await.unwrap();
    assert!(restored(&repository, &report.snapshot, chain.size(), Locking::Shared).await.unwrap() == next.after.bytes);
    let left: Vec<_> = chain.store.keys().into_iter().filter(|key| matches!(key, Key::File(Kind::Lock, _))).collect();
    shared.sort();
    assert_eq!(left, shared);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_follow_their_parents_whatever_the_clock_says() {
    let (_, repository) = in_memory().await;
    let change = Change::small();
    let (cancel, size) = (CancellationToken::new(), change.before.bytes.len());
    // The clock of the first export was years ahead, that of the second is right, that of the third is back at the epoch.
    let (ahead, now, epoch) = ((1, 3_000_000_000), (2, 1_750_000_000), (3, 0));
    let first = export_link_at(&repository, &change.before, ahead, Err(FullReason::NoParent), &cancel).await.unwrap();
    let since = Ok(change.parent(first.snapshot));
    let second = export_link_at(&repository, &change.after, now, since, &cancel).await.unwrap();
    let since = Ok(parent_of(second.snapshot, 2, &change.after, Vec::new()));
    let third = export_link_at(&repository, &change.after, epoch, since, &cancel).await.unwrap();
    for report in [&second, &third] {
        assert_eq!(report.mode.name(), "incremental");
        assert!(restored(&repository, &report.snapshot, size, Locking::Shared).await.unwrap() == change.after.bytes);
    }
    assert_eq!(third.read_bytes, 0);
    // By its time the newest is the one of the clock that was ahead; all are listed.
    assert_eq!(repository.find_snapshot("latest").await.unwrap().id, first.snapshot);
    assert_eq!(repository.snapshots().await.unwrap()[0].id, third.snapshot);
    assert!(check(&repository).await.is_clean());
}

/// A machine whose clock ran ahead takes our lock for stale.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_whose_lock_another_clock_called_stale_stores_no_snapshot() {
    for at in [Kind::Data, Kind::Index] {
        let chain = Chain::new().await;
        let inner = chain.store.clone();
        let script = move |call: &Call| {
            if matches!(call, Call::Put(Key::File(kind, _)) if *kind == at) {
                for key in inner.keys().into_iter().filter(|key| matches!(key, Key::File(Kind::Lock, _))) {
                    inner.delete(key).now_or_never().unwrap().unwrap();
                }
            }
            None
        };
        let robbed = reopen(Arc::new(FaultyStore::new(chain.store.clone(), script))).await.unwrap();
        let (next, cancel) = (chain.next(), CancellationToken::new());
        let since = || parent_of(chain.second, 2, &next.before, next.changed.clone());
        for (since, fill) in [(Ok(since()), 11), (Err(FullReason::NoParent), 12)] {
            // Bytes of its own, so that there is something to store.
            let mut volume = next.after.clone();
            volume.bytes[5000..9000].fill(fill);
            let error = export_link(&robbed, &volume, 3, since, &cancel).await.unwrap_err();
            assert!(matches!(error, ExportError::Repository(RepositoryError::LockLost(_))), "{at:?}: {error}");
        }
        let repository = reopen(chain.store.clone()).await.unwrap();
        assert_eq!(repository.snapshots().await.unwrap().len(), 2, "{at:?}");
        assert!(check(&repository).await.is_clean());
        let report = export_link(&repository, &next.after, 3, Ok(since()), &cancel).await.unwrap();
        assert!(restored(&repository, &report.snapshot, chain.size(), Locking::Shared).await.unwrap() == next.after.bytes);
    }
}
