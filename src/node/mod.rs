//! The node layer: a complete CSI plugin over the pools and the mount table of one node.
//!
//! * [`NodeLayer`] owns the pools; `identity`, `controller`, `snapshot_metadata` and `mounts` are the services that it offers.
//! * [`status`] turns failures into codes, one function for each call. No message and no code is seen by what works.
//! * [`quiesce`] is what pools hold volumes still with.
//! * [`registration`] tells the kubelet that the plugin is there.
//! * [`blocks`] is what an agent gets of the pools, [`blocks_service`] how one in another process gets it.
//! * [`metrics_service`] gives an agent what this process measures.
//! * [`pool_metrics`] tells of the pools as metrics.
//! * [`pools_service`] is the internal service that shows the pools to people.

#![allow(clippy::disallowed_types, reason = "the gRPC boundary")]

mod answer;
pub mod blocks;
pub mod blocks_service;
mod controller;
pub mod error;
mod group;
mod identity;
mod layer;
pub mod metrics_service;
mod mounts;
pub mod named_pool;
pub mod pool_metrics;
pub mod pool_records;
pub mod pools_service;
pub mod quiesce;
pub mod registration;
mod snapshot_metadata;
pub mod status;

pub use layer::{NodeLayer, NodeOptions, Repositories, routes};
