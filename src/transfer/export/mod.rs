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
//! (volume, snapshot, size, chunk size) and each blob taken over to be in the index. What does not fit makes the export a full
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
//! **Going on.** What an export finds is kept by the machine ([`checkpoint`]), so that after an early end another attempt at the same
//! snapshot reads only what no index names yet.
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
//! stages too, but nobody waits for them and no index file is written. Once the snapshot itself is being stored, the token is no longer
//! looked at. If storing it fails, it is unknown whether it exists; if it does, it is whole.
//!
//! **Memory** is the sum in [`budget`](super::budget): workers times (batch + pack) and the packs in flight, and a constant for the
//! index, the lists and the tree, of which what is longer goes to [scratch space](crate::scratch).
//!
//! It never reads what is not allocated (short gaps apart), never stores zeros, and never refers to what is not stored.

mod buffers;
mod checked;
mod checkpoint;
mod commit;
mod counts;
mod error;
mod options;
mod parent;
mod prepare;
mod read;
mod report;
mod run;
mod scope;
mod touched;
mod untouched;
mod upload;
mod work;
mod worker;

pub use checkpoint::forget_checkpoint;
pub use error::ExportError;
pub use options::ExportOptions;
pub use report::ExportReport;
pub use scope::{ExportMode, ExportSource, FullReason, Parent, Scope};

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use self::run::Exporting;
use super::progress::{Phase, Progress};
use crate::repository::{LockMode, Repository, RepositoryError};
use crate::types::Timestamp;
use crate::types::error::chain;

/// Exports `source` as a new snapshot.
///
/// # Errors
/// The module's header says what a failed export leaves behind.
pub async fn export(
    source: ExportSource,
    repository: &Repository,
    options: &ExportOptions,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<ExportReport, ExportError> {
    let ExportSource { blocks: source, scope } = source;
    let started = Instant::now();
    let begun = Timestamp::now();
    options::check(source.size(), options)?;
    progress.watch(repository.store());
    progress.enter(Phase::Preparing);
    let Scope { allocated, since } = scope;
    let (bounds, volume_bytes, chunk_size) = (options.budget.export(options.chunk_size)?, source.size(), options.chunk_size);
    let prepared = tokio::task::spawn_blocking(move || prepare::prepare(since, volume_bytes, chunk_size, &bounds));
    let waiting = |reason: &RepositoryError| progress.waits_for(Some(chain(reason)));
    let lock = cancel.run_until_cancelled(repository.lock_or_wait(LockMode::Shared, &waiting)).await;
    progress.waits_for(None);
    let lock = lock.ok_or(ExportError::Cancelled)??;
    let exporting = Exporting { source, repository, options, progress, cancel, lock: &lock, bounds, begun };
    let result = exporting.run(allocated, prepared).await;
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

/// Removes leftovers of earlier processes. It cannot fail an export whose snapshot is stored.
async fn sweep(repository: &Repository, cancel: &CancellationToken) {
    match cancel.run_until_cancelled(repository.sweep_leftovers()).await {
        Some(Ok(0)) | None => {}
        Some(Ok(files)) => tracing::info!(files, "old leftovers of cut-off puts removed"),
        Some(Err(error)) => tracing::warn!(error = %chain(&error), "leftovers of cut-off puts could not be looked for"),
    }
}
