//! Every bound of the pipelines, from one number of bytes.
//!
//! Half of the memory is for workers, half for what is on its way to or from the store. Each half is a sum of things that are
//! held at the same time, counted at their largest:
//!
//! * an export worker holds a batch of chunks, the pack it fills, the state of zstd (below 2 MiB at level 1), and, for the
//!   chunk that is packed, its compressed form and two copies by which it is verified: `(batch + 3) * chunk + pack + 2 MiB`;
//! * a finished pack counts as in flight before its worker begins another, until the store has it;
//! * a restore worker holds one blob in plain and the same once more, aligned for direct writes;
//! * a range that is fetched counts as in flight from before the request until its last blob is written.
//!
//! Not in the sum, because they depend on the repository or the volume and not on the pipelines: the repository's index, the
//! list of the volume's chunks (36 bytes for each that is not zeros), and the compressed tree made of it (as much again). Blobs
//! of zeros (up to 32 MiB, three times while one is packed and verified) are made after the workers have ended.

use std::num::NonZeroUsize;

use super::chunk_size::ChunkSize;
use super::{hash, zeros};

const MIB: u64 = 1 << 20;

/// What a transfer may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Worker threads at most; fewer run when the memory does not suffice for so many.
    pub workers: NonZeroUsize,
}

/// Less memory than a transfer needs at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{given} bytes of memory are too few for a transfer: it needs at least {required}")]
pub struct BudgetError {
    /// Bytes given.
    pub given: u64,
    /// Bytes needed.
    pub required: u64,
}

/// The bounds of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportBounds {
    /// Worker threads.
    pub workers: usize,
    /// Chunks that a worker reads and hashes together.
    pub batch_chunks: usize,
    /// Bytes of a pack at most.
    pub pack_bytes: usize,
    /// Bytes of finished packs that are not stored yet.
    pub in_flight_bytes: u64,
    /// Packs that are stored at the same time.
    pub uploads: usize,
}

/// The bounds of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoreBounds {
    /// Worker threads.
    pub workers: usize,
    /// Bytes that are fetched by one request, unless a single blob is larger.
    pub request_bytes: u64,
    /// Bytes fetched or being fetched whose blobs are not written yet.
    pub in_flight_bytes: u64,
    /// Requests that run at the same time.
    pub downloads: usize,
}

impl Budget {
    /// Memory of a transfer unless its owner says otherwise.
    pub const DEFAULT_MEMORY_BYTES: u64 = 256 * MIB;

    /// Requests at a time that hide a store's latency; more only take memory.
    const REQUESTS: u64 = 16;
    /// Chunks of a batch where nothing is gained by hashing several together: enough that workers rarely wait for each other.
    const BATCH: u64 = 4;
    /// State of a compressor.
    const COMPRESSOR_BYTES: u64 = 2 * MIB;
    /// Three of the largest zero blob, and room for its pack.
    const MINIMUM_BYTES: u64 = 3 * zeros::LARGEST_BYTES + 8 * MIB;

    /// The default memory, and a worker for each processor that this process may use.
    pub fn for_this_machine() -> Self {
        let workers = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self { memory_bytes: Self::DEFAULT_MEMORY_BYTES, workers }
    }

    /// Shapes of a worker, the best first: bytes of a pack, chunks of a batch. Full lanes are worth more than large packs: half
    /// of the lanes empty is half of the hashing speed, packs of 8 MiB are twice as many requests.
    const fn shapes(lanes: u64) -> [(u64, u64); 7] {
        let wide = if lanes > Self::BATCH { lanes } else { Self::BATCH };
        [
            (16 * MIB, wide),
            (8 * MIB, wide),
            (16 * MIB, Self::BATCH),
            (16 * MIB, 1),
            (8 * MIB, Self::BATCH),
            (8 * MIB, 1),
            (4 * MIB, 1),
        ]
    }

    fn check(&self, required: u64) -> Result<(), BudgetError> {
        let required = required.max(Self::MINIMUM_BYTES);
        if self.memory_bytes < required { Err(BudgetError { given: self.memory_bytes, required }) } else { Ok(()) }
    }

    /// The bounds of an export in chunks of `chunk_size`.
    ///
    /// # Errors
    /// [`BudgetError`] when the memory does not suffice for one worker.
    pub fn export(&self, chunk_size: ChunkSize) -> Result<ExportBounds, BudgetError> {
        self.export_in_lanes(chunk_size, hash::lanes() as u64)
    }

