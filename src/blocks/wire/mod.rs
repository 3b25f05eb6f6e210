//! The words of [`Blocks`](super::Blocks) as messages of `windlass.v1.Blocks`, for both of its ends.
//!
//! Each function takes a message apart into checked types, or says which field is wrong ([`FieldError`]), or makes a message of them. The
//! end that reads trusts nothing: a text is a handle, an id or a name of ours or it is refused, a size is one that a volume can have, and
//! a list has no more entries than it may. No word is a path.
//!
//! # Bounds
//!
//! * A request has at most [`MAX_REQUEST_BYTES`]: the largest is a new volume, with 4 KiB of parameters and as much of mount flags (the most that
//!   CSI allows), and a dozen names of 256 bytes at most.
//! * A message of ranges has at most [`RANGES_PER_MESSAGE`]: each takes at most 24 bytes (two numbers of 10 bytes with a tag each, and the
//!   range's own tag and length), 384 KiB in all. Two are in memory at each end: one that is written or read, one that waits.
//! * An answer has at most [`MAX_ANSWER_BYTES`]: what a client of gRPC takes unless told otherwise, ten times a message of ranges. A page of
//!   usage is bounded by [`UsageQuery::MAX`](super::UsageQuery::MAX), one of tasks by [`TaskQuery::MAX`](super::TaskQuery::MAX) with some
//!   kilobytes each, one of protected volumes by [`ProtectionQuery::MAX_SNAPSHOTS`](super::ProtectionQuery::MAX_SNAPSHOTS), and a node has a handful of pools, each of which keeps
//!   the names of [`OnLoss::MOST_KEPT`](crate::types::OnLoss::MOST_KEPT) targets at most.
//! * An agent holds at most [`HELD_BY_AN_AGENT`] snapshots and targets, eight times as many as it runs transfers today, and has at most
//!   [`LISTS_OF_A_LEASE`] lists of ranges open on each: an export reads two, what is allocated and what has changed.
//! * What a list has sent and nobody has read yet takes room of the connection, which all calls share: at most [`STREAM_WINDOW_BYTES`], and all lists
//!   together leave [`CONNECTION_WINDOW_BYTES`] less what they may take, which is two of the largest answers, to the other calls.
//! * A text for people is cut at [`MAX_TEXT_BYTES`]: refusals travel in a header, each byte of which may take three, and a client of HTTP/2
//!   takes 16 KiB of headers.

pub mod copies;
pub mod export;
mod field;
pub mod kubernetes;
pub mod pools;
pub mod protection;
pub mod refusal;
pub mod secret;
pub mod snapshot;
pub mod target;
pub mod usage;
pub mod volume;

pub use field::{FieldError, handle, name, object_id, pool_id, size, text, timestamp, timestamp_message};

/// Largest request.
pub const MAX_REQUEST_BYTES: usize = 64 << 10;
/// Largest answer.
pub const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Most ranges of a message.
pub const RANGES_PER_MESSAGE: usize = 16 << 10;
/// Most snapshots and targets that one agent holds.
pub const HELD_BY_AN_AGENT: usize = 32;
/// Most lists of ranges that are open on one lease.
pub const LISTS_OF_A_LEASE: usize = 4;
/// What may be on its way in one stream.
pub const STREAM_WINDOW_BYTES: u32 = 64 << 10;
/// What may be on its way in all streams of a connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Longest text for people.
pub const MAX_TEXT_BYTES: usize = 4 << 10;

const _: () = assert!(RANGES_PER_MESSAGE * 24 * 10 <= MAX_ANSWER_BYTES);
const _: () = assert!(
    HELD_BY_AN_AGENT * LISTS_OF_A_LEASE * STREAM_WINDOW_BYTES as usize + 2 * MAX_ANSWER_BYTES <= CONNECTION_WINDOW_BYTES as usize
);
const _: () = assert!(MAX_TEXT_BYTES * 3 < 16 << 10);
