//! Exports that are cut, again and again, and go on from the last durable point: what each attempt reads is counted.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "support/transfer_fixture.rs"]
mod transfer_fixture;

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use transfer_fixture::*;
use windlass::block::BlockSource;
use windlass::repository::prune::{Extent, MaxUnused, PruneOptions};
use windlass::repository::store::Key;
use windlass::repository::store::Kind;
use windlass::repository::store::fault::{Call, Fault, FaultyStore};
use windlass::repository::store::memory::MemoryStore;
use windlass::repository::{BlobKind, Cache, Id, Repository, Verification};
use windlass::transfer::{
    Budget, ChunkSize, ExportError, ExportOptions, ExportReport, ExportSource, FullReason, Locking, Parent, Progress, Scope,
    export, forget_checkpoint,
};
use windlass::types::{ByteRange, LogicalBlockSize};

const CHUNK: u64 = ChunkSize::MIN.bytes();
const MIB: u64 = 1 << 20;
/// Only bounds a hang.
const BOUND: Duration = Duration::from_secs(120);

/// The least memory, so that little is under way.
fn small_budget() -> Budget {
    Budget { memory_bytes: 128 * MIB, workers: NonZeroUsize::new(2).unwrap() }
}

/// What an export may have read that no index names yet: what its workers have read and packed, and the packs that wait or are being
/// stored. A process that is killed may besides have stored as much as that a moment ago.
fn under_way() -> u64 {
    let bounds = small_budget().export(ChunkSize::MIN).unwrap();
    let each = 2 * bounds.batch_chunks as u64 * CHUNK + bounds.pack_bytes as u64;
    bounds.workers as u64 * each + 2 * bounds.in_flight_bytes
}

/// When an attempt is cut.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// When it has read so many bytes.
    Reads(u64),
    /// At the Nth call that stores an object of this kind, which is not answered.
    Stores(Kind, u64),
}

/// How it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// It is dropped, as when its process is killed: nothing is written any more.
    Kill,
    Cancel,
}

/// A source whose bytes are counted as they are read.
struct Counted {
    inner: Arc<dyn BlockSource>,
    read: Arc<AtomicU64>,
    cut_at: u64,
    reached: Arc<Notify>,
}

impl BlockSource for Counted {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn logical_block_size(&self) -> LogicalBlockSize {
        self.inner.logical_block_size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let before = self.read.fetch_add(buffer.len() as u64, Ordering::SeqCst);
        if before + buffer.len() as u64 >= self.cut_at {
            self.reached.notify_one();
        }
        self.inner.read_at(offset, buffer)
    }
}

/// A machine with a cache, the store that it exports to, and the volume's snapshot.
struct Machine {
    folder: tempfile::TempDir,
    store: Arc<MemoryStore>,
    volume: Volume,
}

impl Machine {
    async fn new(volume: Volume) -> Self {
        let (store, _) = in_memory().await;
        Self { folder: tempfile::tempdir().unwrap(), store, volume }
    }

    /// The repository, whose index names each pack as soon as it is stored.
    fn durably(&self, repository: Repository) -> Repository {
        let cache = Cache::new(self.folder.path().to_owned(), 64 << 20);
        repository.with_cache(&cache).with_index_every(Duration::ZERO)
    }

    async fn open(&self) -> Repository {
        self.durably(reopen(self.store.clone()).await.unwrap())
    }

    fn options(&self, snapshot: &str) -> ExportOptions {
        let mut options = options(&self.volume, ChunkSize::MIN);
        options.metadata.snapshot_handle = Some(snapshot.to_owned());
        options.metadata.chunk_bytes = Some(CHUNK);
        (options.budget, options.verification) = (small_budget(), Verification::Skip);
        options
    }

    fn source(
        &self,
        read: &Arc<AtomicU64>,
        moment: Option<Moment>,
        reached: &Arc<Notify>,
        since: Result<Parent, FullReason>,
    ) -> ExportSource {
        let cut_at = if let Some(Moment::Reads(bytes)) = moment { bytes } else { u64::MAX };
        let (inner, read, reached) = (self.volume.source(), Arc::clone(read), Arc::clone(reached));
        let source = Counted { inner, read, cut_at, reached };
        ExportSource::new(Arc::new(source), Scope { allocated: self.volume.stream(), since })
    }

