//! What goes into the set and what is seen of it: places, members, and how long is waited for what.

use std::sync::Arc;
use std::time::Duration;

use crate::pool::owned::{OwnedPool, PoolFigures};
use crate::types::{PoolId, Timestamp};

/// A place where a pool is, or will be once its disk is there.
pub trait PoolSource: Send {
    /// The place, for people.
    fn place(&self) -> String;

    /// Opens the pool and recovers it; also when an earlier one of this place was closed because it failed. Blocks.
    ///
    /// # Errors
    /// Why not, in a sentence for people.
    fn open(&self) -> Result<OpenedPool, String>;
}

/// An opened pool and what it stands on. Dropping it closes it.
pub struct OpenedPool {
    /// The pool. Dropped first.
    pub pool: Arc<OwnedPool>,
    /// What must be held as long as the pool is open: the lock of an image.
    pub foundation: Box<dyn Send>,
}

/// How long the set waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two looks at an open pool.
    pub look: Duration,
    /// A look that takes longer means that the disk hangs.
    pub answer: Duration,
    /// From a failure to the first new attempt; doubled after each that fails.
    pub retry: Duration,
    /// Longest time between two attempts.
    pub retry_most: Duration,
    /// How long the start waits for one pool before it goes on to the next: longer than the recovery of any pool that is well. One
    /// that hangs keeps the others, whose leftovers may be frozen, from no more than that.
    pub start: Duration,
    /// How long [`PoolSet::close`] waits for looks and attempts that run.
    pub close: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            // As often as a kubelet probes.
            look: Duration::from_secs(10),
            // A disk that is only busy answers a read within that.
            answer: Duration::from_secs(15),
            retry: Duration::from_secs(1),
            retry_most: Duration::from_secs(60),
            start: Duration::from_secs(30),
            close: Duration::from_secs(10),
        }
    }
}

/// A member of the set that cannot be used now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedPool {
    pub place: String,
    /// Its id, if it is known.
    pub id: Option<PoolId>,
    /// Why it cannot be used.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// When it is tried again; nothing while it is being tried.
    pub next_attempt: Option<Duration>,
}

impl std::fmt::Display for FailedPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the pool at {} cannot be used now: {}", self.place, self.reason)
    }
}

/// A member of the set.
#[derive(Debug, Clone)]
pub enum Member {
    /// It is open.
    Open(Arc<OwnedPool>),
    /// It cannot be used now.
    Failed(FailedPool),
}

/// A member in figures.
#[derive(Debug, Clone)]
pub struct MemberFigures {
    pub place: String,
    /// Its id, if it is known.
    pub id: Option<PoolId>,
    /// Whether it can be used now.
    pub is_open: bool,
    /// As of the last look; nothing of a pool that was never open, nor of one that nobody watches.
    pub figures: Option<Arc<PoolFigures>>,
}

/// Why the set does not have a pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    /// It is a member that cannot be used now.
    #[error("{0}")]
    Failed(FailedPool),
    /// No member is known to be it.
    #[error("belongs to pool {}, which is not on this node", .id.label())]
    Elsewhere {
        /// The pool.
        id: PoolId,
    },
}
