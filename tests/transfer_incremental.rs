//! Incremental exports: the same list as a full export gives, or a full export that says why; through stock restic; and through
//! the Transfers service. Needs `restic` in PATH; without it these tests fail.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/transfer_fixture.rs"]
mod transfer_fixture;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use basics::{new_snapshot, new_volume};
use csi_proto::windlass::v1 as proto;
use csi_proto::windlass::v1::TransferState;
use csi_proto::windlass::v1::transfers_server::Transfers as _;
use futures::StreamExt;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use transfer_fixture::*;
use windlass::agent::Transfers;
use windlass::node::blocks::PoolBlocks;
use windlass::pool::catalogue::Catalogue;
use windlass::pool::memory::MemoryPool;
use windlass::pool::owned::OwnedPool;
use windlass::pool::quiesce::NothingToHold;
use windlass::repository::store::fault::{Call, Fault, FaultyStore};
use windlass::repository::store::local::LocalStore;
use windlass::repository::store::memory::MemoryStore;
use windlass::repository::store::{Key, Kind};
use windlass::repository::tree::{FileSelector, NewFile, NewFolder, pack_folder, pack_tree};
use windlass::repository::{Id, IndexWriter, LockMode, Repository, Snapshot, Store};
use windlass::transfer::{
    ChunkSize, ExportError, ExportMode, ExportOptions, ExportReport, ExportSource, FullReason, Locking, Metadata, Parent,
    Progress, Scope, Target, export,
};
use windlass::types::{
    Access, ByteRange, CapacityRange, Object, RangeStream, SnapshotHandle, SnapshotId, Timestamp, VolumeHandle, VolumeId,
    VolumeSize,
};

const CHUNK: usize = 256 << 10;

/// The options of an export of the snapshot `handle`.
fn options_of(volume: &Volume, handle: &str) -> ExportOptions {
    let metadata = Metadata {
        volume_handle: Some("v-test".to_owned()),
        snapshot_handle: Some(handle.to_owned()),
        chunk_bytes: Some(CHUNK as u64),
        ..Metadata::of_size(volume.bytes.len() as u64)
    };
    ExportOptions { metadata, ..options(volume, ChunkSize::MIN) }
}

fn ranges(list: &[(usize, usize)]) -> RangeStream {
    let list: Vec<_> = list.iter().filter_map(|&(offset, length)| ByteRange::new(offset as u64, length as u64)).collect();
    Box::new(list.into_iter().map(Ok))
}

/// The first export, of the snapshot `s-1`.
async fn first(repository: &Repository, volume: &Volume) -> ExportReport {
    run(repository, volume, "s-1", Err(FullReason::NoParent)).await.unwrap()
}

async fn run(
    repository: &Repository,
    volume: &Volume,
    handle: &str,
    since: Result<Parent, FullReason>,
) -> Result<ExportReport, ExportError> {
    let scope = Scope { allocated: volume.stream(), since };
    let (options, cancel) = (options_of(volume, handle), CancellationToken::new());
    export(ExportSource::new(volume.source(), scope), repository, &options, &Progress::new(), &cancel).await
}

/// The export of `s-1` of `base`, as the parent of another.
fn parent(report: &ExportReport, base: &Volume, changed: RangeStream) -> Parent {
    Parent {
        snapshot: report.snapshot,
        volume_handle: "v-test".to_owned(),
        snapshot_handle: "s-1".to_owned(),
        size_bytes: base.bytes.len() as u64,
        changed,
    }
}

/// The list of blobs of the image in a snapshot.
async fn content(repository: &Repository, snapshot: &Id) -> Vec<Id> {
    let index = repository.load_index().await.unwrap();
    let tree = repository.snapshot(snapshot).await.unwrap().tree;
    repository.find_file(&index, &tree, &FileSelector::Only).await.unwrap().content.to_vec().unwrap()
}

/// The tree of the folder that the image of a snapshot lies in, where it holds nothing else.
async fn image_tree(repository: &Repository, snapshot: &Id) -> Option<Id> {
    let index = repository.load_index().await.unwrap();
    let tree = repository.snapshot(snapshot).await.unwrap().tree;
    repository.find_file(&index, &tree, &FileSelector::Path("/v-test/volume.img".to_owned())).await.unwrap().alone_in
}

