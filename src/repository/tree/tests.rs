use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::repository::blob::PackedBlob;
use crate::repository::crypto::Secrets;
use crate::repository::key_file::KdfCost;
use crate::repository::pack::{Compressor, read_header};
use crate::repository::password::Password;
use crate::repository::store::memory::MemoryStore;
use proptest::prelude::*;

const TIME: Timestamp = Timestamp { seconds: 1_700_000_000, nanoseconds: 5 };

fn sealer() -> Sealer {
    Sealer::new(Secrets::random().unwrap())
}

fn file<'a>(name: &'a str, size: u64, content: &'a dyn Content) -> NewFile<'a> {
    NewFile { name, size, modified: TIME, content }
}

fn location(pack: &Pack, blob: &PackedBlob) -> BlobLocation {
    BlobLocation { pack: pack.record.id, offset: blob.offset, length: blob.length, uncompressed_length: blob.uncompressed_length }
}

proptest! {
    #[test]
    fn a_tree_reads_back(ids in prop::collection::vec(any::<[u8; 32]>(), 0..200), size: u64) {
        let sealer = sealer();
        let ids: Vec<_> = ids.into_iter().map(Id::from_bytes).collect();
        let none = Vec::new();
        let (id, pack) = pack_tree(&sealer, &[file("meta.json", 0, &none), file("disk.img", size, &ids)]).unwrap();
        prop_assert_eq!(&read_header(&sealer, &pack.bytes).unwrap(), &pack.record.blobs);
        let blob = pack.record.blobs[0];
        prop_assert_eq!(blob.id, id);
        let nodes = parse_sealed(&sealer, &id, &location(&pack, &blob), &pack.bytes[..blob.length as usize]).unwrap();
        prop_assert_eq!(nodes, vec![
            Node { name: "disk.img".into(), size, kind: NodeKind::File(ids) },
            Node { name: "meta.json".into(), size: 0, kind: NodeKind::File(vec![]) },
        ]);
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
    let (inner, inner_pack) = pack_tree(&sealer, &[file("disk.img", 7, &ids)]).unwrap();
    let (root, root_pack) = pack_folder(&sealer, &NewFolder { name: "volume", modified: TIME, tree: inner }).unwrap();
    let index = repository.load_index().await.unwrap();
    for pack in [&inner_pack, &root_pack] {
        repository.put_pack(pack).await.unwrap();
        index.add(&pack.record);
    }
    for which in [FileSelector::Only, FileSelector::Path("/volume/disk.img".to_owned())] {
        let found = repository.find_file(&index, &root, &which).await.unwrap();
        assert_eq!((found.path.as_str(), found.size, &found.content), ("/volume/disk.img", 7, &ids));
    }
    let name = pack_folder(&sealer, &NewFolder { name: "a/b", modified: TIME, tree: inner });
    assert_eq!(name.unwrap_err(), PackError::Name("a/b".into()));
}

#[test]
fn names_that_need_quoting_or_occur_twice_are_refused() {
    let none = Vec::new();
    for name in ["", ".", "..", "a/b", "a\"b", "a\\b", "ü", "a\n"] {
        assert_eq!(pack_tree(&sealer(), &[file(name, 0, &none)]).unwrap_err(), PackError::Name(name.into()));
    }
    assert_eq!(pack_tree(&sealer(), &[file("a", 0, &none), file("a", 1, &none)]).unwrap_err(), PackError::Name("a".into()));
}

#[test]
fn a_content_list_that_changes_is_noticed() {
    struct Changing(AtomicU64);
    impl Content for Changing {
        fn ids(&self) -> Box<dyn Iterator<Item = Id> + '_> {
            let walk = self.0.fetch_add(1, Ordering::SeqCst);
            Box::new(std::iter::once(Id::of(&walk.to_le_bytes())))
        }
    }
    assert_eq!(pack_tree(&sealer(), &[file("disk.img", 1, &Changing(AtomicU64::new(0)))]).unwrap_err(), PackError::Unstable);
}

#[test]
fn a_wrong_id_or_length_of_a_tree_is_noticed() {
    let sealer = sealer();
    let ids = vec![Id::of(b"x"); 1000];
    let (id, pack) = pack_tree(&sealer, &[file("disk.img", 1000, &ids)]).unwrap();
    let blob = pack.record.blobs[0];
    let (right, sealed) = (location(&pack, &blob), &pack.bytes[..blob.length as usize]);
    let other = parse_sealed(&sealer, &Id::of(b""), &right, sealed);
    assert_eq!(other, Err(Damage::WrongHash { found: id }));
    for length in [1, right.plain_length() - 1, right.plain_length() + 1] {
        let lying = BlobLocation { uncompressed_length: NonZeroU32::new(length), ..right };
        assert!(matches!(parse_sealed(&sealer, &id, &lying, sealed), Err(Damage::Compression(_))), "{length}");
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
    (repository, Index::of([pack.record]), ids)
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
    let expected = FoundFile { path: "/a/disk.img".into(), size: 7, content: vec![content] };
    let find = async |tree: usize, which: FileSelector| repository.find_file(&index, &ids[tree], &which).await;

    assert_eq!(find(1, FileSelector::Only).await.unwrap(), expected);
    for path in ["a/disk.img", "/a//disk.img"] {
        assert_eq!(find(1, FileSelector::Path(path.into())).await.unwrap(), expected);
    }
    for path in ["", "/", "a", "disk.img", "a/disk.img/x", "s"] {
        assert!(matches!(find(1, FileSelector::Path(path.into())).await, Err(RepositoryError::NoSuchFile(_))), "{path}");
    }
    assert!(matches!(find(2, FileSelector::Only).await, Err(RepositoryError::SeveralFiles { .. })));
    assert!(matches!(find(3, FileSelector::Only).await, Err(RepositoryError::NoFile)));
    let missing = repository.find_file(&index, &Id::of(b"none"), &FileSelector::Only).await;
    assert!(matches!(missing, Err(RepositoryError::MissingBlob { kind: BlobKind::Tree, .. })));
}
