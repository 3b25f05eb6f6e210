//! Snapshots of volumes in use: many of a mounted and written ext4 and of an XFS, each of which other people's programs find
//! clean (`clean`); what happens when the cut hangs, and when someone else froze the file system first (`frozen`); and what the
//! snapshot of a raw block volume holds (`raw`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_types, reason = "the answers of gRPC calls are compared")]

pub mod clean;
pub mod frozen;
pub mod raw;

use crate::common::MIB;

/// Size of the volumes.
const SIZE: u64 = 512 * MIB;
