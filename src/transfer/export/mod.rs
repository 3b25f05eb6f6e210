//! Export: a volume's snapshot into a repository.
//!
//! ```text
//! extents -> plan -> [ read -> zero test -> hash -> claim -> compress, seal, pack ] -> upload -> index -> tree -> snapshot
//!                     `------------- worker threads, a pack each ------------'        `--- async, bounded by bytes ---'
//! ```
//!
//! Workers claim chunks in order, several at a time, read what is allocated of them, and drop those that are zeros. A chunk
//! whose id the index knows, or another worker has claimed, is only noted. The others go into the worker's own pack; a full pack
//! waits for its share of the bytes in flight and is handed to the uploader, which stores several at once.
//!
//! **Increments.** Given what changed since an earlier export ([`Parent`]), only the chunks that the changes touch go through the
//! workers. All others are taken over from the earlier export's list, once that snapshot was found to be what the caller says
//! (volume, snapshot, size, chunk size) and each blob taken over to be in the index. Whatever does not fit makes the export a full
//! one, which says why ([`FullReason`]); only a store that cannot be reached fails it. The snapshot that results is complete
//! either way, and its list is the one that a full export gives: lists hold numbered chunks and leave out zeros, so runs of zeros
//! are cut anew over the whole volume.
//!
//! The image lies in a folder of its own, and what the volume was (`meta.json`) beside that folder. So the tree of a volume whose list
//! is its parent's is the parent's tree, which is not stored again however long the list is; the image keeps the time at which its
//! list was new. Snapshots of earlier versions, with `meta.json` beside the image, are parents as well; only their tree is not taken.
//!
//! What changed is read, and the first memory made, while the lock is waited for ([`prepare`]).
//!
//! **Order of what is durable.** Lock; packs; an index file about packs whose `put` returned (every 50 000 blobs or 5 minutes,
//! and at the end); one pack for blobs of zeros and the metadata; the tree's pack; the last index file; check of the lock; the
//! snapshot. Only the snapshot makes anything visible and it is the last thing stored. A crash before it leaves packs and index
//! files that nothing refers to: the next export finds the indexed blobs and does not store them again, and a prune removes the
//! rest. A crash after it leaves a lock, which the next transfer of this node removes.
//!
//! **Errors and cancellation.** The first error, or the token, stops every stage: workers look between two reads and while they
//! wait, requests to the store are dropped. What was stored until then is named by a last index file, so that the next export sends
//! only the rest; a store that does not take it within 5 seconds, or a lock that no longer holds, leaves those packs unnamed, and at
//! worst what was stored in the last 5 minutes is sent again. The call returns when all of its threads and tasks have ended, which
//! takes as long as one read of the source, one chunk's compression and that index file. Dropping the call, or a crash, stops the
//! stages too, but nobody waits for them and no index file is written. From
//! the moment the snapshot itself is being stored there is no way back and the token is no longer looked at. If storing it fails,
//! it is unknown whether it exists; if it does, it is whole.
//!
//! **Memory** is the sum in [`budget`](super::budget): workers times (batch + pack) and the packs in flight, and a constant for the
//! index, the lists and the tree, of which what is longer goes to [scratch space](crate::scratch).
//!
//! It never reads what is not allocated (short gaps apart), never stores zeros, and never refers to what is not stored.

mod commit;
mod parent;
mod prepare;
mod read;
mod scope;
mod touched;
mod upload;
mod worker;

pub use scope::{ExportMode, FullReason, Parent, Scope};

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::prepare::Prepared;
use super::budget::{Budget, BudgetError, ExportBounds};
use super::chunk_size::ChunkSize;
use super::content::ContentError;
use super::metadata::{Metadata, MetadataError};
use super::plan::Plan;
use super::progress::{Phase, Progress};
use crate::block::BlockSource;
use crate::repository::{Id, LockGuard, LockMode, PackError, Repository, RepositoryError, Verification};
use crate::scratch::ScratchError;
use crate::types::{ByteRange, RangeStream, Timestamp};

