//! The buffers that batches of chunks are read into.

use std::sync::{Mutex, PoisonError};

use crate::block::AlignedBuffer;

/// Buffers of each worker: one is packed while one is filled.
pub(super) const BUFFERS_OF_WORKER: usize = 2;

/// Buffers of batches that nobody has used yet, all of the same length.
pub(super) struct BatchBuffers {
    made: Mutex<Vec<AlignedBuffer>>,
    bytes: usize,
}

impl BatchBuffers {
    /// Makes `count` buffers of `bytes` bytes now; more are made when they are taken.
    pub(super) fn populated(count: usize, bytes: usize) -> Self {
        Self { made: Mutex::new((0..count).map(|_| AlignedBuffer::populated(bytes)).collect()), bytes }
    }

    pub(super) fn take(&self) -> AlignedBuffer {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner).pop();
        made.unwrap_or_else(|| AlignedBuffer::zeroed(self.bytes))
    }
}
