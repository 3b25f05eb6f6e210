//! The unix socket: bound so that nobody else can ever connect, and accepted from without end.
//!
//! The mode is set on the socket before it is bound: the kernel gives the file the mode of the socket, so there is no moment
//! at which it is wider than 0600. A socket file that is left of a process that died is removed; one that somebody answers on is
//! not. Two processes that start at once are kept apart by a lock of the directory, so nothing but the socket ever lies in it.
//!
//! A socket may be given to a group: it is bound as above, then gets its group and the mode 0660, and only then is listened on. Its directory
//! must be one that nobody but this process can write to, as for any other socket: the group connects, and never makes or removes files there.
//! Who of the group may stay is a matter of [`PeerRule`].

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat};
use nix::unistd::{Gid, fchownat};
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::Stream;
use tokio_util::sync::PollSemaphore;

use super::connection::Connection;
use super::peer::{PeerCheck, PeerRule};
use crate::csi::allowance::SocketShare;
use crate::telemetry::metrics::CallMetrics;
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

/// A bound socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct PrivateSocket {
    listener: StdUnixListener,
    file: SocketFile,
    peers: PeerRule,
    share: SocketShare,
    calls: CallMetrics,
}

#[derive(Debug)]
struct SocketFile {
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

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl PrivateSocket {
    /// Binds a socket that only this user can connect to.
    ///
    /// # Errors
    /// [`SocketError`]; nothing was changed, except that a socket nobody listens on may be gone.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        Self::bind_with(path, |_| Ok(()))
    }

    /// Binds a socket that this user and the members of a group can connect to.
    ///
    /// # Errors
    /// As for [`PrivateSocket::bind`]; also when this user may not give the group a file.
    pub fn bind_for_group(path: &Path, group: Gid) -> Result<Self, SocketError> {
        Self::bind_with(path, |path| {
            let failed =
                |action| move |errno: nix::Error| SocketError::Io { action, path: path.to_owned(), source: errno.into() };
            fchownat(AT_FDCWD, path, None, Some(group), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failed("giving to the group"))?;
            let mode = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP | Mode::S_IWGRP;
            fchmodat(AT_FDCWD, path, mode, FchmodatFlags::NoFollowSymlink).map_err(failed("opening to the group"))
        })
    }

    /// Binds a socket; `admit` lets others than this user in before anybody can be answered.
    fn bind_with(path: &Path, admit: impl FnOnce(&Path) -> Result<(), SocketError>) -> Result<Self, SocketError> {
        let failed = |action| move |source: io::Error| SocketError::Io { action, path: path.to_owned(), source };
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

        remove_stale(path)?;
        let errno = |action| move |errno: nix::Error| failed(action)(errno.into());
        let socket = nix::sys::socket::socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )
        .map_err(errno("making"))?;
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR).map_err(errno("restricting"))?;
        let address = UnixAddr::new(path).map_err(errno("naming"))?;
        nix::sys::socket::bind(socket.as_raw_fd(), &address).map_err(errno("binding"))?;
        let file = SocketFile { path: path.to_owned(), identity: identity(path).map_err(failed("looking at"))? };
        admit(path)?;
        nix::sys::socket::listen(&socket, Backlog::MAXCONN).map_err(errno("listening on"))?;
        Ok(Self {
            listener: StdUnixListener::from(socket),
            file,
            peers: PeerRule::default(),
            share: SocketShare::default(),
            calls: CallMetrics::default(),
        })
    }

    /// The same socket, that only these clients may stay connected to.
    #[must_use]
    pub fn with_peers(self, peers: PeerRule) -> Self {
        Self { peers, ..self }
    }

    /// The same socket, with this share of what the process has.
    #[must_use]
    pub fn with_share(self, share: SocketShare) -> Self {
        Self { share, ..self }
    }

    /// The same socket, whose calls are counted there.
    #[must_use]
    pub fn with_calls(self, calls: CallMetrics) -> Self {
        Self { calls, ..self }
    }

    /// Where its calls are counted.
    pub fn calls(&self) -> CallMetrics {
        self.calls.clone()
    }

    /// What the socket may take of what the process has.
    pub fn share(&self) -> SocketShare {
        self.share
    }

    /// The path of the socket.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Device and inode of the socket's file, which tell whether it is still the one at the path.
    pub fn identity(&self) -> (u64, u64) {
        self.file.identity
    }

    /// The connections to come. Must be called within the runtime.
    ///
    /// # Errors
    /// When the runtime does not take the socket.
    pub fn into_incoming(self) -> io::Result<Incoming> {
        let connections = self.share.connections();
        self.into_incoming_of(connections)
    }

    fn into_incoming_of(self, connections: usize) -> io::Result<Incoming> {
        Ok(Incoming {
            listener: UnixListener::from_std(self.listener)?,
            pause: None,
            slots: PollSemaphore::new(Arc::new(Semaphore::new(connections))),
            slot: None,
            is_full: false,
            peers: PeerCheck::new(self.peers),
            _file: self.file,
        })
    }
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |action| move |source: io::Error| SocketError::Io { action, path: path.to_owned(), source };
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("looking at")(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    match StdUnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed("removing the stale"))
        }
        Err(error) => Err(failed("connecting to")(error)),
    }
}

