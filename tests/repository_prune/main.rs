//! Prunes: what is left is what is needed, wherever they are cut, and for restic too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a broken expectation is a failed test")]

#[path = "../support/basics.rs"]
mod basics;
#[path = "../support/transfer_fixture.rs"]
mod transfer_fixture;

mod beside;
mod cuts;
mod damage;
mod turns;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use basics::tool_path;
use tokio_util::sync::CancellationToken;
use transfer_fixture::{PASSWORD, Volume, budget, check, copy_of, in_memory, options, reopen, restored};
use windlass::repository::prune::{Extent, MaxUnused, PruneError, PruneOptions, PruneStats};
use windlass::repository::store::fault::{Call, FaultyStore};
use windlass::repository::store::local::LocalStore;
use windlass::repository::store::memory::MemoryStore;
use windlass::repository::store::{Key, Kind, PutMode};
use windlass::repository::{Id, LockMode, Repository, Store};
use windlass::scratch::Scratch;
use windlass::transfer::{ChunkSize, ExportOptions, ExportSource, Locking, Progress, export};
use windlass::types::error::chain;

const CHUNK: usize = 256 << 10;
const EXACT: PruneOptions = PruneOptions { max_unused: MaxUnused::Percent(0), extent: Extent::Prune };
/// Cuts that are made side by side: most of each is waiting for locks to settle.
const AT_ONCE: usize = 16;

/// The binaries of restic that read what we leave: Debian's, and the newest one, which `e2e/setup.sh` builds.
fn restics() -> [PathBuf; 2] {
    let built = tool_path("restic");
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
    export(ExportSource::new(volume.source(), volume.stream()), repository, &options, &progress, &cancel).await.unwrap().snapshot
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
                    let said = chain(&error);
                    assert_eq!(store.keys(), before, "{said}");
                    assert!(said.contains(&pack.id.to_string()), "{said} does not name {}", pack.id);
                }
            }
        }
    }
    assert!(refused > 4, "{refused}");
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
