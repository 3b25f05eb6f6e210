//! Memory that direct I/O accepts, memory that is there before it is needed, and memory that is gone after.

use std::fmt;
use std::hint::black_box;
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

impl AlignedBuffer {
    /// `length` zero bytes that the kernel has already found room for: the first write to them waits for nothing.
    pub fn populated(length: usize) -> Self {
        let mut buffer = Self::zeroed(length);
        populate(&mut buffer.memory);
        buffer
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

/// An empty vector with room for `capacity` bytes that the kernel has already found: filling it waits for nothing.
pub fn populated(capacity: usize) -> Vec<u8> {
    let mut memory = vec![0; capacity];
    populate(&mut memory);
    memory.clear();
    memory
}

/// Makes the kernel back every page of `memory`, by large pages where it offers them: it hands out memory page by page as it is first
/// written to, which for buffers of megabytes takes as long as reading them from a good disk.
fn populate(memory: &mut [u8]) {
    let (address, length) = (memory.as_mut_ptr(), memory.len());
    let lead = address.align_offset(ALIGNMENT);
    if let Some(whole) = length.checked_sub(lead).map(|rest| rest - rest % ALIGNMENT).filter(|&whole| whole > 0) {
        // SAFETY: `lead + whole` is at most the length of `memory`, so the run lies within one allocation that is borrowed here. The
        // advice changes neither what the pages hold nor whether they may be accessed.
        let advised = unsafe { libc::madvise(address.add(lead).cast(), whole, libc::MADV_HUGEPAGE) };
        // A kernel without large pages refuses; small ones do.
        black_box(advised);
    }
    // One byte of each page is written, with the value that it has.
    for byte in memory.iter_mut().step_by(ALIGNMENT) {
        *black_box(byte) = 0;
    }
}

/// From how many bytes on what is allocated is a mapping of its own, which goes back to the system when it is freed.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: libc::c_int = 128 << 10;
/// How many freed bytes at the end of a heap are kept for the next.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: libc::c_int = 64 << 10;

/// Has this process give freed memory back to the system. To be called once, at its start.
///
/// Left to itself glibc raises its own threshold for mappings up to 32 MiB, to the size of whatever such mapping is freed. From then on
/// the packs and batches of transfers come out of heaps, of which each thread may have one, and stay in there: a process that lives on
/// grows to a multiple of what any one transfer takes. A threshold that is set stays as it is. Other C libraries do no such thing.
pub fn give_freed_memory_back() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [(libc::M_MMAP_THRESHOLD, MAPPED_BYTES), (libc::M_TRIM_THRESHOLD, KEPT_BYTES)] {
        // SAFETY: two numbers are passed; they change where memory comes from that is allocated later, not whether it is valid, and
        // glibc takes its own lock for it.
        let is_taken = unsafe { libc::mallopt(parameter, value) };
        // A refusal costs memory, and nothing else.
        black_box(is_taken);
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
            for buffer in [AlignedBuffer::zeroed(length), AlignedBuffer::populated(length)] {
                assert_eq!(buffer.len(), length);
                assert!(buffer.as_ptr().addr().is_multiple_of(ALIGNMENT));
                assert!(buffer.iter().all(|&byte| byte == 0));
            }
        }
    }

    #[test]
    fn populated_memory_is_resident_before_it_is_used() {
        let length = 8 << 20;
        let resident = |address: *const u8| {
            let first = address.addr().next_multiple_of(ALIGNMENT);
            let mut pages = vec![0_u8; length / ALIGNMENT - 1];
            // SAFETY: the run of whole pages lies within the allocation of `length` bytes at `address`, which the caller keeps, and
            // `pages` has a byte for each of them.
            let told = unsafe { libc::mincore(first as *mut libc::c_void, pages.len() * ALIGNMENT, pages.as_mut_ptr()) };
            assert_eq!(told, 0);
            pages.into_iter().filter(|page| page & 1 == 1).count()
        };
        let all = length / ALIGNMENT - 1;
        let vector = populated(length);
        assert!(vector.is_empty() && vector.capacity() >= length);
        assert_eq!(resident(vector.as_ptr()), all);
        assert_eq!(resident(AlignedBuffer::populated(length).as_ptr()), all);
    }
}