/// The same snapshot, laid out as earlier versions did it: with what the volume was beside its image.
async fn as_earlier(repository: &Repository, snapshot: &Id) -> Id {
    let index = repository.load_index().await.unwrap();
    let now = repository.snapshot(snapshot).await.unwrap();
    let which = FileSelector::Path("/v-test/volume.img".to_owned());
    let image = repository.find_file(&index, &now.tree, &which).await.unwrap();
    let (bytes, list) = image.metadata.unwrap();
    let (list, modified) = (list.to_vec().unwrap(), Timestamp { seconds: 1_750_000_000, nanoseconds: 5 });
    let files = [
        NewFile { name: "volume.img", size: image.size, modified, content: &image.content },
        NewFile { name: "meta.json", size: bytes, modified, content: &list },
    ];
    let (scratch, sealer) = (repository.scratch(), repository.sealer());
    let folder = pack_tree(scratch, &sealer, &files).unwrap();
    let root = pack_folder(scratch, &sealer, &NewFolder { name: "v-test", modified, tree: folder.id }).unwrap();
    let mut writer = IndexWriter::new(repository.clone());
    for tree in [&folder, &root] {
        repository.put_tree(tree).await.unwrap();
        writer.add(tree.record.clone()).await.unwrap();
    }
    writer.finish().await.unwrap();
    let lock = repository.lock(LockMode::Shared).await.unwrap();
    let saved = repository.save_snapshot(&Snapshot { tree: root.id, ..now }, &lock).await.unwrap();
    lock.release().await.unwrap();
    saved
}

/// Snapshots of earlier versions are parents and read as ever; their tree is not taken, for it says what the volume was then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_an_earlier_version_is_a_parent() {
    let (_, repository) = in_memory().await;
    let base = Volume::random(8 * CHUNK, 9);
    let first = first(&repository, &base).await;
    let earlier = as_earlier(&repository, &first.snapshot).await;
    let size = base.bytes.len();
    assert!(restored(&repository, &earlier, size, Locking::Shared).await.unwrap() == base.bytes);
    let since = Parent { snapshot: earlier, ..parent(&first, &base, ranges(&[])) };
    let report = run(&repository, &base, "s-2", Ok(since)).await.unwrap();
    assert_eq!(report.mode, ExportMode::Incremental { parent: earlier });
    assert_eq!(image_tree(&repository, &earlier).await, None);
    assert!(image_tree(&repository, &report.snapshot).await.is_some());
    assert!(restored(&repository, &report.snapshot, size, Locking::Shared).await.unwrap() == base.bytes);
}

/// The list of a volume that did not change is not stored again, also not where the same bytes were written; one that changed is, and
/// one whose parent is of a version that put its metadata beside the image.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unchanged_volume_has_the_tree_of_its_parent() {
    let (_, repository) = in_memory().await;
    let base = Volume::random(20 * CHUNK, 7);
    let first = first(&repository, &base).await;
    let tree = image_tree(&repository, &first.snapshot).await;
    assert!(tree.is_some());
    let chain =
        [("nothing", vec![], true), ("the same bytes", vec![(5 * CHUNK, 3 * CHUNK)], true), ("a byte", vec![(CHUNK, 1)], false)];
    let mut before = (first.snapshot, "s-1".to_owned());
    for (number, (what, list, is_same)) in chain.into_iter().enumerate() {
        let mut volume = Volume { bytes: base.bytes.clone(), extents: base.extents.clone() };
        if !is_same {
            volume.bytes[CHUNK] ^= 1;
        }
        let since = Parent { snapshot: before.0, snapshot_handle: before.1, ..parent(&first, &base, ranges(&list)) };
        let handle = format!("s-{}", number + 2);
        let report = run(&repository, &volume, &handle, Ok(since)).await.unwrap();
        assert_eq!(report.mode, ExportMode::Incremental { parent: before.0 }, "{what}");
        assert_eq!(image_tree(&repository, &report.snapshot).await == tree, is_same, "{what}");
        let summary = repository.snapshot(&report.snapshot).await.unwrap().summary.unwrap();
        assert_eq!((summary.files_changed, summary.files_unmodified), if is_same { (1, 1) } else { (2, 0) }, "{what}");
        let read = restored(&repository, &report.snapshot, volume.bytes.len(), Locking::Shared).await.unwrap();
        assert!(read == volume.bytes, "{what}");
        before = (report.snapshot, handle);
    }
    assert!(check(&repository).await.is_clean());
}

