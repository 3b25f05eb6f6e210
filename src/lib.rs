//! Windlass: a CSI driver for node-local block storage whose snapshots leave the cluster by themselves.
//!
//! Who may use whom (an arrow means "uses"): `types` is used by everyone and uses nothing of ours; `mount` and `dm` use `block`;
//! `pool` uses `block` and `dm`, and `scratch` for long lists; `repository` uses `hash` and `scratch`; `transfer` uses `repository`,
//! `block`, `hash` and `scratch`; `csi` uses `pool`, `mount` and `transfer`; `cli` uses all. `repository` and `pool` never meet except in `transfer`, through block sources and
//! sinks. `csi::transfers`, the layer that an agent will have, also opens repositories, to hand them to `transfer`. `tonic::Status`
//! is made only in `csi`.

pub mod block;
pub mod cli;
pub mod csi;
pub mod dm;
pub mod failpoint;
pub mod hash;
pub mod mount;
pub mod pool;
pub mod repository;
pub mod scratch;
pub mod telemetry;
pub mod transfer;
pub mod types;
