//! The node's half: answers. Neither waits: the socket of a client that was just connected has room for one packet.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::{GRANTED, REFUSED};

/// Sends one descriptor. The kernel holds a copy of it until the client has fetched it or is gone.
///
/// # Errors
/// Whatever the system reports; `WouldBlock` when there is no room, which a client that was just connected has.
pub fn send(socket: impl AsFd, descriptor: impl AsFd) -> io::Result<()> {
    let descriptors = [descriptor.as_fd().as_raw_fd()];
    answer(socket, GRANTED, &[ControlMessage::ScmRights(&descriptors)])
}

/// Says that there is no descriptor for what was sent.
///
/// # Errors
/// Whatever the system reports.
pub fn refuse(socket: impl AsFd) -> io::Result<()> {
    answer(socket, REFUSED, &[])
}

fn answer(socket: impl AsFd, byte: u8, rights: &[ControlMessage<'_>]) -> io::Result<()> {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket.as_fd().as_raw_fd(), &[IoSlice::new(&[byte])], rights, flags, None)?;
    Ok(())
}
