//! The node is killed at every durable step of every call, over a thin pool; see `crash_points`.

// vm: memory=3072 limit=2400

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

mod common;
mod crash_points;
mod share;

crash_points!(on_a_thin_pool: Thin);
