//! Why a verb of a pool fails: what callers act on.

use std::io;
use std::time::Duration;

use crate::types::Object;

/// Why a pool operation failed. The variants are what callers act on; codes are chosen per RPC in `csi`.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// There is no such object in this pool.
    #[error("there is no {0} in this pool")]
    Missing(Object),
    /// The source of a snapshot or copy does not exist in this pool.
    #[error("the source {0} does not exist")]
    SourceMissing(Object),
    /// The name is taken by an object made from another request; the text says what differs.
    #[error("`{name}` exists already with another {difference}")]
    NameTaken {
        /// The name.
        name: String,
        /// What differs (`capacity`, `content source`, ...).
        difference: &'static str,
    },
    /// The snapshot's bytes are not in this pool any more; a repository has them.
    #[error("{0} is not here any more: its local copy was given up after its export; restore it from the repository")]
    GivenUp(Object),
    /// No size lies within the requested range, or the size asked for is smaller than it may be.
    #[error("size: {0}")]
    Size(String),
    /// The object is attached, mounted, leased or being restored.
    #[error("{object} is in use: {by}")]
    InUse {
        /// The object.
        object: Object,
        /// By what.
        by: String,
    },
    /// Another operation on the same object or name is running.
    #[error("another operation on {0} is running")]
    Busy(String),
    /// The pool has no room for this; the text says for what.
    #[error("the pool is full: {0}")]
    NoSpace(String),
    /// The file system under the pool cannot do this; the text says what and what to do instead.
    #[error("{0}")]
    Unsupported(String),
    /// The cut would block writers for longer than the deadline.
    #[error("a cut of {object} would block its writers for about {estimate:?}, longer than {limit:?}: it has {extents} extents")]
    TooSlow {
        /// The volume.
        object: Object,
        /// Its extents.
        extents: u64,
        /// Estimated stall.
        estimate: Duration,
        /// Longest allowed.
        limit: Duration,
    },
    /// The freeze could not be made, or its deadline passed before the cut returned; nothing was kept.
    #[error("the volume could not be held still: {0}")]
    Quiesce(String),
    /// The volume's file system cannot be held still, and that will not change by itself; nothing was kept.
    #[error("the volume cannot be held still: {0}")]
    CannotQuiesce(String),
    /// Another process owns the pool.
    #[error("{0}: the pool is in use by another process")]
    Owned(String),
    /// The catalogue or pool is of a newer format, or not one at all.
    #[error("{0}")]
    Format(String),
    /// The catalogue is missing or damaged, or one of an earlier moment lies in its place. The objects may be well, and nothing was changed.
    #[error("{0}")]
    CatalogueLost(String),
    /// The catalogue failed.
    #[error("catalogue: {0}")]
    Catalogue(String),
    /// It failed for the reason told, and what it had made could not be taken back yet: it stays hidden, and is undone before the next
    /// change. Whatever the reason, the answer must not be a final one.
    #[error("{0}; what it had made could not be taken back yet")]
    Unfinished(String),
    /// A call of the system failed.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted, with its path.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl PoolError {
    /// Wraps a system error with what was attempted; out-of-space becomes [`PoolError::NoSpace`].
    pub fn io(action: impl Into<String>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace(action.into()),
            _ => Self::Io { action: action.into(), source },
        }
    }
}
