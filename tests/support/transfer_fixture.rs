//! Volumes, repositories and stores for the tests of transfers.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use windlass::block::{BlockSink, BlockSource, MemorySink, MemorySource};
use windlass::repository::check::{CheckReport, Depth};
use windlass::repository::store::memory::MemoryStore;
use windlass::repository::store::{Key, Kind, PutMode};
use windlass::repository::tree::FileSelector;
use windlass::repository::{Id, KdfCost, Password, Repository, RepositoryError, Store, Verification};
use windlass::transfer::{
    Budget, ChunkSize, ExportError, ExportOptions, ExportReport, ExportSource, FullReason, Image, Locking, Metadata, Parent,
    Progress, RestoreError, RestoreOptions, RestoreReport, Scope, Target, export, restore,
};
use windlass::types::error::chain;
use windlass::types::{ByteRange, LogicalBlockSize, RangeStream, Timestamp};

pub const PASSWORD: &str = "correct horse";

/// A volume's bytes, and which of them are allocated. The rest is zeros.
#[derive(Clone)]
pub struct Volume {
    pub bytes: Vec<u8>,
    pub extents: Vec<ByteRange>,
}

impl Volume {
    /// `size` bytes of which nothing is allocated.
    pub fn empty(size: usize) -> Self {
        Self { bytes: vec![0; size], extents: Vec::new() }
    }

    /// Allocates `length` bytes at `offset`, after everything allocated so far, and fills them.
    pub fn with(mut self, offset: usize, length: usize, fill: impl Fn(usize) -> u8) -> Self {
        let end = (offset + length).min(self.bytes.len());
        if offset < end {
            (offset..end).for_each(|at| self.bytes[at] = fill(at));
            self.extents.push(ByteRange::between(offset as u64, end as u64).unwrap());
        }
        self
    }

    /// A volume of `size` bytes all of which are allocated and random.
    pub fn random(size: usize, seed: u64) -> Self {
        let mut state = seed | 1;
        let mut bytes = vec![0; size];
        for part in bytes.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            part.copy_from_slice(&state.to_le_bytes()[..part.len()]);
        }
        Self { bytes, extents: vec![ByteRange::new(0, size as u64).unwrap()] }
    }

    pub fn source(&self) -> Arc<dyn BlockSource> {
        Arc::new(MemorySource::with_block_size(self.bytes.clone(), LogicalBlockSize::B512))
    }

    pub fn stream(&self) -> RangeStream {
        Box::new(self.extents.clone().into_iter().map(Ok))
    }
}

pub fn budget(workers: usize) -> Budget {
    Budget { memory_bytes: 192 << 20, workers: NonZeroUsize::new(workers).unwrap() }
}

pub fn options(volume: &Volume, chunk_size: ChunkSize) -> ExportOptions {
    ExportOptions {
        path: "/v-test/volume.img".to_owned(),
        hostname: "cluster".to_owned(),
        tags: vec!["snapshot=s-test".to_owned()],
        time: Timestamp { seconds: 1_750_000_000, nanoseconds: 5 },
        metadata: Metadata { volume_handle: Some("v-test".to_owned()), ..Metadata::of_size(volume.bytes.len() as u64) },
        chunk_size,
        budget: budget(2),
        verification: Verification::Decode,
    }
}

pub fn password() -> Password {
    Password::new(PASSWORD).unwrap()
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, allocated {:?}", self.bytes.len(), self.extents)
    }
}

/// A new repository in `store`.
pub async fn init(store: Arc<dyn Store>) -> Repository {
    Repository::init(store, &password(), KdfCost::TEST).await.unwrap()
}

/// A new repository in memory.
pub async fn in_memory() -> (Arc<MemoryStore>, Repository) {
    let store = Arc::new(MemoryStore::new());
    let repository = init(store.clone()).await;
    (store, repository)
}

pub async fn export_volume(repository: &Repository, volume: &Volume, chunk_size: ChunkSize) -> Result<ExportReport, ExportError> {
    let options = options(volume, chunk_size);
    let cancel = CancellationToken::new();
    export(ExportSource::new(volume.source(), volume.stream()), repository, &options, &Progress::new(), &cancel).await
}

/// Exports `volume` as the link `number` of a chain, a second after the link before it.
pub async fn export_link(
    repository: &Repository,
    volume: &Volume,
    number: u64,
    since: Result<Parent, FullReason>,
    cancel: &CancellationToken,
) -> Result<ExportReport, ExportError> {
    let seconds = options(volume, ChunkSize::MIN).time.seconds + number;
    export_link_at(repository, volume, (number, seconds), since, cancel).await
}

/// The same at a time of its own, in seconds since the epoch, which comes after its number.
pub async fn export_link_at(
    repository: &Repository,
    volume: &Volume,
    (number, seconds): (u64, u64),
    since: Result<Parent, FullReason>,
    cancel: &CancellationToken,
) -> Result<ExportReport, ExportError> {
    let mut options = options(volume, ChunkSize::MIN);
    options.time.seconds = seconds;
    options.metadata.snapshot_handle = Some(format!("s-{number}"));
    options.metadata.chunk_bytes = Some(ChunkSize::MIN.bytes());
    let scope = Scope { allocated: volume.stream(), since };
    export(ExportSource::new(volume.source(), scope), repository, &options, &Progress::new(), cancel).await
}

