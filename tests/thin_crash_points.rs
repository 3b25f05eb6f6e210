#![cfg(all(feature = "thin-tests", feature = "failpoints"))]
//! The node is killed at every durable step of every call, over a thin pool; see `crash_points`.

// vm: memory=3072 limit=2400

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/crash_points/mod.rs"]
mod crash_points;
#[path = "support/share.rs"]
mod share;

crash_points!(on_a_thin_pool: Thin);