/// A change: where, how long, and what is written there; `None` punches a hole.
type Change = (usize, usize, Option<u8>);

/// `base` grown by `grown` bytes and changed, with the list of what changed.
fn changed(base: &Volume, grown: usize, changes: &[Change]) -> (Volume, Vec<(usize, usize)>) {
    let mut bytes = base.bytes.clone();
    bytes.resize(base.bytes.len() + grown, 0);
    let mut list = Vec::new();
    for &(offset, length, value) in changes {
        let end = (offset + length).min(bytes.len());
        if offset < end {
            bytes[offset..end].iter_mut().enumerate().for_each(|(at, byte)| *byte = value.map_or(0, |value| value ^ at as u8));
            list.push((offset, end - offset));
        }
    }
    list.sort_unstable();
    // Whatever holds something is allocated, in blocks.
    let size = bytes.len();
    let blocks = (0..size).step_by(4096).filter(|&at| bytes[at..(at + 4096).min(size)].iter().any(|&byte| byte != 0));
    let extents = blocks.map(|at| ByteRange::between(at as u64, (at + 4096).min(size) as u64).unwrap()).collect();
    (Volume { bytes, extents }, list)
}

fn base_volume() -> impl Strategy<Value = Volume> {
    let fill = (0_usize..20, 1_usize..4, any::<u8>());
    (8_usize..20, 0_usize..3, proptest::collection::vec(fill, 0..6)).prop_map(|(chunks, odd, fills)| {
        // An end on the grid of chunks, on that of blocks, and off both.
        let size = chunks * CHUNK + [0, 8192, 8192 + 700][odd];
        let changes: Vec<Change> =
            fills.into_iter().map(|(chunk, count, value)| (chunk * CHUNK, count * CHUNK, Some(value))).collect();
        changed(&Volume::empty(size), 0, &changes).0
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn an_incremental_export_gives_the_list_of_a_full_one(
        base in base_volume(),
        grown in prop::sample::select(vec![0_usize, 0, 4096, 300_000, 3 << 20]),
        changes in proptest::collection::vec((0_usize..6 << 20, 1_usize..600_000, prop::option::of(any::<u8>())), 0..6),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let (_, repository) = in_memory().await;
            let before = first(&repository, &base).await;
            let (volume, list) = changed(&base, grown, &changes);
            let since = Ok(parent(&before, &base, ranges(&list)));
            let report = run(&repository, &volume, "s-2", since).await.unwrap();
            assert_eq!(report.mode, ExportMode::Incremental { parent: before.snapshot });
            assert_eq!(repository.snapshot(&report.snapshot).await.unwrap().parent, Some(before.snapshot));
            let most = list.iter().map(|&(_, length)| length + 2 * CHUNK).sum::<usize>() + CHUNK;
            assert!(report.read_bytes <= most as u64, "{} bytes read for {list:?}", report.read_bytes);

            let (_, other) = in_memory().await;
            let full = run(&other, &volume, "s-2", Err(FullReason::NoParent)).await.unwrap();
            assert_eq!(content(&repository, &report.snapshot).await, content(&other, &full.snapshot).await);
            assert_eq!((report.chunks, report.zero_bytes, report.size_bytes), (full.chunks, full.zero_bytes, full.size_bytes));

            let found = check(&repository).await;
            assert!(found.is_clean(), "{:?}", found.errors);
            let sink = fresh_sink(volume.bytes.len());
            restore_latest_of(&repository, &report.snapshot, sink.clone()).await;
            assert!(sink.content() == volume.bytes);
        });
    }
}

