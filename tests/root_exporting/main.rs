#![cfg(feature = "root-tests")]
//! Snapshot classes that export, over real pools and by a real process: the way there and back, kills, and a full disk. Needs root, and
//! `restic` in PATH.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_types, reason = "the gRPC codes are what the tests look at")]

#[path = "../support/basics.rs"]
mod basics;
#[path = "../support/common/mod.rs"]
mod common;
#[cfg(feature = "failpoints")]
#[path = "../support/crash_points/point.rs"]
mod point;
#[path = "../support/s3/mod.rs"]
mod s3;
#[cfg(feature = "failpoints")]
#[path = "../support/share.rs"]
mod share;

#[cfg(feature = "failpoints")]
mod crashes;
mod kills;
mod resumes;
mod round_trip;
mod scene;
mod scratch;