/// The link `number`, exported from `volume`, as the parent of another that differs from it in `changed`.
pub fn parent_of(snapshot: Id, number: u64, volume: &Volume, changed: Vec<ByteRange>) -> Parent {
    Parent {
        snapshot,
        volume_handle: "v-test".to_owned(),
        snapshot_handle: format!("s-{number}"),
        size_bytes: volume.bytes.len() as u64,
        changed: Box::new(changed.into_iter().map(Ok)),
    }
}

/// A volume, and what it became: which ranges differ is known.
#[derive(Clone)]
pub struct Change {
    pub before: Volume,
    pub after: Volume,
    pub changed: Vec<ByteRange>,
}

impl Change {
    /// A volume of chunks that are random, that compress, and that are zeros; then one of these overwritten in part, and a hole
    /// filled.
    pub fn small() -> Self {
        const CHUNK: usize = 256 << 10;
        let random = Volume::random(2 * CHUNK, 77).bytes;
        let before = Volume::empty(8 * CHUNK).with(0, CHUNK, |at| random[at]).with(CHUNK, 2 * CHUNK, |at| (at >> 10) as u8).with(
            4 * CHUNK,
            CHUNK,
            |_| 0,
        );
        let mut after = before.clone().with(6 * CHUNK, 2 * CHUNK, |at| random[at - 6 * CHUNK]);
        after.bytes[5000..9000].fill(9);
        let changed = [(5000, 4000), (6 * CHUNK, 2 * CHUNK)];
        let changed = changed.map(|(at, length)| ByteRange::new(at as u64, length as u64).unwrap()).to_vec();
        Self { before, after, changed }
    }

    /// The parent of the export of what it became, given the export of what it was.
    pub fn parent(&self, snapshot: Id) -> Parent {
        parent_of(snapshot, 1, &self.before, self.changed.clone())
    }

    /// Exports what it was, as the first link.
    pub async fn export_before(&self, repository: &Repository) -> Id {
        export_link(repository, &self.before, 1, Err(FullReason::NoParent), &CancellationToken::new()).await.unwrap().snapshot
    }

    /// Exports what it became, built upon `parent`.
    pub async fn export_after(&self, repository: &Repository, parent: Id) -> Result<ExportReport, ExportError> {
        export_link(repository, &self.after, 2, Ok(self.parent(parent)), &CancellationToken::new()).await
    }
}

/// Removes the locks that failed operations left.
pub async fn remove_locks(store: &MemoryStore) {
    for listed in store.list(Kind::Lock).await.unwrap() {
        store.delete(Key::File(Kind::Lock, listed.id)).await.unwrap();
    }
}

/// Another store with the same objects.
pub async fn copy_of(store: &MemoryStore) -> Arc<MemoryStore> {
    let copy = Arc::new(MemoryStore::new());
    for key in store.keys() {
        copy.put(key, store.get(key).await.unwrap(), PutMode::Overwrite).await.unwrap();
    }
    copy
}

/// The repository in `store`, another time.
pub async fn reopen(store: Arc<dyn Store>) -> Result<Repository, RepositoryError> {
    Repository::open(store, &password()).await
}

/// Restores the only image of the snapshot `id` into a sink of `bytes`.
pub async fn restored(repository: &Repository, id: &Id, bytes: usize, locking: Locking) -> Result<Vec<u8>, String> {
    let mut image =
        Image::open(repository, &id.to_string(), &FileSelector::Only, locking).await.map_err(|error| chain(&error))?;
    let (sink, options) = (fresh_sink(bytes), RestoreOptions { target: Target::Fresh, budget: budget(2) });
    let result = restore(&mut image, sink.clone(), &options, &Progress::new(), &CancellationToken::new()).await;
    image.close().await;
    result.map(|_| sink.content()).map_err(|error| chain(&error))
}

/// Restores the only image of the newest snapshot.
pub async fn restore_latest(
    repository: &Repository,
    sink: Arc<dyn BlockSink>,
    target: Target,
) -> Result<Result<RestoreReport, RestoreError>, RepositoryError> {
    let mut image = Image::open(repository, "latest", &FileSelector::Only, Locking::Shared).await?;
    let options = RestoreOptions { target, budget: budget(2) };
    let report = restore(&mut image, sink, &options, &Progress::new(), &CancellationToken::new()).await;
    image.close().await;
    Ok(report)
}

pub async fn check(repository: &Repository) -> CheckReport {
    repository.check(Depth::ReadData, &|_, _| {}).await.unwrap()
}

/// A sink of zeros.
pub fn fresh_sink(size: usize) -> Arc<MemorySink> {
    Arc::new(MemorySink::new(size))
}

/// A source whose reads fail from the `good_reads`-th on.
pub struct FailingSource {
    pub inner: Arc<dyn BlockSource>,
    pub good_reads: std::sync::atomic::AtomicI64,
}

impl BlockSource for FailingSource {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn logical_block_size(&self) -> LogicalBlockSize {
        self.inner.logical_block_size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.good_reads.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) <= 0 {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.inner.read_at(offset, buffer)
    }
}