/// What an export is to be like.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// Path that the snapshot carries, from the root: by it and the hostname `restic forget` tells one volume's snapshots from
    /// another's. The snapshot's tree has the file there, so that `restic dump` takes the path that `restic snapshots` shows.
    pub path: String,
    /// Host that the snapshot carries: the cluster, not the node, since volumes move.
    pub hostname: String,
    /// Labels that the snapshot carries.
    pub tags: Vec<String>,
    /// When the volume's snapshot was cut.
    pub time: Timestamp,
    /// What the volume was; stored beside it.
    pub metadata: Metadata,
    /// Size of its chunks.
    pub chunk_size: ChunkSize,
    /// Threads and memory.
    pub budget: Budget,
    /// Whether packed blobs are decoded again before they are stored.
    pub verification: Verification,
}

/// What an export did. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ExportReport {
    /// The snapshot in the repository.
    pub snapshot: Id,
    /// How it came by the volume's content.
    #[serde(flatten)]
    pub mode: ExportMode,
    /// Size of the volume.
    pub size_bytes: u64,
    /// Blobs that the repository's index named when the export began, without those that are doubted, and counted as often as index
    /// files name them.
    pub indexed_blobs: u64,
    /// Read from the source.
    pub read_bytes: u64,
    /// Chunks that are zeros as a whole, allocated or not.
    pub zero_bytes: u64,
    /// Chunks that are not zeros.
    pub chunks: u64,
    /// Of these, chunks that the repository did not have.
    pub new_chunks: u64,
    /// Of what was read, what the new chunks hold, before compression.
    pub new_bytes: u64,
    /// Bytes of everything stored in packs.
    pub stored_bytes: u64,
    /// Whether what was packed was decoded again before it was stored.
    pub verification: Verification,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

/// Why an export failed. Nothing is visible of it, [`ExportError::Repository`] while the snapshot is stored excepted.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The source could not be read.
    #[error("the volume could not be read: {length} bytes at {offset}", length = range.length(), offset = range.offset())]
    Read {
        /// Where.
        range: ByteRange,
        /// Why.
        source: io::Error,
    },
    /// What is allocated could not be found out.
    #[error("the volume's allocated ranges could not be read")]
    Extents(#[source] io::Error),
    /// The repository or its store failed; the error names the object.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A pack could not be made.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The options make no export.
    #[error("the export cannot be made: {0}")]
    Options(String),
    /// Too little memory was given.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The metadata cannot be written.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A list that does not fit the memory could not be kept.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    /// A thread could not be started.
    #[error("a worker thread could not be started")]
    Thread(#[source] io::Error),
    /// A worker died.
    #[error("the export failed inside: {0}")]
    Inside(String),
    /// It was cancelled.
    #[error("the export was cancelled")]
    Cancelled,
}

impl From<ContentError> for ExportError {
    fn from(error: ContentError) -> Self {
        match error {
            ContentError::Incomplete { .. } => Self::Inside(error.to_string()),
            ContentError::Scratch(error) => Self::Scratch(error),
        }
    }
}

impl ExportError {
    /// True when the same export may succeed later without anyone doing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Repository(error) if error.is_transient())
    }

    /// The one of two errors that says more: being stopped is what happens to a stage because another failed.
    fn or(self, other: Self) -> Self {
        if matches!(self, Self::Cancelled) { other } else { self }
    }
}

