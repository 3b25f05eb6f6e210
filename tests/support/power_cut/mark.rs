//! Marks: where in the log a promise was made.
//!
//! A mark is a block of its own, on the logged disk but beyond what the workload was given of it, written through the disk's
//! cache. So it stands in the log like any other write, exactly after what was durable when it was made: an operation that
//! returned before its last flush is caught at its own mark, where the writes it left in the cache are not in the log yet.
//! (The flush that the kernel sends after the mark covers them, but comes behind it.)

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use windlass::block::buffer::AlignedBuffer;

/// Bytes of a mark.
pub const BYTES: u64 = 4096;
const MAGIC: &[u8; 16] = b"windlass-mark-1\n";

/// Writes marks.
#[derive(Debug)]
pub struct Marker {
    disk: File,
    at: u64,
}

impl Marker {
    /// One that writes to the block at `at` of a disk.
    ///
    /// # Errors
    /// Whatever the system reports.
    pub fn open(disk: &Path, at: u64) -> io::Result<Self> {
        let disk = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(disk)?;
        Ok(Self { disk, at })
    }

    /// Everything up to the operation with this number was promised.
    ///
    /// # Errors
    /// Whatever the system reports.
    pub fn mark(&self, number: u64) -> io::Result<()> {
        let mut block = AlignedBuffer::zeroed(BYTES as usize);
        block.copy_from_slice(&block_of(number));
        self.disk.write_all_at(&block, self.at)
    }
}

/// The block of the mark with this number.
pub fn block_of(number: u64) -> [u8; BYTES as usize] {
    let mut block = [0; BYTES as usize];
    block[..16].copy_from_slice(MAGIC);
    block[16..24].copy_from_slice(&number.to_le_bytes());
    block
}

/// The number of the mark that this block is.
pub fn recognise(block: &[u8]) -> Option<u64> {
    if block.get(..16)? != MAGIC {
        return None;
    }
    Some(u64::from_le_bytes(block.get(16..24)?.try_into().ok()?))
}
