//! An opened repository.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::blob::BlobKind;
use super::crypto::Sealer;
use super::error::RepositoryError;
use super::id::Id;
use super::index::Index;
use super::key_file::KdfCost;
use super::pack::Pack;
use super::password::Password;
use super::store::Store;

/// A repository whose master key is known. Cheap to clone; all clones are the same repository.
#[derive(Clone)]
pub struct Repository(Arc<()>);

impl Repository {
    /// Makes a repository in `store`, exactly once: of several competitors one wins and the others get
    /// [`RepositoryError::AlreadyInitialized`].
    ///
    /// # Errors
    /// As said, or when the store fails.
    pub async fn init(store: Arc<dyn Store>, password: &Password, cost: KdfCost) -> Result<Self, RepositoryError> {
        let _ = (store, password, cost);
        unimplemented!()
    }

    /// Opens the repository in `store`.
    ///
    /// # Errors
    /// [`RepositoryError::NoRepository`], [`RepositoryError::WrongPassword`], [`RepositoryError::UnsupportedVersion`].
    pub async fn open(store: Arc<dyn Store>, password: &Password) -> Result<Self, RepositoryError> {
        let _ = (store, password);
        unimplemented!()
    }

    /// The repository's id, the same wherever it is copied to.
    pub fn id(&self) -> Id {
        unimplemented!()
    }

    /// The master key, for workers that seal or open.
    pub fn sealer(&self) -> Sealer {
        unimplemented!()
    }

    /// The store beneath.
    pub fn store(&self) -> &Arc<dyn Store> {
        unimplemented!()
    }

    /// Stores a pack, durably. Its blobs may be referred to once an index names it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn put_pack(&self, pack: &Pack) -> Result<(), RepositoryError> {
        let _ = pack;
        unimplemented!()
    }

    /// The bytes `range` of a pack, as they are stored: for reads that fetch several blobs at once, to be opened with
    /// [`open_blob`](super::pack::open_blob).
    ///
    /// # Errors
    /// When the store fails.
    pub async fn read_pack_range(&self, pack: &Id, range: Range<u64>) -> Result<Bytes, RepositoryError> {
        let _ = (pack, range);
        unimplemented!()
    }

    /// One blob, verified.
    ///
    /// # Errors
    /// [`RepositoryError::MissingBlob`] and [`RepositoryError::Damaged`].
    pub async fn read_blob(&self, index: &Index, kind: BlobKind, id: &Id) -> Result<Vec<u8>, RepositoryError> {
        let _ = (index, kind, id);
        unimplemented!()
    }

    /// Reads all index files.
    ///
    /// # Errors
    /// When one cannot be read.
    pub async fn load_index(&self) -> Result<Index, RepositoryError> {
        unimplemented!()
    }
}
