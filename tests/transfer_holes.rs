//! Restores of repositories in which an object is damaged, that leave out what does not read: the rest is what was exported, and the holes
//! are where it is not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "support/transfer_fixture.rs"]
mod transfer_fixture;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use transfer_fixture::*;
use windlass::repository::store::local::LocalStore;
use windlass::repository::store::memory::MemoryStore;
use windlass::repository::store::{Key, Kind, PutMode};
use windlass::repository::tree::FileSelector;
use windlass::repository::{BlobKind, BlobLocation, Cache, Id, Repository, RepositoryError, SnapshotChoice, Store};
use windlass::transfer::{
    Image, Locking, OnDamage, Progress, Reading, RestoreError, RestoreOptions, RestoreReport, Target, restore, zeros,
};

/// What happens to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Flipped,
    Halved,
    Missing,
}

const DAMAGES: [Damage; 3] = [Damage::Flipped, Damage::Halved, Damage::Missing];

impl Damage {
    async fn suffer(self, store: &MemoryStore, key: Key) {
        match self {
            Self::Flipped => store.tamper(key, |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }),
            Self::Halved => store.tamper(key, |bytes| bytes.truncate(bytes.len() / 2)),
            Self::Missing => store.delete(key).await.unwrap(),
        }
    }

    /// Whether it takes the blob that lies there, in a pack of `bytes`.
    fn takes(self, blob: &BlobLocation, bytes: u64) -> bool {
        match self {
            Self::Flipped => (u64::from(blob.offset)..blob.end()).contains(&(bytes / 2)),
            Self::Halved => blob.end() > bytes / 2,
            Self::Missing => true,
        }
    }
}

/// A repository with two links of a chain, and what they hold.
struct Chain {
    store: Arc<MemoryStore>,
    links: [(Id, Vec<u8>); 2],
}

impl Chain {
    async fn new() -> Self {
        let (store, repository) = in_memory().await;
        let change = Change::small();
        let first = change.export_before(&repository).await;
        let second = change.export_after(&repository, first).await.unwrap().snapshot;
        Self { store, links: [(first, change.before.bytes), (second, change.after.bytes)] }
    }

    fn keys(&self, wanted: Kind) -> Vec<Key> {
        self.store.keys().into_iter().filter(|key| matches!(key, Key::File(kind, _) if *kind == wanted)).collect()
    }
}

fn skipping(locking: Locking) -> Reading {
    Reading { locking, on_damage: OnDamage::Skip }
}

async fn open(repository: &Repository, id: &Id) -> Result<Image, RepositoryError> {
    let choice = SnapshotChoice::from(&id.to_string());
    Image::open_or_wait(repository, choice, &FileSelector::Only, skipping(Locking::None), &|_| {}).await
}

/// Restores what can be had into a target of ones.
async fn restore_rest(image: &mut Image, size: usize, target: Target) -> Result<(RestoreReport, Vec<u8>), RestoreError> {
    let sink = fresh_sink(size);
    let options = RestoreOptions { target, budget: budget(2) };
    let report = restore(image, sink.clone(), &options, &Progress::new(), &CancellationToken::new()).await?;
    Ok((report, sink.content()))
}

/// Ranges one behind another, joined where they touch.
fn joined(ranges: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}

fn holes_of(report: &RestoreReport) -> Vec<Range<u64>> {
    let listed = report.holes.listed.iter();
    assert_eq!(listed.clone().map(|hole| hole.length).sum::<u64>(), report.holes.bytes);
    joined(listed.map(|hole| hole.offset..hole.offset + hole.length))
}

/// The ranges of the image whose blobs `is_lost` says are lost, in a repository in which nothing is.
async fn lost_ranges(chain: &Chain, id: &Id, is_lost: impl Fn(&BlobLocation) -> bool) -> Vec<Range<u64>> {
    let repository = reopen(chain.store.clone()).await.unwrap();
    let index = repository.load_index().await.unwrap();
    let root = repository.find_snapshot(&id.to_string()).await.unwrap().snapshot.tree;
    let file = repository.find_file(&index, &root, &FileSelector::Only).await.unwrap();
    let (mut position, mut lost) = (0, Vec::new());
    for blob in file.content.iter() {
        let blob = blob.unwrap();
        let copies = index.locations(BlobKind::Data, &blob).unwrap();
        let length = u64::from(copies[0].plain_length());
        // Zeros are known by their names.
        if zeros::length_of(&blob).is_none() && copies.iter().all(&is_lost) {
            lost.push(position..position + length);
        }
        position += length;
    }
    assert_eq!(position, file.size);
    joined(lost)
}

/// The rest is what was exported, and the holes are zeros.
fn assert_rest(found: &[u8], exported: &[u8], holes: &[Range<u64>], case: &str) {
    let mut expected = exported.to_vec();
    for hole in holes {
        expected[hole.start as usize..hole.end as usize].fill(0);
    }
    assert!(found == expected, "{case}: the rest is not what was exported");
}

