//! Index files about packs that have been stored.

use std::time::Instant;

use super::file::IndexFile;
use crate::repository::blob::PackRecord;
use crate::repository::error::RepositoryError;
use crate::repository::open::Repository;
use crate::repository::store::Kind;

/// Blobs of an index file, as many as restic's: its prune takes files of fewer for unfinished and writes them anew, all others stay,
/// and with them what readers made of them. As text they take 10 MB, sealed 2 MB.
pub(in crate::repository) const BLOBS_PER_FILE: usize = 50_000;

/// Collects packs that have been stored and writes index files about them.
///
/// Only packs whose `put` returned may be added. A crash leaves packs that no index names, which a prune removes.
#[derive(Debug)]
pub struct IndexWriter {
    repository: Repository,
    pending: IndexFile,
    blobs: usize,
    since: Instant,
}

impl IndexWriter {
    /// A writer for `repository` with nothing to write yet.
    pub fn new(repository: Repository) -> Self {
        Self { repository, pending: IndexFile::default(), blobs: 0, since: Instant::now() }
    }

    /// Adds a stored pack; writes an index file when enough blobs (50 000) or time (5 minutes) have come together, which is what
    /// makes an export that is killed cheap to repeat.
    ///
    /// # Errors
    /// When that index file cannot be stored; the packs are kept for the next attempt.
    pub async fn add(&mut self, record: PackRecord) -> Result<(), RepositoryError> {
        self.keep(record);
        self.flush_if_due().await
    }

    /// Adds a stored pack and writes nothing yet.
    pub fn keep(&mut self, record: PackRecord) {
        self.blobs += record.blobs.len();
        self.pending.packs.push(record);
    }

    /// Writes an index file when it is time, as [`IndexWriter::add`] does.
    ///
    /// # Errors
    /// When it cannot be stored; the packs are kept for the next attempt.
    pub async fn flush_if_due(&mut self) -> Result<(), RepositoryError> {
        if self.is_due() { self.flush().await } else { Ok(()) }
    }

    /// Whether it is time to write an index file.
    pub fn is_due(&self) -> bool {
        self.blobs >= BLOBS_PER_FILE || self.since.elapsed() >= self.repository.index_every()
    }

    /// True when every pack that was added is named by an index file that is stored.
    pub fn is_empty(&self) -> bool {
        self.pending.packs.is_empty()
    }

    /// Writes what is left. To be called before the snapshot is saved.
    ///
    /// # Errors
    /// When the index file cannot be stored.
    pub async fn finish(mut self) -> Result<(), RepositoryError> {
        self.flush().await
    }

    /// Writes an index file about all packs that are collected.
    ///
    /// # Errors
    /// When the index file cannot be stored; the packs are kept for the next attempt, as they are when the call is dropped.
    pub async fn flush(&mut self) -> Result<(), RepositoryError> {
        if !self.pending.packs.is_empty() {
            let id = self.repository.save_document(Kind::Index, &self.pending).await?;
            tracing::debug!(index = %id, packs = self.pending.packs.len(), blobs = self.blobs, "index stored");
        }
        self.pending.packs.clear();
        (self.blobs, self.since) = (0, Instant::now());
        Ok(())
    }
}
