//! The companion socket: bound like the socket that calls come on ([`BoundSocket`]), for messages, so that only those can ever connect
//! who may.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::unistd::Gid;

use crate::csi::server::{BoundSocket, SocketError, SocketFile, SocketKind};

/// A bound socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct DescriptorSocket(BoundSocket);

impl DescriptorSocket {
    /// Binds a socket that only this user can connect to.
    ///
    /// # Errors
    /// As for [`BoundSocket::bind`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        BoundSocket::bind(path, SocketKind::Messages, None).map(Self)
    }

    /// Binds a socket that this user and the members of a group can connect to.
    ///
    /// # Errors
    /// As for [`BoundSocket::bind`].
    pub fn bind_for_group(path: &Path, group: Gid) -> Result<Self, SocketError> {
        BoundSocket::bind(path, SocketKind::Messages, Some(group)).map(Self)
    }

    /// What is listened on, and what is to be kept as long.
    pub(super) fn into_parts(self) -> (OwnedFd, SocketFile) {
        (self.0.listener, self.0.file)
    }
}
