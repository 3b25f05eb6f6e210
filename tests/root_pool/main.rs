#![cfg(feature = "root-tests")]
//! Reflink pools on real XFS and Btrfs. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../support/basics.rs"]
mod basics;
#[path = "../support/root_support/mod.rs"]
mod root_support;

mod create;
mod first_version;
mod lease;
mod random;
mod recover;
mod restore;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use windlass::pool::ObjectSpec;
use windlass::pool::owned::OwnedPool;
use windlass::pool::quiesce::NothingToHold;
use windlass::pool::reflink::open_pool;
use windlass::types::{DataChecksum, FsType, VolumeSize};

const BLOCK: usize = 4096;
const STALL: Duration = Duration::from_secs(10);
const POOLS: [FsType; 2] = [FsType::Xfs, FsType::Btrfs];

fn size(bytes: u64) -> VolumeSize {
    VolumeSize::new(bytes).unwrap()
}

fn spec(bytes: u64) -> ObjectSpec {
    ObjectSpec { size: size(bytes), checksum: DataChecksum::Off }
}

fn open(directory: &Path) -> OwnedPool {
    open_pool(directory, Arc::new(NothingToHold)).unwrap()
}
