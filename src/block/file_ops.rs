//! Small durable steps on files and directories.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use libc::c_long;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};

use super::ioctl;
use crate::types::ByteRange;

// The kernel reads and writes 32 bits, but the numbers carry the size of a long.
const FS_IOC_GETFLAGS: libc::Ioctl = nix::request_code_read!(b'f', 1, size_of::<c_long>());
const FS_IOC_SETFLAGS: libc::Ioctl = nix::request_code_write!(b'f', 2, size_of::<c_long>());
const FS_NOCOW_FL: u32 = 0x0080_0000;

/// Frees a range of a file, which then reads as zeros. The file's size stays.
///
/// # Errors
/// `Unsupported` where the file system has no holes.
pub fn punch_hole(file: &File, range: ByteRange) -> io::Result<()> {
    allocate(file, FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE, range)
}

/// Reserves space for a range of a file. Its size grows to the range's end, its content stays.
///
/// # Errors
/// Whatever the system reports, `StorageFull` among it.
#[cfg(any(test, feature = "doubles"))]
pub fn preallocate(file: &File, range: ByteRange) -> io::Result<()> {
    allocate(file, FallocateFlags::empty(), range)
}

fn allocate(file: &File, flags: FallocateFlags, range: ByteRange) -> io::Result<()> {
    let signed = |bytes: u64| i64::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge));
    let (offset, length) = (signed(range.offset())?, signed(range.length())?);
    loop {
        match fallocate(file, flags, offset, length) {
            Err(nix::Error::EINTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

/// Sets the size of a file and makes it durable.
pub fn set_len_sync(file: &File, bytes: u64) -> io::Result<()> {
    file.set_len(bytes)?;
    file.sync_all()
}

/// Drops what memory holds of a file that is synced, so that it is read from its disk from now on.
///
/// # Errors
/// Whatever the system reports.
pub fn drop_cache(file: &File) -> io::Result<()> {
    posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).map_err(io::Error::from)
}

/// Makes the entries of a directory durable.
pub fn sync_dir(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Makes Btrfs overwrite an *empty* file's (or the future files of a directory's) data in place: no checksums, no
/// fragmentation.
///
/// # Errors
/// `Unsupported` elsewhere than on Btrfs, `InvalidInput` when the file has data.
pub fn set_no_cow(file: &File) -> io::Result<()> {
    let flags = flags(file)?;
    if flags & FS_NOCOW_FL != 0 {
        return Ok(());
    }
    let mut argument = [flags | FS_NOCOW_FL, 0];
    // SAFETY: FS_IOC_SETFLAGS reads 4 bytes, and 8 where a file system in user space goes by the number.
    unsafe { ioctl::with_pointer(file.as_fd(), FS_IOC_SETFLAGS, &mut argument) }?;
    if is_no_cow(file)? { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// Whether [`set_no_cow`] is in effect.
pub fn is_no_cow(file: &File) -> io::Result<bool> {
    Ok(flags(file)? & FS_NOCOW_FL != 0)
}

fn flags(file: &File) -> io::Result<u32> {
    let mut argument = [0_u32; 2];
    // SAFETY: FS_IOC_GETFLAGS writes 4 bytes, and 8 where a file system in user space goes by the number.
    unsafe { ioctl::with_pointer(file.as_fd(), FS_IOC_GETFLAGS, &mut argument) }?;
    Ok(argument[0])
}
