#![cfg(feature = "root-tests")]
//! The services of a node over real reflink pools; see `csi_layer`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/csi_layer/mod.rs"]
mod csi_layer;
#[path = "support/root_support/mod.rs"]
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

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pool_left_is_taken_down_without_it_on_xfs() {
    csi_layer::teardown_needs_no_pool(PoolFileSystem::Xfs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pool_left_is_taken_down_without_it_on_btrfs() {
    csi_layer::teardown_needs_no_pool(PoolFileSystem::Btrfs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_looked_at_is_no_final_refusal() {
    csi_layer::a_device_that_is_looked_at_is_no_final_refusal(PoolFileSystem::Xfs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_volume_is_a_device_and_a_file_system_in_turn() {
    csi_layer::one_volume_is_a_device_and_a_file_system_in_turn(PoolFileSystem::Btrfs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_a_btrfs_that_lost_power_are_mounted_beside_it() {
    csi_layer::copies_of_a_btrfs_that_lost_power_are_mounted_beside_it(PoolFileSystem::Xfs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_block_mover_does_by_hand_holds_on_xfs() {
    csi_layer::what_a_block_mover_does_by_hand_holds(PoolFileSystem::Xfs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_block_mover_does_by_hand_holds_on_btrfs() {
    csi_layer::what_a_block_mover_does_by_hand_holds(PoolFileSystem::Btrfs).await;
}
