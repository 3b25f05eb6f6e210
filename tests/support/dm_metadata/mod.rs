//! Thin pools' metadata for tests: made by a writer of our own, with whatever trees share, or by `thin_restore` from XML.

#![allow(dead_code, reason = "each test uses a part")]

pub mod space_map;
pub mod tools;
pub mod walks;
pub mod writer;

use std::collections::BTreeMap;

/// What a virtual block is mapped to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mapping {
    pub data: u64,
    pub time: u32,
}

/// The mappings of a device.
pub type Map = BTreeMap<u64, Mapping>;

/// A thin device.
#[derive(Debug, Clone, Default)]
pub struct Device {
    pub id: u32,
    pub creation_time: u32,
    pub snapshotted_time: u32,
    pub transaction_id: u64,
    pub map: Map,
}

/// A whole pool.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    pub time: u32,
    pub transaction_id: u64,
    pub data_blocks: u64,
    pub devices: Vec<Device>,
}
