//! The shelf beside a plain map: index files come and vanish, segments are made and merged, processes are killed between two steps, and
//! files are damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;
use crate::repository::blob::{BlobKind, BlobLocation, PackRecord, PackedBlob};
use crate::repository::crypto::Secrets;
use crate::repository::index::build::IndexBuilder;
use crate::repository::index::{Claim, Index};
use crate::scratch::Scratch;
use crate::types::error::{chain, repeated};

/// Blobs that there may be: few, so that many lie in several packs.
const BLOBS: u64 = 30;

fn id(number: u64) -> Id {
    Id::of(&number.to_le_bytes())
}

/// What happens to a shelf and the store's index files.
#[derive(Debug, Clone)]
enum Step {
    /// A new index file about these packs, with the numbers of their blobs.
    Write(Vec<(u64, Vec<u64>)>),
    /// One of the index files leaves the store.
    Vanish(prop::sample::Index),
    /// Segments are made of what none knows of.
    Load,
    /// What is due is merged, whole.
    Tidy,
    /// All segments are merged, and the process is killed after so many of them were removed.
    MergeCut(usize),
    /// A process is killed while it writes a segment.
    Leave,
    /// A byte of a segment is changed.
    Damage(prop::sample::Index, prop::sample::Index),
    /// A segment is cut short.
    Truncate(prop::sample::Index, prop::sample::Index),
    /// A segment is removed.
    Remove(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let packs = prop::collection::vec((0_u64..30, prop::collection::vec(0..BLOBS, 1..40)), 0..4);
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => packs.prop_map(Step::Write),
        3 => index().prop_map(Step::Vanish),
        4 => Just(Step::Load),
        2 => Just(Step::Tidy),
        2 => (0_usize..4).prop_map(Step::MergeCut),
        1 => Just(Step::Leave),
        1 => (index(), index()).prop_map(|(file, at)| Step::Damage(file, at)),
        1 => (index(), index()).prop_map(|(file, at)| Step::Truncate(file, at)),
        1 => index().prop_map(Step::Remove),
    ]
}

/// The pack of that number: what it holds follows from the number of the pack and the list, so that two index files may say different
/// things of a pack, as they never do.
fn record(pack: u64, blobs: &[u64]) -> PackRecord {
    let mut offset = 0;
    let blobs = blobs.iter().map(|&number| {
        let length = 32 + number as u32;
        offset += length;
        let kind = if number % 5 == 0 { BlobKind::Tree } else { BlobKind::Data };
        PackedBlob {
            id: id(number),
            kind,
            offset: offset - length,
            length,
            uncompressed_length: NonZeroU32::new(number as u32 % 3),
        }
    });
    PackRecord { blobs: blobs.collect(), id: id(1000 + pack) }
}

/// Pack, offset and length of a copy of a blob.
type Place = (Id, u32, u32);

/// A repository's index files, and the shelf of a machine.
struct World {
    _folder: tempfile::TempDir,
    shelf: Shelf,
    scratch: Scratch,
    files: BTreeMap<Id, Vec<PackRecord>>,
    written: u64,
}

impl World {
    fn new(memory_bytes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::new(folder.path().join("shelf"), Sealer::new(Secrets::random().unwrap()));
        let scratch = Scratch::new(folder.path(), 1 << 30, memory_bytes);
        Self { _folder: folder, shelf, scratch, files: BTreeMap::new(), written: 0 }
    }

    fn current(&self) -> HashSet<Id> {
        self.files.keys().copied().collect()
    }

    fn segments(&self) -> Vec<PathBuf> {
        let mut paths: Vec<_> = self.shelf.named().into_iter().map(|(_, path)| path).collect();
        paths.sort();
        paths
    }

    /// What a load does, without a store.
    fn load(&self) -> Index {
        let (mut views, missing) = self.shelf.open(&self.current());
        if !missing.is_empty() {
            let mut builder = IndexBuilder::new(&self.scratch);
            missing.iter().for_each(|file| builder.add(*file, &self.files[file]).unwrap());
            let segment = self.shelf.add(&builder.finish().unwrap()).unwrap();
            views.push(View::new(Arc::new(segment), |_| true).unwrap());
        }
        Index::new(&self.scratch, views)
    }