/// Accepted connections, without end: an error of accept (no descriptors left, above all) is logged and tried again.
#[derive(Debug)]
pub struct Incoming {
    listener: UnixListener,
    pause: Option<Pin<Box<tokio::time::Interval>>>,
    slots: PollSemaphore,
    /// For the next connection.
    slot: Option<OwnedSemaphorePermit>,
    is_full: bool,
    peers: PeerCheck,
    // Dropped last: the file goes when nobody listens any more.
    _file: SocketFile,
}

/// Between two failed accepts: short beside the 1 s after which a sidecar gives up connecting, long beside a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                match pause.poll_tick(cx) {
                    Poll::Ready(_) => self.pause = None,
                    Poll::Pending => return Poll::Pending,
                }
            }
            let slot = match self.slot.take() {
                Some(slot) => slot,
                None => match self.slots.poll_acquire(cx) {
                    Poll::Ready(Some(slot)) => slot,
                    // Never: the slots last as long as this.
                    Poll::Ready(None) => return Poll::Ready(None),
                    Poll::Pending => {
                        if !std::mem::replace(&mut self.is_full, true) {
                            tracing::warn!("as many clients are connected as may be; others wait");
                        }
                        return Poll::Pending;
                    }
                },
            };
            match self.listener.poll_accept(cx) {
                Poll::Ready(Ok((stream, _))) if !self.peers.admits(&stream) => self.slot = Some(slot),
                Poll::Ready(Ok((stream, _))) => {
                    self.is_full = false;
                    return Poll::Ready(Some(Ok(Connection::new(stream, slot))));
                }
                Poll::Pending => {
                    self.slot = Some(slot);
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => {
                    self.slot = Some(slot);
                    tracing::warn!(error = %chain(&error), "a connection could not be accepted");
                    let start = tokio::time::Instant::now() + ACCEPT_PAUSE;
                    self.pause = Some(Box::pin(tokio::time::interval_at(start, ACCEPT_PAUSE)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use futures::StreamExt;

    use super::*;

    #[test]
    fn the_socket_is_private_and_goes_with_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("csi.sock");
        let socket = PrivateSocket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(PrivateSocket::bind(&path), Err(SocketError::InUse(_))));
        drop(socket);
        assert!(!path.exists());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_socket_of_a_group_is_open_to_it_and_to_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("csi.sock");
        let group = nix::unistd::getegid();
        let _socket = PrivateSocket::bind_for_group(&path, group).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.permissions().mode() & 0o777, metadata.gid()), (0o660, group.as_raw()));
    }

    #[tokio::test]
    async fn a_client_of_another_user_is_closed_and_takes_no_slot() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("csi.sock");
        let own = nix::unistd::geteuid();
        let own_peers = PrivateSocket::bind(&path).unwrap().with_peers(PeerRule::UserOrRoot(own));
        let mut incoming = own_peers.into_incoming_of(1).unwrap();
        let _client = StdUnixStream::connect(&path).unwrap();
        assert!(incoming.next().await.unwrap().is_ok());
        drop(incoming);
        if own.is_root() {
            // Root may always connect: what another user meets is for tests with processes.
            return;
        }
        let other =
            PrivateSocket::bind(&path).unwrap().with_peers(PeerRule::UserOrRoot(nix::unistd::Uid::from_raw(own.as_raw() + 1)));
        let mut incoming = other.into_incoming_of(1).unwrap();
        let mut refused = tokio::net::UnixStream::connect(&path).await.unwrap();
        let mut byte = [0];
        tokio::select! {
            _ = incoming.next() => panic!("it was let in"),
            read = tokio::io::AsyncReadExt::read(&mut refused, &mut byte) => assert_eq!(read.unwrap(), 0, "it was closed"),
        }
    }

    #[tokio::test]
    async fn a_client_beyond_the_last_slot_waits_until_another_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("csi.sock");
        let mut incoming = PrivateSocket::bind(&path).unwrap().into_incoming_of(2).unwrap();
        let _clients = [(); 3].map(|()| StdUnixStream::connect(&path).unwrap());
        let first = incoming.next().await.unwrap().unwrap();
        let _second = incoming.next().await.unwrap().unwrap();
        assert!(futures::poll!(incoming.next()).is_pending());
        drop(first);
        assert!(incoming.next().await.unwrap().is_ok());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_anything_else_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("csi.sock");
        drop(StdUnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(PrivateSocket::bind(&path).unwrap());
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(PrivateSocket::bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        assert!(matches!(PrivateSocket::bind(&directory.path().join("no/csi.sock")), Err(SocketError::NoDirectory(_))));
    }
}
