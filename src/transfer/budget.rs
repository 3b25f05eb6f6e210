//! Every bound of the pipelines, from one number of bytes: what the whole process may take while a transfer runs.
//!
//! [`Budget::OUTSIDE_BYTES`] of it belong to what is not the pipeline: 40 MiB for the repository's index and the volume's list,
//! which spill to files beyond that, and 24 MiB for the program, its stacks, and what the allocator keeps. The rest is for the
//! pipeline, which is a sum of things that are held at the same time, counted at their largest:
//!
//! * an export worker holds a batch of chunks, the next that is being read, the pack it fills, the state of zstd (below 1 MiB at
//!   level 1), and, for the chunk that is packed, two buffers by which it is verified: `(2 * batch + 2) * chunk + pack + 1 MiB`;
//! * a finished pack counts as in flight before its worker begins another, until the store has it; so do the packs that are
//!   collected to be hashed together, which are half of them at most;
//! * a restore worker holds the blobs in plain that it hashes together, aligned for direct writes;
//! * a range that is fetched counts as in flight from before the request until its last blob is written.
//!
//! What is in flight counts twice: it is made and freed by many threads in pieces of megabytes, of which the allocator was seen
//! to keep as much again (a restore with 160 MiB in flight peaked at 340). With this, transfers of a file system of 2.4 GB, whose
//! index and list are small, peak at 128 to 219 MiB of 256, and at 56 to 88 of 128.
//!
//! After the workers of an export have ended, blobs of zeros (up to 32 MiB) are made: held in plain and once more while one is
//! verified. They are the least that a pipeline must be able to hold.
//!
//! What is traded for what, in this order: large packs (8 MiB instead of 16 are twice as many requests), full lanes of the hash kernel
//! (half of them empty is half of its speed), workers, packs in flight to hide a store's latency. So a machine of many processors
//! whose memory does not suffice for a worker on each gets fewer, and up to half of the pipeline is for packs in flight: with one pack
//! in flight, all workers would wait for one request.

use std::num::NonZeroUsize;

use super::chunk_size::ChunkSize;
use super::{hash, zeros};
use crate::block::buffer::ALIGNMENT;

const MIB: u64 = 1 << 20;

/// The memory and the threads that a transfer may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of memory, of the whole process if it does nothing else. At least 128 MiB.
    pub memory_bytes: u64,
    /// Worker threads at most; fewer run when the memory does not suffice for so many.
    pub workers: NonZeroUsize,
}

/// The memory given is less than a transfer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{given} bytes of memory are too few for a transfer: it needs at least {required}")]
pub struct BudgetError {
    pub given: u64,
    pub required: u64,
}

/// The bounds of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportBounds {
    pub workers: usize,
    /// Chunks that a worker reads and hashes together.
    pub batch_chunks: usize,
    /// Bytes of a pack at most.
    pub pack_bytes: usize,
    /// Bytes of finished packs that are not stored yet.
    pub in_flight_bytes: u64,
    /// Finished packs that are hashed together, if so many come.
    pub pack_group: usize,
    /// Packs that are stored at the same time.
    pub uploads: usize,
}

/// The bounds of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoreBounds {
    pub workers: usize,
    /// Bytes of blobs in plain that a worker decodes and hashes together; a multiple of 4096 at least as large as each blob.
    pub batch_bytes: usize,
    /// Bytes that are fetched by one request, unless a single blob is larger.
    pub request_bytes: u64,
    /// Bytes fetched or being fetched whose blobs are not written yet.
    pub in_flight_bytes: u64,
    /// Requests that run at the same time.
    pub downloads: usize,
}

impl Budget {
    /// Memory of a transfer unless its owner says otherwise, on a machine of up to [`Budget::DEFAULT_WORKERS`] processors.
    pub const DEFAULT_MEMORY_BYTES: u64 = 256 * MIB;
    /// Processors that the least default is for.
    const DEFAULT_WORKERS: u64 = 4;
    /// What each processor beyond those adds: a worker with full lanes on chunks of 256 KiB (18 MiB), and a pack and a half in flight.
    const WORKER_MEMORY_BYTES: u64 = 32 * MIB;
    /// Where the default ends, at 28 processors: such a machine fills its network with fewer workers than that.
    const LARGEST_DEFAULT_BYTES: u64 = 1024 * MIB;

