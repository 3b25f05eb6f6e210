use bytes::Bytes;

use super::*;
use crate::repository::blob::BlobKind;
use crate::repository::id::Id;
use crate::repository::index::IndexWriter;
use crate::repository::key_file::KdfCost;
use crate::repository::lock::LockMode;
use crate::repository::pack::{Compressor, Pack, PackBuilder, Verification};
use crate::repository::password::Password;
use crate::repository::snapshot::Snapshot;
use crate::repository::store::Key;
use crate::repository::store::fault::{Call, Fault, FaultyStore};
use crate::repository::store::memory::MemoryStore;
use crate::repository::store::{PutMode, Store};
use crate::repository::tree::{NewFile, PackedTree, pack_tree};
use crate::types::Timestamp;

struct Fixture {
    store: Arc<MemoryStore>,
    repository: Repository,
    data: Pack,
    tree: PackedTree,
}

/// A repository with one snapshot of one file of three blobs.
async fn fixture() -> Fixture {
    let store = Arc::new(MemoryStore::new());
    let repository = Repository::init(store.clone(), &Password::new("x").unwrap(), KdfCost::TEST).await.unwrap();
    let lock = repository.lock(LockMode::Shared).await.unwrap();
    let chunks = [vec![1; 5000], (0..=255).collect::<Vec<u8>>(), vec![2; 100]];
    let mut builder = PackBuilder::new(repository.sealer(), BlobKind::Data, 1 << 20, Verification::Decode);
    let mut compressor = Compressor::new(1).unwrap();
    for chunk in &chunks {
        builder.add(Id::of(chunk), chunk, &mut compressor).unwrap();
    }
    let data = builder.finish().unwrap().unwrap();
    let content = chunks.iter().map(|chunk| Id::of(chunk)).collect::<Vec<_>>();
    let file = NewFile { name: "disk.img", size: 5356, modified: Timestamp::now(), content: &content };
    let tree = pack_tree(repository.scratch(), &repository.sealer(), &[file]).unwrap();
    let root = tree.id;
    let mut writer = IndexWriter::new(repository.clone());
    repository.put_pack(&data).await.unwrap();
    repository.put_tree(&tree).await.unwrap();
    for record in [&data.record, &tree.record] {
        writer.add(record.clone()).await.unwrap();
    }
    writer.finish().await.unwrap();
    let snapshot = Snapshot {
        time: "2026-01-01T00:00:00Z".into(),
        tree: root,
        paths: vec!["/disk.img".into()],
        hostname: "h".into(),
        username: String::new(),
        tags: vec![],
        parent: None,
        original: None,
        program_version: String::new(),
        summary: None,
    };
    repository.save_snapshot(&snapshot, &lock).await.unwrap();
    lock.release().await.unwrap();
    Fixture { store, repository, data, tree }
}

impl Fixture {
    async fn check(&self, depth: Depth) -> CheckReport {
        self.repository.check(depth, &|_, _| {}).await.unwrap()
    }

    fn data_key(&self) -> Key {
        Key::File(Kind::Data, self.data.record.id)
    }
}

#[tokio::test]
async fn a_whole_repository_is_clean_and_its_parts_are_counted() {
    let fixture = fixture().await;
    let told = std::sync::Mutex::new(Vec::new());
    let report =
        fixture.repository.check(Depth::ReadData, &|done, total| told.lock().unwrap().push((done, total))).await.unwrap();
    let bytes_read = fixture.data.bytes.len() as u64 + fixture.tree.bytes.len();
    let expected =
        CheckReport { snapshots: 1, trees: 1, blobs_used: 4, blobs_indexed: 4, packs: 2, bytes_read, ..CheckReport::default() };
    assert_eq!(report, expected);
    assert!(report.is_clean());
    assert_eq!(told.into_inner().unwrap(), [(1, 2), (2, 2)]);
    assert_eq!(fixture.store.list(Kind::Lock).await.unwrap(), []);
}

#[tokio::test]
async fn a_flipped_bit_is_found_by_reading_data_and_named() {
    let fixture = fixture().await;
    fixture.store.tamper(fixture.data_key(), |bytes| bytes[40] ^= 1);
    assert!(fixture.check(Depth::Structure).await.is_clean());
    let report = fixture.check(Depth::ReadData).await;
    assert!(report.errors[..2].iter().all(|error| error.contains(&fixture.data_key().path())), "{report:?}");
    assert!(
        report.errors[2].contains("file `disk.img` in snapshot") && report.errors[2].contains("at bytes 0-4999:"),
        "{report:?}"
    );
    assert_eq!(report.errors.len(), 3, "the pack, its first blob and what is lost with it: {report:?}");
}