    /// An attempt that is cut, and the bytes that it has read; they may grow a little after a kill.
    async fn cut(&self, moment: Moment, how: Cut, since: Result<Parent, FullReason>) -> Arc<AtomicU64> {
        let (read, reached) = (Arc::<AtomicU64>::default(), Arc::<Notify>::default());
        let (mut stored, seen) = (0, Arc::clone(&reached));
        let store = FaultyStore::new(self.store.clone(), move |call: &Call| {
            let Moment::Stores(kind, number) = moment else { return None };
            let is_put = matches!(call, Call::Put(Key::File(found, _)) if *found == kind);
            stored += u64::from(is_put);
            (is_put && stored == number).then(|| {
                seen.notify_one();
                Fault::Stall
            })
        });
        let repository = self.durably(reopen(Arc::new(store)).await.unwrap());
        let (options, progress, cancel) = (self.options("s-cut"), Progress::new(), CancellationToken::new());
        let source = self.source(&read, Some(moment), &reached, since);
        let mut exporting = Box::pin(export(source, &repository, &options, &progress, &cancel));
        let mut cut_off = std::pin::pin!(reached.notified());
        let early = tokio::time::timeout(BOUND, async {
            tokio::select! {
                ended = &mut exporting => Some(ended),
                () = &mut cut_off => None,
            }
        });
        let early = early.await.unwrap();
        assert!(early.is_none(), "{moment:?} did not come: {early:?}");
        match how {
            Cut::Kill => drop(exporting),
            Cut::Cancel => {
                cancel.cancel();
                let ended = tokio::time::timeout(BOUND, exporting).await.unwrap();
                assert!(matches!(ended, Err(ExportError::Cancelled)), "{ended:?}");
            }
        }
        remove_locks(&self.store).await;
        read
    }

    /// An attempt that comes to its end.
    async fn export(&self, snapshot: &str, since: Result<Parent, FullReason>) -> ExportReport {
        let read = Arc::<AtomicU64>::default();
        let source = self.source(&read, None, &Arc::default(), since);
        let (progress, cancel) = (Progress::new(), CancellationToken::new());
        let report = export(source, &self.open().await, &self.options(snapshot), &progress, &cancel).await.unwrap();
        assert_eq!(report.read_bytes, read.load(Ordering::SeqCst));
        report
    }

    /// How many chunks of the volume the index names.
    async fn indexed(&self) -> u64 {
        let index = reopen(self.store.clone()).await.unwrap().load_index().await.unwrap();
        let chunks = self.volume.bytes.chunks(CHUNK as usize);
        chunks.filter(|chunk| index.get(BlobKind::Data, &Id::of(chunk)).unwrap().is_some()).count() as u64
    }

