//! Restore: the image of a volume out of a repository into a block sink.
//!
//! ```text
//! list of blobs -> plan -> (look) -> fetch ranges of packs -> [ authenticate, decrypt, decompress, hash -> write or leave a hole ] -> flush
//!                           `- async, bounded by bytes -'  `---------------- worker threads ----------------------'
//! ```
//!
//! The plan ([`plan`]) knows where every blob lies and goes through the repository pack by pack, not through the volume from
//! front to back: each range of a pack is fetched once, and a blob that occurs often is decoded once and written everywhere.
//! Blobs of zeros that are known by their id are not even fetched. Within blobs, aligned runs of zeros stay holes.
//!
//! **All or an error**, unless the image was [opened to skip damage](super::image::OnDamage). Every byte that is written was
//! authenticated and hashed to its blob's id; the lengths of the blobs add up to the recorded size of the file or nothing is written;
//! success means that everything was written and flushed. After an error or a cancellation the sink holds some of the data and must not
//! be published. A blob that does not read is fetched once more, and then from every other pack that holds a copy; an error names the
//! blob and the pack.
//!
//! **With holes.** Of an image that was opened to skip damage, everything that reads is written, and zeros where a blob does not read
//! from any copy or is in no index. The report lists these [holes], and the caller decides what becomes of the sink: it is not what was
//! exported. A store that fails as a whole, a sink that fails and a lost lock are errors all the same.
//!
//! **A partial target** is what an earlier restore left that was cut, of this image or another. Nothing is believed of how far that came:
//! the sink is read wherever a blob goes, and a blob that is there by its hash, at all its places, is neither fetched nor written. All else is
//! written as over anything, zeros too. So it is right whatever the sink holds, and a blob that does not read any more from the repository is
//! no hole where the sink still has it. The earlier restore may never have flushed what is kept; the flush at the end is of the whole sink,
//! and makes that durable as well. It is taken for granted that a later reader sees what this one does. Reads go past the page cache
//! where they can; where they cannot, that is not so after a flush that failed, of which the cache may hold what the disk does not.
//!
//! **Cancellation** as in an export: stages look between two blobs and while they wait; the call returns when all its threads
//! have ended.
//!
//! **The repository's lock** takes 200 ms to be known to hold. The restore begins without waiting for that, and does not end before. A
//! repository that turns out to be locked by another stops it, also if something else went wrong by then: the lock is taken back, the
//! other is waited for as long as the repository's patience lasts, and everything begins anew with what the other left. What was written
//! before is written again: that is as much as 200 ms bring, and less than it takes to look for it.
//!
//! **Memory**: see [`budget`](super::budget); the list and the index are in [scratch space](crate::scratch) when they are long, and
//! are gone through in windows.
//!
//! It works for every file of a repository in this format, by this program or another and however it was cut.

mod error;
mod fetch;
mod flow;
pub mod holes;
mod jobs;
mod options;
pub mod plan;
mod report;
mod worker;

pub use error::RestoreError;
pub use options::{RestoreOptions, Target};
pub use report::RestoreReport;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::image::{Image, OnDamage};
use super::progress::{Phase, Progress};
use super::stages;
use crate::block::BlockSink;
use crate::repository::copies::is_of_copy;
use crate::repository::{BlobKind, Id, RepositoryError};
use crate::types::error::chain;
use holes::{HoleList, Holes};
use plan::{Cut, Lost, RestorePlan};

