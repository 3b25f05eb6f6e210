//! The threads of an export: test, hash, pack. One batch of chunks after another, stage by stage, while the worker's
//! [reader](super::read) fills the next.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::counts::Counts;
use super::error::ExportError;
use super::prepare::BatchMemories;
use super::read::{self, Batch};
use super::upload::Finished;
use crate::block::{AlignedBuffer, BlockSource};
use crate::repository::pack::verify_ids;
use crate::repository::{BlobKind, Claim, Compressor, Id, Index, PackBuilder, PackSet, Sealer, Verification};
use crate::transfer::budget::ExportBounds;
use crate::transfer::chunk_size::ChunkSize;
use crate::transfer::content::{ContentBuilder, VolumeContent};
use crate::transfer::crew::{Crew, WorkerDied};
use crate::transfer::plan::{Chunk, Plan};
use crate::transfer::progress::Progress;
use crate::transfer::{hash, zeros};
use crate::types::ByteRange;

/// Level of compression: what restic calls fastest. Higher ones cost twice the time for a twentieth of the space.
pub(super) const ZSTD_LEVEL: i32 = 1;

/// What a blob adds to its pack at most, besides its bytes: 32 bytes of sealing are in the body, 41 in the header.
const BLOB_OVERHEAD_BYTES: u64 = 32 + 41;
/// What a pack has besides its blobs: the sealing of the header and its length.
const HEADER_OVERHEAD_BYTES: u64 = 32 + 4;

/// What the workers share.
pub(super) struct Work {
    source: Arc<dyn BlockSource>,
    plan: Mutex<Planned>,
    outcomes: Mutex<Outcomes>,
    index: Arc<Index>,
    /// Where the chunks lie that are not stored again, those that were known before included.
    packs: Arc<PackSet>,
    sealer: Sealer,
    memories: BatchMemories,
    bounds: ExportBounds,
    chunk_size: ChunkSize,
    verification: Verification,
    progress: Progress,
    stop: CancellationToken,
}

struct Planned {
    plan: Plan,
    /// Chunks that were handed out, or were known before.
    accounted: u64,
    /// The byte after the last chunk that was handed out.
    position: u64,
}

struct Outcomes {
    content: ContentBuilder,
    counts: Counts,
}

/// What the workers leave behind.
pub(super) struct Tally {
    pub(super) content: VolumeContent,
    pub(super) counts: Counts,
    /// The packs of the index that chunks of the list lie in.
    pub(super) packs: Arc<PackSet>,
}

impl Work {
    #[expect(clippy::too_many_arguments, reason = "a constructor of what is shared")]
    pub(super) fn new(
        source: Arc<dyn BlockSource>,
        plan: Plan,
        (content, packs): (ContentBuilder, Arc<PackSet>),
        index: Arc<Index>,
        sealer: Sealer,
        memories: BatchMemories,
        bounds: ExportBounds,
        chunk_size: ChunkSize,
        verification: Verification,
        progress: Progress,
        stop: CancellationToken,
    ) -> Self {
        let plan = Mutex::new(Planned { plan, accounted: content.chunks(), position: 0 });
        let outcomes = Mutex::new(Outcomes { content, counts: Counts::default() });
        Self { source, plan, outcomes, index, packs, sealer, memories, bounds, chunk_size, verification, progress, stop }
    }

    /// The list of the volume. To be called when all workers have ended well.
    pub(super) fn finish(&self) -> Result<Tally, ExportError> {
        let mut outcomes = lock(&self.outcomes);
        let content = outcomes.content.finish(lock(&self.plan).accounted)?;
        let counts = Counts { zero_bytes: content.zero_bytes(), chunks: content.chunks(), ..outcomes.counts };
        Ok(Tally { content, counts, packs: Arc::clone(&self.packs) })
    }

    /// Bytes of a chunk.
    pub(super) fn chunk_bytes(&self) -> usize {
        self.chunk_size.bytes() as usize
    }

    /// Memory for a batch. What it holds does not count.
    pub(super) fn batch_memory(&self) -> AlignedBuffer {
        self.memories.take()
    }

