//! The SnapshotMetadata service over reflink pools, with and without checksums; see `snapshot_metadata`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

mod common;
mod csi_harness;
mod metadata_client;
mod random_volumes;
mod root_support;
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