/// Writes `image` to the beginning of `sink`; what of the sink lies beyond it reads as zeros afterwards.
///
/// # Errors
/// The sink then holds a part of the image at most and must not be used.
pub async fn restore(
    image: &mut Image,
    sink: Arc<dyn BlockSink>,
    options: &RestoreOptions,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<RestoreReport, RestoreError> {
    let started = Instant::now();
    progress.watch(image.repository.store());
    let restored = loop {
        match attempt(image, &sink, options, progress, cancel).await {
            Err(RestoreError::Repository(excluded @ RepositoryError::Locked { .. })) => {
                progress.begin_anew();
                let waiting = |reason: &RepositoryError| progress.waits_for(Some(chain(reason)));
                let waited = cancel.run_until_cancelled(image.begin_anew(excluded, &waiting)).await;
                progress.waits_for(None);
                waited.unwrap_or(Ok(())).map_err(RestoreError::from)?;
            }
            restored => break restored,
        }
    };
    // The next export must not build upon what this could not read.
    match &restored {
        Ok(report) if !report.holes.is_empty() => {
            image.repository.doubt(report.holes.listed.iter().filter_map(|hole| hole.pack)).await;
        }
        Err(RestoreError::Damaged { pack, .. }) => image.repository.doubt(Some(*pack)).await,
        Err(RestoreError::Repository(error)) if is_of_copy(error) => image.repository.doubt(None).await,
        _ => {}
    }
    let mut report = restored?;
    report.elapsed = started.elapsed();
    tracing::info!(
        snapshot = %report.snapshot,
        path = image.path(),
        size_bytes = report.size_bytes,
        written_bytes = report.written_bytes,
        present_bytes = report.present_bytes,
        fetched_bytes = report.fetched_bytes,
        "restored"
    );
    if !report.holes.is_empty() {
        let first = report.holes.listed.first().map(ToString::to_string);
        tracing::warn!(snapshot = %report.snapshot, bytes = report.holes.bytes, first, "what was restored has holes");
    }
    Ok(report)
}

/// One restore under one lock. [`RepositoryError::Locked`] says that the lock did not hold, and nothing else.
async fn attempt(
    image: &Image,
    sink: &Arc<dyn BlockSink>,
    options: &RestoreOptions,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<RestoreReport, RestoreError> {
    progress.enter(Phase::Preparing);
    let stop = cancel.child_token();
    // Stops the workers when this call is dropped.
    let _stop_when_dropped = stop.clone().drop_guard();
    let work = async {
        let copied = copy(image, sink, options, progress, &stop).await;
        if cancel.is_cancelled() {
            return Err(RestoreError::Cancelled);
        }
        copied
    };
    let lock = async {
        // Of one that was cancelled it does not matter. Of one that failed it does: a prune may have taken what it wanted to read.
        let confirmed = cancel.run_until_cancelled(image.confirm_lock()).await.unwrap_or(Ok(()));
        if confirmed.is_err() {
            stop.cancel();
        }
        confirmed
    };
    let (copied, confirmed) = tokio::join!(work, lock);
    // Every other error may follow from this.
    confirmed?;
    let Copied { blobs, present_bytes, holes } = copied?;
    progress.all_done();

    progress.enter(Phase::Committing);
    crate::failpoint::hit("restore.flush.before");
    let sink = Arc::clone(sink);
    let flushed = tokio::task::spawn_blocking(move || sink.flush()).await;
    flushed.map_err(|error| RestoreError::Inside(error.into()))?.map_err(RestoreError::Flush)?;
    crate::failpoint::hit("restore.flush.after");
    if cancel.is_cancelled() {
        return Err(RestoreError::Cancelled);
    }
    progress.enter(Phase::Done);
    let counters = progress.snapshot();
    Ok(RestoreReport {
        snapshot: image.snapshot().id,
        size_bytes: image.size_bytes,
        written_bytes: counters.moved_bytes,
        present_bytes,
        fetched_bytes: counters.stored_bytes,
        blobs,
        holes,
        elapsed: Duration::ZERO,
    })
}

/// What was copied.
struct Copied {
    /// Blobs that were fetched.
    blobs: u64,
    present_bytes: u64,
    holes: Holes,
}

/// Copies everything.
async fn copy(
    image: &Image,
    sink: &Arc<dyn BlockSink>,
    options: &RestoreOptions,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<Copied, RestoreError> {
    let (image_bytes, sink_bytes) = (image.size_bytes, sink.size());
    if image_bytes > sink_bytes {
        return Err(RestoreError::SinkTooSmall { image_bytes, sink_bytes });
    }
    let plan = Arc::new(plan_of(image, sink_bytes).await?);
    let bounds = options.budget.restore(plan.largest_blob_bytes())?;
    match options.target {
        Target::Fresh => {
            progress.begin(image_bytes);
            progress.done(image_bytes - plan.data_bytes());
        }
        Target::Dirty | Target::Partial => progress.begin(sink_bytes),
    }
    let holes = (image.on_damage == OnDamage::Skip).then(|| Arc::new(HoleList::default()));
    let (fetched, jobs) = jobs::queue();
    let work = Arc::new(worker::Work {
        repository: image.repository.clone(),
        index: Arc::clone(&image.index),
        runtime: Handle::current(),
        mending: Mutex::default(),
        sealer: image.repository.sealer(),
        sink: Arc::clone(sink),
        target: options.target,
        holes: holes.clone(),
        batch_bytes: bounds.batch_bytes,
        progress: progress.clone(),
        stop: stop.clone(),
        tally: worker::Tally::default(),
    });
    let workers = worker::start(&work, jobs, bounds.workers);
    let repository = image.repository.clone();
    let fetcher = fetch::Fetcher { repository, plan: Arc::clone(&plan), bounds, target: options.target };

    let blobs = stages::join(workers, fetcher.run(fetched, progress, stop), stop).await?;
    work.tally.check(&plan)?;
    let holes = holes.map(|holes| holes.take()).unwrap_or_default();
    Ok(Copied { blobs, present_bytes: work.tally.present_bytes(), holes })
}

/// Looks every blob up, off the async threads: a list may have millions.
async fn plan_of(image: &Image, sink_bytes: u64) -> Result<RestorePlan, RestoreError> {
    let (index, content, image_bytes) = (Arc::clone(&image.index), image.content.clone(), image.size_bytes);
    let lost = match image.on_damage {
        OnDamage::Fail => Lost::Refuse,
        OnDamage::Skip => Lost::Leave(cut_of(image)),
    };
    let planned = tokio::task::spawn_blocking(move || {
        let locate = move |id: &Id| index.get(BlobKind::Data, id);
        RestorePlan::new(content, image_bytes, sink_bytes, lost, Box::new(locate))
    });
    Ok(planned.await.map_err(|error| RestoreError::Inside(error.into()))??)
}

/// How the image was cut, as far as its metadata say: only volumes that were exported by this program have any.
fn cut_of(image: &Image) -> Cut {
    let chunk_bytes = image.metadata().and_then(|metadata| metadata.chunk_bytes);
    match chunk_bytes {
        Some(bytes) => Cut::Chunks(bytes),
        None if image.metadata().is_some() || image.lost_metadata().is_some() => Cut::UnknownChunks,
        None => Cut::Anyhow,
    }
}