    /// The part of the memory that is not the pipeline's; see the module's header.
    pub const OUTSIDE_BYTES: u64 = 64 * MIB;
    /// Requests at a time that hide a store's latency; more only take memory.
    const REQUESTS: u64 = 16;
    /// Largest pack where more than two are hashed together.
    const GROUPED_PACK_BYTES: u64 = 8 * MIB;
    /// Largest request of a restore. Larger ones save nothing, and their memory comes and goes in larger pieces, of which the
    /// allocator keeps more.
    const REQUEST_BYTES: u64 = 8 * MIB;
    /// How many times a byte in flight counts; see the header.
    const ALLOCATOR: u64 = 2;
    /// Chunks of a batch where nothing is gained by hashing several together: enough that workers rarely wait for each other.
    const BATCH: u64 = 4;
    /// State of a zstd compressor at the level of exports.
    const COMPRESSOR_BYTES: u64 = MIB;
    /// Least memory of a pipeline: the largest zero blob twice.
    const MINIMUM_BYTES: u64 = 2 * zeros::LARGEST_BYTES;
    /// Packs in flight, the best first, even if they are smaller for it: a store that is far away is the narrowest place, and packs
    /// are collected to be hashed. With the last, only the largest chunks are exported in the least memory.
    const IN_FLIGHT: [u64; 3] = [4, 2, 1];
    /// Workers that are kept, if there is memory for so many at all, rather than more than one pack in flight: one computes while the
    /// other reads or waits.
    const KEPT_WORKERS: u64 = 2;
    /// With so many workers, full lanes and all requests in flight, more workers would only take the place of these: of a store that is
    /// 200 ms away, 64 workers with half as many bytes in flight get less than eight do.
    const MANY_WORKERS: u64 = 16;

