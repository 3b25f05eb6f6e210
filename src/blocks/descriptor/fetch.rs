//! The agent's half: a token for a descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, send, setsockopt, socket};
use nix::sys::time::TimeVal;

use super::receive::{ReceiveError, receive};
use crate::blocks::wire::secret::Secret;

/// How long each of connecting, sending and the answer may take. The node does nothing for an answer that could take long, but it serves
/// only so many at once, and a machine that swaps or is suspended answers late.
pub const WITHIN: Duration = Duration::from_secs(5);

/// How often a connection may be closed before its answer: the node closes one that was silent when too many others came, and then the token was
/// not used. It does so at once, so this takes no time.
const ATTEMPTS: usize = 4;

/// Why there is no descriptor.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The node is not there, or did not answer in time.
    #[error("the node's socket for descriptors, {path}, cannot be used")]
    Socket {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Its answer brought none.
    #[error(transparent)]
    Answer(ReceiveError),
}

/// Fetches the descriptor that a token is for. Blocks, for three times [`WITHIN`] at most.
///
/// # Errors
/// [`FetchError`]. The token may have been used up.
pub fn fetch(path: &Path, token: &Secret) -> Result<OwnedFd, FetchError> {
    let mut attempt = 1;
    loop {
        let answer = ask(path, token).map_err(ReceiveError::Io).and_then(receive);
        match answer {
            Ok(descriptor) => return Ok(descriptor),
            Err(ReceiveError::Io(source)) if was_closed(&source) && attempt < ATTEMPTS => attempt += 1,
            Err(ReceiveError::Io(source)) => return Err(FetchError::Socket { path: path.to_owned(), source }),
            Err(other) => return Err(FetchError::Answer(other)),
        }
    }
}

/// Whether the other end closed the connection without an answer.
fn was_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

fn ask(path: &Path, token: &Secret) -> io::Result<OwnedFd> {
    let address = UnixAddr::new(path)?;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    let within = TimeVal::new(WITHIN.as_secs().try_into().unwrap_or(i64::MAX), 0);
    // The first also bounds connecting, which waits while as many clients wait as may.
    setsockopt(&socket, SendTimeout, &within)?;
    setsockopt(&socket, ReceiveTimeout, &within)?;
    connect(socket.as_fd().as_raw_fd(), &address)?;
    send(socket.as_fd().as_raw_fd(), token.as_bytes(), MsgFlags::MSG_NOSIGNAL)?;
    Ok(socket)
}
