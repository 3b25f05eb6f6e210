//! Whether anybody can still write to a file.
//!
//! The kernel counts who has a file open for writing, whatever process that is: a mapping, a request that is being served and a
//! descriptor that is on its way in a socket count as long as they last. A read lease (`F_SETLEASE`) is granted only while that
//! count is zero, so asking for one is the question. The lease is given back at once.
//!
//! A program that a process starts has copies of all descriptors of that process until it runs, which is some milliseconds. So who has
//! closed a file is believed only after a while that it is open: [`stays_open_for_writing`].

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use libc::c_int;

use crate::types::poll::{self, Patience};

// Not in libc. The number of every architecture that Rust knows for Linux.
const F_SETSIG: c_int = 10;

/// How long a copy of a descriptor may be on its way to be closed: a hundred times what a busy machine takes to start a program.
const PASSING: Patience = Patience { limit: Duration::from_millis(500), every: Duration::from_millis(5) };

/// Whether a file is still open for writing after a while, asked until it is not. `file` itself must be open for reading only. Blocks for half a
/// second at most.
///
/// # Errors
/// As [`is_open_for_writing`].
pub fn stays_open_for_writing(file: &File) -> io::Result<bool> {
    let closed = poll::until(PASSING, || is_open_for_writing(file).map(|is_open| (!is_open).then_some(())))?;
    Ok(closed.is_none())
}

/// Whether a file is open for writing anywhere. `file` itself must be open for reading only.
///
/// # Errors
/// `PermissionDenied` for the file of another user, and `InvalidInput` where the file system has no leases.
pub fn is_open_for_writing(file: &File) -> io::Result<bool> {
    // Whoever opens the file for writing while the lease lasts breaks it, which the owner of the lease is told by a signal. Without
    // this it is SIGIO, which ends a process that does not expect it; SIGURG is ignored by one that does not.
    control(file, F_SETSIG, libc::SIGURG)?;
    match control(file, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => control(file, libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

fn control(file: &File, command: c_int, argument: c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `file` is borrowed, and both commands take a number, no pointer.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::ptr;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    use super::*;

    /// A file with its name, and a descriptor that only reads.
    fn file() -> (tempfile::NamedTempFile, File) {
        let named = tempfile::NamedTempFile::new().unwrap();
        named.as_file().set_len(4096).unwrap();
        let reader = File::open(named.path()).unwrap();
        (named, reader)
    }

    #[test]
    fn a_file_is_open_for_writing_as_long_as_a_writable_descriptor_is() {
        let (named, reader) = file();
        assert!(is_open_for_writing(&reader).unwrap());
        let copy = named.as_file().try_clone().unwrap();
        let path = named.into_temp_path();
        assert!(is_open_for_writing(&reader).unwrap(), "a copy of it is open");
        drop(copy);
        let _other_reader = File::open(&path).unwrap();
        for _ in 0..2 {
            assert!(!is_open_for_writing(&reader).unwrap(), "those that read do not count");
        }
        let _writer = File::options().write(true).open(&path).unwrap();
        assert!(is_open_for_writing(&reader).unwrap(), "no lease is left that would keep it from being opened");
    }

    #[test]
    fn a_writer_that_goes_soon_is_waited_for_and_one_that_stays_is_told() {
        let (named, reader) = file();
        assert!(stays_open_for_writing(&reader).unwrap());
        let passing = std::thread::spawn(move || {
            poll::pause(Duration::from_millis(50));
            drop(named);
        });
        assert!(is_open_for_writing(&reader).unwrap());
        assert!(!stays_open_for_writing(&reader).unwrap());
        passing.join().unwrap();
    }

    #[test]
    fn a_shared_mapping_counts_after_its_descriptor_is_closed() {
        let (named, reader) = file();
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping of 4096 bytes, where the kernel chooses; its pointer is only given back to `munmap`.
        let mapping = unsafe { libc::mmap(ptr::null_mut(), 4096, protection, flags, named.as_file().as_raw_fd(), 0) };
        assert_ne!(mapping, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        let _path = named.into_temp_path();
        assert!(is_open_for_writing(&reader).unwrap());
        // SAFETY: the mapping from above, whole, which nothing points into.
        assert_eq!(unsafe { libc::munmap(mapping, 4096) }, 0);
        assert!(!is_open_for_writing(&reader).unwrap());
    }

    #[test]
    fn a_descriptor_on_its_way_in_a_socket_counts() {
        let (named, reader) = file();
        let (near, far) = UnixStream::pair().unwrap();
        let descriptors = [named.as_file().as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        sendmsg::<()>(near.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None).unwrap();
        let _path = named.into_temp_path();
        assert!(is_open_for_writing(&reader).unwrap());
        drop((near, far));
        assert!(!is_open_for_writing(&reader).unwrap(), "the kernel closes what nobody fetched");
    }
}