    /// The next chunks, at most a batch. Empty at the end.
    pub(super) fn claim(&self) -> Result<Vec<Chunk>, ExportError> {
        let mut planned = lock(&self.plan);
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A worker that panicked while it held it ends the export with an error; what it left is not used.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the workers. Each keeps a clone of `finished`, so that its other end closes when the last has ended.
pub(super) fn start(work: &Arc<Work>, finished: Finished) -> io::Result<Crew<Result<(), ExportError>>> {
    Crew::start("export", work.bounds.workers, || {
        let (work, finished) = (Arc::clone(work), finished.clone());
        move || {
            // One that fails or panics stops the others at once.
            let stop_others = work.stop.clone().drop_guard();
            let result = Worker::new(Arc::clone(&work), finished).and_then(Worker::run);
            if result.is_ok() {
                stop_others.disarm();
            }
            result
        }
    })
}

/// Waits for all workers; the first error that is not a consequence of another.
pub(super) async fn join(crew: Crew<Result<(), ExportError>>) -> Result<(), ExportError> {
    let results = crew.join().await;
    let errors = results.into_iter().filter_map(|result| match result {
        Ok(result) => result.err(),
        Err(died @ WorkerDied) => Some(ExportError::Inside(died.to_string())),
    });
    errors.reduce(ExportError::or).map_or(Ok(()), Err)
}

struct Worker {
    work: Arc<Work>,
    finished: Finished,
    compressor: Compressor,
    /// None until the first blob for it comes: while a finished pack waits for room, there is no memory of the next.
    pack: Option<PackBuilder>,
    /// Blobs in the pack.
    packed: u64,
    /// Of those, chunks of this batch that were not hashed again.
    unverified: Vec<(usize, Id)>,
}

impl Worker {
    fn new(work: Arc<Work>, finished: Finished) -> Result<Self, ExportError> {
        let compressor = Compressor::new(ZSTD_LEVEL)?;
        Ok(Self { work, finished, compressor, pack: None, packed: 0, unverified: Vec::new() })
    }

    fn run(mut self) -> Result<(), ExportError> {
        let work = Arc::clone(&self.work);
        std::thread::scope(|scope| {
            // Dropped when this ends, however it does, which ends the reader.
            let batches = read::start(scope, &work)?;
            let mut ids = Vec::new();
            while let Some(batch) = batches.next() {
                let batch = batch?;
                work.check_stop()?;
                let data = self.without_zeros(&batch);
                let inputs: Vec<&[u8]> = data.iter().map(|&at| batch.bytes(at)).collect();
                hash::sha256_many(&inputs, &mut ids);
                for (&at, &id) in data.iter().zip(&ids) {
                    self.store(&batch, at, id)?;
                }
                self.verify(&batch)?;
                batches.done(batch);
            }
            self.hand_over()?;
            self.finished.flush()
        })
    }

    /// The positions in the batch of the chunks that hold something. The others are done with.
    fn without_zeros(&self, batch: &Batch) -> Vec<usize> {
        let chunks = batch.chunks();
        let (zero, data): (Vec<usize>, Vec<usize>) = (0..chunks.len()).partition(|&at| zeros::is_zero(batch.bytes(at)));
        let mut outcomes = lock(&self.work.outcomes);
        for at in zero {
            outcomes.content.zeros();
            self.work.progress.done(chunks[at].range.length());
        }
        data
    }

    /// Packs a chunk unless it is stored, or another worker stores it.
    fn store(&mut self, batch: &Batch, at: usize, id: Id) -> Result<(), ExportError> {
        let Chunk { index, range, ref reads } = batch.chunks()[at];
        let length = range.length();
        let claim = self.work.index.claim_data(&id, &self.work.packs)?;
        if claim == Claim::Yours {
            self.work.check_stop()?;
            if !self.has_room(length) {
                self.verify(batch)?;
                self.hand_over()?;
            }
            let pack = self.pack.get_or_insert_with(|| new_pack(&self.work, self.finished.memory()));
            pack.add(id, batch.bytes(at), &mut self.compressor)?;
            self.packed += 1;
            self.unverified.push((at, id));
            self.work.progress.new_data(length);
        }
        self.work.progress.done(length);
        let mut outcomes = lock(&self.work.outcomes);
        outcomes.content.data(index, id)?;
        if claim == Claim::Yours {
            outcomes.counts.new_chunks += 1;
            outcomes.counts.new_bytes += length;
            outcomes.counts.new_read_bytes += reads.iter().map(|read| read.length()).sum::<u64>();
        }
        Ok(())
    }

    /// Makes sure that the chunks of the batch that were packed are still what they were when they were hashed. Before their pack may be
    /// stored.
    fn verify(&mut self, batch: &Batch) -> Result<(), ExportError> {
        let packed = std::mem::take(&mut self.unverified);
        if self.work.verification == Verification::Skip || packed.is_empty() {
            return Ok(());
        }
        let inputs: Vec<&[u8]> = packed.iter().map(|&(at, _)| batch.bytes(at)).collect();
        let (packed, mut found): (Vec<Id>, _) = (packed.iter().map(|&(_, id)| id).collect(), Vec::new());
        hash::sha256_many(&inputs, &mut found);
        Ok(verify_ids(&packed, &found)?)
    }

    /// True when a chunk of `length` bytes fits the pack even if it does not compress, so that a pack never outgrows the memory
    /// it was made with.
    fn has_room(&self, length: u64) -> bool {
        let blobs = (self.packed + 1) * BLOB_OVERHEAD_BYTES + HEADER_OVERHEAD_BYTES;
        self.pack.as_ref().is_none_or(|pack| pack.bytes() as u64 + length + blobs <= self.work.bounds.pack_bytes as u64)
    }

    /// Gives the pack to the uploader, when there is room among the bytes in flight, and begins another.
    fn hand_over(&mut self) -> Result<(), ExportError> {
        let finished = match self.pack.take() {
            Some(pack) => pack.finish_unnamed()?,
            None => None,
        };
        self.packed = 0;
        match finished {
            Some(pack) => self.finished.send(pack, &self.work.stop),
            None => Ok(()),
        }
    }
}

fn new_pack(work: &Work, memory: Vec<u8>) -> PackBuilder {
    PackBuilder::within(memory, work.sealer.clone(), BlobKind::Data, work.bounds.pack_bytes, work.verification)
}
