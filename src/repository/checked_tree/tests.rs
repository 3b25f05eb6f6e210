use std::fs;
use std::path::PathBuf;

use super::*;
use crate::repository::cache::Cache;
use crate::repository::doubts::Whole;
use crate::repository::store::memory::MemoryStore;
use crate::repository::{BlobKind, Store};
use crate::repository::{Compressor, IndexWriter, KdfCost, PackBuilder, Password, Verification};

/// A repository with packs of a blob each, and a machine that remembers.
struct Fixture {
    folder: tempfile::TempDir,
    repository: Repository,
    records: Vec<PackRecord>,
}

fn tree() -> Id {
    Id::of(b"tree")
}

const NOTE: &[u8] = b"a note";

impl Fixture {
    async fn new(packs: u64) -> Self {
        let (folder, store) = (tempfile::tempdir().unwrap(), Arc::new(MemoryStore::new()) as Arc<dyn Store>);
        let repository = Repository::init(store, &Password::new("x").unwrap(), KdfCost::TEST).await.unwrap();
        let repository = repository.with_doubts_in(&Cache::new(folder.path().to_owned(), 1 << 20).with_checked_from(0));
        let (mut writer, mut records) = (IndexWriter::new(repository.clone()), Vec::new());
        for number in 0..packs {
            let mut pack = PackBuilder::new(repository.sealer(), BlobKind::Data, 1000, Verification::Decode);
            let plain = number.to_le_bytes();
            pack.add(Id::of(&plain), &plain, &mut Compressor::new(1).unwrap()).unwrap();
            let pack = pack.finish().unwrap().unwrap();
            repository.put_pack(&pack).await.unwrap();
            writer.add(pack.record.clone()).await.unwrap();
            records.push(pack.record);
        }
        writer.finish().await.unwrap();
        Self { folder, repository, records }
    }

    /// Remembers that the tree's blobs lie in all packs, half of which an export stored itself.
    async fn remember(&self) {
        let index = self.index().await;
        let (mut used, found) = (UsedPacks::none(self.repository.scratch()), Arc::new(index.no_packs()));
        for (number, record) in self.records.iter().enumerate() {
            match number % 2 {
                0 => used.stored(record).unwrap(),
                _ => drop(index.claim_data(&record.blobs[0].id, &found).unwrap()),
            }
        }
        self.repository.remember_tree(tree(), NOTE.to_vec(), used.and_found(index, found)).await.unwrap();
    }

    async fn index(&self) -> Arc<Index> {
        Arc::new(self.repository.load_trusted_index().await.unwrap())
    }

    async fn remembered(&self, tree: Id) -> Option<CheckedTree> {
        self.repository.checked_tree(&self.index().await, &tree).await.unwrap()
    }

    fn file_of(&self, tree: Id) -> PathBuf {
        self.folder.path().join(self.repository.id().to_string()).join(Cached::Checked(tree).to_string())
    }
}

#[tokio::test]
async fn a_tree_is_remembered_with_its_packs_and_its_note() {
    let fixture = Fixture::new(5).await;
    assert!(fixture.remembered(tree()).await.is_none());
    fixture.remember().await;
    let CheckedTree { note, packs } = fixture.remembered(tree()).await.unwrap();
    assert_eq!(note, NOTE);
    let mut found = Vec::new();
    fixture.index().await.each_pack_of(&packs, |pack| found.push(pack.id)).unwrap();
    found.sort_unstable();
    let mut expected: Vec<Id> = fixture.records.iter().map(|record| record.id).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert!(fixture.remembered(Id::of(b"another tree")).await.is_none());
}

#[tokio::test]
async fn a_tree_of_which_a_pack_is_doubted_is_not_believed_and_is_when_it_was_found_sound() {
    for number in 0..3 {
        let fixture = Fixture::new(3).await;
        fixture.remember().await;
        fixture.repository.note_damaged([fixture.records[number].id], Whole::No).await.unwrap();
        assert!(fixture.remembered(tree()).await.is_none(), "{number}");
        fixture.repository.note_damaged([], Whole::Yes).await.unwrap();
        assert!(fixture.remembered(tree()).await.is_some(), "{number}");
    }
}

#[tokio::test]
async fn what_is_cut_or_flipped_is_nothing_and_goes() {
    let fixture = Fixture::new(2).await;
    fixture.remember().await;
    let path = fixture.file_of(tree());
    let whole = fs::read(&path).unwrap();
    let flipped = (0..whole.len()).map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    });
    let cut = (0..whole.len()).map(|length| whole[..length].to_vec());
    let longer = [[&whole[..], &[0]].concat(), [&whole[..], &whole[..]].concat()];
    for (case, bytes) in flipped.chain(cut).chain(longer).enumerate() {
        fs::write(&path, bytes).unwrap();
        assert!(fixture.remembered(tree()).await.is_none(), "case {case}");
        assert!(!path.exists(), "case {case}");
    }
    fs::write(&path, whole).unwrap();
    assert!(fixture.remembered(tree()).await.is_some());
}

#[tokio::test]
async fn what_is_said_of_another_tree_or_in_another_repository_is_nothing() {
    let (fixture, other) = (Fixture::new(2).await, Fixture::new(2).await);
    fixture.remember().await;
    let (path, moved) = (fixture.file_of(tree()), fixture.file_of(Id::of(b"moved")));
    fs::copy(&path, &moved).unwrap();
    assert!(fixture.remembered(Id::of(b"moved")).await.is_none());
    assert!(!moved.exists());
    // A note without packs would hold for every index.
    other.repository.remember_tree(tree(), NOTE.to_vec(), UsedPacks::none(other.repository.scratch())).await.unwrap();
    assert!(other.remembered(tree()).await.is_some());
    fs::copy(other.file_of(tree()), &path).unwrap();
    assert!(fixture.remembered(tree()).await.is_none());
    assert!(!path.exists());
}
