//! Restores into targets that hold something already: what is right is kept, the rest is fetched, and at the end there is the image.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "support/transfer_fixture.rs"]
mod transfer_fixture;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proptest::prelude::*;
use tokio_util::sync::CancellationToken;
use transfer_fixture::*;
use windlass::block::{BlockSink, FileSink, MemorySink};
use windlass::repository::store::fault::{Call, Fault, FaultyStore};
use windlass::repository::store::memory::MemoryStore;
use windlass::repository::store::{Key, Kind};
use windlass::repository::tree::FileSelector;
use windlass::repository::{BlobKind, Id, Repository, SnapshotChoice, Store};
use windlass::transfer::{
    ChunkSize, Image, Locking, OnDamage, Phase, Progress, Reading, RestoreError, RestoreOptions, RestoreReport, Target, restore,
};
use windlass::types::{ByteRange, LogicalBlockSize};

/// Two of them lie further apart than what is fetched and thrown away, so that the bytes that are fetched tell which they were.
const CHUNK: usize = ChunkSize::SMALL.bytes() as usize;

/// A repository with an export of one volume.
struct Exported {
    store: Arc<MemoryStore>,
    repository: Repository,
    bytes: Vec<u8>,
    chunk: usize,
}

/// What of an image is to be found in a target, and what is not.
#[derive(Debug, Default, PartialEq, Eq)]
struct Expected {
    present_bytes: u64,
    /// Different blobs that are missing somewhere, and what they have in their packs.
    blobs: u64,
    packed_bytes: u64,
}

impl Exported {
    async fn new(volume: Volume, chunk_size: ChunkSize) -> Self {
        let (store, repository) = in_memory().await;
        export_volume(&repository, &volume, chunk_size).await.unwrap();
        Self { store, repository, bytes: volume.bytes, chunk: chunk_size.bytes() as usize }
    }

    async fn expected(&self, held: &[u8]) -> Expected {
        let index = self.repository.load_index().await.unwrap();
        let (mut places, mut expected) = (BTreeMap::<Id, (u64, bool)>::new(), Expected::default());
        for (chunk, held) in self.bytes.chunks(self.chunk).zip(held.chunks(self.chunk)) {
            if chunk.iter().any(|&byte| byte != 0) {
                let (bytes, is_there) = places.entry(Id::of(chunk)).or_insert((0, true));
                *bytes += chunk.len() as u64;
                *is_there &= held.starts_with(chunk);
            }
        }
        for (id, (bytes, is_there)) in places {
            if is_there {
                expected.present_bytes += bytes;
            } else {
                expected.blobs += 1;
                expected.packed_bytes += u64::from(index.get(BlobKind::Data, &id).unwrap().unwrap().length);
            }
        }
        expected
    }

    /// Goes on in a target that holds this, and returns what came of that; exactly what is missing was fetched.
    async fn goes_on(&self, held: Vec<u8>, case: &str) -> (RestoreReport, Arc<MemorySink>) {
        let (expected, size) = (self.expected(&held).await, held.len());
        let sink = Arc::new(MemorySink::holding(held));
        let report = restore_latest(&self.repository, sink.clone(), Target::Partial).await.unwrap().unwrap();
        self.assert_is_image(&sink.content(), size, case);
        assert_eq!((report.present_bytes, report.blobs), (expected.present_bytes, expected.blobs), "{case}");
        if self.chunk == CHUNK {
            assert_eq!(report.fetched_bytes, expected.packed_bytes, "{case}");
        }
        assert_eq!(sink.flushes(), 1, "{case}: what is kept is flushed as well");
        (report, sink)
    }

    fn assert_is_image(&self, found: &[u8], size: usize, case: &str) {
        assert_eq!(found.len(), size);
        let (image, beyond) = found.split_at(self.bytes.len());
        assert!(image == self.bytes, "{case}: another image");
        assert!(beyond.iter().all(|&byte| byte == 0), "{case}: something lies beyond it");
    }
}

