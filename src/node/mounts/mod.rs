//! The Node service: volumes are staged, published, looked at, grown and taken down.
//!
//! `service` is the calls, each with a file of its own. They see the volume by `volume_on_node`, and take it down by `teardown`, which
//! needs no pool; both go by `presence`, where a volume is mounted. `format` decides whether a volume may be formatted, `file_system` makes,
//! mounts and grows.

mod expand;
mod fields;
mod file_system;
mod format;
mod presence;
mod publish;
mod refusal;
mod service;
mod stage;
mod stats;
mod target;
mod teardown;
mod unpublish;
mod unstage;
mod volume_on_node;

pub(super) use volume_on_node::VolumeOnNode;
