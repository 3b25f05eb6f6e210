//! Waiting for the lock, and having a turn.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use windlass::repository::prune::PruneError;
use windlass::repository::store::fault::{Call, FaultyStore};
use windlass::repository::store::local::LocalStore;
use windlass::repository::store::memory::MemoryStore;
use windlass::repository::store::{Key, Kind, PutMode};
use windlass::repository::tree::FileSelector;
use windlass::repository::{Id, LockMode, Repository, RepositoryError, SnapshotChoice, Store};
use windlass::transfer::{Image, Locking, OnDamage, Progress, Reading, RestoreOptions, Target, restore};
use windlass::types::error::chain;

use crate::transfer_fixture::{PASSWORD, budget, copy_of, reopen};
use crate::{EXACT, is_whole, on_disk, prune, repository};

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
    let waiting = |reason: &RepositoryError| progress.waits_for(Some(chain(reason)));
    let choice = SnapshotChoice::from(&id.to_string());
    let opened = Image::open_or_wait(&repository, choice, &FileSelector::Only, reading, &waiting).await;
    let mut image = opened.unwrap_or_else(|error| panic!("{reading:?}: {error}"));
    let sink = crate::transfer_fixture::fresh_sink(bytes.len());
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

/// Runs a verb on a repository that is locked, once to fail at once and once to wait until the lock is gone.
async fn waits_for_the_lock(place: &Path, verb: &[&str]) {
    let repository =
        Repository::open(Arc::new(LocalStore::new(place.to_owned())), &crate::transfer_fixture::password()).await.unwrap();
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
