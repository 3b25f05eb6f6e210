//! What the workers of an export share: the plan that they take chunks from, and what they found.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::buffers::BatchBuffers;
use super::checkpoint::Findings;
use super::counts::Counts;
use super::error::ExportError;
use crate::block::{AlignedBuffer, BlockSource};
use crate::repository::{Index, PackSet, Sealer, Verification};
use crate::transfer::budget::ExportBounds;
use crate::transfer::chunk_size::ChunkSize;
use crate::transfer::content::{ContentBuilder, VolumeContent};
use crate::transfer::plan::{Chunk, Plan};
use crate::transfer::progress::Progress;
use crate::types::ByteRange;

/// What the workers of an export share.
pub(super) struct Work {
    pub(super) source: Arc<dyn BlockSource>,
    pub(super) planned: Mutex<Planned>,
    pub(super) outcomes: Mutex<Outcomes>,
    pub(super) findings: Arc<Findings>,
    pub(super) index: Arc<Index>,
    /// Where the chunks lie that are not stored again, those that were known before included.
    pub(super) packs: Arc<PackSet>,
    pub(super) sealer: Sealer,
    pub(super) buffers: BatchBuffers,
    pub(super) bounds: ExportBounds,
    pub(super) chunk_size: ChunkSize,
    pub(super) verification: Verification,
    pub(super) progress: Progress,
    pub(super) stop: CancellationToken,
}

pub(super) struct Planned {
    plan: Plan,
    /// Chunks that were handed out, or were known before.
    accounted: u64,
    /// The byte after the last chunk that was handed out.
    position: u64,
}

pub(super) struct Outcomes {
    pub(super) content: ContentBuilder,
    pub(super) counts: Counts,
}

/// What the workers leave behind.
pub(super) struct Tally {
    pub(super) content: VolumeContent,
    pub(super) counts: Counts,
    /// The packs of the index that chunks of the list lie in.
    pub(super) packs: Arc<PackSet>,
}

impl Planned {
    /// The whole of `plan`, beside `known` chunks that are not handed out.
    pub(super) fn new(plan: Plan, known: u64) -> Self {
        Self { plan, accounted: known, position: 0 }
    }
}

impl Outcomes {
    /// Findings that begin with what `content` knows.
    pub(super) fn new(content: ContentBuilder) -> Self {
        Self { content, counts: Counts::default() }
    }
}

impl Work {
    /// Completes the list of the volume. To be called when all workers have ended well.
    pub(super) fn finish(&self) -> Result<Tally, ExportError> {
        let mut outcomes = lock(&self.outcomes);
        let content = outcomes.content.finish(lock(&self.planned).accounted)?;
        let counts = Counts { zero_bytes: content.zero_bytes(), chunks: content.chunks(), ..outcomes.counts };
        Ok(Tally { content, counts, packs: Arc::clone(&self.packs) })
    }

    pub(super) fn chunk_bytes(&self) -> usize {
        self.chunk_size.bytes() as usize
    }

    /// A buffer for a batch, with arbitrary content.
    pub(super) fn batch_buffer(&self) -> AlignedBuffer {
        self.buffers.take()
    }

    /// The next chunks, at most a batch. Empty at the end.
    pub(super) fn claim(&self) -> Result<Vec<Chunk>, ExportError> {
        let mut planned = lock(&self.planned);
        let mut batch = Vec::with_capacity(self.bounds.batch_chunks);
        while batch.len() < self.bounds.batch_chunks {
            match planned.plan.next() {
                Some(chunk) => {
                    let chunk = chunk.map_err(ExportError::Extents)?;
                    // What lies between is not allocated, and done with.
                    self.progress.done(chunk.range.offset() - planned.position);
                    planned.position = chunk.range.end();
                    batch.push(chunk);
                }
                None => break,
            }
        }
        planned.accounted += batch.len() as u64;
        Ok(batch)
    }

    /// Fills `buffer` with the range of the source.
    pub(super) fn read(&self, range: ByteRange, buffer: &mut [u8]) -> Result<(), ExportError> {
        self.check_stop()?;
        self.source.read_at(range.offset(), buffer).map_err(|source| ExportError::Read { range, source })?;
        self.progress.moved(range.length());
        Ok(())
    }

    pub(super) fn check_stop(&self) -> Result<(), ExportError> {
        if self.stop.is_cancelled() { Err(ExportError::Cancelled) } else { Ok(()) }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A worker that panicked while it held it ends the export with an error; what it left is not used.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
