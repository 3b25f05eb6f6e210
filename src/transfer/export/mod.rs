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
//! **Long lists** are looked up once: a machine [remembers](crate::repository::checked_tree) in which packs the chunks of a list lie, and
//! while the index names all of these, the list is taken over as it is. Where trees are cached, the list of a volume of which nothing
//! changed is then not even read. The chunks that an export finds or stores itself are remembered with it.
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

mod checked;
mod commit;
mod counts;
mod error;
mod options;
mod parent;
mod prepare;
mod read;
mod report;
mod scope;
mod touched;
mod upload;
mod worker;

pub use error::ExportError;
pub use options::ExportOptions;
pub use report::ExportReport;
pub use scope::{ExportMode, FullReason, Parent, Scope};

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::checked::UnreadImage;
use self::commit::Image;
use self::parent::{InheritedImage, InheritedList};
use self::prepare::Prepared;
use self::upload::Uploaded;
use self::worker::Tally;
use super::budget::ExportBounds;
use super::plan::Plan;
use super::progress::{Phase, Progress};
use crate::block::BlockSource;
use crate::repository::{Index, LockGuard, LockMode, PackSet, Repository, RepositoryError};
use crate::types::{RangeStream, Timestamp};

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
    options::check(source.size(), options)?;
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
    let parent::Inheritance { mode, image } =
        until_cancelled(cancel, parent::inherit(repository, &index, options, volume_bytes, found, allocated)).await??;
    match &mode {
        ExportMode::Full(reason) => tracing::info!(path = options.path, %reason, "everything is read"),
        ExportMode::Incremental { parent } => {
            tracing::info!(path = options.path, %parent, inherited = image.chunks(), "what changed is read");
        }
    }
    progress.begin(volume_bytes);

    let (packed, mut uploaded) = match image {
        InheritedImage::Unread(image) => {
            let counts = image.note.counts();
            (
                Ok(Packed { image: Image::Unread(image), counts, found: Arc::new(index.no_packs()) }),
                Uploaded::new(repository.clone()),
            )
        }
        InheritedImage::Listed(list) => {
            let memories = Memories { batches, spare, bounds };
            pack(source, list, memories, &index, repository, options, progress, cancel, lock).await
        }
    };
    let committed = async {
        let Packed { image, counts, found } = packed?;
        progress.all_done();
        progress.enter(Phase::Committing);
        let is_unread = matches!(image, Image::Unread(_));
        let commit = commit::Commit { repository, index: &index, options, volume_bytes, begun, parent: mode.parent() };
        let prepared = until_cancelled(cancel, commit.prepare(image, &counts, &mut uploaded, progress)).await??;
        if cancel.is_cancelled() {
            return Err(ExportError::Cancelled);
        }
        let id = repository.save_snapshot(&prepared.snapshot, lock).await?;
        // What was not read is remembered already.
        Ok((id, counts, prepared.image.filter(|_| !is_unread).map(|image| (image, found))))
    };
    let (id, counts, image) = match committed.await {
        Ok(committed) => committed,
        Err(error) => {
            uploaded.leave(lock).await;
            return Err(error);
        }
    };
    let counters = progress.snapshot();
    let report = ExportReport {
        snapshot: id,
        mode,
        size_bytes: volume_bytes,
        indexed_blobs: index.len(),
        read_bytes: counters.moved_bytes,
        zero_bytes: counts.zero_bytes,
        chunks: counts.chunks,
        new_chunks: counts.new_chunks,
        new_bytes: counts.new_read_bytes,
        stored_bytes: uploaded.stored_bytes(),
        verification: options.verification,
        elapsed: Duration::ZERO,
    };
    if let Some((UnreadImage { tree, note }, found)) = image.filter(|(image, _)| repository.remembers_trees_of(image.note.chunks))
    {
        let packs = uploaded.into_packs().and_found(index, found);
        if let Err(error) = repository.remember_tree(tree, note.to_bytes(), packs).await {
            tracing::debug!(%error, "where the chunks of a list lie could not be remembered; the next export looks them up");
        }
    }
    Ok(report)
}

/// A volume whose chunks are all stored.
struct Packed {
    image: Image,
    counts: counts::Counts,
    /// The packs of the index that chunks of it were found in.
    found: Arc<PackSet>,
}

/// What the stages begin with.
struct Memories {
    batches: prepare::BatchMemories,
    spare: Vec<Vec<u8>>,
    bounds: ExportBounds,
}

/// Reads what is to be read of a volume and stores what is new of it.
#[expect(clippy::too_many_arguments, reason = "the arguments of an export and what it holds meanwhile")]
async fn pack(
    source: Arc<dyn BlockSource>,
    list: InheritedList,
    Memories { batches, spare, bounds }: Memories,
    index: &Arc<Index>,
    repository: &Repository,
    options: &ExportOptions,
    progress: &Progress,
    cancel: &CancellationToken,
    lock: &LockGuard,
) -> (Result<Packed, ExportError>, Uploaded) {
    let InheritedList { content, packs: known, image: parent, extents } = list;
    let plan = Plan::new(source.size(), options.chunk_size, extents);
    let (finished, packs) = upload::queue(bounds.in_flight_bytes, bounds.pack_group, spare);
    let stop = cancel.child_token();
    // Stops the workers when this call is dropped.
    let _stop_when_dropped = stop.clone().drop_guard();
    let work = Arc::new(worker::Work::new(
        source,
        plan,
        (content, Arc::new(known)),
        Arc::clone(index),
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
    let (worked, (uploaded, stored)) = tokio::join!(workers, uploads);
    let packed = match (worked, stored) {
        (Ok(()), Ok(())) => work.finish().map(|Tally { content, counts, packs: found }| {
            let image = Image::Listed { content, parent };
            Packed { image, counts, found }
        }),
        (Err(worker), Err(upload)) => Err(worker.or(upload)),
        (Err(error), Ok(())) | (Ok(()), Err(error)) => Err(error),
    };
    (packed, uploaded)
}

async fn until_cancelled<T>(cancel: &CancellationToken, work: impl Future<Output = T>) -> Result<T, ExportError> {
    cancel.run_until_cancelled(work).await.ok_or(ExportError::Cancelled)
}
