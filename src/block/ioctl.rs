//! The one place of this module where `ioctl(2)` is called.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{Ioctl, c_int, c_ulong};

/// Calls `ioctl` with a pointer argument.
///
/// # Safety
/// `request` must read and write no more than one `T` behind `argument`, and keep no pointer to it.
pub(super) unsafe fn with_pointer<T>(fd: BorrowedFd<'_>, request: Ioctl, argument: &mut T) -> io::Result<c_int> {
    // SAFETY: the descriptor is open for the borrow's lifetime; `argument` is a live, exclusive reference to a `T`, and the
    // caller vouches that the request stays within it.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(argument)) })
}

/// Calls `ioctl` with an argument that is a number (or none: 0).
///
/// # Safety
/// `request` must take its argument by value.
pub(super) unsafe fn with_value(fd: BorrowedFd<'_>, request: Ioctl, argument: c_ulong) -> io::Result<c_int> {
    // SAFETY: the descriptor is open for the borrow's lifetime; the caller vouches that the argument is no pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) })
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
