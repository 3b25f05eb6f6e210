//! Who is at the other end of a connection, as the kernel says (SO_PEERCRED): the process that connected, as it was then.

use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, sockopt};
use tonic::Request;
use tonic::transport::server::UdsConnectInfo;

/// A process that is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    uid: u32,
    /// Unknown for one in another namespace of processes, as the containers of a pod are to each other.
    pid: Option<i32>,
}

impl Peer {
    /// Whose call this is; `None` when it did not come over a unix socket, as in tests.
    pub(super) fn of<T>(request: &Request<T>) -> Option<Self> {
        let credentials = request.extensions().get::<UdsConnectInfo>()?.peer_cred?;
        Some(Self::new(credentials.uid(), credentials.pid().unwrap_or_default()))
    }

    /// Who is connected to this socket; `None` when the kernel does not say.
    pub(super) fn connected_to(socket: impl AsFd) -> Option<Self> {
        let credentials = getsockopt(&socket, sockopt::PeerCredentials).ok()?;
        Some(Self::new(credentials.uid(), credentials.pid()))
    }

    fn new(uid: u32, pid: i32) -> Self {
        Self { uid, pid: (pid > 0).then_some(pid) }
    }

    /// One that is not this process.
    #[cfg(test)]
    pub(super) fn of_another_process() -> Self {
        Self { uid: nix::unistd::geteuid().as_raw(), pid: Some(1) }
    }

    /// Whether two connections can be one process's, as far as is known of both.
    pub(super) fn may_be(one: Option<Self>, other: Option<Self>) -> bool {
        let (Some(one), Some(other)) = (one, other) else { return true };
        let is_same_process = match (one.pid, other.pid) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        one.uid == other.uid && is_same_process
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_is_known_of_both_must_agree() {
        let peer = |uid, pid| Some(Peer::new(uid, pid));
        for (one, other, expected) in [
            (peer(1, 7), peer(1, 7), true),
            (peer(1, 7), peer(1, 8), false),
            (peer(1, 7), peer(2, 7), false),
            (peer(1, 0), peer(1, 7), true),
            (peer(1, 0), peer(2, 0), false),
            (None, peer(1, 7), true),
            (None, None, true),
        ] {
            assert_eq!((Peer::may_be(one, other), Peer::may_be(other, one)), (expected, expected), "{one:?} {other:?}");
        }
    }

    #[test]
    fn the_kernel_knows_this_process() {
        let (near, _far) = UnixStream::pair().unwrap();
        let own = Peer { uid: nix::unistd::geteuid().as_raw(), pid: i32::try_from(std::process::id()).ok() };
        assert_eq!(Peer::connected_to(&near), Some(own));
    }
}
