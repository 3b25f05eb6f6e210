#![cfg(feature = "root-tests")]
//! csi-sanity against the real node over reflink pools, in mount and in block mode: served on one socket, and by a node and an agent apart.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/pair.rs"]
mod pair;
#[path = "support/sanity.rs"]
mod sanity;

use common::GIB;
use common::fixture::{Bench, PoolFileSystem};
use pair::{Place, endpoint};
use sanity::Endpoints;

#[test]
fn csi_sanity_passes_in_mount_mode_on_xfs() {
    sanity::conforms(PoolFileSystem::Xfs, "mount");
}

#[test]
fn csi_sanity_passes_in_block_mode_on_xfs() {
    sanity::conforms(PoolFileSystem::Xfs, "block");
}

#[test]
fn csi_sanity_passes_in_mount_mode_on_btrfs() {
    sanity::conforms(PoolFileSystem::Btrfs, "mount");
}

#[test]
fn csi_sanity_passes_in_block_mode_on_btrfs() {
    sanity::conforms(PoolFileSystem::Btrfs, "block");
}

/// The kubelet's calls go to the node, the sidecars' to an agent without privilege.
fn passes_apart(kind: PoolFileSystem, access: &str) {
    let place = Place::new(Bench::with_pool(kind, 16 * GIB));
    let (node, agent) = (place.start_node(), place.start_agent());
    let endpoints = Endpoints { node: endpoint(&place.kubelets()), controller: Some(endpoint(&place.agents())) };
    sanity::passes(&place.bench, &endpoints, access, None);
    assert_eq!(place.csi().volume_ids(), Vec::<String>::new(), "volumes are left");
    assert_eq!(place.csi().snapshot_ids(), Vec::<String>::new(), "snapshots are left");
    agent.stop();
    node.stop();
    assert_eq!(place.bench.attached(), Vec::<String>::new());
}

#[test]
fn csi_sanity_passes_by_a_node_and_an_agent_apart_in_mount_mode() {
    passes_apart(PoolFileSystem::Xfs, "mount");
}

#[test]
fn csi_sanity_passes_by_a_node_and_an_agent_apart_in_block_mode() {
    passes_apart(PoolFileSystem::Btrfs, "block");
}
