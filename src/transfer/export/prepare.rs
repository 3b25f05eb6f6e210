//! What an export does while it waits for the repository's lock: everything that needs no repository.
//!
//! The lock is a wait of 200 ms, by its protocol. Meanwhile the chunks that changes touch are found, and the memory that the stages
//! begin with is populated: as much as will be read, and never more than the stages were given anyway
//! ([`budget`](crate::transfer::budget)). Nothing of it is durable. An export that does not get its lock, or is
//! cancelled meanwhile, drops it without waiting for its end, which is that of two lists of extents.

use super::buffers::{BUFFERS_OF_WORKER, BatchBuffers};
use super::parent::ParentClaim;
use super::scope::{FullReason, Parent};
use crate::block::buffer;
use crate::repository::PackBuilder;
use crate::transfer::budget::ExportBounds;
use crate::transfer::chunk_size::ChunkSize;

/// What is ready when the lock holds.
pub(super) struct Prepared {
    /// The parent with what changed since it, or why nothing can be built upon.
    pub(super) since: Result<ParentClaim, FullReason>,
    pub(super) batches: BatchBuffers,
    pub(super) packs: Vec<Vec<u8>>,
}

/// Reads what changed and makes the first buffers. Blocks.
pub(super) fn prepare(
    since: Result<Parent, FullReason>,
    volume_bytes: u64,
    chunk_size: ChunkSize,
    bounds: &ExportBounds,
) -> Prepared {
    let since = since.map(|parent| ParentClaim::read(parent, volume_bytes, chunk_size));
    let expected = since.as_ref().ok().and_then(ParentClaim::touched_bytes).unwrap_or(volume_bytes);
    let batch_bytes = bounds.batch_chunks * chunk_size.bytes() as usize;
    let batches = count(expected, batch_bytes, bounds.workers * BUFFERS_OF_WORKER);
    // Workers fill their packs side by side, so that the first of each is needed once there is work for all.
    let packs = count(expected, bounds.pack_bytes, bounds.workers);
    Prepared {
        since,
        batches: BatchBuffers::populated(batches, batch_bytes),
        packs: (0..packs).map(|_| buffer::populated(PackBuilder::capacity(bounds.pack_bytes))).collect(),
    }
}

/// How many buffers of `each` bytes are worth making for `expected` bytes, at most `most`.
fn count(expected: u64, each: usize, most: usize) -> usize {
    usize::try_from(expected.div_ceil(each as u64)).map_or(most, |count| count.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_memory_is_made_than_will_be_read_into() {
        assert_eq!(count(0, 100, 4), 0);
        assert_eq!(count(1, 100, 4), 1);
        assert_eq!(count(101, 100, 4), 2);
        assert_eq!(count(u64::MAX, 100, 4), 4);
    }
}
