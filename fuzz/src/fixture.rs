//! A repository in memory into which hostile objects are put, one at a time.

use std::future::Future;
use std::sync::{Arc, LazyLock};

use tokio::runtime::Runtime;
use windlass::repository::store::memory::MemoryStore;
use windlass::repository::store::{Key, Kind, PutMode};
use windlass::repository::{Id, KdfCost, Password, Repository, Store};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime"));

static FIXTURE: LazyLock<Fixture> = LazyLock::new(Fixture::new);

/// Runs to the end. Time stands still while something can be done, and jumps to the next timer otherwise.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(future)
}

/// The password of every repository here.
pub fn password() -> Password {
    Password::new("password").expect("a password")
}

/// A repository without snapshots.
pub struct Fixture {
    /// Its objects.
    pub store: Arc<MemoryStore>,
    /// The repository.
    pub repository: Repository,
}

impl Fixture {
    /// A new one.
    ///
    /// # Panics
    /// When none can be made.
    pub fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let repository = block_on(Repository::init(store.clone(), &password(), KdfCost::TEST)).expect("a repository");
        Self { store, repository }
    }

    /// The one that is shared; whoever puts something in takes it out again ([`with_document`]).
    pub fn shared() -> &'static Self {
        &FIXTURE
    }

    /// Puts an object in as it is and gives its key.
    ///
    /// # Panics
    /// When the store fails.
    pub fn put(&self, kind: Kind, bytes: Vec<u8>) -> Key {
        let key = Key::File(kind, Id::of(&bytes));
        block_on(self.store.put(key, bytes.into(), PutMode::Overwrite)).expect("a put into memory");
        key
    }

    /// Takes every object of a kind out.
    ///
    /// # Panics
    /// When the store fails.
    pub fn clear(&self, kind: Kind) {
        for listed in block_on(self.store.list(kind)).expect("a list of memory") {
            block_on(self.store.delete(Key::File(kind, listed.id))).expect("a delete in memory");
        }
    }
}

impl Default for Fixture {
    fn default() -> Self {
        Self::new()
    }
}

/// What is behind the seal of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plain {
    /// There is no valid seal.
    None,
    /// This text.
    Text(Vec<u8>),
    /// Whatever the fuzzer compressed by itself.
    Compressed,
}

/// The bytes of a document: as they are (0), sealed (1), or compressed and sealed (2), by the low bits of the first byte of
/// `data`.
pub fn document(repository: &Repository, data: &[u8]) -> (Vec<u8>, Plain) {
    let (&mode, rest) = data.split_first().unwrap_or((&0, &[]));
    let seal = |plain: &[u8]| repository.sealer().seal(plain).expect("random numbers");
    match (mode & 0x7f) % 3 {
        0 => (rest.to_vec(), Plain::None),
        1 => (seal(rest), if rest.first() == Some(&2) { Plain::Compressed } else { Plain::Text(rest.to_vec()) }),
        _ => {
            let compressed = zstd::bulk::compress(rest, 1).expect("zstd");
            (seal(&[&[2], &compressed[..]].concat()), Plain::Text(rest.to_vec()))
        }
    }
}

/// Seeds of documents: the text in all three ways.
pub fn document_seeds(text: &[u8]) -> Vec<Vec<u8>> {
    (0..3).map(|mode| [&[mode], text].concat()).collect()
}

/// Runs `work` with the document in the shared repository, as an object of `kind`, which has no other then or later.
pub fn with_document(kind: Kind, data: &[u8], work: impl FnOnce(&Repository, Key, Plain)) {
    let fixture = Fixture::shared();
    let (bytes, plain) = document(&fixture.repository, data);
    fixture.clear(kind);
    let key = fixture.put(kind, bytes);
    work(&fixture.repository, key, plain);
    fixture.clear(kind);
}
