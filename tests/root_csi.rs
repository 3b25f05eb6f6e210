//! The services of a node over real reflink pools; see `csi_layer`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

mod common;
mod csi_layer;
mod root_support;

use common::fixture::PoolFileSystem;

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_on_a_btrfs_pool() {
    csi_layer::everything_works(PoolFileSystem::Btrfs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_on_an_xfs_pool() {
    csi_layer::everything_works(PoolFileSystem::Xfs).await;
}
