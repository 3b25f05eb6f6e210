//! Named objects in a directory or a bucket: all that a repository needs of the world.
//!
//! A [`Store`] puts whole objects, reads them whole or in part, lists and deletes. Names are typed ([`Key`]), so that no
//! caller builds a path. Every implementation gives the same promises:
//!
//! * `put` that returned `Ok` is durable, and before that the object is absent or whole, never partial;
//! * `PutMode::IfAbsent` makes the object exactly once among any number of competitors;
//! * `get` and `get_range` return exactly what was asked for, or an error: a short answer is [`StoreError::Truncated`];
//! * a call may be dropped while it runs: a put may then still happen, whole.
//!
//! What is worth repeating is repeated by a layer of its own ([`patient`]) around the stores that lie behind a network; an error that
//! comes out of what [`connect`] returns is final for this call.

pub mod azure;
mod bucket;
#[cfg(test)]
pub(crate) mod conformance;
pub mod connect;
pub mod contract;
pub mod counted;
pub mod error;
pub mod fault;
pub mod gcs;
pub mod http;
pub mod key;
pub mod local;
pub mod memory;
pub mod patient;
pub mod retry;
pub mod s3;

#[cfg(test)]
use connect::connect_at;
pub use connect::{Endurance, connect, connect_with};
pub use contract::Store;
pub use error::StoreError;
pub use key::{Key, Kind, Listed, PutMode};
