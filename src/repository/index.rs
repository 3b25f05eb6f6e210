//! Which blob lies in which pack.

use super::blob::{BlobKind, BlobLocation, PackRecord};
use super::error::RepositoryError;
use super::id::Id;
use super::open::Repository;

/// Every blob of the repository that an index names, plus what this process added since. Shared between threads.
pub struct Index(());

/// What came of an attempt to be the one who stores a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is stored, or someone in this process is storing it: only refer to it.
    Known,
    /// It is the caller's now to store.
    Yours,
}

impl Index {
    /// Where the blob lies; `None` when no index names it and no pack added here holds it.
    pub fn get(&self, kind: BlobKind, id: &Id) -> Option<BlobLocation> {
        let _ = (kind, id);
        unimplemented!()
    }

    /// True when the blob is stored.
    pub fn contains(&self, kind: BlobKind, id: &Id) -> bool {
        self.get(kind, id).is_some()
    }

    /// Decides who stores a blob, so that each new one is stored once however many workers meet it. A claim lasts until the
    /// index is dropped: a worker that cannot store what it claimed must fail its whole export.
    pub fn claim(&self, kind: BlobKind, id: &Id) -> Claim {
        let _ = (kind, id);
        unimplemented!()
    }

    /// Adds a pack that has been stored.
    pub fn add(&self, record: &PackRecord) {
        let _ = record;
        unimplemented!()
    }

    /// Number of blobs.
    pub fn len(&self) -> usize {
        unimplemented!()
    }

    /// True when it names nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Collects packs that have been stored and writes index files about them.
///
/// Only packs whose `put` returned may be added. A crash leaves packs that no index names: harmless, `restic prune` removes
/// them.
pub struct IndexWriter(());

impl IndexWriter {
    /// A writer for `repository` with nothing to write yet.
    pub fn new(repository: Repository) -> Self {
        let _ = repository;
        unimplemented!()
    }

    /// Adds a stored pack; writes an index file when enough blobs (50 000) or time (5 minutes) have come together, which is what
    /// makes an interrupted export cheap to repeat.
    ///
    /// # Errors
    /// When that index file cannot be stored; the packs are kept for the next attempt.
    pub async fn add(&mut self, record: PackRecord) -> Result<(), RepositoryError> {
        let _ = record;
        unimplemented!()
    }

    /// Writes what is left. To be called before the snapshot is saved.
    ///
    /// # Errors
    /// When the index file cannot be stored.
    pub async fn finish(self) -> Result<(), RepositoryError> {
        unimplemented!()
    }
}
