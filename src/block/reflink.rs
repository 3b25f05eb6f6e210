//! Files that share extents.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use libc::{c_int, c_ulong};

use super::ioctl;

const FICLONE: libc::Ioctl = nix::request_code_write!(0x94, 9, size_of::<c_int>());

/// Makes `destination` share all of `source`'s content. Both lie on one file system.
///
/// Takes time for each extent (`pool::reflink::stall` has the figures) and blocks writers of `source` meanwhile. Not durable,
/// and after a power cut possibly partial, until `destination` is synced: clone into a temporary name, sync, rename.
///
/// # Errors
/// `Unsupported` where extents cannot be shared, `CrossesDevices`, `StorageFull`;
/// `InvalidInput` when only one of the two has data checksums (Btrfs).
pub fn clone_file(source: &File, destination: &File) -> io::Result<()> {
    let source = source.as_fd();
    let number = c_ulong::try_from(source.as_raw_fd()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: FICLONE takes a descriptor by value; `source` is open for the call.
    unsafe { ioctl::with_value(destination.as_fd(), FICLONE, number) }.map(drop)
}

/// Whether the file system of an empty file, open for reading and writing, can share extents; found by asking it to share nothing
/// with itself. Nothing is written or allocated, so a full file system answers as well.
///
/// # Errors
/// Whatever the system reports beyond "cannot"; `InvalidInput` when the file is not empty.
pub fn has_reflink(empty: &File) -> io::Result<bool> {
    if empty.metadata()?.len() != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an empty file"));
    }
    match clone_file(empty, empty) {
        Ok(()) => Ok(true),
        Err(error) if cannot(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether files in `directory` can share extents, found by trying it with two nameless files. Takes a block of it for a moment.
///
/// # Errors
/// Whatever the system reports beyond "cannot".
pub fn supports_reflink(directory: &Path) -> io::Result<bool> {
    let nameless = || OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(directory);
    let attempt = || {
        let (source, destination) = (nameless()?, nameless()?);
        source.write_all_at(&[0x5a; 4096], 0)?;
        clone_file(&source, &destination)
    };
    match attempt() {
        Ok(()) => Ok(true),
        Err(error) if cannot(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn cannot(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL | libc::EXDEV | libc::ENOSYS | libc::EISDIR)
    )
}
