//! A unix socket that is bound so that nobody else can ever connect.
//!
//! The mode is set on the socket before it is bound: the kernel gives the file the mode of the socket, so there is no moment
//! at which it is wider than 0600. A socket file that is left of a process that died is removed; one that somebody answers on, with
//! whatever kind of socket, is not. Two processes that start at once are kept apart by a lock of the directory, so nothing but the
//! socket ever lies in it.
//!
//! A socket may be given to a group: it is bound as above, then gets its group and the mode 0660, and only then is listened on. Its directory
//! must be one that nobody but this process can write to, as for any other socket: the group connects, and never makes or removes files there.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat};
use nix::unistd::{Gid, fchownat};

use crate::types::error::chain;

/// Why the socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process answers on it.
    #[error("{0}: another process is serving on it")]
    InUse(PathBuf),
    /// Something else than a socket is there.
    #[error("{0}: exists but is not a socket; remove it")]
    NotASocket(PathBuf),
    /// The directory does not exist.
    #[error("{0}: the directory of the socket does not exist; create it")]
    NoDirectory(PathBuf),
    /// A call of the system failed.
    #[error("{action} {path}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// What goes over a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketKind {
    /// Bytes (SOCK_STREAM).
    Stream,
    /// Messages (SOCK_SEQPACKET).
    Messages,
}

impl SocketKind {
    fn make(self) -> Result<OwnedFd, Errno> {
        let kind = match self {
            Self::Stream => SockType::Stream,
            Self::Messages => SockType::SeqPacket,
        };
        socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
    }
}

/// The file of a socket, removed when this is dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: another process may have put its own in the place of ours.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).ok() == Some(self.identity)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), error = %chain(&error), "the socket file stays behind");
        }
    }
}

impl SocketFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode, which tell whether it is still the one at the path.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A socket that is listened on, and that does not block. The file goes with its last part.
#[derive(Debug)]
pub struct BoundSocket {
    pub listener: OwnedFd,
    pub file: SocketFile,
}

impl BoundSocket {
    /// Binds a socket that this user can connect to, and the members of `group` if there is one.
    ///
    /// # Errors
    /// [`SocketError`]; nothing was changed, except that a socket nobody listens on may be gone. Also when this user may not give the
    /// group a file.
    pub fn bind(path: &Path, kind: SocketKind, group: Option<Gid>) -> Result<Self, SocketError> {
        let failed = |action| move |source: io::Error| SocketError::Io { action, path: path.to_owned(), source };
        let errno = |action| move |errno: Errno| failed(action)(errno.into());
        let directory = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return Err(SocketError::NotASocket(path.to_owned())),
        };
        let opened = File::open(directory).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => SocketError::NoDirectory(directory.to_owned()),
            _ => failed("opening the directory of")(source),
        })?;
        let _starting = Flock::lock(opened, FlockArg::LockExclusive)
            .map_err(|(_, errno)| failed("locking the directory of")(errno.into()))?;
        let address = UnixAddr::new(path).map_err(errno("naming"))?;
        remove_stale(path, &address, kind)?;
        let listener = kind.make().map_err(errno("making"))?;
        fchmod(&listener, Mode::S_IRUSR | Mode::S_IWUSR).map_err(errno("restricting"))?;
        bind(listener.as_raw_fd(), &address).map_err(errno("binding"))?;
        let file = SocketFile { path: path.to_owned(), identity: identity(path).map_err(failed("looking at"))? };
        if let Some(group) = group {
            fchownat(AT_FDCWD, path, None, Some(group), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(errno("giving to the group"))?;
            let mode = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP | Mode::S_IWGRP;
            fchmodat(AT_FDCWD, path, mode, FchmodatFlags::NoFollowSymlink).map_err(errno("opening to the group"))?;
        }
        listen(&listener, Backlog::MAXCONN).map_err(errno("listening on"))?;
        Ok(Self { listener, file })
    }
}

fn remove_stale(path: &Path, address: &UnixAddr, kind: SocketKind) -> Result<(), SocketError> {
    let failed = |action| move |source: io::Error| SocketError::Io { action, path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("looking at")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    let probe = kind.make().map_err(|errno| failed("making")(errno.into()))?;
    match connect(probe.as_raw_fd(), address) {
        // One that has no room for more clients, or is of another kind, is somebody's as well.
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => Err(SocketError::InUse(path.to_owned())),
        Err(Errno::ECONNREFUSED) => std::fs::remove_file(path).map_err(failed("removing the stale")),
        Err(errno) => Err(failed("connecting to")(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    const KINDS: [SocketKind; 2] = [SocketKind::Stream, SocketKind::Messages];

    #[test]
    fn a_socket_is_private_or_its_groups_and_goes_with_its_owner() {
        for kind in KINDS {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("a.sock");
            let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            let socket = BoundSocket::bind(&path, kind, None).unwrap();
            assert_eq!(mode(), 0o600);
            for other in KINDS {
                assert!(matches!(BoundSocket::bind(&path, other, None), Err(SocketError::InUse(_))), "{kind:?} and {other:?}");
            }
            drop(socket);
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
            let group = nix::unistd::getegid();
            let _socket = BoundSocket::bind(&path, kind, Some(group)).unwrap();
            assert_eq!((mode(), std::fs::metadata(&path).unwrap().gid()), (0o660, group.as_raw()));
        }
    }

    #[test]
    fn a_stale_socket_is_replaced_and_what_is_no_socket_or_somebodys_stays() {
        for kind in KINDS {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("a.sock");
            drop(UnixListener::bind(&path).unwrap());
            assert!(path.exists());
            drop(BoundSocket::bind(&path, kind, None).unwrap());
            let other = UnixListener::bind(&path).unwrap();
            assert!(matches!(BoundSocket::bind(&path, kind, None), Err(SocketError::InUse(_))));
            drop(other);
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, "text").unwrap();
            assert!(matches!(BoundSocket::bind(&path, kind, None), Err(SocketError::NotASocket(_))));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "text");
            let nowhere = directory.path().join("none").join("a.sock");
            assert!(matches!(BoundSocket::bind(&nowhere, kind, None), Err(SocketError::NoDirectory(_))));
        }
    }
}
