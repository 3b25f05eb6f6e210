use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::*;
use crate::repository::check::Depth;
use crate::repository::store::fault::{Call, FaultyStore};
use crate::repository::store::memory::MemoryStore;
use crate::repository::store::{Key, Kind, Store};
use crate::repository::tree::{NewFile, PackedTree, pack_tree};
use crate::repository::{BlobKind, IndexWriter, KdfCost, Password, Repository};
use crate::types::Timestamp;

/// A repository with a tree, on a store that counts reads of packs and index files.
struct Fixture {
    folder: tempfile::TempDir,
    store: Arc<MemoryStore>,
    tree: PackedTree,
    reads: Arc<AtomicU64>,
    limit_bytes: u64,
    segments_from_bytes: u64,
}

fn password() -> Password {
    Password::new("x").unwrap()
}

async fn fixture(limit_bytes: u64) -> Fixture {
    let store = Arc::new(MemoryStore::new());
    let repository = Repository::init(store.clone(), &password(), KdfCost::TEST).await.unwrap();
    let content = vec![Id::of(b"content"); 100];
    let file = NewFile { name: "disk.img", size: 7, modified: Timestamp::now(), content: &content };
    let tree = pack_tree(repository.scratch(), &repository.sealer(), &[file]).unwrap();
    repository.put_tree(&tree).await.unwrap();
    let mut writer = IndexWriter::new(repository);
    writer.add(tree.record.clone()).await.unwrap();
    writer.finish().await.unwrap();
    let segments_from_bytes = Cache::SEGMENTS_FROM_BYTES;
    Fixture { folder: tempfile::tempdir().unwrap(), store, tree, reads: Arc::default(), limit_bytes, segments_from_bytes }
}

/// One whose index is short, so that its files are cached, and one whose index counts as long, so that segments of it are.
async fn fixtures() -> [Fixture; 2] {
    [fixture(1 << 20).await, Fixture { segments_from_bytes: 0, ..fixture(1 << 20).await }]
}

impl Fixture {
    fn cache(&self) -> Cache {
        Cache::new(self.folder.path().join("cache"), self.limit_bytes).with_segments_from(self.segments_from_bytes)
    }

    async fn open(&self) -> Repository {
        let reads = Arc::clone(&self.reads);
        let counting = FaultyStore::new(self.store.clone(), move |call| {
            if matches!(call, Call::Get(Key::File(Kind::Index, _)) | Call::GetRange(_)) {
                reads.fetch_add(1, Ordering::SeqCst);
            }
            None
        });
        Repository::open(Arc::new(counting), &password()).await.unwrap().with_cache(&self.cache())
    }

    /// Reads index and tree; how often the store was asked.
    async fn read(&self) -> u64 {
        self.reads.store(0, Ordering::SeqCst);
        let repository = self.open().await;
        let index = repository.load_index().await.unwrap();
        assert!(index.get(BlobKind::Tree, &self.tree.id).unwrap().is_some());
        assert_eq!(repository.read_tree(&index, &self.tree.id).await.unwrap().len(), 1);
        self.reads.load(Ordering::SeqCst)
    }

    fn files(&self) -> Vec<PathBuf> {
        let Ok(folders) = fs::read_dir(self.folder.path().join("cache")) else { return Vec::new() };
        let mut files: Vec<_> =
            folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap()).map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    }
}

#[tokio::test]
async fn what_was_read_once_is_not_fetched_again() {
    for fixture in fixtures().await {
        assert_eq!(fixture.read().await, 2);
        assert_eq!(fixture.files().len(), 2);
        assert_eq!(fixture.read().await, 0);
    }
}