async fn restore_latest_of(repository: &Repository, snapshot: &Id, sink: Arc<windlass::block::MemorySink>) {
    // All snapshots of this test bear one time: the others go, so that the latest is the one that is meant.
    let lock = repository.lock(LockMode::Shared).await.unwrap();
    for stored in repository.snapshots().await.unwrap().iter().filter(|stored| stored.id != *snapshot) {
        repository.forget(&stored.id, &lock).await.unwrap();
    }
    lock.release().await.unwrap();
    restore_latest(repository, sink, Target::Fresh).await.unwrap().unwrap();
}

fn small() -> Volume {
    let random = Volume::random(3 * CHUNK, 9).bytes;
    Volume::empty(6 * CHUNK).with(0, 2 * CHUNK, |at| random[at]).with(3 * CHUNK, CHUNK, |at| random[at - CHUNK])
}

/// A new store, its repository, a volume in it, and its export.
async fn exported() -> (Arc<MemoryStore>, Repository, Volume, ExportReport) {
    let (store, repository) = in_memory().await;
    let base = small();
    let before = first(&repository, &base).await;
    (store, repository, base, before)
}

#[tokio::test]
async fn an_unchanged_volume_is_not_read_and_stores_no_data() {
    let (_, repository, base, before) = exported().await;
    let report = run(&repository, &base, "s-2", Ok(parent(&before, &base, ranges(&[])))).await.unwrap();
    assert_eq!((report.read_bytes, report.new_bytes, report.new_chunks, report.chunks), (0, 0, 0, 3));
    assert!(report.stored_bytes < 4096, "a tree and its metadata: {} bytes", report.stored_bytes);
    assert_eq!(content(&repository, &report.snapshot).await, content(&repository, &before.snapshot).await);
}

#[tokio::test]
async fn a_parent_that_is_not_what_it_is_said_to_be_makes_the_export_full() {
    let (_, repository, base, before) = exported().await;
    let good = || parent(&before, &base, ranges(&[]));
    let cases = [
        (Parent { volume_handle: "v-other".into(), ..good() }, "volume"),
        (Parent { snapshot_handle: "s-other".into(), ..good() }, "snapshot of the volume"),
        (Parent { size_bytes: 4096, ..good() }, "size"),
    ];
    for (parent, what) in cases {
        let report = run(&repository, &base, "s-2", Ok(parent)).await.unwrap();
        let reason = FullReason::Mismatch { snapshot: before.snapshot, what };
        assert_eq!(report.mode, ExportMode::Full(reason));
        assert_eq!(repository.snapshot(&report.snapshot).await.unwrap().parent, None);
        assert_eq!((report.read_bytes, report.new_bytes), (before.read_bytes, 0));
    }

    let mut options = options_of(&base, "s-2");
    options.chunk_size = ChunkSize::SMALL;
    options.metadata.chunk_bytes = Some(ChunkSize::SMALL.bytes());
    let scope = Scope { allocated: base.stream(), since: Ok(good()) };
    let cancel = CancellationToken::new();
    let report = export(ExportSource::new(base.source(), scope), &repository, &options, &Progress::new(), &cancel).await.unwrap();
    assert_eq!(report.mode, ExportMode::Full(FullReason::Mismatch { snapshot: before.snapshot, what: "chunk size" }));

    let smaller = Volume { bytes: base.bytes[..2 * CHUNK].to_vec(), extents: vec![ByteRange::new(0, 2 * CHUNK as u64).unwrap()] };
    let report = run(&repository, &smaller, "s-2", Ok(good())).await.unwrap();
    assert_eq!(report.mode, ExportMode::Full(FullReason::Mismatch { snapshot: before.snapshot, what: "size" }));
    assert!(check(&repository).await.is_clean());
}

