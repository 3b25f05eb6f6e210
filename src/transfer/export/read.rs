//! The first stage of an export: chunks of the plan, read a batch ahead of the worker that packs them.
//!
//! Every worker has a reader, a thread of its own, and two buffers that go back and forth between them: while one is packed,
//! the other is filled, so that neither the disk nor the processor waits for the other. Neighbouring chunks lie side by side in
//! a buffer as they do in the volume and are read by one call, of [`READ_BYTES`] at most.
//!
//! A reader ends when the plan does, when its worker has gone, and when it is told to stop, at the latest after one call. It
//! writes nothing and keeps nothing.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use super::buffers::BUFFERS_OF_WORKER;
use super::error::ExportError;
use super::work::Work;
use crate::block::AlignedBuffer;
use crate::transfer::crew::CrewError;
use crate::transfer::plan::Chunk;
use crate::types::ByteRange;

/// Bytes that one call reads at most: what a disk takes a few milliseconds for, and a bad one less than the second within which
/// an export is to be cancelled.
const READ_BYTES: u64 = 4 << 20;

/// Chunks that were read.
pub(super) struct Batch {
    chunks: Vec<Chunk>,
    /// Each chunk has room for a whole one in it.
    buffer: AlignedBuffer,
    chunk_bytes: usize,
}

impl Batch {
    pub(super) fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// The bytes of the chunk at this position of [`Batch::chunks`].
    pub(super) fn bytes(&self, at: usize) -> &[u8] {
        &self.buffer[at * self.chunk_bytes..][..self.chunks[at].range.length() as usize]
    }
}

/// The worker's end of its reader: it takes batches here and gives them back.
pub(super) struct Batches {
    full: Receiver<Result<Batch, ExportError>>,
    empty: SyncSender<AlignedBuffer>,
}

impl Batches {
    /// The next batch; `None` at the end of the plan.
    pub(super) fn next(&self) -> Option<Result<Batch, ExportError>> {
        self.full.recv().ok()
    }

    /// Gives the buffer of a batch back, to be filled again.
    pub(super) fn done(&self, batch: Batch) {
        // A reader that has ended needs it no more.
        let _ = self.empty.send(batch.buffer);
    }
}

/// Starts a reader, which ends before `scope` does if the other end is dropped.
pub(super) fn start<'scope>(scope: &'scope Scope<'scope, '_>, work: &'scope Work) -> Result<Batches, ExportError> {
    let (give, full) = sync_channel(BUFFERS_OF_WORKER);
    let (empty, take) = sync_channel(BUFFERS_OF_WORKER);
    for _ in 0..BUFFERS_OF_WORKER {
        // There is room for all of them.
        let _ = empty.send(work.batch_buffer());
    }
    let reader = move || {
        // The worker may have gone, in either case.
        while let Ok(buffer) = take.recv() {
            let Some(batch) = read_batch(work, buffer).transpose() else { return };
            let failed = batch.is_err();
            if give.send(batch).is_err() || failed {
                return;
            }
        }
    };
    let started = std::thread::Builder::new().name("export-read".to_owned()).spawn_scoped(scope, reader);
    started.map(|_| Batches { full, empty }).map_err(|error| CrewError::Start(error).into())
}

/// Reads the next chunks; `None` at the end of the plan.
fn read_batch(work: &Work, mut buffer: AlignedBuffer) -> Result<Option<Batch>, ExportError> {
    work.check_stop()?;
    let chunks = work.claim()?;
    if chunks.is_empty() {
        return Ok(None);
    }
    let chunk_bytes = work.chunk_bytes();
    // What is not read is zeroed, for the buffer was used before.
    for (chunk, place) in chunks.iter().zip(buffer.chunks_mut(chunk_bytes)) {
        let mut filled = 0;
        for range in &chunk.reads {
            let start = (range.offset() - chunk.range.offset()) as usize;
            place[filled..start].fill(0);
            filled = start + range.length() as usize;
        }
        place[filled..chunk.range.length() as usize].fill(0);
    }
    for (range, at) in calls(&chunks, chunk_bytes) {
        work.read(range, &mut buffer[at..at + range.length() as usize])?;
    }
    Ok(Some(Batch { chunks, buffer, chunk_bytes }))
}

/// The reads of all chunks with where they go: those that follow each other both in the volume and in the buffer are one.
fn calls(chunks: &[Chunk], chunk_bytes: usize) -> Vec<(ByteRange, usize)> {
    let mut calls: Vec<(ByteRange, usize)> = Vec::new();
    for (place, chunk) in chunks.iter().enumerate() {
        for &range in &chunk.reads {
            let at = place * chunk_bytes + (range.offset() - chunk.range.offset()) as usize;
            let joined = calls.last().and_then(|&(last, last_at)| {
                let follows = last.end() == range.offset() && last_at + last.length() as usize == at;
                ByteRange::between(last.offset(), range.end()).filter(|joined| follows && joined.length() <= READ_BYTES)
            });
            match (joined, calls.last_mut()) {
                (Some(joined), Some(last)) => last.0 = joined,
                _ => calls.push((range, at)),
            }
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHUNK: usize = 256 << 10;

    fn chunk(index: u32, reads: &[(u64, u64)]) -> Chunk {
        let start = u64::from(index) * CHUNK as u64;
        let reads = reads.iter().map(|&(offset, length)| ByteRange::new(start + offset, length).unwrap()).collect();
        Chunk { index, range: ByteRange::new(start, CHUNK as u64).unwrap(), reads }
    }

    proptest! {
        #[test]
        fn calls_read_the_same_bytes_to_the_same_places_and_are_not_too_long(
            chunks in proptest::collection::btree_map(0_u32..60, proptest::collection::btree_set(0_u64..8, 1..8), 1..40),
        ) {
            let eighth = CHUNK as u64 / 8;
            let chunks: Vec<_> = chunks.into_iter().map(|(index, eighths)| {
                chunk(index, &eighths.into_iter().map(|number| (number * eighth, eighth)).collect::<Vec<_>>())
            }).collect();
            let mut expected = Vec::new();
            for (place, chunk) in chunks.iter().enumerate() {
                for range in &chunk.reads {
                    expected.push((range.offset(), place * CHUNK + (range.offset() - chunk.range.offset()) as usize));
                }
            }
            let mut found = Vec::new();
            for (range, at) in calls(&chunks, CHUNK) {
                prop_assert!(range.length() <= READ_BYTES);
                found.extend((0..range.length() / eighth).map(|step| (range.offset() + step * eighth, at + (step * eighth) as usize)));
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn neighbouring_chunks_are_one_call() {
        let whole = [(0, CHUNK as u64)];
        let chunks: Vec<_> = [0, 1, 2, 4].map(|index| chunk(index, &whole)).into();
        let calls: Vec<_> =
            calls(&chunks, CHUNK).into_iter().map(|(range, at)| (range.length() as usize / CHUNK, at / CHUNK)).collect();
        assert_eq!(calls, [(3, 0), (1, 3)]);
        let many: Vec<_> = (0..20).map(|index| chunk(index, &whole)).collect();
        assert_eq!(super::calls(&many, CHUNK).len(), 2);
    }
}
