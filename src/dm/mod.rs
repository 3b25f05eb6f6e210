//! Device-mapper: thin pools driven by ioctl, and their metadata read from the disk.

pub mod metadata;
pub mod units;
