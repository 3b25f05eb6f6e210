#![cfg(feature = "thin-tests")]
//! csi-sanity against the real node over a thin pool, in mount and in block mode.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/sanity.rs"]
mod sanity;

use common::fixture::PoolFileSystem;

#[test]
fn csi_sanity_passes_in_mount_mode_on_a_thin_pool() {
    sanity::conforms(PoolFileSystem::Thin, "mount");
}

#[test]
fn csi_sanity_passes_in_block_mode_on_a_thin_pool() {
    sanity::conforms(PoolFileSystem::Thin, "block");
}
