//! The agent layer: what needs a network, over what a node hands out.
//!
//! It knows no pool and no mount, opens no device and needs no privilege: [`crate::blocks`] gives it descriptors. Passwords and store
//! credentials end here.
//!
//! * [`transfers`] is the internal service that starts exports and restores, watches and cancels them.

#![allow(clippy::disallowed_types, reason = "the gRPC boundary")]

pub mod transfers;

pub use transfers::{RepositoryWitness, Transfers};
