//! The threads of an export: test, hash, pack. One batch of chunks after another, stage by stage, while the worker's
//! [reader](super::read) fills the next.

use std::sync::Arc;

use super::error::ExportError;
use super::read::{self, Batch};
use super::upload::PackSender;
use super::work::{Work, lock};
use crate::repository::pack::verify_ids;
use crate::repository::{BlobKind, Claim, Compressor, Id, PackBuilder, Verification};
use crate::transfer::plan::Chunk;
use crate::transfer::stages::{self, Workers};
use crate::transfer::{hash, zeros};

/// Level of compression: what restic calls fastest. Higher ones cost twice the time for a twentieth of the space.
pub(super) const ZSTD_LEVEL: i32 = 1;

/// Starts the workers. Each keeps a clone of `packs`, so that its other end closes when the last has ended.
pub(super) fn start(work: &Arc<Work>, packs: PackSender) -> Workers<ExportError> {
    stages::start("export", work.bounds.workers, &work.stop, move || {
        let (work, packs) = (Arc::clone(work), packs.clone());
        move || Worker::new(work, packs)?.run()
    })
}

struct Worker {
    work: Arc<Work>,
    packs: PackSender,
    compressor: Compressor,
    /// `None` until the first blob for it comes: while a finished pack waits for room, the next takes no memory.
    pack: Option<PackBuilder>,
    /// Chunks of this batch that are in the pack and were not hashed again.
    unverified: Vec<(usize, Id)>,
}

impl Worker {
    fn new(work: Arc<Work>, packs: PackSender) -> Result<Self, ExportError> {
        let compressor = Compressor::new(ZSTD_LEVEL)?;
        Ok(Self { work, packs, compressor, pack: None, unverified: Vec::new() })
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
            self.packs.flush()
        })
    }

    /// The positions in the batch of the chunks that hold something. The others are done with.
    fn without_zeros(&self, batch: &Batch) -> Vec<usize> {
        let chunks = batch.chunks();
        let (zero, data): (Vec<usize>, Vec<usize>) = (0..chunks.len()).partition(|&at| zeros::is_zero(batch.bytes(at)));
        {
            let mut outcomes = lock(&self.work.outcomes);
            for &at in &zero {
                outcomes.content.zeros();
                self.work.progress.done(chunks[at].range.length());
            }
        }
        zero.into_iter().for_each(|at| self.work.findings.zeros(chunks[at].index));
        data
    }

    /// Packs a chunk unless it is stored, or another worker stores it.
    fn store(&mut self, batch: &Batch, at: usize, id: Id) -> Result<(), ExportError> {
        let Chunk { index, range, ref reads } = batch.chunks()[at];
        let length = range.length();
        let claim = self.work.index.claim_data(&id, &self.work.packs)?;
        if claim == Claim::Yours {
            self.work.check_stop()?;
            // A pack never outgrows the buffer that it was made in.
            if self.pack.as_ref().is_some_and(|pack| !pack.fits(length)) {
                self.verify(batch)?;
                self.hand_over()?;
            }
            let pack = self.pack.get_or_insert_with(|| new_pack(&self.work, self.packs.buffer()));
            pack.add(id, batch.bytes(at), &mut self.compressor)?;
            self.unverified.push((at, id));
            self.work.progress.new_data(length);
        }
        self.work.progress.done(length);
        self.work.findings.data(index, &id);
        let mut outcomes = lock(&self.work.outcomes);
        outcomes.content.data(index, id)?;
        if claim == Claim::Yours {
            outcomes.counts.new_chunks += 1;
            outcomes.counts.new_bytes += length;
            outcomes.counts.new_read_bytes += reads.iter().map(|read| read.length()).sum::<u64>();
        }
        Ok(())
    }

    /// Makes sure, before their pack may be stored, that the chunks of the batch that were packed are still what was hashed.
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

    /// Gives the pack to the uploader, when there is room among the bytes in flight, and begins another.
    fn hand_over(&mut self) -> Result<(), ExportError> {
        let finished = match self.pack.take() {
            Some(pack) => pack.finish_unnamed()?,
            None => None,
        };
        match finished {
            Some(pack) => self.packs.send(pack, &self.work.stop),
            None => Ok(()),
        }
    }
}

fn new_pack(work: &Work, buffer: Vec<u8>) -> PackBuilder {
    PackBuilder::within(buffer, work.sealer.clone(), BlobKind::Data, work.bounds.pack_bytes, work.verification)
}
