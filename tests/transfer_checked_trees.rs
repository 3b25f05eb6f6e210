//! Exports upon lists that the machine remembers to be whole: what they take over without reading or looking it up, and when they do not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "support/transfer_fixture.rs"]
mod transfer_fixture;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use tokio_util::sync::CancellationToken;
use transfer_fixture::*;
use windlass::repository::prune::{Extent, MaxUnused, PruneOptions};
use windlass::repository::store::fault::{Call, FaultyStore};
use windlass::repository::store::memory::MemoryStore;
use windlass::repository::store::{Key, Kind};
use windlass::repository::tree::FileSelector;
use windlass::repository::{BlobKind, Cache, Id, LockMode, Repository, Store};
use windlass::transfer::{ChunkSize, ExportMode, ExportReport, ExportSource, FullReason, Locking};
use windlass::types::ByteRange;

const CHUNK: usize = 256 << 10;

/// What a machine keeps of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeps {
    /// All there is: the store is far away.
    Trees,
    /// What is known about packs: the store is near.
    Packs,
}

/// A machine that exports to a store, whose calls are counted.
struct Machine {
    folder: tempfile::TempDir,
    store: Arc<MemoryStore>,
    calls: Arc<Mutex<Vec<Call>>>,
    keeps: Keeps,
}

impl Machine {
    async fn new(keeps: Keeps) -> Self {
        let (store, _) = in_memory().await;
        Self { folder: tempfile::tempdir().unwrap(), store, calls: Arc::default(), keeps }
    }

    async fn open(&self, remembers: bool) -> Repository {
        let calls = Arc::clone(&self.calls);
        let counted = FaultyStore::new(self.store.clone(), move |call: &Call| {
            calls.lock().unwrap().push(*call);
            None
        });
        let cache = Cache::new(self.folder.path().to_owned(), 64 << 20);
        let cache = cache.with_checked_from(if remembers { 0 } else { u64::MAX });
        let repository = reopen(Arc::new(counted)).await.unwrap();
        match self.keeps {
            Keeps::Trees => repository.with_cache(&cache),
            Keeps::Packs => repository.with_doubts_in(&cache),
        }
    }

    /// Exports `volume` as the snapshot `number`, upon the one before it.
    async fn export(&self, volume: &Volume, number: u64, before: Option<(Id, Vec<ByteRange>)>) -> ExportReport {
        self.export_with(&self.open(true).await, volume, number, before).await
    }

    async fn export_with(
        &self,
        repository: &Repository,
        volume: &Volume,
        number: u64,
        before: Option<(Id, Vec<ByteRange>)>,
    ) -> ExportReport {
        self.calls.lock().unwrap().clear();
        let since = match before {
            Some((parent, changed)) => Ok(parent_of(parent, number - 1, volume, changed)),
            None => Err(FullReason::NoParent),
        };
        export_link(repository, volume, number, since, &CancellationToken::new()).await.unwrap()
    }

    /// The files of the cache whose names begin so.
    fn cached(&self, beginning: &str) -> Vec<PathBuf> {
        let folders = std::fs::read_dir(self.folder.path()).unwrap().map(|folder| folder.unwrap().path());
        let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()));
        files.filter(|file| file.file_name().unwrap().to_str().unwrap().starts_with(beginning)).collect()
    }

    fn remove_cached(&self, beginning: &str) {
        self.cached(beginning).iter().for_each(|file| std::fs::remove_file(file).unwrap());
    }

    /// Whether the pack was read since the last export began.
    fn was_read(&self, pack: &Id) -> bool {
        let key = Key::File(Kind::Data, *pack);
        self.calls.lock().unwrap().iter().any(|call| matches!(call, Call::Get(read) | Call::GetRange(read) if *read == key))
    }

    async fn is_whole(&self, report: &ExportReport, volume: &Volume) {
        let repository = reopen(self.store.clone()).await.unwrap();
        assert!(restored(&repository, &report.snapshot, volume.bytes.len(), Locking::None).await.unwrap() == volume.bytes);
    }
}

