//! Freezing mounted file systems.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use libc::c_int;

use super::ioctl;

const FIFREEZE: libc::Ioctl = nix::request_code_readwrite!(b'X', 119, size_of::<c_int>());
const FITHAW: libc::Ioctl = nix::request_code_readwrite!(b'X', 120, size_of::<c_int>());

/// Whether [`freeze`] changed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frozen {
    /// The file system was live and is frozen now.
    Now,
    /// It was frozen before, by someone else.
    Already,
}

/// Freezes the file system that the open file or directory `on` belongs to: everything is written out, and writers wait
/// until [`thaw`].
///
/// # Errors
/// Needs CAP_SYS_ADMIN. `Unsupported` where the file system cannot be frozen.
pub fn freeze(on: &File) -> io::Result<Frozen> {
    // SAFETY: FIFREEZE takes no argument, whatever its number says.
    match unsafe { ioctl::with_value(on.as_fd(), FIFREEZE, 0) } {
        Ok(_) => Ok(Frozen::Now),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(Frozen::Already),
        Err(error) => Err(error),
    }
}

/// Thaws the file system that `on` belongs to. Not frozen is success.
pub fn thaw(on: &File) -> io::Result<()> {
    // SAFETY: FITHAW takes no argument, whatever its number says.
    match unsafe { ioctl::with_value(on.as_fd(), FITHAW, 0) } {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes out everything dirty of the file system that `on` belongs to.
///
/// # Errors
/// Whatever the system reports, write-back errors among it.
pub fn sync_file_system(on: &File) -> io::Result<()> {
    nix::unistd::syncfs(on).map_err(io::Error::from)
}
