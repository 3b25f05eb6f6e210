//! Index files: how they read, and how all of them become an [`Index`].

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::entry::{BLOB_ROW_BYTES, Entry};
use super::{Claims, Index};
use crate::repository::blob::{BlobKind, BlobLocation, PackRecord};
use crate::repository::crypto::OVERHEAD;
use crate::repository::error::{Damage, RepositoryError};
use crate::repository::id::Id;
use crate::repository::open::Repository;
use crate::repository::store::{Key, Kind};
use crate::scratch::{Scratch, ScratchError, Sorter};

/// Index files fetched and parsed at once: as many small ones as hide the latency of a store that is far away.
const PARALLEL_LOADS: usize = 32;
/// Listed bytes of these at most: three full ones. Each byte becomes up to eight while it is parsed: sealed, as text, and as records.
const LOADING_BYTES: u32 = 6 << 20;

/// An index file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IndexFile {
    pub(super) packs: Vec<PackRecord>,
}

/// Reads the JSON of an index file.
pub(in crate::repository) fn decode(json: &[u8]) -> Result<Vec<PackRecord>, Damage> {
    let file: IndexFile = serde_json::from_slice(json).map_err(|error| Damage::Syntax(error.to_string()))?;
    for blob in file.packs.iter().flat_map(|pack| &pack.blobs) {
        if (blob.length as usize) < OVERHEAD || blob.offset.checked_add(blob.length).is_none() {
            return Err(Damage::Syntax(format!("blob {} has an impossible place", blob.id)));
        }
    }
    Ok(file.packs)
}

/// An index in the making.
pub(in crate::repository) struct IndexBuilder {
    scratch: Scratch,
    data: Sorter<BLOB_ROW_BYTES>,
    trees: Sorter<BLOB_ROW_BYTES>,
}

impl IndexBuilder {
    pub(in crate::repository) fn new(scratch: &Scratch) -> Self {
        Self { scratch: scratch.clone(), data: Sorter::new(scratch), trees: Sorter::new(scratch) }
    }

    /// Adds the blobs of packs. What two files say alike counts once.
    pub(in crate::repository) fn add(&mut self, records: &[PackRecord]) -> Result<(), ScratchError> {
        for record in records {
            for blob in &record.blobs {
                let (offset, length, uncompressed_length) = (blob.offset, blob.length, blob.uncompressed_length);
                let location = BlobLocation { pack: record.id, offset, length, uncompressed_length };
                let row = Entry { id: blob.id, location }.to_row();
                match blob.kind {
                    BlobKind::Data => self.data.push(row)?,
                    BlobKind::Tree => self.trees.push(row)?,
                }
            }
        }
        Ok(())
    }

    pub(in crate::repository) fn finish(self) -> Result<Index, ScratchError> {
        let (data, trees) = (self.data.finish()?, self.trees.finish()?);
        let claims = Mutex::new(Claims::new(&self.scratch));
        Ok(Index { scratch: self.scratch, data, trees, claims, hidden: HashSet::new() })
    }
}

impl Repository {
    /// Reads all index files.
    ///
    /// # Errors
    /// When one cannot be read: with a part of the index, blobs that exist would seem to be missing.
    pub async fn load_index(&self) -> Result<Index, RepositoryError> {
        let files = self.store().list(Kind::Index).await?;
        if let Some(cache) = self.cache().cloned() {
            let current = files.iter().map(|file| file.id).collect();
            tokio::task::spawn_blocking(move || cache.retain_indexes(&current)).await?;
        }
        let builder = Arc::new(Mutex::new(IndexBuilder::new(self.scratch())));
        let room = Arc::new(Semaphore::new(LOADING_BYTES as usize));
        futures::stream::iter(files)
            .map(|file| {
                let (repository, builder, room) = (self.clone(), Arc::clone(&builder), Arc::clone(&room));
                // Owns all it uses: a future that borrows from the stream is not known to be `Send`.
                async move {
                    // One that is larger than all of the room gets all of it. Nobody closes the semaphore.
                    let bytes = u32::try_from(file.bytes).unwrap_or(u32::MAX).min(LOADING_BYTES);
                    let _share = room.acquire_many_owned(bytes).await;
                    repository.load_index_file(file.id, builder).await
                }
            })
            .buffer_unordered(PARALLEL_LOADS)
            .try_collect::<()>()
            .await?;
        self.finish_index(builder).await
    }

    /// Adds an index file to `builder`, all of it or, when it does not read, nothing.
    pub(in crate::repository) async fn load_index_file(
        &self,
        id: Id,
        builder: Arc<Mutex<IndexBuilder>>,
    ) -> Result<(), RepositoryError> {
        let json = self.load_document(Kind::Index, id).await?;
        let added = tokio::task::spawn_blocking(move || {
            let records = decode(&json).map_err(|damage| RepositoryError::damaged(Key::File(Kind::Index, id), damage))?;
            drop(json);
            builder.lock().unwrap_or_else(PoisonError::into_inner).add(&records)?;
            Ok(())
        });
        added.await?
    }

    /// Sorts what was loaded.
    pub(in crate::repository) async fn finish_index(&self, builder: Arc<Mutex<IndexBuilder>>) -> Result<Index, RepositoryError> {
        let scratch = self.scratch().clone();
        let finished = tokio::task::spawn_blocking(move || {
            let mut builder = builder.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *builder, IndexBuilder::new(&scratch)).finish()
        });
        Ok(finished.await??)
    }
}