fn restoring(target: Target) -> RestoreOptions {
    RestoreOptions { target, budget: budget(2) }
}

/// Random chunks, a hole, and a chunk that occurs twice.
fn volume() -> Volume {
    let random = Volume::random(16 * CHUNK, 31).bytes;
    Volume::empty(20 * CHUNK).with(0, 13 * CHUNK, |at| random[at]).with(15 * CHUNK, 5 * CHUNK, |at| random[at - 10 * CHUNK])
}

/// A repository whose store fails at the Nth read of a pack, once it is armed.
async fn failing(
    store: &Arc<MemoryStore>,
    armed: &Arc<AtomicBool>,
    nth: u64,
    mut fail: impl FnMut() -> Fault + Send + 'static,
) -> Repository {
    let (armed, mut seen) = (Arc::clone(armed), 0);
    let script = move |call: &Call| {
        // Opening the image reads ranges of packs too.
        let counts = armed.load(Ordering::SeqCst) && matches!(call, Call::GetRange(_));
        seen += u64::from(counts);
        (counts && seen >= nth).then(&mut fail)
    };
    reopen(Arc::new(FaultyStore::new(store.clone(), script))).await.unwrap()
}

/// How a restore is cut.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// The store refuses from the Nth read on.
    Store,
    /// It is cancelled while the store does not answer the Nth read.
    Cancelled,
    /// The target takes nothing from the Nth call on.
    Target,
}