/// Exports `source` as a new snapshot. `scope` says which of its ranges are allocated, the rest being zeros, and what changed since
/// an earlier export, if that is known.
///
/// # Errors
/// [`ExportError`]; see the module's header for what is left behind.
pub async fn export(
    source: Arc<dyn BlockSource>,
    scope: impl Into<Scope>,
    repository: &Repository,
    options: &ExportOptions,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<ExportReport, ExportError> {
    let scope = scope.into();
    let started = Instant::now();
    let begun = Timestamp::now();
    check(source.size(), options)?;
    progress.watch(repository.store());
    progress.enter(Phase::Preparing);
    let Scope { allocated, since } = scope;
    let (bounds, volume_bytes, chunk_size) = (options.budget.export(options.chunk_size)?, source.size(), options.chunk_size);
    let prepared = tokio::task::spawn_blocking(move || prepare::prepare(since, volume_bytes, chunk_size, &bounds));
    let waiting = |reason: &RepositoryError| progress.waits_for(Some(reason.to_string()));
    let lock = until_cancelled(cancel, repository.lock_or_wait(LockMode::Shared, &waiting)).await;
    progress.waits_for(None);
    let lock = lock??;
    let result = locked(source, allocated, prepared, bounds, repository, options, progress, cancel, &lock, begun).await;
    // An export that is stored does not fail for its lock.
    lock.let_go(cancel).await;
    let mut report = result?;
    sweep(repository, cancel).await;
    report.elapsed = started.elapsed();
    progress.enter(Phase::Done);
    tracing::info!(
        snapshot = %report.snapshot,
        path = options.path,
        mode = report.mode.name(),
        size_bytes = report.size_bytes,
        read_bytes = report.read_bytes,
        stored_bytes = report.stored_bytes,
        new_chunks = report.new_chunks,
        "exported"
    );
    Ok(report)
}

/// Removes what earlier processes left. An export that is stored does not fail for it.
async fn sweep(repository: &Repository, cancel: &CancellationToken) {
    match cancel.run_until_cancelled(repository.sweep_leftovers()).await {
        Some(Ok(0)) | None => {}
        Some(Ok(files)) => tracing::info!(files, "old leftovers of cut-off puts removed"),
        Some(Err(error)) => tracing::warn!(%error, "leftovers of cut-off puts could not be looked for"),
    }
}

#[expect(clippy::too_many_arguments, reason = "the arguments of an export and what it holds meanwhile")]
async fn locked(
    source: Arc<dyn BlockSource>,
    allocated: RangeStream,
    prepared: JoinHandle<Prepared>,
    bounds: ExportBounds,
    repository: &Repository,
    options: &ExportOptions,
    progress: &Progress,
    cancel: &CancellationToken,
    lock: &LockGuard,
    begun: Timestamp,
) -> Result<ExportReport, ExportError> {
    let volume_bytes = source.size();
    let prepared = until_cancelled(cancel, prepared).await?;
    let Prepared { since, batches, packs: spare } = prepared.map_err(|error| ExportError::Inside(error.to_string()))?;
    // Snapshots before the index: whatever one refers to was indexed before it was stored.
    let found = until_cancelled(cancel, parent::find(repository, since)).await??;
    let index = Arc::new(until_cancelled(cancel, repository.load_trusted_index()).await??);
    let parent::Inheritance { mode, content, image, extents } =
        until_cancelled(cancel, parent::inherit(repository, &index, options, volume_bytes, found, allocated)).await??;
    match &mode {
        ExportMode::Full(reason) => tracing::info!(path = options.path, %reason, "everything is read"),
        ExportMode::Incremental { parent } => {
            tracing::info!(path = options.path, %parent, inherited = content.chunks(), "what changed is read");
        }
    }
    progress.begin(volume_bytes);

    let (finished, packs) = upload::queue(bounds.in_flight_bytes, bounds.pack_group, spare);
    let stop = cancel.child_token();
    // Stops the workers when this call is dropped.
    let _stop_when_dropped = stop.clone().drop_guard();
    let work = Arc::new(worker::Work::new(
        source,
        Plan::new(volume_bytes, options.chunk_size, extents),
        content,
        Arc::clone(&index),
        repository.sealer(),
        batches,
        bounds,
        options.chunk_size,
        options.verification,
        progress.clone(),
        stop.clone(),
    ));
    let crew = worker::start(&work, finished);
    let uploader = upload::Uploader::new(repository.clone(), bounds.uploads, progress.clone());

    let workers = async {
        let result = match crew {
            Ok(crew) => worker::join(crew).await,
            Err(error) => Err(ExportError::Thread(error)),
        };
        if result.is_err() {
            stop.cancel();
        }
        result
    };
    let uploads = async {
        let (uploaded, result) = uploader.run(packs, lock, &stop).await;
        if result.is_err() {
            stop.cancel();
        }
        (uploaded, result)
    };
    let (worked, (mut uploaded, stored)) = tokio::join!(workers, uploads);
    let committed = async {
        match (worked, stored) {
            (Ok(()), Ok(())) => {}
            (Err(worker), Err(upload)) => return Err(worker.or(upload)),
            (Err(error), Ok(())) | (Ok(()), Err(error)) => return Err(error),
        }
        let tally = work.finish()?;
        progress.all_done();

        progress.enter(Phase::Committing);
        let commit = commit::Commit { repository, index: &index, options, volume_bytes, begun, parent: mode.parent() };
        let snapshot =
            until_cancelled(cancel, commit.prepare(tally.content, image, &tally.counts, &mut uploaded, progress)).await??;
        if cancel.is_cancelled() {
            return Err(ExportError::Cancelled);
        }
        Ok((repository.save_snapshot(&snapshot, lock).await?, tally.counts))
    };
    let (id, counts) = match committed.await {
        Ok(committed) => committed,
        Err(error) => {
            uploaded.leave(lock).await;
            return Err(error);
        }
    };
    let counters = progress.snapshot();
    Ok(ExportReport {
        snapshot: id,
        mode,
        size_bytes: volume_bytes,
        indexed_blobs: index.len(),
        read_bytes: counters.read_bytes,
        zero_bytes: counts.zero_bytes,
        chunks: counts.chunks,
        new_chunks: counts.new_chunks,
        new_bytes: counts.new_read_bytes,
        stored_bytes: uploaded.stored_bytes(),
        verification: options.verification,
        elapsed: Duration::ZERO,
    })
}

fn check(volume_bytes: u64, options: &ExportOptions) -> Result<(), ExportError> {
    let refuse = |text: String| Err(ExportError::Options(text));
    if volume_bytes == 0 {
        return refuse("the volume is empty".to_owned());
    }
    if !options.chunk_size.fits(volume_bytes) {
        return refuse(format!(
            "{volume_bytes} bytes in chunks of {} make a longer list than the format can hold; take larger chunks",
            options.chunk_size
        ));
    }
    let Some((folders, name)) = path_parts(&options.path) else {
        return refuse(format!("`{}` is no absolute path of a file", options.path));
    };
    // One of them stands beside that file.
    if let Some(name) = [Some(&name), folders.last()].into_iter().flatten().find(|name| **name == super::metadata::FILE_NAME) {
        return refuse(format!("neither the volume's image nor its folder can be called `{name}`"));
    }
    Ok(())
}

/// The folders and the last part of an absolute path that names a file.
fn path_parts(path: &str) -> Option<(Vec<&str>, &str)> {
    let mut folders: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    if folders.iter().any(|part| matches!(*part, "" | "." | "..") || part.contains('\0')) {
        return None;
    }
    let name = folders.pop()?;
    Some((folders, name))
}

async fn until_cancelled<T>(cancel: &CancellationToken, work: impl Future<Output = T>) -> Result<T, ExportError> {
    cancel.run_until_cancelled(work).await.ok_or(ExportError::Cancelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_a_file_or_are_refused() {
        assert_eq!(path_parts("/v-a-b/volume.img"), Some((vec!["v-a-b"], "volume.img")));
        assert_eq!(path_parts("/volume.img"), Some((vec![], "volume.img")));
        for path in ["", "volume.img", "a/b", "/", "/a/", "/a/..", "/a/../b", "//b", "/a\0b"] {
            assert_eq!(path_parts(path), None, "{path:?}");
        }
    }
}
