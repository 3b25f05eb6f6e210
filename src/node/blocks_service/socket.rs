//! The companion socket: bound so that only those can ever connect who may.
//!
//! It is made like the socket that calls come on (`csi::server::socket`), of the kind SOCK_SEQPACKET: private when it is bound, given to a
//! group before it is listened on, its file removed when the node ends and replaced when a node that died has left it. Two nodes that start at
//! once are kept apart by a lock of the directory.

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

use crate::csi::server::SocketError;
use crate::types::error::chain;

/// A bound socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct DescriptorSocket {
    listener: OwnedFd,
    file: SocketFile,
}

/// The file of a socket, removed when this is dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode, which tell whether it is still this one.
    identity: (u64, u64),
}

impl DescriptorSocket {
    /// Binds a socket that only this user can connect to.
    ///
    /// # Errors
    /// [`SocketError`]; nothing was changed, except that a socket nobody listens on may be gone.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        Self::bind_with(path, None)
    }

    /// Binds a socket that this user and the members of a group can connect to.
    ///
    /// # Errors
    /// As for [`DescriptorSocket::bind`]; also when this user may not give the group a file.
    pub fn bind_for_group(path: &Path, group: Gid) -> Result<Self, SocketError> {
        Self::bind_with(path, Some(group))
    }

    fn bind_with(path: &Path, group: Option<Gid>) -> Result<Self, SocketError> {
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
        remove_stale(path, &address)?;
        let listener = new_socket().map_err(errno("making"))?;
        // The kernel gives the file the mode of the socket, so it is never open to more.
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

    /// The path of the socket.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// What is listened on, and what is to be kept as long.
    pub(super) fn into_parts(self) -> (OwnedFd, SocketFile) {
        (self.listener, self.file)
    }
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

fn new_socket() -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn remove_stale(path: &Path, address: &UnixAddr) -> Result<(), SocketError> {
    let failed = |action| move |source: io::Error| SocketError::Io { action, path: path.to_owned(), source };
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("looking at")(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    let probe = new_socket().map_err(|errno| failed("making")(errno.into()))?;
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

    #[test]
    fn the_socket_is_private_or_its_groups_and_goes_with_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("descriptors.sock");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let socket = DescriptorSocket::bind(&path).unwrap();
        assert_eq!(mode(), 0o600);
        assert!(matches!(DescriptorSocket::bind(&path), Err(SocketError::InUse(_))));
        drop(socket);
        assert!(!path.exists());
        let group = nix::unistd::getegid();
        let _socket = DescriptorSocket::bind_for_group(&path, group).unwrap();
        assert_eq!((mode(), std::fs::metadata(&path).unwrap().gid()), (0o660, group.as_raw()));
    }

    #[test]
    fn a_stale_socket_is_replaced_and_anything_else_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("descriptors.sock");
        drop(UnixListener::bind(&path).unwrap());
        drop(DescriptorSocket::bind(&path).unwrap());
        let other = UnixListener::bind(&path).unwrap();
        assert!(matches!(DescriptorSocket::bind(&path), Err(SocketError::InUse(_))));
        drop(other);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(DescriptorSocket::bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let nowhere = directory.path().join("no/descriptors.sock");
        assert!(matches!(DescriptorSocket::bind(&nowhere), Err(SocketError::NoDirectory(_))));
    }
}
