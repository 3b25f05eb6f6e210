use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::read::parse_sealed;
use super::write::write_files;
use super::*;
use std::num::NonZeroU32;

use crate::repository::blob::BlobLocation;
use crate::repository::crypto::{Sealer, Secrets};
use crate::repository::damage::Damage;
use crate::repository::error::PackError;
use crate::repository::key_file::KdfCost;
use crate::repository::pack::{Compressor, PackBuilder, Verification, read_header};
use crate::repository::password::Password;
use crate::repository::store::memory::MemoryStore;
use crate::scratch::{Scratch, Spill};
use crate::types::Timestamp;
use proptest::prelude::*;

const TIME: Timestamp = Timestamp { seconds: 1_700_000_000, nanoseconds: 5 };

fn sealer() -> Sealer {
    Sealer::new(Secrets::random().unwrap())
}

fn file<'a>(name: &'a str, size: u64, content: &'a dyn Content) -> NewFile<'a> {
    NewFile { name, size, modified: TIME, content }
}

fn scratch() -> Scratch {
    Scratch::of_process()
}

fn pack(sealer: &Sealer, files: &[NewFile<'_>]) -> Result<PackedTree, PackError> {
    pack_tree(&scratch(), sealer, files)
}

fn location(tree: &PackedTree) -> BlobLocation {
    let blob = tree.record.blobs[0];
    BlobLocation { pack: tree.record.id, offset: blob.offset, length: blob.length, uncompressed_length: blob.uncompressed_length }
}

fn all(bytes: &Spill) -> Vec<u8> {
    let mut all = vec![0; bytes.len() as usize];
    bytes.read_at(0, &mut all).unwrap();
    all
}

proptest! {
    #[test]
    fn a_tree_reads_back(ids in prop::collection::vec(any::<[u8; 32]>(), 0..200), size: u64, memory in 0_usize..20_000) {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(folder.path(), 1 << 30, memory);
        let sealer = sealer();
        let ids: Vec<_> = ids.into_iter().map(Id::from_bytes).collect();
        let none = Vec::new();
        let tree = pack_tree(&scratch, &sealer, &[file("meta.json", 0, &none), file("disk.img", size, &ids)]).unwrap();
        let bytes = all(&tree.bytes);
        prop_assert_eq!(Id::of(&bytes), tree.record.id);
        prop_assert_eq!(&read_header(&sealer, &bytes).unwrap(), &tree.record.blobs);
        prop_assert_eq!(tree.record.blobs[0].id, tree.id);
        let nodes = parse_sealed(&scratch, &sealer, &tree.id, &location(&tree), &tree.bytes).unwrap();
        let found: Vec<_> = nodes.iter().map(|node| (node.name.as_str(), node.size, list(node))).collect();
        prop_assert_eq!(found, vec![("disk.img", size, ids), ("meta.json", 0, vec![])]);
    }
}

fn list(node: &Node) -> Vec<Id> {
    match &node.kind {
        NodeKind::File(content) => content.to_vec().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_text_of_a_tree_is_what_readers_expect() {
    let mut text = Vec::new();
    let ids = vec![Id::from_bytes([0; 32]), Id::from_bytes([255; 32])];
    write_files(&mut text, &[&file("disk.img", 8192, &ids)]).unwrap();
    let (zeros, ones, time) = ("0".repeat(64), "f".repeat(64), "2023-11-14T22:13:20.000000005Z");
    let expected = format!(
        r#"{{"nodes":[{{"name":"disk.img","type":"file","mode":384,"mtime":"{time}","atime":"{time}","ctime":"{time}","uid":0,"gid":0,"user":"root","group":"root","size":8192,"links":1,"content":["{zeros}","{ones}"]}}]}}"#
    );
    assert_eq!(String::from_utf8(text).unwrap(), expected + "\n");
}

#[tokio::test]
async fn a_file_is_found_at_the_end_of_its_folders() {
    let repository = Repository::init(Arc::new(MemoryStore::new()), &Password::new("x").unwrap(), KdfCost::TEST).await.unwrap();
    let (sealer, ids) = (repository.sealer(), vec![Id::of(b"content")]);
    let inner = pack(&sealer, &[file("disk.img", 7, &ids)]).unwrap();
    let folder = |name| pack_folder(&scratch(), &sealer, &NewFolder { name, modified: TIME, tree: inner.id });
    let root = folder("volume").unwrap();
    for tree in [&inner, &root] {
        repository.put_tree(tree).await.unwrap();
    }
    let index = Index::of(&scratch(), [&inner.record, &root.record]).unwrap();
    for which in [FileSelector::Only, FileSelector::Path("/volume/disk.img".to_owned())] {
        let found = repository.find_file(&index, &root.id, &which).await.unwrap();
        assert_eq!((found.path.as_str(), found.size, found.content.to_vec().unwrap()), ("/volume/disk.img", 7, ids.clone()));
        assert!(found.metadata.is_none() && found.alone_in == Some(inner.id));
    }
    assert!(matches!(folder("a/b"), Err(PackError::Name(name)) if name == "a/b"));
}

/// What a volume was stands beside its folder, or beside its image, where earlier versions put it.
#[tokio::test]
async fn what_a_volume_was_is_found_beside_its_folder_and_beside_its_image() {
    let repository = Repository::init(Arc::new(MemoryStore::new()), &Password::new("x").unwrap(), KdfCost::TEST).await.unwrap();
    let (sealer, ids, text) = (repository.sealer(), vec![Id::of(b"content")], vec![Id::of(b"text")]);
    for (name, beside_folder) in [("a", true), ("z", true), ("v", false)] {
        let (image, metadata) = (file("disk.img", 7, &ids), file("meta.json", 3, &text));
        let (inner, root) = if beside_folder {
            let inner = pack(&sealer, &[image]).unwrap();
            let folder = NewFolder { name, modified: TIME, tree: inner.id };
            (inner, pack_folder_beside(&scratch(), &sealer, &folder, &metadata).unwrap())
        } else {
            let inner = pack(&sealer, &[image, metadata]).unwrap();
            let folder = NewFolder { name, modified: TIME, tree: inner.id };
            (inner, pack_folder(&scratch(), &sealer, &folder).unwrap())
        };
        for tree in [&inner, &root] {
            repository.put_tree(tree).await.unwrap();
        }
        let index = Index::of(&scratch(), [&inner.record, &root.record]).unwrap();
        for which in [FileSelector::Only, FileSelector::Path(format!("{name}/disk.img"))] {
            let found = repository.find_file(&index, &root.id, &which).await.unwrap();
            assert_eq!(found.content.to_vec().unwrap(), ids);
            assert_eq!(found.metadata.map(|(bytes, list)| (bytes, list.to_vec().unwrap())), Some((3, text.clone())));
            assert_eq!(found.alone_in, beside_folder.then_some(inner.id));
        }
    }
    let folder = NewFolder { name: "meta.json", modified: TIME, tree: Id::of(b"tree") };
    let twice = pack_folder_beside(&scratch(), &sealer, &folder, &file("meta.json", 3, &text));
    assert!(matches!(twice, Err(PackError::Name(name)) if name == "meta.json"));
}

#[test]
fn names_that_need_quoting_or_occur_twice_are_refused() {
    let none = Vec::new();
    for name in ["", ".", "..", "a/b", "a\"b", "a\\b", "ü", "a\n"] {
        assert!(matches!(pack(&sealer(), &[file(name, 0, &none)]), Err(PackError::Name(found)) if found == name));
    }
    let twice = pack(&sealer(), &[file("a", 0, &none), file("a", 1, &none)]);
    assert!(matches!(twice, Err(PackError::Name(name)) if name == "a"));
}

#[test]
fn a_content_list_that_changes_is_noticed() {
    struct Changing(AtomicU64);
    impl Content for Changing {
        fn ids(&self) -> Box<dyn Iterator<Item = Result<Id, ScratchError>> + '_> {
            let walk = self.0.fetch_add(1, Ordering::SeqCst);
            Box::new(std::iter::once(Ok(Id::of(&walk.to_le_bytes()))))
        }
    }
    let changing = pack(&sealer(), &[file("disk.img", 1, &Changing(AtomicU64::new(0)))]);
    assert!(matches!(changing, Err(PackError::Unstable)));
}

#[test]
fn a_wrong_id_or_length_of_a_tree_is_noticed() {
    let sealer = sealer();
    let ids = vec![Id::of(b"x"); 1000];
    let tree = pack(&sealer, &[file("disk.img", 1000, &ids)]).unwrap();
    let right = location(&tree);
    let read = |id: &Id, location: &BlobLocation| parse_sealed(&scratch(), &sealer, id, location, &tree.bytes).unwrap_err();
    assert!(matches!(read(&Id::of(b""), &right), ReadError::Damage(Damage::WrongHash { found }) if found == tree.id));
    for length in [1, right.plain_length() - 1, right.plain_length() + 1] {
        let lying = BlobLocation { uncompressed_length: NonZeroU32::new(length), ..right };
        assert!(
            matches!(
                read(&tree.id, &lying),
                ReadError::Damage(Damage::Compression(_) | Damage::Length { .. } | Damage::TooLong { .. })
            ),
            "{length}"
        );
    }
}

/// A repository with the trees of `texts`, and their ids.
async fn repository_with(texts: &[String]) -> (Repository, Index, Vec<Id>) {
    let repository = Repository::init(Arc::new(MemoryStore::new()), &Password::new("x").unwrap(), KdfCost::TEST).await.unwrap();
    let mut builder = PackBuilder::new(repository.sealer(), BlobKind::Tree, 1000, Verification::Decode);
    let mut compressor = Compressor::new(1).unwrap();
    let ids: Vec<_> = texts.iter().map(|text| Id::of(text.as_bytes())).collect();
    for (text, id) in texts.iter().zip(&ids) {
        builder.add(*id, text.as_bytes(), &mut compressor).unwrap();
    }
    let pack = builder.finish().unwrap().unwrap();
    repository.put_pack(&pack).await.unwrap();
    (repository, Index::of(&scratch(), [&pack.record]).unwrap(), ids)
}

#[tokio::test]
async fn files_are_found_by_path_and_as_the_only_one() {
    let content = Id::of(b"content");
    let inner = format!(r#"{{"nodes":[{{"name":"disk.img","type":"file","size":7,"content":["{content}"]}}]}}"#);
    let dir = |name: &str, tree: &str| format!(r#"{{"name":"{name}","type":"dir","subtree":"{}"}}"#, Id::of(tree.as_bytes()));
    let one = format!(
        r#"{{"nodes":[{},{{"name":"meta.json","type":"file","content":[]}},{{"name":"s","type":"socket"}}]}}"#,
        dir("a", &inner)
    );
    let two = format!(r#"{{"nodes":[{},{}]}}"#, dir("a", &inner), dir("b", &inner));
    let (repository, index, ids) = repository_with(&[inner, one, two, r#"{"nodes":[]}"#.into()]).await;
    let expected = ("/a/disk.img".to_owned(), 7, vec![content]);
    let parts = |found: FoundFile| (found.path, found.size, found.content.to_vec().unwrap());
    let find = async |tree: usize, which: FileSelector| repository.find_file(&index, &ids[tree], &which).await;

    assert_eq!(parts(find(1, FileSelector::Only).await.unwrap()), expected);
    for path in ["a/disk.img", "/a//disk.img"] {
        assert_eq!(parts(find(1, FileSelector::Path(path.into())).await.unwrap()), expected);
    }
    for path in ["", "/", "a", "disk.img", "a/disk.img/x", "s"] {
        assert!(matches!(find(1, FileSelector::Path(path.into())).await, Err(RepositoryError::NoSuchFile(_))), "{path}");
    }
    assert!(matches!(find(2, FileSelector::Only).await, Err(RepositoryError::SeveralFiles { .. })));
    assert!(matches!(find(3, FileSelector::Only).await, Err(RepositoryError::NoFile)));
    let missing = repository.find_file(&index, &Id::of(b"none"), &FileSelector::Only).await;
    assert!(matches!(missing, Err(RepositoryError::MissingBlob { kind: BlobKind::Tree, .. })));
}

#[tokio::test]
async fn a_list_that_does_not_fit_the_scratch_space_is_an_error_of_that() {
    let ids = vec![Id::of(b"x"); 1000];
    let text = format!(r#"{{"nodes":[{{"name":"f","type":"file","content":{}}}]}}"#, serde_json::to_string(&ids).unwrap());
    let (repository, index, trees) = repository_with(&[text]).await;
    let folder = tempfile::tempdir().unwrap();
    let full = Scratch::new(folder.path(), 20_000, 1000);
    let error = repository.with_scratch(full.clone()).read_tree(&index, &trees[0]).await.unwrap_err();
    assert!(matches!(error, RepositoryError::Scratch(_)), "{error}");
    let sealed =
        pack_tree(&full, &sealer(), &[file("f", 1, &(0..1000_u32).map(|at| Id::of(&at.to_le_bytes())).collect::<Vec<_>>())]);
    assert!(matches!(sealed, Err(PackError::Scratch(_))), "{sealed:?}");
    assert_eq!(full.used_bytes(), 0);
}
