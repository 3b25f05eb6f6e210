//! The unix socket: bound so that nobody else can ever connect, and accepted from without end.
//!
//! How it is bound is a matter of [`BoundSocket`](super::bound), who of those that connect may stay one of [`PeerRule`].

use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::unistd::Gid;
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::Stream;
use tokio_util::sync::PollSemaphore;

use super::bound::{BoundSocket, SocketError, SocketFile, SocketKind};
use super::connection::Connection;
use super::peer::{PeerCheck, PeerRule};
use crate::csi::allowance::SocketShare;
use crate::telemetry::metrics::CallMetrics;
use crate::types::error::chain;

/// A bound socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct PrivateSocket {
    listener: StdUnixListener,
    file: SocketFile,
    peers: PeerRule,
    share: SocketShare,
    calls: CallMetrics,
}

impl PrivateSocket {
    /// Binds a socket that only this user can connect to.
    ///
    /// # Errors
    /// [`SocketError`]; nothing was changed, except that a socket nobody listens on may be gone.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        BoundSocket::bind(path, SocketKind::Stream, None).map(Self::of)
    }

    /// Binds a socket that this user and the members of a group can connect to.
    ///
    /// # Errors
    /// As for [`PrivateSocket::bind`]; also when this user may not give the group a file.
    pub fn bind_for_group(path: &Path, group: Gid) -> Result<Self, SocketError> {
        BoundSocket::bind(path, SocketKind::Stream, Some(group)).map(Self::of)
    }

    fn of(BoundSocket { listener, file }: BoundSocket) -> Self {
        let (peers, share, calls) = (PeerRule::default(), SocketShare::default(), CallMetrics::default());
        Self { listener: StdUnixListener::from(listener), file, peers, share, calls }
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
        self.file.path()
    }

    /// Device and inode of the socket's file, which tell whether it is still the one at the path.
    pub fn identity(&self) -> (u64, u64) {
        self.file.identity()
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
    use std::os::unix::net::UnixStream as StdUnixStream;

    use futures::StreamExt;

    use super::*;

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
}
