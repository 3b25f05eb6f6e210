//! What a node says of its pools.

use crate::types::{LogicalBlockSize, ObjectName, PoolId, PoolName};

/// A pool of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolState {
    /// It is open.
    Open {
        /// Which.
        pool: OpenPool,
        /// Its space.
        space: PoolSpace,
        /// What is wrong with it all the same, in a sentence that says what to do; `None` when all is well.
        problem: Option<String>,
        /// The names of the restore targets that are kept in it and that nobody holds.
        kept: Vec<ObjectName>,
    },
    /// It cannot be used now.
    Failed {
        /// Which, if that is known.
        id: Option<PoolId>,
        /// Why, with its place.
        reason: String,
    },
}

/// A pool that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenPool {
    /// Identity.
    pub id: PoolId,
    /// The name that classes use.
    pub name: PoolName,
    /// Logical block size of the volumes that are made in it, unless they ask for another.
    pub logical_block_size: LogicalBlockSize,
}

/// Space of a pool, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSpace {
    /// Size of the pool.
    pub total: u64,
    /// Free, what is kept for the volumes that exist included.
    pub free: u64,
    /// What new volumes may still take.
    pub available: u64,
}
