//! What a restore is to be like.

use crate::transfer::budget::Budget;

/// What a sink holds before the restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Zeros: what is zero in the image is not written.
    Fresh,
    /// Anything: zeros are written, by punching holes where the sink can.
    Dirty,
}

/// What a restore is to be like.
#[derive(Debug, Clone, Copy)]
pub struct RestoreOptions {
    /// What the sink holds.
    pub target: Target,
    /// Threads and memory.
    pub budget: Budget,
}
