//! An export under its lock: what is taken over, what is read and stored, and the commit.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::buffers::BatchBuffers;
use super::checked::UnreadImage;
use super::checkpoint::Findings;
use super::commit::{Commit, Image};
use super::counts::Counts;
use super::error::ExportError;
use super::options::ExportOptions;
use super::parent::{self, InheritedImage, InheritedList, Inheriting};
use super::prepare::Prepared;
use super::report::ExportReport;
use super::scope::ExportMode;
use super::upload::{self, StoredPacks, Uploader};
use super::work::{Outcomes, Planned, Tally, Work};
use super::worker;
use crate::block::BlockSource;
use crate::repository::{Id, Index, LockGuard, PackSet, Repository};
use crate::transfer::budget::ExportBounds;
use crate::transfer::plan::Plan;
use crate::transfer::progress::{Phase, Progress};
use crate::transfer::stages;
use crate::types::error::chain;
use crate::types::{RangeStream, Timestamp};

/// An export that holds its lock.
pub(super) struct Exporting<'a> {
    pub(super) source: Arc<dyn BlockSource>,
    pub(super) repository: &'a Repository,
    pub(super) options: &'a ExportOptions,
    pub(super) progress: &'a Progress,
    pub(super) cancel: &'a CancellationToken,
    pub(super) lock: &'a LockGuard,
    pub(super) bounds: ExportBounds,
    pub(super) begun: Timestamp,
}

/// The outcome of the workers: a volume whose chunks are all stored.
struct Packed {
    image: Image,
    counts: Counts,
    /// The packs of the index that chunks of it were found in.
    found: Arc<PackSet>,
}

/// A snapshot that is stored.
struct Committed {
    snapshot: Id,
    counts: Counts,
    /// What is to be remembered of the image, if it is not yet.
    image: Option<(UnreadImage, Arc<PackSet>)>,
}

/// What the stages begin with.
struct Beginning {
    batches: BatchBuffers,
    packs: Vec<Vec<u8>>,
    findings: Arc<Findings>,
}