#[tokio::test]
async fn a_parent_that_is_gone_or_lost_a_blob_makes_the_export_full_and_whole() {
    let (_, repository, base, before) = exported().await;
    let gone = Parent { snapshot: Id::of(b"gone"), ..parent(&before, &base, ranges(&[])) };
    let report = run(&repository, &base, "s-2", Ok(gone)).await.unwrap();
    assert_eq!(report.mode, ExportMode::Full(FullReason::SnapshotGone(Id::of(b"gone"))));

    let broken: RangeStream = Box::new([Err(std::io::Error::other("cut"))].into_iter());
    let report = run(&repository, &base, "s-2", Ok(parent(&before, &base, broken))).await.unwrap();
    assert_eq!(report.mode, ExportMode::Full(FullReason::ChangesUnknown("cut".to_owned())));

    // One index file at a time is lost: chunks, or the tree, or the metadata, are no longer named.
    let files = exported().await.0.list(Kind::Index).await.unwrap().len();
    for lost in 0..files {
        let (store, repository, base, before) = exported().await;
        let index = store.list(Kind::Index).await.unwrap()[lost].id;
        store.delete(Key::File(Kind::Index, index)).await.unwrap();
        let report = run(&repository, &base, "s-2", Ok(parent(&before, &base, ranges(&[])))).await.unwrap();
        let ExportMode::Full(FullReason::Unusable { snapshot, .. }) = report.mode else { panic!("{:?}", report.mode) };
        assert_eq!(snapshot, before.snapshot);
        assert_eq!(report.read_bytes, before.read_bytes);
        let sink = fresh_sink(base.bytes.len());
        restore_latest_of(&repository, &report.snapshot, sink.clone()).await;
        assert!(sink.content() == base.bytes);
        assert!(check(&repository).await.is_clean());
    }
}