    /// The files of checkpoints.
    fn checkpoints(&self) -> Vec<PathBuf> {
        let folders = fs::read_dir(self.folder.path()).unwrap().map(|folder| folder.unwrap().path());
        let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()));
        files.filter(|file| file.file_name().unwrap().to_str().unwrap().starts_with("checkpoint-")).collect()
    }

    /// There is one snapshot more than `others`, it is the volume, the repository is sound, and nothing is left beside it.
    async fn is_whole(&self, report: &ExportReport, others: usize) {
        let repository = self.open().await;
        assert_eq!(repository.snapshots().await.unwrap().len(), others + 1);
        let found = restored(&repository, &report.snapshot, self.volume.bytes.len(), Locking::None).await.unwrap();
        assert!(found == self.volume.bytes, "another volume");
        let found = check(&repository).await;
        assert!(found.is_clean(), "{:?}", found.errors);
        assert_eq!(self.checkpoints(), Vec::<PathBuf>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_is_cut_ten_times_reads_nothing_twice_but_what_was_not_durable() {
    let machine = Machine::new(Volume::random((96 * MIB) as usize, 5)).await;
    let cuts = [
        (Moment::Stores(Kind::Lock, 1), Cut::Kill),
        (Moment::Reads(CHUNK), Cut::Kill),
        (Moment::Stores(Kind::Data, 1), Cut::Cancel),
        (Moment::Reads(24 * MIB), Cut::Kill),
        (Moment::Stores(Kind::Index, 2), Cut::Kill),
        (Moment::Reads(20 * MIB), Cut::Cancel),
        (Moment::Stores(Kind::Data, 3), Cut::Kill),
        (Moment::Stores(Kind::Index, 1), Cut::Cancel),
        (Moment::Stores(Kind::Snapshot, 1), Cut::Kill),
        (Moment::Stores(Kind::Snapshot, 1), Cut::Kill),
    ];
    let (mut reads, mut durable) = (Vec::new(), vec![0]);
    for (moment, how) in cuts {
        reads.push(machine.cut(moment, how, Err(FullReason::NoParent)).await);
        durable.push(machine.indexed().await);
    }
    let report = machine.export("s-cut", Err(FullReason::NoParent)).await;
    let chunks = machine.volume.bytes.len() as u64 / CHUNK;
    let before = *durable.last().unwrap();
    assert_eq!((report.resumed_chunks, report.read_bytes), (before, (chunks - before) * CHUNK), "what is durable is not read");
    machine.is_whole(&report, 0).await;
    let mut all = report.read_bytes;
    for (at, ((moment, how), read)) in cuts.iter().zip(&reads).enumerate() {
        let (read, gained) = (read.load(Ordering::SeqCst), (durable[at + 1] - durable[at]) * CHUNK);
        let lost = read - gained;
        println!("{how:?} at {moment:?}: read {} KiB, of which {} KiB were not durable", read >> 10, lost >> 10);
        assert!(lost <= under_way(), "{lost} of {read} bytes are lost, more than the {} that may be under way", under_way());
        all += read;
    }
    println!("read {} MiB of {} MiB in all", all >> 20, machine.volume.bytes.len() >> 20);
    assert!(all < 3 * machine.volume.bytes.len() as u64, "{all} bytes were read");
    assert_eq!(durable.last(), Some(&chunks), "the last two were cut when all was stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zeros_holes_and_repeated_chunks_are_gone_on_with_too() {
    let random = Volume::random((24 * MIB) as usize, 9).bytes;
    let mib = MIB as usize;
    let volume = Volume::empty(97 * mib + 512)
        .with(0, 24 * mib, |at| random[at])
        .with(24 * mib, 16 * mib, |_| 0)
        .with(48 * mib, 24 * mib, |at| random[at - 48 * mib])
        .with(90 * mib, 7 * mib + 512, |at| (at >> 9) as u8);
    let machine = Machine::new(volume).await;
    let first = machine.cut(Moment::Reads(50 * MIB), Cut::Cancel, Err(FullReason::NoParent)).await.load(Ordering::SeqCst);
    let report = machine.export("s-cut", Err(FullReason::NoParent)).await;
    let allocated: u64 = machine.volume.extents.iter().map(|extent| extent.length()).sum();
    assert!(report.resumed_chunks >= 16 * 4, "the zeros at least: {report:?}");
    assert!(first + report.read_bytes <= allocated + under_way() + CHUNK, "{first} and {}", report.read_bytes);
    machine.is_whole(&report, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_increment_that_is_cut_reads_the_rest_of_what_changed() {
    let mut machine = Machine::new(Volume::random((96 * MIB) as usize, 3)).await;
    let first = machine.export("s-first", Err(FullReason::NoParent)).await;
    let before = machine.volume.clone();
    let changed = ByteRange::new(16 * MIB, 64 * MIB).unwrap();
    let fresh = Volume::random((64 * MIB) as usize, 4).bytes;
    machine.volume.bytes[changed.offset() as usize..changed.end() as usize].copy_from_slice(&fresh);
    let parent = || Ok(Parent { snapshot_handle: "s-first".to_owned(), ..parent_of(first.snapshot, 1, &before, vec![changed]) });
    let inherited = machine.indexed().await;
    machine.cut(Moment::Reads(50 * MIB), Cut::Cancel, parent()).await;
    let durable = machine.indexed().await - inherited;
    assert!(durable > 0);
    let report = machine.export("s-cut", parent()).await;
    assert_eq!(report.mode.parent(), Some(first.snapshot));
    assert_eq!((report.resumed_chunks, report.read_bytes), (durable, changed.length() - durable * CHUNK));
    machine.is_whole(&report, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_prune_removed_between_two_attempts_is_read_again() {
    let machine = Machine::new(Volume::random((40 * MIB) as usize, 7)).await;
    machine.cut(Moment::Reads(36 * MIB), Cut::Cancel, Err(FullReason::NoParent)).await;
    assert!(machine.indexed().await > 0);
    let exact = PruneOptions { max_unused: MaxUnused::Percent(0), extent: Extent::Prune };
    machine.open().await.prune(exact, &|_, _, _| {}, &CancellationToken::new()).await.unwrap();
    assert_eq!(machine.indexed().await, 0, "nothing refers to them");
    assert_eq!(machine.checkpoints().len(), 1);
    let report = machine.export("s-cut", Err(FullReason::NoParent)).await;
    assert_eq!((report.resumed_chunks, report.read_bytes), (0, 40 * MIB));
    machine.is_whole(&report, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_is_damaged_missing_or_foreign_is_read_over() {
    type Damage = fn(&std::path::Path);
    let damages: [(&str, Damage); 4] = [
        ("flipped", |file| {
            let mut bytes = fs::read(file).unwrap();
            bytes[20] ^= 1;
            fs::write(file, bytes).unwrap();
        }),
        ("cut", |file| fs::File::options().write(true).open(file).unwrap().set_len(30).unwrap()),
        ("missing", |file| fs::remove_file(file).unwrap()),
        ("a folder", |file| {
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
        }),
    ];
    for (case, damage) in damages {
        let machine = Machine::new(Volume::random((24 * MIB) as usize, 7)).await;
        machine.cut(Moment::Reads(20 * MIB), Cut::Cancel, Err(FullReason::NoParent)).await;
        let durable = machine.indexed().await;
        let file = machine.checkpoints().remove(0);
        damage(&file);
        let report = machine.export("s-cut", Err(FullReason::NoParent)).await;
        assert_eq!((report.resumed_chunks, report.read_bytes), (0, 24 * MIB), "{case}");
        assert_eq!(report.new_chunks, 24 * MIB / CHUNK - durable, "{case}: nothing is stored twice");
        if file.is_dir() {
            fs::remove_dir(&file).unwrap();
        }
        machine.is_whole(&report, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_snapshot_or_chunk_size_takes_nothing_over_and_a_deleted_snapshot_leaves_nothing() {
    let mut machine = Machine::new(Volume::random((24 * MIB) as usize, 7)).await;
    machine.cut(Moment::Reads(20 * MIB), Cut::Cancel, Err(FullReason::NoParent)).await;
    let kept = machine.checkpoints();
    assert_eq!(kept.len(), 1);
    // Other bytes under another handle; and the first one's file under that one's name.
    let first = machine.volume.clone();
    machine.volume = Volume::random((24 * MIB) as usize, 8);
    let other = machine.export("s-other", Err(FullReason::NoParent)).await;
    assert_eq!((other.resumed_chunks, other.read_bytes), (0, 24 * MIB));
    assert_eq!(machine.checkpoints(), kept);
    let options = ExportOptions { chunk_size: ChunkSize::new(2 * CHUNK).unwrap(), ..machine.options("s-cut") };
    machine.volume = first;
    let source = machine.source(&Arc::default(), None, &Arc::default(), Err(FullReason::NoParent));
    let repository = machine.open().await;
    let larger = export(source, &repository, &options, &Progress::new(), &CancellationToken::new()).await.unwrap();
    assert_eq!((larger.resumed_chunks, larger.read_bytes), (0, 24 * MIB));
    assert_eq!(machine.checkpoints(), Vec::<PathBuf>::new());

    machine.cut(Moment::Reads(20 * MIB), Cut::Cancel, Err(FullReason::NoParent)).await;
    assert_eq!(machine.checkpoints().len(), 1);
    forget_checkpoint(&repository, "s-another").await;
    assert_eq!(machine.checkpoints().len(), 1);
    forget_checkpoint(&repository, "s-cut").await;
    assert_eq!(machine.checkpoints(), Vec::<PathBuf>::new());
}