impl Exporting<'_> {
    /// Runs the export to its report. `prepared` was found and made while the lock was waited for.
    pub(super) async fn run(&self, allocated: RangeStream, prepared: JoinHandle<Prepared>) -> Result<ExportReport, ExportError> {
        let Self { repository, options, progress, .. } = *self;
        let volume_bytes = self.source.size();
        let prepared = self.until_cancelled(prepared).await?;
        let Prepared { since, batches, packs } = prepared.map_err(|error| ExportError::Inside(error.into()))?;
        // Snapshots before the index: all that one refers to was indexed before it was stored.
        let found = self.until_cancelled(parent::find(repository, since)).await??;
        let index = Arc::new(self.until_cancelled(repository.load_trusted_index()).await??);
        let findings = Findings::of(repository, options, volume_bytes);
        let inheriting = Inheriting { repository, index: &index, options, volume_bytes, findings: &findings };
        let parent::Inheritance { mode, image, resumed_chunks } =
            self.until_cancelled(inheriting.inherit(found, allocated)).await??;
        match &mode {
            ExportMode::Full(reason) => tracing::info!(path = options.path, %reason, "everything is read"),
            ExportMode::Incremental { parent } => {
                tracing::info!(path = options.path, %parent, inherited = image.chunks(), "what changed is read");
            }
        }
        if resumed_chunks > 0 {
            tracing::info!(path = options.path, resumed_chunks, "an earlier attempt is gone on with");
        }
        progress.begin(volume_bytes);

        let mut stored = StoredPacks::new(repository.clone(), Arc::clone(&findings));
        let packed = match image {
            InheritedImage::Unread(image) => {
                let counts = image.note.counts();
                Ok(Packed { image: Image::Unread(image), counts, found: Arc::new(index.no_packs()) })
            }
            InheritedImage::Listed(list) => {
                self.pack(list, Beginning { batches, packs, findings: Arc::clone(&findings) }, &index, &mut stored).await
            }
        };
        let committed = match packed {
            Ok(packed) => self.commit(packed, &index, mode.parent(), &mut stored).await,
            Err(error) => Err(error),
        };
        let Committed { snapshot, counts, image } = match committed {
            Ok(committed) => committed,
            Err(error) => {
                stored.leave(self.lock).await;
                return Err(error);
            }
        };
        findings.remove().await;
        let report = ExportReport {
            snapshot,
            mode,
            size_bytes: volume_bytes,
            indexed_blobs: index.len(),
            resumed_chunks,
            read_bytes: progress.snapshot().moved_bytes,
            zero_bytes: counts.zero_bytes,
            chunks: counts.chunks,
            new_chunks: counts.new_chunks,
            new_bytes: counts.new_read_bytes,
            stored_bytes: stored.stored_bytes(),
            verification: options.verification,
            elapsed: Duration::ZERO,
        };
        let image = image.filter(|(image, _)| repository.remembers_trees_of(image.note.chunks));
        if let Some((UnreadImage { tree, note }, found)) = image {
            let packs = stored.into_packs().and_found(index, found);
            if let Err(error) = repository.remember_tree(tree, note.to_bytes(), packs).await {
                tracing::debug!(error = %chain(&error), "where the chunks of a list lie could not be remembered; the next export looks them up");
            }
        }
        Ok(report)
    }

    /// Reads what is to be read of the volume and stores what is new of it.
    async fn pack(
        &self,
        list: InheritedList,
        beginning: Beginning,
        index: &Arc<Index>,
        stored: &mut StoredPacks,
    ) -> Result<Packed, ExportError> {
        let Self { repository, options, progress, bounds, .. } = *self;
        let InheritedList { content, packs: known, image: parent, extents } = list;
        let plan = Plan::new(self.source.size(), options.chunk_size, extents);
        let (sender, receiver) = upload::queue(bounds.in_flight_bytes, bounds.pack_group, beginning.packs);
        let stop = self.cancel.child_token();
        // Stops the workers when this call is dropped.
        let _stop_when_dropped = stop.clone().drop_guard();
        let work = Arc::new(Work {
            source: Arc::clone(&self.source),
            planned: Mutex::new(Planned::new(plan, content.chunks())),
            outcomes: Mutex::new(Outcomes::new(content)),
            findings: beginning.findings,
            index: Arc::clone(index),
            packs: Arc::new(known),
            sealer: repository.sealer(),
            buffers: beginning.batches,
            bounds,
            chunk_size: options.chunk_size,
            verification: options.verification,
            progress: progress.clone(),
            stop: stop.clone(),
        });
        let workers = worker::start(&work, sender);
        let uploader = Uploader::new(repository.clone(), bounds.uploads, progress.clone());
        stages::join(workers, uploader.run(receiver, stored, self.lock, &stop), &stop).await?;
        let Tally { content, counts, packs: found } = work.finish()?;
        Ok(Packed { image: Image::Listed { content, parent }, counts, found })
    }

    /// Stores what the snapshot refers to, and then the snapshot. `parent` is the one that the export builds upon.
    async fn commit(
        &self,
        packed: Packed,
        index: &Arc<Index>,
        parent: Option<Id>,
        stored: &mut StoredPacks,
    ) -> Result<Committed, ExportError> {
        let Self { repository, options, progress, begun, .. } = *self;
        let Packed { image, counts, found } = packed;
        progress.all_done();
        progress.enter(Phase::Committing);
        let is_unread = matches!(image, Image::Unread(_));
        let commit = Commit { repository, index, options, volume_bytes: self.source.size(), begun, parent };
        let prepared = self.until_cancelled(commit.prepare(image, &counts, stored, progress)).await??;
        if self.cancel.is_cancelled() {
            return Err(ExportError::Cancelled);
        }
        let snapshot = repository.save_snapshot(&prepared.snapshot, self.lock).await?;
        // What was not read is remembered already.
        let image = prepared.image.filter(|_| !is_unread).map(|image| (image, found));
        Ok(Committed { snapshot, counts, image })
    }

    async fn until_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T, ExportError> {
        self.cancel.run_until_cancelled(work).await.ok_or(ExportError::Cancelled)
    }
}
