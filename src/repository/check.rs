//! Verification of a repository.
//!
//! Snapshots are read first, then indexes, then packs: the opposite of the order in which they are written. So an export that
//! runs meanwhile is not an error, and a shared lock, which keeps a prune away, is all it takes.
//!
//! All that is wrong with the repository goes into the report (the first thousand errors in words). What keeps the check from looking (a
//! store that does not answer or refuses, a lock) ends it with an error.
//!
//! **Memory.** Packs are read in steps of 8 MiB, four at once, into [scratch space](crate::scratch), hashed on their way, and their
//! blobs are opened from there, a few MiB of them at a time and longer ones as streams: however long a pack or a blob is, it takes no
//! more memory than two steps. A bit for each blob, and 48 bytes for each pack that is listed.
//!
//! What it finds absent or damaged is [doubted](super::doubts): exports of this machine store it again.

mod blobs;
mod lost;
mod packs;
mod report;
mod trees;

use std::sync::{Arc, Mutex};

use futures::StreamExt;

use super::doubts::Whole;
use super::error::RepositoryError;
use super::index::{Index, IndexBuilder};
use super::open::Repository;
use super::snapshot::StoredSnapshot;
use super::store::Kind;
use lost::Lost;
use packs::compare_packs;

pub use report::CheckReport;

/// Index files and snapshots read at once.
const PARALLEL_DOCUMENTS: usize = 8;

/// How thoroughly a repository is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Snapshots, trees and indexes; packs by presence and size.
    Structure,
    /// Every byte of every pack as well.
    ReadData,
}

impl Repository {
    /// Checks everything, to the `depth` asked for, and reports all that is wrong rather than the first. `progress` is told
    /// the packs done and in all.
    ///
    /// # Errors
    /// Only when the check itself cannot go on (the store fails, the repository is locked).
    pub async fn check(&self, depth: Depth, progress: &(dyn Fn(u64, u64) + Send + Sync)) -> Result<CheckReport, RepositoryError> {
        let Some(lock) = self.lock_to_read().await? else { return self.without_cache().check_locked(depth, progress).await };
        // It is the store that is checked.
        let checked = self.without_cache().check_locked(depth, progress).await;
        // Packs that a prune removed meanwhile would have been reported as missing.
        let held = lock.check().await;
        lock.release().await?;
        let report = checked?;
        held?;
        Ok(report)
    }

    async fn check_locked(
        &self,
        depth: Depth,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
    ) -> Result<CheckReport, RepositoryError> {
        let mut report = CheckReport::default();
        let snapshots = self.readable_snapshots(&mut report).await?;
        let index = Arc::new(self.readable_index(&mut report).await?);
        let stored = self.store().list(Kind::Data).await?;
        let indexed = Arc::clone(&index);
        let packs = tokio::task::spawn_blocking(move || indexed.packs()).await??;
        report.snapshots = snapshots.len() as u64;
        report.blobs_indexed = index.len();
        let absent = compare_packs(&packs, &stored, &mut report)?;
        self.note_listing(&absent).await?;
        let mut lost = Lost::default();
        if depth == Depth::ReadData {
            let damaged = self.read_packs(&packs, &stored, &mut report, progress).await?;
            self.note_damaged(damaged.packs, Whole::Yes).await?;
            lost = damaged.lost;
        }
        lost.packs.extend(absent);
        // Now it is known what of them is lost.
        self.check_trees(&index, &snapshots, &lost, &mut report).await?;
        Ok(report)
    }

    async fn readable_snapshots(&self, report: &mut CheckReport) -> Result<Vec<StoredSnapshot>, RepositoryError> {
        let listed = self.store().list(Kind::Snapshot).await?;
        let mut loads = futures::stream::iter(listed)
            .map(async |listed| (listed.id, self.snapshot(&listed.id).await))
            .buffer_unordered(PARALLEL_DOCUMENTS);
        let mut snapshots = Vec::new();
        while let Some((id, loaded)) = loads.next().await {
            // One that was forgotten meanwhile is none.
            if !matches!(loaded, Err(RepositoryError::NoSuchSnapshot(_)))
                && let Some(snapshot) = report.note(loaded)?
            {
                snapshots.push(StoredSnapshot { id, snapshot });
            }
        }
        Ok(snapshots)
    }

    async fn readable_index(&self, report: &mut CheckReport) -> Result<Index, RepositoryError> {
        let listed = self.store().list(Kind::Index).await?;
        let builder = Arc::new(Mutex::new(IndexBuilder::new(self.scratch())));
        let mut loads = futures::stream::iter(listed)
            .map(|listed| self.load_index_file(listed.id, Arc::clone(&builder)))
            .buffer_unordered(PARALLEL_DOCUMENTS);
        while let Some(loaded) = loads.next().await {
            report.note(loaded)?;
        }
        drop(loads);
        self.finish_index(builder).await
    }
}

#[cfg(test)]
mod tests;
