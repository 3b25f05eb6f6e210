//! Pools on block devices: a device-mapper thin pool that this process owns whole.

pub mod devices;
pub mod examine;
pub mod format;
pub mod label;
pub mod layout;
pub mod region;
