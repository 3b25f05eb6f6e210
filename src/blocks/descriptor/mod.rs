//! Descriptors over the companion socket: one packet each way, then the connection ends.
//!
//! gRPC cannot carry a descriptor. So the answer to a call has a token, and whoever has it connects to a unix socket of the kind
//! SOCK_SEQPACKET and sends it as one packet of [`Secret::BYTES`](super::wire::secret::Secret::BYTES) bytes. The node answers with one packet of
//! one byte: [`GRANTED`] with exactly one descriptor as its rights (SCM_RIGHTS), or [`REFUSED`] without any. It does not say why it refuses: a
//! token that was never given out, was used, has expired or is another's are the same to who has no right to it; the node's log says more.
//!
//! Both ends set CLOEXEC, so that no program that either starts inherits a volume. `send` is the node's half of the transport, `receive`
//! and [`fetch`] are the agent's; which token is worth which descriptor is the node's business (`node::blocks_service`).
//!
//! A descriptor that a policy of the system takes away (SELinux, when the agent may not use the object) and one for which the receiver has
//! no number left look the same: the packet comes, and the kernel says that something was cut off (MSG_CTRUNC). That is an error of its own,
//! [`FetchError::TakenAway`], with advice.

mod fetch;
mod receive;
mod send;

pub use fetch::{FetchError, WITHIN, fetch};
pub use receive::{ReceiveError, accept, receive, receive_request, watch};
pub use send::{refuse, send};

/// The answer that carries a descriptor.
pub const GRANTED: u8 = 1;
/// The answer that carries none.
pub const REFUSED: u8 = 0;

#[cfg(test)]
mod tests;
