//! A prune of a repository that was damaged, and healed or not.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use windlass::repository::prune::{Extent, MaxUnused, PruneError, PruneOptions};
use windlass::repository::store::memory::MemoryStore;
use windlass::repository::store::{Key, Kind};
use windlass::repository::tree::FileSelector;
use windlass::repository::{Cache, Store};
use windlass::transfer::{Image, Locking};
use windlass::types::error::chain;

use crate::transfer_fixture::{check, copy_of, in_memory, reopen, restored};
use crate::{AT_ONCE, EXACT, Kept, export_as, forget, on_disk, prune, repository, restic, restics, volume};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_names_each_snapshot_that_has_lost_its_tree_and_goes_on_when_that_is_forgotten() {
    let (whole, kept) = repository().await;
    let mut met = 0;
    for listed in whole.list(Kind::Data).await.unwrap() {
        let store = copy_of(&whole).await;
        damage(&store, Key::File(Kind::Data, listed.id), Damage::Missing).await;
        let repository = reopen(store.clone()).await.unwrap();
        let mut forgotten = BTreeSet::new();
        let ended = loop {
            let before = store.keys();
            match prune(&repository, EXACT).await {
                Err(error @ PruneError::Unreadable { snapshot, .. }) => {
                    assert!(chain(&error).contains(&snapshot.short()), "{error}");
                    assert_eq!(store.keys(), before, "something was deleted");
                    assert!(kept.contains_key(&snapshot) && forgotten.insert(snapshot), "{error}");
                    forget(&repository, &snapshot).await;
                }
                ended => break ended,
            }
        };
        if forgotten.is_empty() {
            // No tree was in it.
            continue;
        }
        met += 1;
        ended.unwrap();
        for (id, bytes) in kept.iter().filter(|(id, _)| !forgotten.contains(id)) {
            assert!(restored(&repository, id, bytes.len(), Locking::Shared).await.unwrap() == *bytes);
        }
        assert!(check(&repository).await.is_clean());
    }
    assert!(met > 0, "no pack held a tree");
}