/// The tree of the image in a snapshot, and the pack that it lies in.
async fn image_tree(repository: &Repository, snapshot: &Id) -> (Id, Id) {
    let index = repository.load_index().await.unwrap();
    let root = repository.snapshot(snapshot).await.unwrap().tree;
    let image = repository.find_file(&index, &root, &FileSelector::Only).await.unwrap();
    let tree = image.alone_in.unwrap();
    (tree, index.get(BlobKind::Tree, &tree).unwrap().unwrap().pack)
}

/// The packs of the chunks in a snapshot.
async fn packs_of(repository: &Repository, snapshot: &Id) -> Vec<Id> {
    let index = repository.load_index().await.unwrap();
    let root = repository.snapshot(snapshot).await.unwrap().tree;
    let image = repository.find_file(&index, &root, &FileSelector::Only).await.unwrap();
    let ids = image.content.to_vec().unwrap();
    let mut packs: Vec<Id> = ids.iter().map(|id| index.get(BlobKind::Data, id).unwrap().unwrap().pack).collect();
    packs.sort_unstable();
    packs.dedup();
    packs
}

fn range(offset: usize, length: usize) -> ByteRange {
    ByteRange::new(offset as u64, length as u64).unwrap()
}

/// Chunks of noise with a hole and chunks of zeros between them.
fn volume() -> Volume {
    let noise = Volume::random(12 * CHUNK, 5).bytes;
    Volume::empty(16 * CHUNK + 4096).with(0, 4 * CHUNK, |at| noise[at]).with(4 * CHUNK, 2 * CHUNK, |_| 0).with(
        9 * CHUNK,
        7 * CHUNK,
        |at| noise[at - 5 * CHUNK],
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_which_nothing_changed_is_not_read_where_trees_are_cached() {
    for (keeps, reads) in [(Keeps::Trees, false), (Keeps::Packs, true)] {
        let (machine, volume) = (Machine::new(keeps).await, volume());
        let first = machine.export(&volume, 1, None).await;
        let (tree, pack) = image_tree(&machine.open(true).await, &first.snapshot).await;
        // What is still cached is read there, and not seen.
        machine.remove_cached("tree-");
        let second = machine.export(&volume, 2, Some((first.snapshot, Vec::new()))).await;
        assert_eq!(machine.was_read(&pack), reads, "{keeps:?}");
        assert_eq!(second.mode, ExportMode::Incremental { parent: first.snapshot }, "{keeps:?}");
        machine.remove_cached("tree-");
        let forgetful = machine.open(false).await;
        let third = machine.export_with(&forgetful, &volume, 3, Some((second.snapshot, Vec::new()))).await;
        assert!(machine.was_read(&pack), "{keeps:?}: a machine that remembers nothing reads the list");
        let told = |report: &ExportReport| {
            let ExportReport { size_bytes, read_bytes, zero_bytes, chunks, new_chunks, new_bytes, .. } = *report;
            (size_bytes, read_bytes, zero_bytes, chunks, new_chunks, new_bytes)
        };
        assert_eq!(told(&second), told(&third), "{keeps:?}");
        assert_eq!(second.chunks, first.chunks, "{keeps:?}");
        for report in [&second, &third] {
            assert_eq!(image_tree(&machine.open(true).await, &report.snapshot).await.0, tree, "{keeps:?}");
            machine.is_whole(report, &volume).await;
        }
        assert!(check(&machine.open(true).await).await.is_clean(), "{keeps:?}");
    }
}

/// What becomes of a repository after the machine remembered a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    /// A pack of chunks went, and packs are listed again.
    Absent,
    /// A pack of chunks was damaged, and a check found it.
    Damaged,
    /// The pack of the list's tree went, and packs are listed again.
    TreeAbsent,
    /// What is remembered of another list, which is whole, is put in the place of this one's, of which a pack went.
    AnotherTree,
}

impl Meanwhile {
    async fn happen(self, machine: &Machine, snapshot: &Id) {
        let repository = machine.open(true).await;
        let (tree, tree_pack) = image_tree(&repository, snapshot).await;
        let chunks = Key::File(Kind::Data, packs_of(&repository, snapshot).await[0]);
        match self {
            Self::Absent => machine.store.delete(chunks).await.unwrap(),
            Self::TreeAbsent => machine.store.delete(Key::File(Kind::Data, tree_pack)).await.unwrap(),
            Self::Damaged => {
                machine.store.tamper(chunks, |bytes| bytes[40] ^= 1);
                assert!(!check(&repository).await.is_clean());
                return;
            }
            Self::AnotherTree => {
                // In everything else it is like this one's.
                let other = machine.export(&Volume::random(volume().bytes.len(), 99), 1, None).await;
                let (other, _) = image_tree(&repository, &other.snapshot).await;
                let [from, to] = [other, tree].map(|tree| machine.cached(&format!("checked-{tree}"))[0].clone());
                std::fs::copy(from, to).unwrap();
                machine.store.delete(chunks).await.unwrap();
            }
        }
        machine.remove_cached("listing");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_remembered_of_a_list_is_not_believed_when_a_pack_of_it_is() {
    let all = [Meanwhile::Absent, Meanwhile::Damaged, Meanwhile::TreeAbsent, Meanwhile::AnotherTree];
    let cases = all.into_iter().flat_map(|what| [(what, Keeps::Trees), (what, Keeps::Packs)]);
    for (what, keeps) in cases {
        for changed in [Vec::new(), vec![range(10 * CHUNK, 1)]] {
            let case = format!("{what:?}, {keeps:?}, {} ranges changed", changed.len());
            let (machine, mut volume) = (Machine::new(keeps).await, volume());
            let first = machine.export(&volume, 1, None).await;
            what.happen(&machine, &first.snapshot).await;
            changed.iter().for_each(|range| volume.bytes[range.offset() as usize] ^= 1);
            let report = machine.export(&volume, 2, Some((first.snapshot, changed))).await;
            assert!(report.mode.full_reason().is_some(), "{case}: {:?}", report.mode);
            assert!(report.stored_bytes > 0, "{case}");
            machine.is_whole(&report, &volume).await;
            // And is remembered again.
            machine.remove_cached("tree-");
            let (_, pack) = image_tree(&machine.open(true).await, &report.snapshot).await;
            machine.remove_cached("tree-");
            let next = machine.export(&volume, 3, Some((report.snapshot, Vec::new()))).await;
            assert_eq!(machine.was_read(&pack), keeps == Keeps::Packs, "{case}");
            machine.is_whole(&next, &volume).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_looked_up_again_after_a_prune_moved_its_chunks_and_is_remembered_where_they_are() {
    for keeps in [Keeps::Trees, Keeps::Packs] {
        let (machine, mut volume) = (Machine::new(keeps).await, volume());
        let first = machine.export(&volume, 1, None).await;
        let changed = vec![range(0, CHUNK)];
        volume.bytes[..CHUNK].fill(7);
        let second = machine.export(&volume, 2, Some((first.snapshot, changed))).await;
        let repository = machine.open(true).await;
        let (tree, _) = image_tree(&repository, &second.snapshot).await;
        let remembered = async || {
            let index = Arc::new(repository.load_trusted_index().await.unwrap());
            repository.checked_tree(&index, &tree).await.unwrap().is_some()
        };
        assert!(remembered().await, "{keeps:?}");
        let lock = repository.lock(LockMode::Shared).await.unwrap();
        repository.forget(&first.snapshot, &lock).await.unwrap();
        lock.release().await.unwrap();
        let exact = PruneOptions { max_unused: MaxUnused::Percent(0), extent: Extent::Prune };
        let stats = repository.prune(exact, &|_, _, _| {}, &CancellationToken::new()).await.unwrap();
        assert!(stats.packs_repacked > 0, "{keeps:?}: {stats:?}");
        assert!(!remembered().await, "{keeps:?}: its packs are gone");
        let third = machine.export(&volume, 3, Some((second.snapshot, Vec::new()))).await;
        assert_eq!(third.mode, ExportMode::Incremental { parent: second.snapshot }, "{keeps:?}");
        assert_eq!(third.new_chunks, 0, "{keeps:?}");
        assert!(remembered().await, "{keeps:?}: it was looked up");
        machine.is_whole(&third, &volume).await;
        assert!(check(&machine.open(true).await).await.is_clean(), "{keeps:?}");
    }
}

/// Each chunk of the image lies in a pack that is remembered.
async fn is_covered(repository: &Repository, snapshot: &Id) -> Result<(), TestCaseError> {
    let index = Arc::new(repository.load_trusted_index().await.unwrap());
    let root = repository.snapshot(snapshot).await.unwrap().tree;
    let image = repository.find_file(&index, &root, &FileSelector::Only).await.unwrap();
    let remembered = repository.checked_tree(&index, &image.alone_in.unwrap()).await.unwrap();
    let Some(remembered) = remembered else { return Err(TestCaseError::fail("it is not remembered")) };
    let mut packs = std::collections::HashSet::new();
    index.each_pack_of(&remembered.packs, |pack| _ = packs.insert(pack.id)).unwrap();
    let zeros: Vec<Id> = (12..=21).map(|exponent| Id::of(&vec![0; 1 << exponent])).collect();
    for id in image.content.to_vec().unwrap().into_iter().filter(|id| !zeros.contains(id)) {
        let places = index.locations(BlobKind::Data, &id).unwrap();
        prop_assert!(places.iter().any(|place| packs.contains(&place.pack)), "chunk {id} lies elsewhere");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    /// Whether chunks are taken over, stored, stored by another volume before, or zeros: an export that succeeds remembers them all.
    #[test]
    fn a_chain_of_exports_remembers_every_chunk_of_its_lists(
        links in proptest::collection::vec(proptest::collection::vec((0_usize..8, 0_u8..4), 0..4), 1..5),
        keeps in prop_oneof![Just(Keeps::Trees), Just(Keeps::Packs)],
        forgets in 0_usize..6,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let machine = Machine::new(keeps).await;
            let other = Volume::random(8 * CHUNK, 31);
            let mut options = options(&other, ChunkSize::MIN);
            options.path = "/v-other/volume.img".to_owned();
            let (progress, cancel) = (windlass::transfer::Progress::new(), CancellationToken::new());
            let repository = machine.open(true).await;
            windlass::transfer::export(ExportSource::new(other.source(), other.stream()), &repository, &options, &progress, &cancel).await.unwrap();

            let mut volume = Volume::random(8 * CHUNK, 17);
            let mut before = machine.export(&volume, 1, None).await;
            is_covered(&repository, &before.snapshot).await?;
            for (number, changes) in (2_u64..).zip(links) {
                let changed = changes.iter().map(|&(chunk, _)| range(chunk * CHUNK, CHUNK)).collect();
                for (chunk, what) in changes {
                    let bytes = &mut volume.bytes[chunk * CHUNK..][..CHUNK];
                    match what {
                        0 => bytes.fill(0),
                        1 => bytes.copy_from_slice(&other.bytes[chunk * CHUNK..][..CHUNK]),
                        2 => bytes[..8].copy_from_slice(&number.to_le_bytes()),
                        _ => {}
                    }
                }
                if forgets == number as usize {
                    machine.remove_cached("checked-");
                }
                let report = machine.export(&volume, number, Some((before.snapshot, changed))).await;
                prop_assert!(report.mode.full_reason().is_none());
                is_covered(&repository, &report.snapshot).await?;
                machine.is_whole(&report, &volume).await;
                before = report;
            }
            Ok(())
        })?;
    }
}