    /// The bounds on a processor that hashes `lanes` chunks at once.
    fn export_in_lanes(&self, chunk_size: ChunkSize, lanes: u64) -> Result<ExportBounds, BudgetError> {
        let half = self.memory_bytes / 2;
        let chunk = chunk_size.bytes();
        // A pack holds one chunk at least.
        let shapes = Self::shapes(lanes).map(|(pack, batch)| (pack.max(chunk + MIB), batch));
        let cost = |(pack, batch): (u64, u64)| (batch + 3) * chunk + pack + Self::COMPRESSOR_BYTES;
        let [.., smallest] = shapes;
        self.check(2 * cost(smallest))?;
        let wanted = self.workers.get() as u64;
        let shape = shapes.into_iter().find(|&shape| wanted * cost(shape) <= half).unwrap_or(smallest);
        let (pack, batch) = shape;
        Ok(ExportBounds {
            workers: wanted.min(half / cost(shape)) as usize,
            batch_chunks: batch as usize,
            pack_bytes: pack as usize,
            in_flight_bytes: half,
            uploads: (half / pack).clamp(1, Self::REQUESTS) as usize,
        })
    }

    /// The bounds of a restore whose largest blob has `blob_bytes` in plain.
    ///
    /// # Errors
    /// [`BudgetError`] when the memory does not suffice for one such blob.
    pub fn restore(&self, blob_bytes: u64) -> Result<RestoreBounds, BudgetError> {
        let half = self.memory_bytes / 2;
        let cost = 2 * blob_bytes.max(MIB);
        self.check(2 * cost)?;
        let request_bytes = (half / 8).clamp(MIB, zeros::LARGEST_BYTES);
        Ok(RestoreBounds {
            workers: (self.workers.get() as u64).min(half / cost) as usize,
            request_bytes,
            in_flight_bytes: half,
            downloads: (half / request_bytes).clamp(1, Self::REQUESTS) as usize,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_sum_of_an_export_stays_within_the_memory(memory in 0_u64..4 << 30, workers in 1_usize..300, exponent in 0_u32..6, lanes in 1_u64..=16) {
            let chunk_size = ChunkSize::new(ChunkSize::MIN.bytes() << exponent).unwrap();
            let budget = Budget { memory_bytes: memory, workers: NonZeroUsize::new(workers).unwrap() };
            match budget.export_in_lanes(chunk_size, lanes) {
                Ok(bounds) => {
                    prop_assert!((1..=workers).contains(&bounds.workers));
                    let worker = (bounds.batch_chunks as u64 + 3) * chunk_size.bytes() + bounds.pack_bytes as u64;
                    prop_assert!(bounds.workers as u64 * worker + bounds.in_flight_bytes <= memory);
                    prop_assert!(bounds.pack_bytes as u64 <= bounds.in_flight_bytes);
                    prop_assert!(bounds.pack_bytes as u64 > chunk_size.bytes());
                    prop_assert!(bounds.uploads >= 1);
                }
                Err(error) => prop_assert!(memory < error.required),
            }
        }

        #[test]
        fn the_sum_of_a_restore_stays_within_the_memory(memory in 0_u64..4 << 30, workers in 1_usize..300, blob in 0_u64..1 << 32) {
            let budget = Budget { memory_bytes: memory, workers: NonZeroUsize::new(workers).unwrap() };
            match budget.restore(blob) {
                Ok(bounds) => {
                    prop_assert!((1..=workers).contains(&bounds.workers));
                    prop_assert!(bounds.workers as u64 * 2 * blob + bounds.in_flight_bytes <= memory);
                    prop_assert!(bounds.request_bytes * bounds.downloads as u64 <= bounds.in_flight_bytes);
                }
                Err(error) => prop_assert!(memory < error.required),
            }
        }
    }

    #[test]
    fn the_default_gives_two_workers_full_lanes_packs_of_16_mib_and_eight_uploads() {
        let budget = Budget { memory_bytes: Budget::DEFAULT_MEMORY_BYTES, workers: NonZeroUsize::new(2).unwrap() };
        for (lanes, batch) in [(1, 4), (2, 4), (8, 8), (16, 16)] {
            let bounds = budget.export_in_lanes(ChunkSize::SMALL, lanes).unwrap();
            assert_eq!((bounds.workers, bounds.batch_chunks, bounds.pack_bytes, bounds.uploads), (2, batch, 16 << 20, 8));
        }
        assert_eq!(budget.restore(8 << 20).unwrap().request_bytes, 16 << 20);
    }
}
