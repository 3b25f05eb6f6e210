#![cfg(feature = "thin-tests")]
//! Incremental exports of a thin pool; see `incremental`.

// vm: memory=3072 limit=600

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/incremental.rs"]
mod incremental;
#[path = "support/random_volumes/mod.rs"]
mod random_volumes;
#[path = "support/root_support/mod.rs"]
mod root_support;

use common::fixture::PoolFileSystem;
use incremental::increments_are_what_the_snapshots_hold;
use windlass::types::DataChecksum;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_from_a_thin_pool_are_what_the_snapshots_hold() {
    increments_are_what_the_snapshots_hold(PoolFileSystem::Thin, DataChecksum::Off, 4).await;
}