/// What a restore leaves in a target that holds `held`, when it is cut at the Nth step; `None` when it has fewer.
async fn cut(exported: &Exported, held: Vec<u8>, target: Target, how: Cut, nth: u64) -> Option<Vec<u8>> {
    let (armed, cancel, sink) = (Arc::default(), CancellationToken::new(), Arc::new(MemorySink::holding(held)));
    let token = cancel.clone();
    let repository = match how {
        Cut::Store => failing(&exported.store, &armed, nth, || Fault::Denied).await,
        Cut::Cancelled => {
            let stall = move || {
                token.cancel();
                Fault::Stall
            };
            failing(&exported.store, &armed, nth, stall).await
        }
        Cut::Target => {
            sink.fail_from(nth, io::ErrorKind::StorageFull);
            failing(&exported.store, &armed, u64::MAX, || Fault::Denied).await
        }
    };
    let mut image = Image::open(&repository, "latest", &FileSelector::Only, Locking::None).await.unwrap();
    armed.store(true, Ordering::SeqCst);
    let result = restore(&mut image, sink.clone(), &restoring(target), &Progress::new(), &cancel).await;
    assert_eq!(Arc::strong_count(&sink), 1, "the workers have ended");
    image.close().await;
    result.is_err().then(|| sink.content())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_was_cut_anywhere_goes_on_and_fetches_only_the_rest() {
    let exported = Exported::new(volume(), ChunkSize::SMALL).await;
    let all = exported.expected(&vec![0; exported.bytes.len()]).await;
    let mut in_the_middle = 0;
    for how in [Cut::Store, Cut::Cancelled, Cut::Target] {
        for nth in (1..).step_by(3) {
            let Some(left) = cut(&exported, vec![0; exported.bytes.len()], Target::Fresh, how, nth).await else {
                assert!(nth > 4, "{how:?}");
                break;
            };
            let case = format!("{how:?} at {nth}");
            let (report, _) = exported.goes_on(left, &case).await;
            assert!(report.written_bytes + report.present_bytes <= exported.bytes.len() as u64, "{case}");
            in_the_middle += u64::from(report.present_bytes > 0 && report.blobs > 0);
        }
    }
    assert!(all.blobs > 10 && in_the_middle > 3, "{all:?}, cut in the middle {in_the_middle} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_is_cut_again_and_again_goes_on_each_time() {
    let exported = Exported::new(volume(), ChunkSize::SMALL).await;
    let (mut held, mut present, mut cuts) = (vec![0xee; exported.bytes.len()], 0, 0);
    // Zeros are written by one call, and of four more two workers finish a blob, even if each has one with two places.
    while let Some(left) = cut(&exported, held, Target::Partial, Cut::Target, 6).await {
        let found = exported.expected(&left).await.present_bytes;
        assert!(found > present, "{present} bytes were there, and {found} are");
        (held, present, cuts) = (left, found, cuts + 1);
    }
    assert!(cuts > 2, "{cuts}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_target_that_is_whole_nothing_is_fetched_or_written() {
    let exported = Exported::new(volume(), ChunkSize::SMALL).await;
    let armed = Arc::default();
    let repository = failing(&exported.store, &armed, 1, || Fault::Denied).await;
    let sink = Arc::new(MemorySink::holding(exported.bytes.clone()));
    let mut image = Image::open(&repository, "latest", &FileSelector::Only, Locking::None).await.unwrap();
    armed.store(true, Ordering::SeqCst);
    let progress = Progress::new();
    let report =
        restore(&mut image, sink.clone(), &restoring(Target::Partial), &progress, &CancellationToken::new()).await.unwrap();
    image.close().await;
    assert_eq!((report.present_bytes, report.written_bytes, report.fetched_bytes, report.blobs), (18 * CHUNK as u64, 0, 0, 0));
    assert!(sink.written().is_empty() && sink.content() == exported.bytes);
    assert_eq!(sink.flushes(), 1);
    let (seen, size) = (progress.snapshot(), exported.bytes.len() as u64);
    assert_eq!((seen.phase, seen.done_bytes, seen.total_bytes, seen.moved_bytes), (Phase::Done, size, size, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_target_holds_at_the_wrong_place_is_not_taken() {
    let exported = Exported::new(volume(), ChunkSize::SMALL).await;
    for shift in [1, 512, 4096, CHUNK] {
        let mut held = exported.bytes.clone();
        held.rotate_right(shift);
        let (report, _) = exported.goes_on(held, &format!("shifted by {shift}")).await;
        assert_eq!(report.present_bytes, 0, "shifted by {shift}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bit_that_is_wrong_has_its_blob_fetched_and_no_other() {
    let exported = Exported::new(volume(), ChunkSize::SMALL).await;
    for wrong in [0, CHUNK - 1, 3 * CHUNK + 77_777] {
        let mut held = exported.bytes.clone();
        held[wrong] ^= 0x10;
        let (report, sink) = exported.goes_on(held, &format!("byte {wrong}")).await;
        assert_eq!((report.blobs, report.written_bytes), (1, CHUNK as u64));
        assert_eq!(sink.written().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_where_the_image_has_zeros_and_beyond_it_is_wiped() {
    let exported = Exported::new(volume(), ChunkSize::SMALL).await;
    let mut held = exported.bytes.clone();
    held[13 * CHUNK..15 * CHUNK].fill(0xaa);
    held.extend(vec![0xbb; 3 * CHUNK + 5000]);
    let (report, sink) = exported.goes_on(held, "data in a hole").await;
    assert_eq!((report.written_bytes, report.fetched_bytes), (0, 0));
    assert!(sink.written().is_empty() && !sink.zeroed().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_image_left_is_kept_where_both_are_the_same() {
    let (first, mut second) = (volume(), volume());
    second.bytes[2 * CHUNK + 5..4 * CHUNK].fill(0x5a);
    second.bytes[6 * CHUNK..7 * CHUNK].fill(0);
    // The same bytes at another place are no use.
    second.bytes.copy_within(0..CHUNK, 9 * CHUNK);
    let (first, second) = (Exported::new(first, ChunkSize::SMALL).await, Exported::new(second, ChunkSize::SMALL).await);
    let left = cut(&first, vec![0; first.bytes.len()], Target::Fresh, Cut::Target, 14).await.unwrap();
    second.goes_on(left, "the other image was cut").await;
    let (report, _) = second.goes_on(first.bytes.clone(), "the other image was whole").await;
    assert!(report.present_bytes > 10 * CHUNK as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_is_right_at_some_of_its_places_is_written_to_all() {
    let block = Volume::random(CHUNK, 11).bytes;
    let volume = Volume::empty(8 * CHUNK).with(0, 8 * CHUNK, |at| if at / CHUNK == 5 { 0 } else { block[at % CHUNK] });
    let exported = Exported::new(volume, ChunkSize::SMALL).await;
    for wrong in [0, 3, 7] {
        let mut held = exported.bytes.clone();
        held[wrong * CHUNK + 100] ^= 1;
        let (report, _) = exported.goes_on(held, &format!("place {wrong}")).await;
        assert_eq!((report.blobs, report.present_bytes, report.written_bytes), (1, 0, 7 * CHUNK as u64));
    }
    let (report, _) = exported.goes_on(exported.bytes.clone(), "every place").await;
    assert_eq!((report.blobs, report.present_bytes), (0, 7 * CHUNK as u64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_the_target_that_does_not_read_is_fetched_and_written() {
    let exported = Exported::new(volume(), ChunkSize::SMALL).await;
    let sink = Arc::new(MemorySink::holding(exported.bytes.clone()));
    sink.fail_reads_of(ByteRange::new(4 * CHUNK as u64 - 512, 1024).unwrap());
    let report = restore_latest(&exported.repository, sink.clone(), Target::Partial).await.unwrap().unwrap();
    assert_eq!((report.blobs, report.written_bytes), (2, 2 * CHUNK as u64));
    exported.assert_is_image(&sink.content(), exported.bytes.len(), "two chunks do not read");
}

/// A target that calls back before it is read the Nth time.
struct Watched {
    inner: MemorySink,
    reads: AtomicU64,
    nth: u64,
    reached: CancellationToken,
}

impl BlockSink for Watched {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write_at(offset, data)
    }

    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.reads.fetch_add(1, Ordering::SeqCst) + 1 == self.nth {
            self.reached.cancel();
        }
        self.inner.read_back(offset, buffer)
    }

    fn write_zeros(&self, range: ByteRange) -> io::Result<()> {
        self.inner.write_zeros(range)
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_is_cancelled_while_it_looks_ends_between_two_blobs() {
    let exported = Exported::new(volume(), ChunkSize::SMALL).await;
    // Nothing of the image is there, and half of it is.
    let mut half = exported.bytes.clone();
    half[..10 * CHUNK].fill(0xcc);
    for held in [vec![0xcc; exported.bytes.len()], half] {
        for nth in [1, 5, 13] {
            let (cancel, inner) = (CancellationToken::new(), MemorySink::holding(held.clone()));
            let sink = Arc::new(Watched { inner, reads: AtomicU64::new(0), nth, reached: cancel.clone() });
            let mut image = Image::open(&exported.repository, "latest", &FileSelector::Only, Locking::None).await.unwrap();
            let result = restore(&mut image, sink.clone(), &restoring(Target::Partial), &Progress::new(), &cancel).await;
            image.close().await;
            assert!(matches!(result, Err(RestoreError::Cancelled)), "{nth}: {result:?}");
            assert_eq!(Arc::strong_count(&sink), 1, "the workers have ended");
            // Each of the two workers may have been about to read.
            let reads = sink.reads.load(Ordering::SeqCst);
            assert!(reads <= nth + 2, "cancelled at read {nth} of {reads}");
            assert_eq!(sink.inner.flushes(), 0);
            exported.goes_on(sink.inner.content(), &format!("cancelled at read {nth}")).await;
        }
    }
}

/// Restores what can be had into a target that holds something.
async fn restore_rest(repository: &Repository, held: Vec<u8>) -> (RestoreReport, Vec<u8>) {
    let reading = Reading { locking: Locking::None, on_damage: OnDamage::Skip };
    let choice = SnapshotChoice::from("latest");
    let mut image = Image::open_or_wait(repository, choice, &FileSelector::Only, reading, &|_| {}).await.unwrap();
    let sink = Arc::new(MemorySink::holding(held));
    let options = restoring(Target::Partial);
    let report = restore(&mut image, sink.clone(), &options, &Progress::new(), &CancellationToken::new()).await.unwrap();
    image.close().await;
    (report, sink.content())
}

/// The chunks in the holes of a report.
fn hole_chunks(report: &RestoreReport) -> Vec<usize> {
    let chunks = |offset: u64, length: u64| offset as usize / CHUNK..(offset + length) as usize / CHUNK;
    report.holes.listed.iter().flat_map(|hole| chunks(hole.offset, hole.length)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_is_lost_is_no_hole_where_the_target_still_has_it() {
    let exported = Exported::new(volume(), ChunkSize::SMALL).await;
    let index = exported.repository.load_index().await.unwrap();
    // The chunk 5 occurs as the chunk 15 again.
    for lost in [2, 5] {
        let id = Id::of(&exported.bytes[lost * CHUNK..][..CHUNK]);
        let location = index.get(BlobKind::Data, &id).unwrap().unwrap();
        exported.store.tamper(Key::File(Kind::Data, location.pack), |bytes| bytes[location.offset as usize + 100] ^= 1);
    }
    let mut held = exported.bytes.clone();
    let (report, found) = restore_rest(&exported.repository, held.clone()).await;
    assert!(report.holes.is_empty() && found == exported.bytes, "all of it is there");

    held[5 * CHUNK] ^= 1;
    let (report, found) = restore_rest(&exported.repository, held.clone()).await;
    assert_eq!(hole_chunks(&report), [5]);
    assert!(found[..5 * CHUNK] == exported.bytes[..5 * CHUNK] && found[6 * CHUNK..] == exported.bytes[6 * CHUNK..]);
    assert!(found[5 * CHUNK..6 * CHUNK].iter().all(|&byte| byte == 0));
    assert_eq!(report.present_bytes, 17 * CHUNK as u64);

    held.fill(0xdd);
    let (report, found) = restore_rest(&exported.repository, held).await;
    assert_eq!(hole_chunks(&report), [2, 5, 15]);
    for (chunk, (found, whole)) in found.chunks(CHUNK).zip(exported.bytes.chunks(CHUNK)).enumerate() {
        let is_hole = [2, 5, 15].contains(&chunk);
        assert!(if is_hole { found.iter().all(|&byte| byte == 0) } else { found == whole }, "chunk {chunk}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_no_index_names_is_no_hole_where_the_target_still_has_it() {
    let (store, repository) = in_memory().await;
    let change = Change::small();
    let first = change.export_before(&repository).await;
    change.export_after(&repository, first).await.unwrap();
    let image = change.after.bytes;
    let packs = store.list(Kind::Data).await.unwrap();
    let mut found_holes = 0;
    for pack in packs {
        let damaged = copy_of(&store).await;
        damaged.delete(Key::File(Kind::Data, pack.id)).await.unwrap();
        for index in store.list(Kind::Index).await.unwrap() {
            damaged.delete(Key::File(Kind::Index, index.id)).await.unwrap();
        }
        let repository = reopen(damaged).await.unwrap();
        let reading = Reading { locking: Locking::None, on_damage: OnDamage::Skip };
        let opened =
            Image::open_or_wait(&repository, SnapshotChoice::from("latest"), &FileSelector::Only, reading, &|_| {}).await;
        // The tree may have been in it.
        let Ok(opened) = opened else { continue };
        opened.close().await;
        let (report, found) = restore_rest(&repository, vec![0xee; image.len()]).await;
        let mut rest = image.clone();
        for hole in &report.holes.listed {
            rest[hole.offset as usize..(hole.offset + hole.length) as usize].fill(0);
        }
        assert!(found == rest);
        found_holes += report.holes.listed.len();
        let (report, found) = restore_rest(&repository, image.clone()).await;
        assert!(report.holes.is_empty() && report.fetched_bytes == 0 && found == image, "pack {}", pack.id);
    }
    assert!(found_holes > 0);
}

/// What is in a part of a target.
#[derive(Debug, Clone, Copy)]
enum Content {
    Right,
    Zeros,
    Garbage,
    /// What belongs at another place.
    Misplaced(usize),
}

fn contents() -> impl Strategy<Value = Vec<Content>> {
    let content = prop_oneof![
        4 => Just(Content::Right),
        2 => Just(Content::Zeros),
        1 => Just(Content::Garbage),
        1 => (0_usize..64).prop_map(Content::Misplaced),
    ];
    proptest::collection::vec(content, 1..24)
}

/// A volume of blocks of a few kinds, some of which make chunks that occur twice.
fn volumes() -> impl Strategy<Value = Volume> {
    (proptest::collection::vec(0_u8..6, 1..24), 1_usize..64).prop_map(|(kinds, last)| {
        let random = Volume::random(256 << 10, 5).bytes;
        let step = 256 << 10;
        let size = (kinds.len() - 1) * step + last * 4096;
        kinds.iter().enumerate().fold(Volume::empty(size), |volume, (number, &kind)| match kind {
            0 => volume,
            1 => volume.with(number * step, step, |_| 7),
            2 => volume.with(number * step + 8192, step / 2, |at| random[at % step]),
            // Unlike all others.
            3 => volume.with(number * step, step, |at| random[at % step] ^ number as u8),
            _ => volume.with(number * step, step, |at| random[at % step]),
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn from_any_mixture_comes_the_image_by_the_least_that_is_to_be_fetched(
        volume in volumes(),
        contents in contents(),
        part in 1_usize..80,
        beyond in 0_usize..100_000,
        exponent in 0_u32..2,
    ) {
        let chunk_size = ChunkSize::new(ChunkSize::MIN.bytes() << exponent).unwrap();
        // Parts end on the grid of chunks, or anywhere.
        let part = if part >= 64 { 256 << 10 } else { part * 4096 };
        let mut held = volume.bytes.clone();
        held.resize(volume.bytes.len() + beyond, 0x33);
        for (number, bytes) in held.chunks_mut(part).enumerate() {
            match contents[number % contents.len()] {
                Content::Right => {}
                Content::Zeros => bytes.fill(0),
                Content::Garbage => bytes.fill(0x99),
                Content::Misplaced(from) => {
                    let from = from * part % volume.bytes.len();
                    let source = &volume.bytes[from..volume.bytes.len().min(from + bytes.len())];
                    bytes[..source.len()].copy_from_slice(source);
                }
            }
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let exported = Exported::new(volume, chunk_size).await;
            exported.goes_on(held, "a mixture").await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_restored_in_part_is_gone_on_with_directly_or_through_the_cache() {
    // Of the second size there is no direct I/O.
    for size in [20 * CHUNK, 20 * CHUNK - 100] {
        let mut volume = volume();
        volume.bytes.truncate(size);
        volume.extents = vec![ByteRange::new(0, size as u64).unwrap()];
        let exported = Exported::new(volume, ChunkSize::SMALL).await;
        let left = cut(&exported, vec![0; size], Target::Fresh, Cut::Target, 9).await.unwrap();
        let expected = exported.expected(&left).await;
        assert!(expected.present_bytes > 0 && expected.blobs > 0, "{expected:?}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("target");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all_at(&left, 0).unwrap();
        file.write_all_at(&[1; 4096], 14 * CHUNK as u64).unwrap();
        let sink = Arc::new(FileSink::new(file, size as u64, LogicalBlockSize::B4096).unwrap());
        let report = restore_latest(&exported.repository, sink, Target::Partial).await.unwrap().unwrap();
        assert_eq!((report.present_bytes, report.blobs), (expected.present_bytes, expected.blobs));
        exported.assert_is_image(&std::fs::read(&path).unwrap(), size, "a file");
    }
}
