//! Block devices and files: what is read from and written to, and the system calls for it.
//!
//! Owns the descriptors it is given and nothing else; knows no pool and no repository. Everything here blocks, and is
//! called from threads that may. One of the islands of `unsafe`.

#![allow(unsafe_code, reason = "system calls that no safe wrapper offers; every block states why it is sound")]

pub mod bind;
pub mod btrfs;
pub mod btrfs_extents;
pub mod buffer;
pub mod device;
pub mod fiemap;
pub mod file;
pub mod file_ops;
pub mod freeze;
mod ioctl;
pub mod loop_device;
pub mod magic;
#[cfg(any(test, feature = "doubles"))]
pub mod memory;
#[cfg(any(test, feature = "doubles"))]
pub mod memory_file;
pub mod mount_options;
pub mod probe;
pub mod reflink;
pub mod signature;
pub mod sysfs;
pub mod users;
pub mod writers;

use std::io;

pub use buffer::AlignedBuffer;
pub use file::{FileSink, FileSource};
#[cfg(any(test, feature = "doubles"))]
pub use memory::{MemorySink, MemorySource};

use crate::types::{ByteRange, LogicalBlockSize};

/// Bytes that can be read at random: a snapshot's file or device, or a double of one.
///
/// The content does not change while the source lives. Implementations may be read from several threads at once.
pub trait BlockSource: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// The smallest unit the device reads.
    fn logical_block_size(&self) -> LogicalBlockSize;

    /// Fills `buffer` from `offset` on. Fast when offset, length and the buffer's address are multiples of 4096; correct
    /// whatever they are.
    ///
    /// # Errors
    /// Whatever the device reports; `UnexpectedEof` when the range does not lie within the source.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// Bytes that can be written at random, and read back: a restore target.
///
/// A fresh sink reads as zeros where nothing was written.
pub trait BlockSink: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// Whatever the device reports, `StorageFull` among it; `InvalidInput` when the range does not lie within the sink.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Fills `buffer` with what the sink holds from `offset` on: what was written last, by whomever. Fast when offset, length and the
    /// buffer's address are multiples of 4096; correct whatever they are.
    ///
    /// # Errors
    /// Whatever the device reports; `UnexpectedEof` when the range does not lie within the sink.
    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Makes the range read as zeros, without allocating where the sink can.
    fn write_zeros(&self, range: ByteRange) -> io::Result<()>;

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// Whatever the device reports; after an error nothing may be taken for durable.
    fn flush(&self) -> io::Result<()>;
}