#[tokio::test]
async fn what_was_written_is_not_fetched() {
    let fixture = fixture(1 << 20).await;
    let repository = fixture.open().await;
    let content = vec![Id::of(b"other")];
    let file = NewFile { name: "disk.img", size: 7, modified: Timestamp::now(), content: &content };
    let tree = pack_tree(repository.scratch(), &repository.sealer(), &[file]).unwrap();
    repository.put_tree(&tree).await.unwrap();
    let mut writer = IndexWriter::new(repository);
    writer.add(tree.record.clone()).await.unwrap();
    writer.finish().await.unwrap();
    let repository = fixture.open().await;
    let index = repository.load_index().await.unwrap();
    fixture.reads.store(0, Ordering::SeqCst);
    repository.read_tree(&index, &tree.id).await.unwrap();
    assert_eq!(fixture.reads.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_damaged_cache_is_found_out_and_mended() {
    for fixture in fixtures().await {
        fixture.read().await;
        for damage in [|bytes: &mut Vec<u8>| bytes[40] ^= 1, |bytes: &mut Vec<u8>| bytes.truncate(50), Vec::clear] {
            for file in fixture.files() {
                let mut bytes = fs::read(&file).unwrap();
                damage(&mut bytes);
                fs::write(&file, bytes).unwrap();
            }
            assert_eq!(fixture.read().await, 2);
            assert_eq!(fixture.read().await, 0);
        }
    }
}

#[tokio::test]
async fn a_check_looks_at_the_store_and_not_at_the_cache() {
    for fixture in fixtures().await {
        fixture.read().await;
        fixture.store.tamper(Key::File(Kind::Data, fixture.tree.record.id), |bytes| bytes[20] ^= 1);
        let check = async || fixture.open().await.check(Depth::ReadData, &|_, _| {}).await.unwrap();
        assert!(!check().await.is_clean());
        let index = fixture.store.list(Kind::Index).await.unwrap()[0].id;
        fixture.store.tamper(Key::File(Kind::Index, index), |bytes| bytes[20] ^= 1);
        assert!(check().await.errors.iter().any(|error| error.contains("index/")));
    }
}

#[tokio::test]
async fn index_files_that_are_gone_leave_the_cache() {
    for fixture in fixtures().await {
        fixture.read().await;
        for listed in fixture.store.list(Kind::Index).await.unwrap() {
            fixture.store.delete(Key::File(Kind::Index, listed.id)).await.unwrap();
        }
        let index = fixture.open().await.load_index().await.unwrap();
        assert!(index.is_empty());
        let names: Vec<_> = fixture.files().iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        assert!(names.len() == 1 && names[0].starts_with("tree-"), "{names:?}");
    }
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_is_none() {
    for fixture in fixtures().await {
        fs::write(fixture.folder.path().join("cache"), "a file").unwrap();
        assert_eq!((fixture.read().await, fixture.read().await), (2, 2));
    }
}

#[test]
fn what_was_used_longest_ago_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::new(folder.path().to_owned(), 2500).of_repository(&Id::of(b"repository"));
    let tree = |number: u32| {
        Cached::Tree(BlobLocation { pack: Id::of(b"pack"), offset: number, length: 1000, uncompressed_length: None })
    };
    let age = |what, seconds| {
        let file = File::open(cache.path(what)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
    };
    for number in 0..2 {
        cache.put(tree(number), |file| file.write_all(&[7; 1000]));
        age(tree(number), 1000 + u64::from(number));
    }
    let mut text = Vec::new();
    cache.open(tree(0)).unwrap().read_to_end(&mut text).unwrap();
    assert_eq!(text, [7; 1000]);
    cache.put(tree(2), |file| file.write_all(&[7; 1000]));
    let kept: Vec<_> = (0..3).map(|number| cache.open(tree(number)).is_some()).collect();
    assert_eq!(kept, [true, false, true]);
}

#[test]
fn the_directory_is_the_first_that_the_environment_names() {
    let all = [("CACHE_DIRECTORY", "/c"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
    let removed = Mutex::new(0);
    let find = |extra: Option<&str>| {
        let skip = *removed.lock().unwrap();
        directory(|name| {
            let extra = extra.map(|value| (Cache::VARIABLE, value));
            all[skip..].iter().copied().chain(extra).find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))
        })
    };
    assert_eq!(find(Some("/w")), Some("/w".into()));
    assert_eq!(find(Some("")), None);
    for expected in ["/c", "/x/windlass", "/h/.cache/windlass"] {
        assert_eq!(find(None), Some(expected.into()));
        *removed.lock().unwrap() += 1;
    }
    assert_eq!(find(None), None);
}

#[test]
fn what_others_keep_in_the_directory_stays_whatever_its_age_and_size() {
    let directory = tempfile::tempdir().unwrap();
    let id = Id::of(b"repository").to_string();
    let foreign = ["tools/kubelet", "tools/index-of-things", "a/segment-1", &format!("{id}/notes.txt"), "loose"];
    let ours = [format!("{id}/tree-1-2-3"), format!("{id}/{UNFINISHED}abc"), format!("{id}/{LISTING}")];
    for name in foreign.into_iter().chain(ours.iter().map(String::as_str)) {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, [1; 4096]).unwrap();
    }
    let cache = Cache { segment_limit_bytes: 0, ..Cache::new(directory.path().to_owned(), 0) };
    cache.trim().unwrap();
    cache.of_repository(&Id::of(b"another")).trim_segments();
    let is_there = |name: &str| directory.path().join(name).exists();
    assert_eq!(foreign.map(is_there), [true; 5]);
    assert!(!ours.iter().any(|name| is_there(name)));
}
