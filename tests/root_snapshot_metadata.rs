#![cfg(feature = "root-tests")]
//! The SnapshotMetadata service over reflink pools, with and without checksums; see `snapshot_metadata`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/csi_harness.rs"]
mod csi_harness;
#[path = "support/metadata_client/mod.rs"]
mod metadata_client;
#[path = "support/random_volumes/mod.rs"]
mod random_volumes;
#[path = "support/root_support/mod.rs"]
mod root_support;
#[path = "support/snapshot_metadata/mod.rs"]
mod snapshot_metadata;

use common::fixture::PoolFileSystem;
use snapshot_metadata::nothing_is_missed;

#[test]
fn nothing_is_missed_on_an_xfs_pool() {
    nothing_is_missed(PoolFileSystem::Xfs, "false");
}

#[test]
fn nothing_is_missed_on_a_btrfs_pool() {
    nothing_is_missed(PoolFileSystem::Btrfs, "false");
}

#[test]
fn nothing_is_missed_on_a_btrfs_pool_that_keeps_checksums() {
    nothing_is_missed(PoolFileSystem::Btrfs, "true");
}
