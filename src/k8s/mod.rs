//! Kubernetes: what the agent tells its API server, and the little that it asks of it.
//!
//! It implements traits that the agent owns, so that the agent knows no client and works without a cluster:
//! * [`EventPublisher`] makes the agent's events known ([`crate::agent::events::EventSink`]);
//! * [`ClusterSecrets`] reads a Secret by its name ([`crate::agent::secret_source::SecretSource`]).
//!
//! Both stand on one [`Cluster`]: the API server of the pod that this process runs in, with the token that is mounted there. It is read
//! again as it is renewed. Every call has a deadline ([`CALL_DEADLINE`](client::CALL_DEADLINE)), connecting included.
//!
//! What is to be said to the server is decided by pure functions and an index (`events::index`, `events::object`); `events::publisher`
//! applies it.
//!
//! **Never**: a list or a watch; anything but events is written; the text of an answer that held a Secret is passed on.

mod client;
mod events;
mod secrets;

pub use client::{CALL_DEADLINE, Cluster, ClusterError};
pub use events::{EventPublisher, Pace};
pub use secrets::ClusterSecrets;