#[tokio::test]
async fn a_pack_of_the_parent_s_tree_that_is_damaged_makes_the_export_full() {
    let (store, repository, base, before) = exported().await;
    let mut full = 0;
    for listed in store.list(Kind::Data).await.unwrap() {
        let key = Key::File(Kind::Data, listed.id);
        let whole = store.get(key).await.unwrap();
        store.tamper(key, |bytes| bytes[40] ^= 1);
        let report = run(&repository, &base, "s-2", Ok(parent(&before, &base, ranges(&[])))).await.unwrap();
        // A pack of chunks is not looked into; that of the tree or of the metadata is.
        if let Some(reason) = report.mode.full_reason() {
            assert!(reason.to_string().contains(&listed.id.to_string()), "{reason}");
            full += 1;
        }
        store.tamper(key, |bytes| *bytes = whole.to_vec());
    }
    assert!(full >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incremental_export_that_fails_at_any_call_is_an_error_and_the_next_completes() {
    let base = small();
    let (volume, list) = changed(&base, CHUNK, &[(CHUNK, 4096, Some(7)), (5 * CHUNK, 2 * CHUNK, Some(9))]);
    for fault in [Fault::Unavailable, Fault::Denied] {
        let attempts = (1..).map(|nth| {
            let (base, volume, list) = (base.clone(), volume.clone(), list.clone());
            async move {
                let (store, repository) = in_memory().await;
                let before = first(&repository, &base).await;
                let calls = Arc::new(AtomicU64::new(0));
                let counted = calls.clone();
                let script = move |call: &Call| {
                    let counts = !matches!(call, Call::Delete(_));
                    (counts && counted.fetch_add(1, Ordering::SeqCst) + 1 == nth).then_some(fault)
                };
                let inner: Arc<dyn Store> = store.clone();
                let faulty = Repository::open(Arc::new(FaultyStore::new(inner, script)), &password()).await;
                let result = match faulty {
                    Ok(faulty) => run(&faulty, &volume, "s-2", Ok(parent(&before, &base, ranges(&list)))).await.map_err(Some),
                    Err(_) => Err(None),
                };
                let was_reached = calls.load(Ordering::SeqCst) >= nth;
                assert_eq!(result.is_err(), was_reached, "{fault:?} at call {nth}: {result:?}");
                if was_reached {
                    assert_eq!(repository.snapshots().await.unwrap().len(), 1, "{fault:?} at call {nth}");
                }
                for listed in store.list(Kind::Lock).await.unwrap() {
                    store.delete(Key::File(Kind::Lock, listed.id)).await.unwrap();
                }
                let next = run(&repository, &volume, "s-2", Ok(parent(&before, &base, ranges(&list)))).await.unwrap();
                assert_eq!(next.mode.name(), "incremental");
                let found = check(&repository).await;
                assert!(found.is_clean(), "after {fault:?} at call {nth}: {:?}", found.errors);
                was_reached
            }
        });
        let met = futures::stream::iter(attempts).buffered(8).take_while(|&met| std::future::ready(met)).count().await;
        assert!(met > 10, "an incremental export makes more calls than {met}");
    }
}

/// A pool in memory with its transfers, and a repository in a directory.
struct Bench {
    folder: tempfile::TempDir,
    pool: Arc<OwnedPool>,
    transfers: Transfers,
    volume: VolumeId,
    device: File,
}

const SIZE: u64 = 8 << 20;

impl Bench {
    async fn new() -> Self {
        let pool = MemoryPool::with_capacity(1 << 30);
        let pool = OwnedPool::open(Arc::new(pool), Catalogue::in_memory().unwrap(), Arc::new(NothingToHold)).unwrap();
        let pool = Arc::new(pool);
        let volume = pool.create_volume(&new_volume("source", SIZE)).unwrap().into_inner().id;
        let attachment = pool.attach(Object::Volume(volume), Access::ReadWrite).unwrap();
        let device = File::options().read(true).write(true).open(attachment.device).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let bench = Self {
            folder,
            transfers: Transfers::new(Arc::new(PoolBlocks::new(vec![Arc::clone(&pool)])), "bench"),
            pool,
            volume,
            device,
        };
        init(Arc::new(LocalStore::new(bench.path()))).await;
        bench
    }

    /// Where a snapshot in the repository has the volume.
    fn image(&self) -> String {
        format!("/{}/volume.img", VolumeHandle { pool: self.pool.id(), volume: self.volume })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    fn cut(&self, name: &str) -> SnapshotId {
        self.pool.create_snapshots(&[new_snapshot(name, self.volume)]).unwrap().remove(0).into_inner().id
    }

    fn bytes(&self, snapshot: SnapshotId) -> Vec<u8> {
        let lease = self.pool.lease(snapshot).unwrap();
        let mut bytes = vec![0; lease.size().bytes() as usize];
        lease.file().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    async fn export(&self, snapshot: SnapshotId, chunk_size_bytes: u64) -> proto::ExportResult {
        self.run(proto::StartExportRequest { chunk_size_bytes, ..self.request(snapshot) }).await
    }

    fn request(&self, snapshot: SnapshotId) -> proto::StartExportRequest {
        proto::StartExportRequest {
            snapshot_id: SnapshotHandle { pool: self.pool.id(), snapshot }.to_string(),
            repository: Some(proto::RepositoryAccess {
                location: self.path().display().to_string(),
                password: PASSWORD.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    async fn run(&self, request: proto::StartExportRequest) -> proto::ExportResult {
        let transfer_id = self.transfers.start_export(Request::new(request)).await.unwrap().into_inner().transfer_id;
        let request = Request::new(proto::WatchTransferRequest { transfer_id });
        let states: Vec<_> = self.transfers.watch_transfer(request).await.unwrap().into_inner().collect().await;
        let last = states.last().unwrap().as_ref().unwrap();
        assert_eq!(last.state(), TransferState::Succeeded, "{}", last.message);
        last.export_result.clone().unwrap()
    }
}

fn restic(repository: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new("restic");
    let command = command.args(["--no-cache", "--repo"]).arg(repository).args(arguments).env("RESTIC_PASSWORD", PASSWORD);
    let output = command.output().unwrap_or_else(|error| panic!("restic is needed in PATH (apt-get install restic): {error}"));
    assert!(output.status.success(), "restic {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restic_checks_and_dumps_every_link_of_a_chain_that_the_service_made() {
    let bench = Bench::new().await;
    let noise = Volume::random(2 << 20, 3).bytes;
    bench.device.write_all_at(&noise, 1 << 20).unwrap();
    let snapshot = bench.cut("first");
    let result = bench.export(snapshot, CHUNK as u64).await;
    assert_eq!((result.mode.as_str(), result.parent.as_str()), ("full", ""));
    assert!(result.full_reason.contains("no earlier export"), "{}", result.full_reason);
    let mut chain = vec![(snapshot, result)];
    for link in 1..=10_usize {
        bench.device.write_all_at(&noise[..9000 * link], (link as u64 * 700_000) & !511).unwrap();
        if link == 4 {
            let larger = VolumeSize::new(SIZE + (3 << 19)).unwrap();
            bench.pool.grow_volume(bench.volume, CapacityRange::exactly(larger)).unwrap();
            bench.device.write_all_at(&noise[..5000], SIZE + (1 << 20)).unwrap();
        }
        let snapshot = bench.cut(&format!("link-{link}"));
        // Without a wish the chunks stay as small as the chain's.
        let result = bench.export(snapshot, 0).await;
        assert_eq!((result.mode.as_str(), result.full_reason.as_str()), ("incremental", ""));
        assert_eq!(result.parent, chain[link - 1].1.repository_snapshot);
        assert!(result.data_bytes <= 4 * CHUNK as u64, "{} bytes read at link {link}", result.data_bytes);
        chain.push((snapshot, result));
    }
    for (snapshot, result) in &chain {
        let dumped = restic(&bench.path(), &["dump", &result.repository_snapshot, &bench.image()]);
        assert!(dumped == bench.bytes(*snapshot), "the dump of {} differs", result.repository_snapshot);
    }
    restic(&bench.path(), &["check", "--read-data"]);

    // With other tags a snapshot has another name, and is still what it was.
    let before = chain.last().unwrap().1.repository_snapshot.clone();
    restic(&bench.path(), &["tag", "--add", "kept", &before]);
    let snapshot = bench.cut("after-tag");
    let result = bench.export(snapshot, 0).await;
    assert_eq!((result.mode.as_str(), result.full_reason.as_str(), result.data_bytes), ("incremental", "", 0));
    assert_ne!(result.parent, before);
    chain.push((snapshot, result));

    // Who asks for everything to be read gets that, in the chunks that there are.
    let full = bench.run(proto::StartExportRequest { full: true, ..bench.request(snapshot) }).await;
    assert_eq!((full.mode.as_str(), full.full_reason.as_str(), full.new_chunks), ("full", "a full export was asked for", 0));
    assert!(full.data_bytes > 0);
    restic(&bench.path(), &["forget", &full.repository_snapshot]);
    chain.push((snapshot, bench.export(snapshot, 0).await));

    // What was removed from the repository, or from the pool, cannot be built upon.
    let (last, result) = chain.last().unwrap();
    restic(&bench.path(), &["forget", &result.repository_snapshot]);
    let result = bench.export(bench.cut("after-forget"), 0).await;
    assert!(result.mode == "full" && result.full_reason.contains("no longer in the repository"), "{}", result.full_reason);
    assert_eq!(result.new_chunks, 0);
    let again = bench.export(*last, 0).await;
    assert_eq!((again.mode.as_str(), again.data_bytes), ("incremental", 0), "back to an older snapshot");
    let other = bench.export(bench.cut("other-chunks"), ChunkSize::SMALL.bytes()).await;
    assert!(other.mode == "full" && other.full_reason.contains("chunk size"), "{}", other.full_reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_that_were_rotated_away_between_two_exports_do_not_make_the_second_full() {
    let bench = Bench::new().await;
    bench.device.write_all_at(&Volume::random(2 << 20, 3).bytes, 1 << 20).unwrap();
    let mut daily = bench.cut("daily-0");
    bench.export(daily, CHUNK as u64).await;
    for day in 1..=2 {
        let hourly: Vec<_> = (0..24_u64)
            .map(|hour| {
                bench.device.write_all_at(&[hour as u8 + 1; 512], hour % 4 * 4096).unwrap();
                bench.cut(&format!("hourly-{day}-{hour}"))
            })
            .collect();
        for snapshot in std::iter::once(daily).chain(hourly) {
            bench.pool.delete_snapshot(snapshot).unwrap();
        }
        daily = bench.cut(&format!("daily-{day}"));
        let result = bench.export(daily, 0).await;
        assert_eq!((result.mode.as_str(), result.full_reason.as_str()), ("incremental", ""), "day {day}");
        assert!(result.data_bytes <= CHUNK as u64, "{} bytes read", result.data_bytes);
        let dumped = restic(&bench.path(), &["dump", &result.repository_snapshot, &bench.image()]);
        assert!(dumped == bench.bytes(daily));
    }
}
