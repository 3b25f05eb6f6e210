#![cfg(all(feature = "thin-tests", feature = "failpoints"))]
//! Snapshots of volumes in use, of a thin pool; see `consistent_snapshots`.

// vm: memory=3072 limit=600

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/consistent_snapshots/mod.rs"]
mod consistent_snapshots;

use common::fixture::PoolFileSystem;
use consistent_snapshots::{clean, frozen, raw};

#[test]
fn snapshots_of_a_written_ext4_are_clean() {
    clean::snapshots_are_clean("ext4", PoolFileSystem::Thin);
}

#[test]
fn snapshots_of_a_written_xfs_are_clean() {
    clean::snapshots_are_clean("xfs", PoolFileSystem::Thin);
}

#[test]
fn a_cut_that_hangs_does_not_keep_the_file_system_frozen() {
    frozen::a_hanging_cut_ends(PoolFileSystem::Thin);
}

#[test]
fn a_node_killed_while_it_holds_a_freeze_thaws_at_its_next_start() {
    frozen::the_freeze_of_a_dead_node_ends(PoolFileSystem::Thin);
}

#[test]
fn a_file_system_frozen_by_someone_else_is_cut_and_left_frozen() {
    frozen::a_foreign_freeze_stays(PoolFileSystem::Thin);
}

#[test]
fn a_snapshot_of_a_raw_block_volume_holds_what_was_written_and_not_flushed() {
    raw::a_snapshot_holds_what_was_written_and_not_flushed(PoolFileSystem::Thin);
}