/// What came of one object's damage.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Outcome {
    /// The repository does not open.
    Closed,
    /// The snapshot, or what says what is in it, is lost.
    SnapshotLost,
    Whole,
    Holes,
    /// What the volume was is lost, and nothing of it.
    MetadataLost,
}

async fn with_damage(chain: &Chain, key: Key, how: Damage) -> BTreeSet<(Outcome, bool)> {
    let case = format!("{key} {how:?}");
    let store = copy_of(&chain.store).await;
    how.suffer(&store, key).await;
    let is_pack = matches!(key, Key::File(Kind::Data, _));
    let Ok(repository) = reopen(store.clone()).await else {
        assert!(matches!(key, Key::Config | Key::File(Kind::Key, _)), "{case}");
        return BTreeSet::from([(Outcome::Closed, is_pack)]);
    };
    let mut outcomes = BTreeSet::new();
    for (id, exported) in &chain.links {
        let mut image = match open(&repository, id).await {
            Ok(image) => image,
            Err(error) => {
                let is_itself = matches!(key, Key::File(Kind::Snapshot, snapshot) if snapshot == *id);
                // Or one of its trees.
                let said = windlass::types::error::chain(&error);
                let is_named = matches!(key, Key::File(_, id) if said.contains(&id.to_string()));
                assert!(is_itself || is_pack && is_named, "{case}: {said}");
                outcomes.insert((Outcome::SnapshotLost, is_pack));
                continue;
            }
        };
        let expected = match key {
            Key::File(Kind::Data, pack) => {
                let bytes = chain.store.size(key).await.unwrap().unwrap();
                lost_ranges(chain, id, |blob| blob.pack == pack && how.takes(blob, bytes)).await
            }
            // What an index file said, packs say too.
            _ => Vec::new(),
        };
        for target in [Target::Fresh, Target::Dirty, Target::Partial] {
            let (report, found) = restore_rest(&mut image, exported.len(), target).await.unwrap();
            let holes = holes_of(&report);
            assert_eq!(holes, expected, "{case}: the holes");
            assert_rest(&found, exported, &holes, &case);
            for hole in &report.holes.listed {
                assert!(matches!(key, Key::File(Kind::Data, pack) if Some(pack) == hole.pack), "{case}: {hole}");
            }
        }
        outcomes.insert((if expected.is_empty() { Outcome::Whole } else { Outcome::Holes }, is_pack));
        if image.lost_metadata().is_some() {
            outcomes.insert((Outcome::MetadataLost, is_pack));
        }
        // Without being asked, nobody gets a volume with holes.
        let strict = restored(&repository, id, exported.len(), Locking::None).await;
        assert!(expected.is_empty() || strict.is_err(), "{case}");
    }
    outcomes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_object_is_damaged_the_rest_is_restored_and_the_holes_are_named_exactly() {
    let chain = Chain::new().await;
    let cases: Vec<_> = chain.store.keys().into_iter().flat_map(|key| DAMAGES.map(|how| (key, how))).collect();
    let cases = futures::stream::iter(cases).map(|(key, how)| with_damage(&chain, key, how));
    let outcomes: Vec<_> = cases.buffer_unordered(8).collect().await;
    // Every kind of outcome is met, of packs and of other objects.
    let met: BTreeSet<_> = outcomes.into_iter().flatten().collect();
    let expected = [
        (Outcome::Closed, false),
        (Outcome::SnapshotLost, false),
        (Outcome::SnapshotLost, true),
        (Outcome::Whole, false),
        (Outcome::Whole, true),
        (Outcome::Holes, true),
        (Outcome::MetadataLost, true),
    ];
    assert_eq!(met, BTreeSet::from(expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_that_are_in_no_index_are_holes_as_long_as_their_chunks_were() {
    let chain = Chain::new().await;
    let mut with_holes = 0;
    for lost in chain.keys(Kind::Data) {
        let store = copy_of(&chain.store).await;
        // Neither an index nor the pack itself says any more what was in it.
        store.delete(lost).await.unwrap();
        for key in chain.keys(Kind::Index) {
            store.delete(key).await.unwrap();
        }
        let repository = reopen(store).await.unwrap();
        for (id, exported) in &chain.links {
            // The tree may have been in it.
            let Ok(mut image) = open(&repository, id).await else { continue };
            let expected = lost_ranges(&chain, id, |blob| Key::File(Kind::Data, blob.pack) == lost).await;
            let (report, found) = restore_rest(&mut image, exported.len(), Target::Fresh).await.unwrap();
            assert_eq!(holes_of(&report), expected, "{lost}");
            assert_rest(&found, exported, &expected, &lost.to_string());
            assert!(report.holes.listed.iter().all(|hole| hole.pack.is_none() && hole.reason.contains("in no index")));
            with_holes += usize::from(!expected.is_empty());
        }
    }
    assert!(with_holes > 2, "{with_holes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_restore_left_out_no_export_builds_upon() {
    let (chain, folder) = (Chain::new().await, tempfile::tempdir().unwrap());
    let (second, after) = &chain.links[1];
    let mut healed = 0;
    for key in chain.keys(Kind::Data) {
        let store = copy_of(&chain.store).await;
        Damage::Flipped.suffer(&store, key).await;
        let doubts = Cache::new(folder.path().join(healed.to_string()), 1 << 20);
        let repository = reopen(store).await.unwrap().with_doubts_in(&doubts);
        let Ok(mut image) = open(&repository, second).await else { continue };
        let (report, _) = restore_rest(&mut image, after.len(), Target::Fresh).await.unwrap();
        if report.holes.is_empty() {
            continue;
        }
        let volume = Volume { bytes: after.clone(), ..Volume::random(after.len(), 1) };
        let id = export_volume(&repository, &volume, windlass::transfer::ChunkSize::MIN).await.unwrap().snapshot;
        assert!(restored(&repository, &id, after.len(), Locking::None).await.unwrap() == *after);
        healed += 1;
    }
    assert!(healed > 1, "{healed}");
}

/// The repository of a chain in a directory, with one of its objects damaged.
async fn on_disk(chain: &Chain, folder: &Path, damaged: Option<Key>) {
    let store = copy_of(&chain.store).await;
    if let Some(key) = damaged {
        Damage::Flipped.suffer(&store, key).await;
    }
    let local = LocalStore::new(folder.to_owned());
    local.prepare().await.unwrap();
    for key in store.keys() {
        local.put(key, store.get(key).await.unwrap(), PutMode::Overwrite).await.unwrap();
    }
}

fn restore_command(place: &Path, file: &Path, id: &Id, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_windlass"));
    command.args(["restore", "--snapshot", &id.to_string(), "--repository"]).arg(place).arg("--file").arg(file).args(more);
    command.env("RESTIC_PASSWORD", PASSWORD).env("WINDLASS_CACHE_DIR", "").output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_with_holes_is_kept_under_a_name_that_says_so_with_a_list_and_an_exit_code_of_its_own() {
    let (chain, folder) = (Chain::new().await, tempfile::tempdir().unwrap());
    let (id, exported) = &chain.links[1];
    let mut lost = None;
    for key in chain.keys(Kind::Data) {
        let Key::File(_, pack) = key else { continue };
        let bytes = chain.store.size(key).await.unwrap().unwrap();
        let ranges = lost_ranges(&chain, id, |blob| blob.pack == pack && Damage::Flipped.takes(blob, bytes)).await;
        if !ranges.is_empty() {
            lost = Some((key, ranges));
        }
    }
    let (key, expected) = lost.expect("some pack holds data");
    let (sound, damaged) = (folder.path().join("sound"), folder.path().join("repository"));
    on_disk(&chain, &sound, None).await;
    on_disk(&chain, &damaged, Some(key)).await;
    let file = folder.path().join("data.img");

    let failed = restore_command(&damaged, &file, id, &[]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("--skip-damaged"), "{failed:?}");
    assert!(!file.exists());

    let with_holes = restore_command(&damaged, &file, id, &["--skip-damaged"]);
    let said = String::from_utf8_lossy(&with_holes.stderr).into_owned();
    assert_eq!(with_holes.status.code(), Some(7), "{said}");
    let first = &expected[0];
    assert!(said.contains(&format!("hole: bytes {}-{}: blob ", first.start, first.end - 1)), "{said}");
    let kept = folder.path().join("data.img.damaged");
    assert!(!file.exists() && said.contains(&kept.display().to_string()), "{said}");
    assert_rest(&std::fs::read(&kept).unwrap(), exported, &expected, "the file");
    let list = std::fs::read(folder.path().join("data.img.damaged.json")).unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
    assert_eq!(list["holes"][0]["offset"], first.start);
    assert_eq!(list["repository_snapshot"], id.to_string());

    // The same once more, and nothing is overwritten.
    let again = restore_command(&damaged, &file, id, &["--skip-damaged", "--output", "json"]);
    assert_eq!(again.status.code(), Some(7));
    let result: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(result["path"], folder.path().join("data.img.damaged-2").display().to_string());
    assert_eq!(result["holes"], list["holes"]);

    // Where nothing is damaged, nothing is different.
    let whole = restore_command(&sound, &file, id, &["--skip-damaged"]);
    assert_eq!(whole.status.code(), Some(0), "{whole:?}");
    assert!(std::fs::read(&file).unwrap() == *exported);
}
