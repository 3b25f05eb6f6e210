//! Loads all index files of a repository as an [`Index`].
//!
//! Where the machine keeps a cache and the index is long, its segments are on the [`shelf`](super::shelf): only what it does not know
//! yet is fetched, and becomes one more segment. A short index, or one that nothing is kept of, is made in scratch space each time.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use futures::{StreamExt, TryStreamExt};
use tokio::sync::Semaphore;

use super::build::IndexBuilder;
use super::file::decode;
use super::shelf::Shelf;
use super::view::View;
use super::{Index, shelf};
use crate::repository::error::RepositoryError;
use crate::repository::id::Id;
use crate::repository::open::Repository;
use crate::repository::store::{Key, Kind, Listed};
use crate::scratch::ScratchError;
use crate::types::error::chain;

/// Index files fetched and parsed at once: as many small ones as hide the latency of a store that is far away.
const PARALLEL_LOADS: usize = 32;
/// Listed bytes of these at most: three full ones. Each byte becomes up to eight while it is parsed: sealed, as text, and as records.
const LOADING_BYTES: u32 = 6 << 20;

/// The turn of one load among those of a process that use the same folder: the second finds there what the first fetched. Waiting for
/// that takes no longer than fetching it.
fn turn_at(folder: &Path) -> Arc<tokio::sync::Mutex<()>> {
    static TURNS: OnceLock<Mutex<HashMap<PathBuf, Weak<tokio::sync::Mutex<()>>>>> = OnceLock::new();
    // No code panics while it holds the lock.
    let mut turns = TURNS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    turns.retain(|_, turn| turn.strong_count() > 0);
    if let Some(turn) = turns.get(folder).and_then(Weak::upgrade) {
        return turn;
    }
    let turn = Arc::default();
    turns.insert(folder.to_owned(), Arc::downgrade(&turn));
    turn
}

impl Repository {
    /// Reads all index files, or the segments that a cache keeps of them.
    ///
    /// # Errors
    /// When one cannot be read: with a part of the index, blobs that exist would seem to be missing.
    pub async fn load_index(&self) -> Result<Index, RepositoryError> {
        let Some(kept) = self.segments().cloned() else {
            let listed = self.store().list(Kind::Index).await?;
            return self.fetch_index(listed).await;
        };
        let turn = turn_at(kept.folder());
        let turn = turn.lock().await;
        let listed = self.store().list(Kind::Index).await?;
        let current: Arc<HashSet<Id>> = Arc::new(listed.iter().map(|file| file.id).collect());
        if let Some(cache) = self.cache().cloned() {
            let current = Arc::clone(&current);
            tokio::task::spawn_blocking(move || cache.retain_indexes(&current)).await?;
        }
        if listed.iter().map(|file| file.bytes).sum::<u64>() < kept.segments_from_bytes() {
            drop(turn);
            return self.fetch_index(listed).await;
        }
        let shelf = Shelf::new(kept.folder().to_owned(), self.sealer());
        let (opener, wanted) = (shelf.clone(), Arc::clone(&current));
        let (mut views, missing) = tokio::task::spawn_blocking(move || opener.open(&wanted)).await?;
        if !missing.is_empty() {
            let missing: HashSet<Id> = missing.into_iter().collect();
            let builder = self.fetch(listed.into_iter().filter(|file| missing.contains(&file.id)).collect()).await?;
            let (adder, cache) = (shelf.clone(), self.cache().cloned());
            views.push(
                tokio::task::spawn_blocking(move || {
                    let view = add(&adder, builder)?;
                    kept.trim_segments();
                    cache.iter().for_each(|cache| cache.forget_indexes(missing.iter()));
                    Ok::<_, ScratchError>(view)
                })
                .await??,
            );
        }
        if !shelf::due(&views).is_empty() {
            // Nobody waits for it: what is open stays as it is.
            tokio::task::spawn_blocking(move || shelf.tidy(&current));
        }
        Ok(Index::new(self.scratch(), views))
    }

    /// Fetches these files and makes an index of them in scratch space.
    async fn fetch_index(&self, listed: Vec<Listed>) -> Result<Index, RepositoryError> {
        let builder = self.fetch(listed).await?;
        Ok(tokio::task::spawn_blocking(move || builder.into_index()).await??)
    }

    /// Fetches the contents of these files.
    async fn fetch(&self, listed: Vec<Listed>) -> Result<IndexBuilder, RepositoryError> {
        let builder = Arc::new(Mutex::new(IndexBuilder::new(self.scratch())));
        let room = Arc::new(Semaphore::new(LOADING_BYTES as usize));
        futures::stream::iter(listed)
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
        Ok(self.take_builder(&builder))
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
            builder.lock().unwrap_or_else(PoisonError::into_inner).add(id, &records)?;
            Ok(())
        });
        added.await?
    }

    /// Sorts what was loaded.
    pub(in crate::repository) async fn finish_index(&self, builder: Arc<Mutex<IndexBuilder>>) -> Result<Index, RepositoryError> {
        let builder = self.take_builder(&builder);
        Ok(tokio::task::spawn_blocking(move || builder.into_index()).await??)
    }

    fn take_builder(&self, builder: &Mutex<IndexBuilder>) -> IndexBuilder {
        let mut builder = builder.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *builder, IndexBuilder::new(self.scratch()))
    }
}

/// Makes a segment of what was fetched: on the shelf, or in scratch space when that cannot be.
fn add(shelf: &Shelf, builder: IndexBuilder) -> Result<View, ScratchError> {
    let sorted = builder.finish()?;
    let segment = match shelf.add(&sorted) {
        Ok(segment) => segment,
        Err(error) => {
            tracing::debug!(error = %chain(&error), "an index could not be kept");
            sorted.write_to_scratch()?
        }
    };
    View::new(Arc::new(segment), |_| true)
}