    fn pick(&self, index: &prop::sample::Index) -> Option<PathBuf> {
        let segments = self.segments();
        (!segments.is_empty()).then(|| index.get(&segments).clone())
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Write(packs) => {
                self.written += 1;
                let records = packs.iter().map(|(pack, blobs)| record(*pack, blobs)).collect();
                self.files.insert(id(10_000 + self.written), records);
            }
            Step::Vanish(index) => {
                let files: Vec<Id> = self.files.keys().copied().collect();
                if !files.is_empty() {
                    self.files.remove(index.get(&files));
                }
            }
            Step::Load => drop(self.load()),
            Step::Tidy => self.shelf.tidy(&self.current()),
            Step::MergeCut(removed) => {
                let (views, _) = self.shelf.open(&self.current());
                let before: Vec<(PathBuf, Vec<u8>)> =
                    self.segments().into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
                if self.shelf.merge(&views).is_ok() {
                    for (path, bytes) in before.into_iter().skip(*removed) {
                        fs::write(path, bytes).unwrap();
                    }
                }
            }
            Step::Leave => {
                let _ = fs::create_dir(&self.shelf.folder);
                fs::write(self.shelf.folder.join(format!("{NEW_SEGMENT}x")), b"half").unwrap();
            }
            Step::Damage(segment, at) => {
                if let Some(path) = self.pick(segment) {
                    let file = File::options().read(true).write(true).open(path).unwrap();
                    let at = at.index(file.metadata().unwrap().len() as usize) as u64;
                    let mut byte = [0];
                    file.read_exact_at(&mut byte, at).unwrap();
                    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
                }
            }
            Step::Truncate(segment, at) => {
                if let Some(path) = self.pick(segment) {
                    let file = File::options().write(true).open(path).unwrap();
                    file.set_len(at.index(file.metadata().unwrap().len() as usize) as u64).unwrap();
                }
            }
            Step::Remove(segment) => {
                if let Some(path) = self.pick(segment) {
                    fs::remove_file(path).unwrap();
                }
            }
        }
    }

    /// Everything that the index says is what the index files say.
    fn compare(&self) {
        self.compare_with(&self.load(), &HashSet::new());
        let mut index = self.load();
        let absent: HashSet<Id> = (0..10).map(|pack| id(1000 + pack)).collect();
        index.without_packs(&absent).unwrap();
        self.compare_with(&index, &absent);
    }

    fn compare_with(&self, index: &Index, absent: &HashSet<Id>) {
        let mut model: BTreeMap<(BlobKind, Id), BTreeSet<Place>> = BTreeMap::new();
        let records = || self.files.values().flatten().filter(|record| !absent.contains(&record.id));
        for record in records() {
            for blob in &record.blobs {
                model.entry((blob.kind, blob.id)).or_default().insert((record.id, blob.offset, blob.length));
            }
        }
        for kind in [BlobKind::Data, BlobKind::Tree] {
            let mut ids: Vec<Id> = (0..BLOBS + 5).map(id).collect();
            ids.sort_unstable();
            for count in [1, 1 << 20] {
                let mut lookup = index.sorted_lookup(kind, count);
                for id in ids.iter().flat_map(|id| [id, id]) {
                    let place = index.get(kind, id).unwrap();
                    assert_eq!(lookup.find(id).unwrap().is_some(), place.is_some(), "{kind} {id}");
                }
            }
            let mut numbers = HashSet::new();
            for id in &ids {
                let places = model.get(&(kind, *id)).cloned().unwrap_or_default();
                let place = |location: &BlobLocation| (location.pack, location.offset, location.length);
                let found: Vec<_> = index.locations(kind, id).unwrap().iter().map(place).collect();
                assert_eq!(found.len(), places.len(), "{kind} {id}");
                assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), places);
                if let Some((number, location)) = index.find(kind, id).unwrap() {
                    assert!(number < index.count(kind) && numbers.insert(number));
                    assert!(places.contains(&place(&location)));
                }
                let expected = if places.is_empty() { Claim::Yours } else { Claim::Known };
                assert_eq!(index.claim(kind, id).unwrap(), expected);
            }
        }
        let mut packs = Vec::new();
        index.each_pack(|pack| packs.push((pack.id, pack.bytes))).unwrap();
        packs.sort_unstable();
        let bytes = |record: &PackRecord| {
            crate::repository::pack::expected_bytes(record.blobs.iter().map(|blob| (blob.length, blob.uncompressed_length)))
        };
        let mut expected: Vec<_> = records().map(|record| (record.id, bytes(record))).collect();
        expected.sort_unstable();
        assert_eq!(packs, expected);
    }
}