    /// The default memory, and a worker for each processor that this process may use.
    pub fn for_this_machine() -> Self {
        Self::for_workers(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }

    /// The default memory for so many workers.
    pub fn for_workers(workers: NonZeroUsize) -> Self {
        let more = (workers.get() as u64).saturating_sub(Self::DEFAULT_WORKERS).saturating_mul(Self::WORKER_MEMORY_BYTES);
        let memory_bytes = Self::DEFAULT_MEMORY_BYTES.saturating_add(more).min(Self::LARGEST_DEFAULT_BYTES);
        Self { memory_bytes, workers }
    }

    /// Bytes of a pack and chunks of a batch, the best first.
    const fn shapes(lanes: u64) -> [(u64, u64); 8] {
        let wide = if lanes > Self::BATCH { lanes } else { Self::BATCH };
        [
            (16 * MIB, wide),
            (8 * MIB, wide),
            (4 * MIB, wide),
            (16 * MIB, Self::BATCH),
            (8 * MIB, Self::BATCH),
            (4 * MIB, Self::BATCH),
            (8 * MIB, 1),
            (4 * MIB, 1),
        ]
    }

    /// What is left for the pipeline, if that is `required` at least.
    fn pipeline(&self, required: u64) -> Result<u64, BudgetError> {
        let required = required.max(Self::MINIMUM_BYTES);
        match self.memory_bytes.checked_sub(Self::OUTSIDE_BYTES) {
            Some(pipeline) if pipeline >= required => Ok(pipeline),
            _ => Err(BudgetError { given: self.memory_bytes, required: required.saturating_add(Self::OUTSIDE_BYTES) }),
        }
    }

    /// The bounds of an export in chunks of `chunk_size`.
    ///
    /// # Errors
    /// [`BudgetError`] when the memory does not suffice for one worker.
    pub fn export(&self, chunk_size: ChunkSize) -> Result<ExportBounds, BudgetError> {
        self.export_in_lanes(chunk_size, hash::lanes() as u64, hash::pack_lanes() as u64)
    }

    /// The bounds on a processor that hashes `lanes` chunks at once, and packs best in `pack_lanes`.
    fn export_in_lanes(&self, chunk_size: ChunkSize, lanes: u64, pack_lanes: u64) -> Result<ExportBounds, BudgetError> {
        let chunk = chunk_size.bytes();
        // A pack holds one chunk at least.
        let shapes = Self::shapes(lanes).map(|(pack, batch)| (pack.max(chunk + MIB), batch));
        let worker = |(pack, batch): (u64, u64)| (2 * batch + 2) * chunk + pack + Self::COMPRESSOR_BYTES;
        let flight = |(pack, _): (u64, u64), packs: u64| Self::ALLOCATOR * packs * pack;
        let ([.., smallest], [.., least]) = (shapes, Self::IN_FLIGHT);
        let pipeline = self.pipeline(worker(smallest) + flight(smallest, least))?;
        // Several large packs at once would take all of the memory before they fill the lanes.
        let small_enough = |&(pack, _): &(u64, u64)| pack_lanes <= 2 || pack <= Self::GROUPED_PACK_BYTES.max(chunk + MIB);
        let room = |shape, packs| pipeline.saturating_sub(flight(shape, packs)) / worker(shape);
        let enough = match room(shapes[1], Self::REQUESTS) {
            many @ Self::MANY_WORKERS.. => many,
            _ => u64::MAX,
        };
        let wanted = (self.workers.get() as u64).min(enough);
        let with = |kept: u64, packs| {
            let of_all = shapes.into_iter().filter(small_enough).find(|&shape| room(shape, packs) >= wanted);
            // With fewer workers there are more requests in flight, not larger batches: chunks of one each let most workers run.
            let of_fewer = || shapes.into_iter().filter(|&(_, batch)| batch == 1).find(|&shape| room(shape, packs) >= kept);
            of_all.map(|shape| (shape, wanted)).or_else(|| {
                let shape = of_fewer()?;
                // Half of the pipeline, unless that is more than may be stored at the same time.
                let most = (pipeline / 2).min(flight(shape, Self::REQUESTS));
                Some((shape, ((pipeline - most) / worker(shape)).clamp(kept, room(shape, packs))))
            })
        };
        let tries = [wanted.min(Self::KEPT_WORKERS), 1].into_iter().flat_map(|kept| Self::IN_FLIGHT.map(|packs| (kept, packs)));
        // The last of them fits: the pipeline was asked for as much.
        let ((pack, batch), workers) = tries.into_iter().find_map(|(kept, packs)| with(kept, packs)).unwrap_or((smallest, 1));
        let shape = (pack, batch);
        let in_flight_bytes = (pipeline - workers * worker(shape)) / Self::ALLOCATOR;
        let in_flight = in_flight_bytes / pack;
        Ok(ExportBounds {
            workers: workers as usize,
            batch_chunks: batch as usize,
            pack_bytes: pack as usize,
            in_flight_bytes,
            pack_group: pack_lanes.min(in_flight / 2).max(1) as usize,
            uploads: in_flight.clamp(1, Self::REQUESTS) as usize,
        })
    }

    /// The bounds of a restore whose largest blob has `blob_bytes` in plain.
    ///
    /// # Errors
    /// [`BudgetError`] when the memory does not suffice for one such blob.
    pub fn restore(&self, blob_bytes: u64) -> Result<RestoreBounds, BudgetError> {
        self.restore_in_lanes(blob_bytes, hash::lanes() as u64)
    }

    /// The bounds on a processor that hashes `lanes` blobs at once.
    fn restore_in_lanes(&self, blob_bytes: u64, lanes: u64) -> Result<RestoreBounds, BudgetError> {
        let blob = blob_bytes.max(MIB).next_multiple_of(ALIGNMENT as u64);
        // A page more for the alignment of what is decoded; and as much that is being fetched.
        let least = blob + ALIGNMENT as u64;
        let pipeline = self.pipeline((1 + Self::ALLOCATOR) * least)?;
        let decoded = pipeline / (1 + Self::ALLOCATOR);
        let workers = (self.workers.get() as u64).min(decoded / least);
        let share = decoded / workers - ALIGNMENT as u64;
        let batch_bytes = (share - share % ALIGNMENT as u64).min(lanes * blob);
        let in_flight_bytes = (pipeline - workers * (batch_bytes + ALIGNMENT as u64)) / Self::ALLOCATOR;
        let request_bytes = (in_flight_bytes / Self::REQUESTS).clamp(MIB, Self::REQUEST_BYTES);
        Ok(RestoreBounds {
            workers: workers as usize,
            batch_bytes: batch_bytes as usize,
            request_bytes,
            in_flight_bytes,
            downloads: (in_flight_bytes / request_bytes).clamp(1, Self::REQUESTS) as usize,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_sum_of_an_export_stays_within_the_memory(
            memory in 0_u64..4 << 30, workers in 1_usize..300, exponent in 0_u32..6, lanes in 1_u64..=16, pack_lanes in 1_u64..=16,
        ) {
            let chunk_size = ChunkSize::new(ChunkSize::MIN.bytes() << exponent).unwrap();
            let budget = Budget { memory_bytes: memory, workers: NonZeroUsize::new(workers).unwrap() };
            match budget.export_in_lanes(chunk_size, lanes, pack_lanes) {
                Ok(bounds) => {
                    prop_assert!((1..=workers).contains(&bounds.workers));
                    let worker = (2 * bounds.batch_chunks as u64 + 2) * chunk_size.bytes() + bounds.pack_bytes as u64 + (1 << 20);
                    prop_assert!(bounds.workers as u64 * worker + 2 * bounds.in_flight_bytes + Budget::OUTSIDE_BYTES <= memory);
                    prop_assert!(bounds.pack_bytes as u64 <= bounds.in_flight_bytes);
                    prop_assert!(bounds.pack_bytes as u64 > chunk_size.bytes());
                    prop_assert!(bounds.uploads >= 1);
                    prop_assert!((1..=pack_lanes as usize).contains(&bounds.pack_group));
                    // While a group is collected, as much again may be stored.
                    let group = (bounds.pack_group * bounds.pack_bytes) as u64;
                    prop_assert!(bounds.pack_group == 1 || 2 * group <= bounds.in_flight_bytes);
                }
                Err(error) => prop_assert!(memory < error.required),
            }
        }

        #[test]
        fn the_sum_of_a_restore_stays_within_the_memory(
            memory in 0_u64..4 << 30, workers in 1_usize..300, blob in 0_u64..1 << 32, lanes in 1_u64..=16,
        ) {
            let budget = Budget { memory_bytes: memory, workers: NonZeroUsize::new(workers).unwrap() };
            match budget.restore_in_lanes(blob, lanes) {
                Ok(bounds) => {
                    prop_assert!((1..=workers).contains(&bounds.workers));
                    prop_assert!(bounds.batch_bytes as u64 >= blob && bounds.batch_bytes.is_multiple_of(ALIGNMENT));
                    let decoded = (bounds.workers * bounds.batch_bytes) as u64;
                    prop_assert!(decoded + 2 * bounds.in_flight_bytes + Budget::OUTSIDE_BYTES <= memory);
                    prop_assert!(blob <= bounds.in_flight_bytes);
                    prop_assert!(bounds.request_bytes * bounds.downloads as u64 <= bounds.in_flight_bytes);
                }
                Err(error) => prop_assert!(memory < error.required),
            }
        }
    }

    fn two_workers(memory_bytes: u64) -> Budget {
        Budget { memory_bytes, workers: NonZeroUsize::new(2).unwrap() }
    }

    #[test]
    fn the_default_gives_two_workers_full_lanes_and_several_packs_in_flight() {
        let budget = two_workers(Budget::DEFAULT_MEMORY_BYTES);
        for (lanes, batch) in [(1, 4), (2, 4), (8, 8), (16, 16)] {
            for (chunk_size, pack_lanes) in [(ChunkSize::MIN, 2), (ChunkSize::MIN, 16), (ChunkSize::SMALL, 2)] {
                let bounds = budget.export_in_lanes(chunk_size, lanes, pack_lanes).unwrap();
                assert_eq!((bounds.workers, bounds.batch_chunks), (2, batch));
                assert!(bounds.pack_bytes >= 8 << 20 && bounds.uploads >= 4 && bounds.pack_group >= 2);
                // Without SHA instructions three streams at once are the least that pays.
                assert!(pack_lanes == 2 || bounds.pack_group >= 4);
            }
        }
        let bounds = budget.restore_in_lanes(1 << 20, 16).unwrap();
        assert_eq!((bounds.workers, bounds.batch_bytes), (2, 16 << 20));
    }

    #[test]
    fn any_number_of_processors_has_several_packs_in_flight_and_keeps_to_the_default_memory() {
        for workers in 1..=256 {
            let budget = Budget::for_workers(NonZeroUsize::new(workers).unwrap());
            for exponent in 0..6 {
                let chunk_size = ChunkSize::new(ChunkSize::MIN.bytes() << exponent).unwrap();
                for (lanes, pack_lanes) in [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (16, 2)] {
                    let bounds = budget.export_in_lanes(chunk_size, lanes, pack_lanes).unwrap();
                    let shown = format!("{workers} processors, {chunk_size}, {lanes} lanes: {bounds:?}");
                    assert!(bounds.uploads >= 4, "{shown}");
                    let worker = (2 * bounds.batch_chunks as u64 + 2) * chunk_size.bytes() + bounds.pack_bytes as u64 + (1 << 20);
                    let sum = bounds.workers as u64 * worker + 2 * bounds.in_flight_bytes + Budget::OUTSIDE_BYTES;
                    assert!(sum <= budget.memory_bytes && budget.memory_bytes <= 1 << 30, "{shown}");
                }
            }
        }
    }

    #[test]
    fn a_machine_of_many_processors_has_no_fewer_bytes_in_flight_than_one_of_eight() {
        for (lanes, pack_lanes) in [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (16, 2)] {
            let in_flight = |workers| {
                let budget = Budget::for_workers(NonZeroUsize::new(workers).unwrap());
                let bounds = budget.export_in_lanes(ChunkSize::MIN, lanes, pack_lanes).unwrap();
                assert!(bounds.workers >= workers.min(32), "{workers}: {bounds:?}");
                bounds.uploads * bounds.pack_bytes
            };
            let eight = in_flight(8);
            for workers in [48, 64, 128, 256] {
                assert!(in_flight(workers) >= eight, "{workers} processors, {lanes} lanes: {} of {eight}", in_flight(workers));
            }
        }
    }

    #[test]
    fn more_workers_than_the_memory_is_for_leave_half_of_the_pipeline_to_packs_in_flight() {
        let bounds = |workers| {
            let budget = Budget { memory_bytes: 256 << 20, workers: NonZeroUsize::new(workers).unwrap() };
            budget.export_in_lanes(ChunkSize::MIN, 16, 16).unwrap()
        };
        let (eight, many) = (bounds(8), bounds(64));
        assert_eq!((many.workers, many.pack_bytes, many.uploads), (9, 8 << 20, 6));
        assert!(many.in_flight_bytes >= eight.in_flight_bytes);
    }

    #[test]
    fn the_least_memory_suffices_for_two_workers_and_chunks_of_up_to_4_mib() {
        let budget = two_workers(128 << 20);
        for (chunk_bytes, batch, uploads) in [(256 << 10, 16, 4), (1 << 20, 4, 4), (4 << 20, 1, 2)] {
            let bounds = budget.export_in_lanes(ChunkSize::new(chunk_bytes).unwrap(), 16, 2).unwrap();
            assert_eq!((bounds.workers, bounds.batch_chunks, bounds.uploads), (2, batch, uploads), "{chunk_bytes}");
            assert_eq!(budget.restore_in_lanes(chunk_bytes, 16).unwrap().workers, 2);
        }
        assert_eq!(budget.export_in_lanes(ChunkSize::MAX, 16, 16).unwrap().workers, 1);
        assert!(two_workers((128 << 20) - 1).restore(1).is_err());
    }
}
