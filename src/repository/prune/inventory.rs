//! The inventory of a repository: the copies of blobs that its index files name, and its packs.
//!
//! The copies are a table in scratch space. Of each pack and each index file a few dozen bytes are in memory.

use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt};

use super::row::{BlobCopy, ROW_BYTES};
use crate::repository::blob::PackRecord;
use crate::repository::error::RepositoryError;
use crate::repository::id::Id;
use crate::repository::index::decode;
use crate::repository::open::Repository;
use crate::repository::store::{Key, Kind, Listed};
use crate::scratch::{Scratch, ScratchError, SortedRows, Sorter};

/// Index files fetched and parsed at once. Each takes up to 20 MB while it is parsed.
const PARALLEL_LOADS: usize = 3;

/// An index file, by the packs that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IndexFile {
    pub(super) id: Id,
    pub(super) blobs: u64,
    pub(super) packs: Vec<Id>,
}

/// Some index files, and all that they name.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) files: Vec<IndexFile>,
    /// All copies of blobs, sorted by blob.
    pub(super) copies: SortedRows<ROW_BYTES>,
}

impl Named {
    /// The packs that are named, each once, in order.
    pub(super) fn packs(&self) -> Vec<Id> {
        let mut packs: Vec<_> = self.files.iter().flat_map(|file| file.packs.iter().copied()).collect();
        packs.sort_unstable();
        packs.dedup();
        packs
    }
}

/// Collects index files in any order.
struct Builder {
    files: Vec<IndexFile>,
    copies: Sorter<ROW_BYTES>,
}

impl Builder {
    fn new(scratch: &Scratch) -> Self {
        Self { files: Vec::new(), copies: Sorter::new(scratch) }
    }

    fn add(&mut self, id: Id, records: &[PackRecord]) -> Result<(), ScratchError> {
        let mut blobs = 0;
        for record in records {
            blobs += record.blobs.len() as u64;
            record.blobs.iter().try_for_each(|blob| self.copies.push(BlobCopy::of(record, blob).row_by_blob()))?;
        }
        self.files.push(IndexFile { id, blobs, packs: records.iter().map(|record| record.id).collect() });
        Ok(())
    }

    fn finish(self) -> Result<Named, ScratchError> {
        Ok(Named { files: self.files, copies: self.copies.finish()? })
    }
}

impl Repository {
    /// Reads the packs that an index file names.
    pub(in crate::repository) async fn records_of(&self, file: Id) -> Result<Vec<PackRecord>, RepositoryError> {
        let json = self.load_document(Kind::Index, file).await?;
        let decoded = tokio::task::spawn_blocking(move || decode(&json)).await?;
        decoded.map_err(|damage| RepositoryError::damaged(Key::File(Kind::Index, file), damage))
    }

    /// Reads these index files.
    pub(super) async fn named_by(&self, files: Vec<Id>) -> Result<Named, RepositoryError> {
        let builder = Arc::new(Mutex::new(Builder::new(self.scratch())));
        futures::stream::iter(files)
            .map(|file| {
                let (repository, builder) = (self.clone(), Arc::clone(&builder));
                async move {
                    let records = repository.records_of(file).await?;
                    let added = tokio::task::spawn_blocking(move || {
                        builder.lock().unwrap_or_else(PoisonError::into_inner).add(file, &records)
                    });
                    Ok::<_, RepositoryError>(added.await??)
                }
            })
            .buffer_unordered(PARALLEL_LOADS)
            .try_collect::<()>()
            .await?;
        let scratch = self.scratch().clone();
        let finished = tokio::task::spawn_blocking(move || {
            let mut builder = builder.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *builder, Builder::new(&scratch)).finish()
        });
        Ok(finished.await??)
    }

    /// Names of all index files.
    pub(super) async fn index_files(&self) -> Result<Vec<Id>, RepositoryError> {
        Ok(self.store().list(Kind::Index).await?.into_iter().map(|listed| listed.id).collect())
    }

    /// All packs of the store, in order.
    pub(super) async fn stored_packs(&self) -> Result<Vec<Listed>, RepositoryError> {
        let mut packs = self.store().list(Kind::Data).await?;
        packs.sort_unstable();
        Ok(packs)
    }
}
