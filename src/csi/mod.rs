//! The CSI services of the node, over pools and the mount table.
//!
//! * [`NodeLayer`] is a complete CSI plugin, changed blocks included; [`server`] serves it on a private unix socket.
//! * `validate` turns requests into checked values; `status` turns failures into codes, one function for each call. Between the
//!   two no message and no code is seen.
//! * [`quiesce`] is what pools hold volumes still with.
//! * [`registration`] tells the kubelet that the plugin is there.
//!
//! This is the only module that makes a `tonic::Status`.

#![allow(clippy::disallowed_types, reason = "the gRPC boundary")]

mod allowance;
mod answer;
mod call;
mod controller;
pub mod error;
mod identity;
pub mod locks;
mod named_pool;
mod node;
mod node_layer;
pub mod pool_records;
pub mod pools_service;
pub mod quiesce;
pub mod registration;
pub mod server;
mod snapshot_metadata;
pub mod status;
mod token;
pub mod topology;
pub mod transfers;
pub mod validate;
pub mod witness;

pub use node_layer::{DRIVER_NAME, NodeLayer, NodeOptions, Repositories};
pub use topology::{NodeName, NodeNameError};