#[tokio::test]
async fn truncated_and_missing_packs_are_found_without_reading_them() {
    let fixture = fixture().await;
    fixture.store.tamper(fixture.data_key(), |bytes| bytes.truncate(100));
    assert_eq!(fixture.check(Depth::Structure).await.errors.len(), 2);
    assert!(fixture.check(Depth::ReadData).await.errors.len() >= 3);
    fixture.store.delete(fixture.data_key()).await.unwrap();
    let report = fixture.check(Depth::ReadData).await;
    assert_eq!(report.errors[0], format!("{} is in the index and does not exist", fixture.data_key()));
    assert!(report.errors[1].ends_with("cannot be read at bytes 0-5355: 3 of its blobs are lost"), "{report:?}");
    assert_eq!(report.errors.len(), 2, "{report:?}");
}

#[tokio::test]
async fn a_lost_index_leaves_unindexed_packs_and_a_missing_tree() {
    let fixture = fixture().await;
    for listed in fixture.store.list(Kind::Index).await.unwrap() {
        fixture.store.delete(Key::File(Kind::Index, listed.id)).await.unwrap();
    }
    let report = fixture.check(Depth::Structure).await;
    assert_eq!((report.packs, report.packs_unindexed), (0, 2));
    assert_eq!(report.errors.len(), 1, "{report:?}");
}

#[tokio::test]
async fn damaged_documents_and_trees_are_named() {
    for kind in [Kind::Index, Kind::Snapshot] {
        let fixture = fixture().await;
        let key = Key::File(kind, fixture.store.list(kind).await.unwrap()[0].id);
        fixture.store.tamper(key, |bytes| bytes[20] ^= 1);
        let report = fixture.check(Depth::Structure).await;
        assert!(report.errors[0].contains(&key.path()), "{report:?}");
    }
    let fixture = fixture().await;
    fixture.store.tamper(Key::File(Kind::Data, fixture.tree.record.id), |bytes| bytes[20] ^= 1);
    let report = fixture.check(Depth::Structure).await;
    assert!(report.errors[0].contains("tree blob") && report.errors[0].contains("used by snapshot"), "{report:?}");
}

#[tokio::test]
async fn an_index_without_the_data_names_the_file_that_lacks_it() {
    let fixture = fixture().await;
    let old = fixture.store.list(Kind::Index).await.unwrap()[0].id;
    fixture.store.delete(Key::File(Kind::Index, old)).await.unwrap();
    let mut writer = IndexWriter::new(fixture.repository.clone());
    writer.add(fixture.tree.record.clone()).await.unwrap();
    writer.finish().await.unwrap();
    let report = fixture.check(Depth::ReadData).await;
    assert!(report.errors[0].starts_with("3 blobs of file `disk.img`"), "{report:?}");
}

#[tokio::test]
async fn packs_of_an_interrupted_export_are_no_error() {
    let fixture = fixture().await;
    let junk = Bytes::from_static(b"junk");
    fixture.store.put(Key::File(Kind::Data, Id::of(&junk)), junk, PutMode::Overwrite).await.unwrap();
    let report = fixture.check(Depth::ReadData).await;
    assert!(report.is_clean() && report.packs_unindexed == 1, "{report:?}");
}

#[tokio::test]
async fn a_store_that_does_not_answer_ends_the_check() {
    let fixture = fixture().await;
    let data = fixture.data_key();
    let unavailable = move |call: &Call| matches!(call, Call::GetRange(key) if *key == data).then_some(Fault::Unavailable);
    let faulty = Arc::new(FaultyStore::new(fixture.store.clone(), unavailable));
    let repository = Repository::open(faulty, &Password::new("x").unwrap()).await.unwrap();
    assert!(repository.check(Depth::Structure, &|_, _| {}).await.unwrap().is_clean());
    assert!(repository.check(Depth::ReadData, &|_, _| {}).await.unwrap_err().is_transient());
    assert_eq!(fixture.store.list(Kind::Lock).await.unwrap(), []);
}
