//! The SnapshotMetadata service over a thin pool; see `snapshot_metadata`.

// vm: memory=3072 limit=600

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
fn nothing_is_missed_on_a_thin_pool() {
    nothing_is_missed(PoolFileSystem::Thin, "false");
}
