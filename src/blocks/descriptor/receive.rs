//! What comes in: clients, their packets, and answers.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockFlag, accept4, recv, recvmsg};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{GRANTED, REFUSED};
use crate::blocks::wire::secret::Secret;

/// Why an answer brought no descriptor.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The node has none for this token.
    #[error("the node has no descriptor for this token: it has expired, or was used")]
    Refused,
    /// The kernel did not give it to this process.
    #[error(
        "the descriptor was taken away on its way: a policy of the system (SELinux, AppArmor) does not let this process use it, so run the \
         agent with the SELinux type spc_t; or this process has as many descriptors open as it may (ulimit -n)"
    )]
    TakenAway,
    /// The other end speaks another protocol.
    #[error("the answer is not one of a node: {0}")]
    Foreign(&'static str),
    /// Whatever the system reports.
    #[error("the answer cannot be received")]
    Io(#[from] io::Error),
}

/// So many descriptors fit into one packet (SCM_MAX_FD). With room for all of them nothing is ever cut off for want of room, and what was
/// cut off was so for another reason.
const MOST_DESCRIPTORS: usize = 253;

/// Receives an answer. Waits as long as the socket does.
///
/// # Errors
/// [`ReceiveError`]. No descriptor that came is left open then.
pub fn receive(socket: impl AsFd) -> Result<OwnedFd, ReceiveError> {
    let mut space = nix::cmsg_space!([i32; MOST_DESCRIPTORS]);
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut parts, Some(&mut space), flags).map_err(io::Error::from)?;
    if message.flags.contains(MsgFlags::MSG_CTRUNC) {
        // A node sends one, so none came.
        return Err(ReceiveError::TakenAway);
    }
    let mut descriptors = Vec::new();
    for rights in message.cmsgs().map_err(io::Error::from)? {
        if let ControlMessageOwned::ScmRights(numbers) = rights {
            descriptors.extend(numbers.into_iter().map(own));
        }
    }
    let (length, is_cut) = (message.bytes, message.flags.contains(MsgFlags::MSG_TRUNC));
    if length == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let ([byte], is_whole) = (byte, length == 1 && !is_cut);
    match (is_whole, byte, descriptors.pop()) {
        (true, GRANTED, Some(descriptor)) if descriptors.is_empty() => Ok(descriptor),
        (true, REFUSED, None) => Err(ReceiveError::Refused),
        (true, _, _) => Err(ReceiveError::Foreign("it has another number of descriptors than it says")),
        (false, _, _) => Err(ReceiveError::Foreign("it has not one byte")),
    }
}

/// Takes a descriptor that the kernel has just made for this process, by recvmsg or accept4.
#[allow(unsafe_code, reason = "no safe wrapper owns what recvmsg and accept4 bring")]
fn own(number: i32) -> OwnedFd {
    // SAFETY: both callers pass a number that the kernel has just installed in the table of this process, for them alone: it is open, and
    // nothing else owns or closes it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Lets the runtime watch a socket for what comes in. Must be called within the runtime.
///
/// # Errors
/// When the runtime does not take it.
#[allow(unsafe_code, reason = "the safe functions of the runtime are deprecated: they take what does not own its descriptor")]
pub fn watch(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open as long as it exists, and names the same descriptor at every call.
    let watched = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    Ok(watched?)
}

/// Accepts a client, whose socket does not wait. Nor does this, on a socket that does not.
///
/// # Errors
/// `WouldBlock` when there is none; whatever else the system reports.
pub fn accept(listener: impl AsFd) -> io::Result<OwnedFd> {
    let number = accept4(listener.as_fd().as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    Ok(own(number))
}

/// What a client asks for: `None` for a packet that is no token. Descriptors that a client sends along are not received: without room for
/// rights the kernel drops them. Does not wait.
///
/// # Errors
/// `WouldBlock` when nothing was sent yet; `UnexpectedEof` when the client has gone.
pub fn receive_request(socket: impl AsFd) -> io::Result<Option<Secret>> {
    // One byte more than a token: a packet that is longer fills it.
    let mut packet = [0; Secret::BYTES + 1];
    match recv(socket.as_fd().as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        length => Ok(Secret::from_bytes(&packet[..length])),
    }
}
