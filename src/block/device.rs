//! What a block device node says about itself, and its caches.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::stat::{major, minor};

use super::ioctl;
use crate::types::ByteRange;

const BLKGETSIZE64: libc::Ioctl = nix::request_code_read!(0x12, 114, size_of::<libc::size_t>());
const BLKSSZGET: libc::Ioctl = nix::request_code_none!(0x12, 104);
const BLKFLSBUF: libc::Ioctl = nix::request_code_none!(0x12, 97);
const BLKRRPART: libc::Ioctl = nix::request_code_none!(0x12, 95);
const BLKDISCARD: libc::Ioctl = nix::request_code_none!(0x12, 119);
const BLKZEROOUT: libc::Ioctl = nix::request_code_none!(0x12, 127);

/// Size in bytes of a regular file or a block device.
///
/// # Errors
/// `InvalidInput` for anything that is neither.
pub fn size(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if metadata.is_file() {
        return Ok(metadata.len());
    }
    if !metadata.file_type().is_block_device() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a file nor a block device"));
    }
    let mut bytes = 0_u64;
    // SAFETY: BLKGETSIZE64 writes one u64.
    unsafe { ioctl::with_pointer(file.as_fd(), BLKGETSIZE64, &mut bytes) }?;
    Ok(bytes)
}

/// Logical block size in bytes of a block device.
pub fn logical_block_bytes(device: &File) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: BLKSSZGET writes one int.
    unsafe { ioctl::with_pointer(device.as_fd(), BLKSSZGET, &mut bytes) }?;
    u32::try_from(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "negative logical block size"))
}

/// Writes out and then drops the page cache of a block device.
///
/// # Errors
/// Needs CAP_SYS_ADMIN.
pub fn flush_buffers(device: &File) -> io::Result<()> {
    // SAFETY: BLKFLSBUF ignores its argument.
    unsafe { ioctl::with_value(device.as_fd(), BLKFLSBUF, 0) }.map(drop)
}

/// Makes a range of a block device read as zeros, by discarding or unmapping where the device can.
///
/// # Errors
/// `InvalidInput` when the range is not made of whole logical blocks.
pub fn zero_out(device: &File, range: ByteRange) -> io::Result<()> {
    let mut argument = [range.offset(), range.length()];
    // SAFETY: BLKZEROOUT reads two u64.
    unsafe { ioctl::with_pointer(device.as_fd(), BLKZEROOUT, &mut argument) }.map(drop)
}

/// Tells a block device that what a range holds is of no use any more. Which parts of it read as zeros from then on, and which as
/// before, is the device's choice.
///
/// # Errors
/// `InvalidInput` when the range is not made of whole logical blocks.
pub fn discard(device: &File, range: ByteRange) -> io::Result<()> {
    let mut argument = [range.offset(), range.length()];
    // SAFETY: BLKDISCARD reads two u64.
    unsafe { ioctl::with_pointer(device.as_fd(), BLKDISCARD, &mut argument) }.map(drop)
}

/// Lets the kernel look for partitions anew: after a partition table was overwritten, its partitions must not stay usable.
///
/// # Errors
/// `ResourceBusy` while a partition is in use, `InvalidInput` for what cannot have partitions.
pub fn read_partitions(device: &File) -> io::Result<()> {
    // SAFETY: BLKRRPART ignores its argument.
    unsafe { ioctl::with_value(device.as_fd(), BLKRRPART, 0) }.map(drop)
}

/// Device number (major, minor) of the block device node at `path`.
///
/// # Errors
/// `InvalidInput` when it is no block device.
pub fn number(path: &Path) -> io::Result<(u32, u32)> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.file_type().is_block_device() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a block device"));
    }
    split_number(metadata.rdev())
}

/// Splits a device number as `stat` gives it.
pub(super) fn split_number(device: u64) -> io::Result<(u32, u32)> {
    let part = |part: u64| u32::try_from(part).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "device number"));
    Ok((part(major(device))?, part(minor(device))?))
}