proptest! {
    // Each is a hundred indexes that are made and compared.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn an_index_says_what_its_files_say_whatever_happened_to_its_segments(
        steps in prop::collection::vec(step(), 0..30), memory in prop_oneof![Just(0_usize), Just(2000), Just(1 << 20)],
    ) {
        let mut world = World::new(memory);
        for step in &steps {
            world.apply(step);
            if matches!(step, Step::Damage(..) | Step::MergeCut(_) | Step::Vanish(_)) {
                world.compare();
            }
        }
        world.compare();
        // Two turns clear what was left behind: then every segment says something, and little of it twice.
        world.shelf.tidy(&world.current());
        world.compare();
        let (views, missing) = world.shelf.open(&world.current());
        prop_assert_eq!(missing, vec![]);
        prop_assert_eq!(views.len(), world.segments().len());
    }

    #[test]
    fn segments_are_few_whatever_their_sizes(lives in prop::collection::vec(1_u64..1 << 40, 0..100)) {
        let mut sizes: Vec<Size> = lives.into_iter().map(|live| Size { live, rows: live }).collect();
        loop {
            let merged = due_of(&sizes);
            if merged.is_empty() {
                break;
            }
            prop_assert!(merged.len() > 1, "one alone is not written anew for nothing");
            let live = merged.iter().map(|&number| sizes[number].live).sum();
            let mut number = 0;
            sizes.retain(|_| (!merged.contains(&number), number += 1).0);
            sizes.push(Size { live, rows: live });
        }
        prop_assert!(sizes.len() <= 22, "{} segments", sizes.len());
    }
}

#[test]
fn a_segment_that_is_half_out_of_sight_is_written_anew() {
    assert_eq!(due_of(&[Size { live: 49, rows: 100 }]), [0]);
    assert_eq!(due_of(&[Size { live: 50, rows: 100 }]), [] as [usize; 0]);
    assert_eq!(due_of(&[Size { live: 1000, rows: 1000 }, Size { live: 10, rows: 10 }]), [] as [usize; 0]);
    assert_eq!(due_of(&[Size { live: 40, rows: 40 }, Size { live: 1000, rows: 1000 }, Size { live: 10, rows: 10 }]), [0, 2]);
}

/// An index that is open stays what it was, even if others change the folder.
#[test]
fn an_open_index_outlives_its_files() {
    let mut world = World::new(1 << 20);
    world.apply(&Step::Write(vec![(1, (0..BLOBS).collect())]));
    let index = world.load();
    fs::remove_dir_all(&world.shelf.folder).unwrap();
    world.compare_with(&index, &HashSet::new());
}

/// Damage in a page that is not read when a segment is opened is an error of the look-up that reads it, never an answer, and the next one has a new
/// segment.
#[test]
fn damage_in_a_long_segment_is_an_error_once_and_never_an_answer() {
    let mut world = World::new(1 << 20);
    // Longer than what is read whole when it is opened.
    let pack = |number: u64| {
        let blob = |at: u64| PackedBlob {
            id: id(1_000_000 + number * 50 + at),
            kind: BlobKind::Data,
            offset: at as u32 * 100,
            length: 100,
            uncompressed_length: None,
        };
        PackRecord { id: id(number), blobs: (0..50).map(blob).collect() }
    };
    let file = id(7);
    world.files.insert(file, (0..2000).map(pack).collect());
    drop(world.load());
    let [path] = &world.segments()[..] else { panic!("one segment") };
    let length = fs::metadata(path).unwrap().len();
    assert!(length > super::super::segment::VERIFIED_PAGES * super::super::page::PAGE_BYTES as u64);
    let file = File::options().write(true).open(path).unwrap();
    // Amid the rows, which are most of it.
    file.write_all_at(&[0x55; 1024], length / 2 / 1024 * 1024).unwrap();
    let mut ids: Vec<Id> = (0..100_000).map(|number| id(1_000_000 + number)).collect();
    ids.sort_unstable();
    let index = world.load();
    let mut lookup = index.sorted_lookup(BlobKind::Data, 1);
    let mut failed = 0;
    for id in &ids {
        match lookup.find(id) {
            Ok(found) => assert_eq!(found.map(|found| found.plain_length), Some(68), "{id} is there"),
            Err(error) => {
                failed += 1;
                assert!(chain(&error).contains("tried again"), "{error:?}");
                assert_eq!(repeated(&error), None);
                // It may be the last of the page before.
                assert!(
                    index.get(BlobKind::Data, id).is_ok_and(|found| found.is_some()) == index.claim(BlobKind::Data, id).is_ok()
                );
                assert_ne!(index.claim(BlobKind::Data, id).ok(), Some(Claim::Yours));
            }
        }
    }
    assert!(failed > 0 && failed < 100, "{failed}");
    assert!(!path.exists());
    let index = world.load();
    let mut lookup = index.sorted_lookup(BlobKind::Data, 100_000);
    assert!(ids.iter().all(|id| lookup.find(id).unwrap().is_some_and(|found| found.plain_length == 68)));
}

/// Several processes use a folder at once: one makes segments and merges them, others look.
#[test]
fn readers_find_everything_while_segments_are_merged() {
    let mut world = World::new(1 << 20);
    let steps = (0..30).map(|number| Step::Write(vec![(number, vec![number, number + 1])]));
    steps.for_each(|step| world.apply(&step));
    let world = &world;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let index = world.load();
                    world.compare_with(&index, &HashSet::new());
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..40 {
                world.shelf.tidy(&world.current());
            }
        });
    });
}
