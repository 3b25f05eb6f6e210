//! Memory that direct I/O accepts.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Address, offset and length of direct I/O are multiples of this many bytes. It covers every logical block size there is.
pub const ALIGNMENT: usize = 4096;

/// A zeroed byte buffer whose address is a multiple of 4096. Its length is what was asked for and does not change.
pub struct AlignedBuffer {
    // One alignment longer than asked for, so that an aligned run of the length lies within, wherever it was allocated.
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    /// `length` zero bytes.
    pub fn zeroed(length: usize) -> Self {
        let memory = vec![0; length + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start, length }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuffer").field("length", &self.length).finish_non_exhaustive()
    }
}

/// True when an I/O of `length` bytes at `offset` from or to `address` may go directly to the device.
pub(super) fn is_aligned(offset: u64, length: usize, address: *const u8) -> bool {
    offset.is_multiple_of(ALIGNMENT as u64) && length.is_multiple_of(ALIGNMENT) && address.addr().is_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_zeroed_and_as_long_as_asked() {
        for length in [0, 1, 4095, 4096, 1 << 20] {
            let buffer = AlignedBuffer::zeroed(length);
            assert_eq!(buffer.len(), length);
            assert!(buffer.as_ptr().addr().is_multiple_of(ALIGNMENT));
            assert!(buffer.iter().all(|&byte| byte == 0));
        }
    }
}
