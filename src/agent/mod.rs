//! The agent layer: what needs a network, over what a node hands out.
//!
//! It knows no pool and no mount, opens no device and needs no privilege: [`crate::blocks`] gives it descriptors. Passwords and store
//! credentials end here.
//!
//! * [`AgentLayer`] owns the layer below it, and is one itself.
//! * `exporting`: snapshot classes whose snapshots are exported.
//! * `restoring`: volumes from snapshots that only a repository has.
//! * [`metrics`] is what is scraped: its own, and what its node measures.
//! * `protecting`: volumes that are cut, exported and rotated by a schedule.
//! * [`pools`] passes on what a node in another process says of its pools to people.
//! * [`events`] are what it tells people, beside the objects of Kubernetes that it concerns; [`secret_source`] is how it reads a Secret by name.
//! * [`transfers`] is the internal service that starts exports and restores, watches and cancels them.

#![allow(clippy::disallowed_types, reason = "the gRPC boundary")]

mod credentials;
pub mod events;
mod exporting;
mod layer;
pub mod metrics;
pub mod pools;
mod protecting;
mod restoring;
pub mod secret_source;
mod secrets;
mod services;
pub mod transfers;
mod wakening;
mod witness;

pub use layer::AgentLayer;
pub use protecting::ProtectionStatus;
pub use transfers::Transfers;
