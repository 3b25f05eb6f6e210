//! Why the node refused.

/// What a caller can act upon, each with a text for people. The words of the node's own errors end here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlocksError {
    /// There is no such object, and the pool that would have it says so.
    #[error("{0}")]
    Missing(String),
    /// The name is another object's.
    #[error("{0}")]
    NameTaken(String),
    /// Several pools are meant.
    #[error("{0}")]
    Ambiguous(String),
    /// Another operation on the object or the name is running: the same call may succeed soon.
    #[error("{0}")]
    Busy(String),
    /// The pool is full.
    #[error("{0}")]
    NoSpace(String),
    /// The object is in use, and will be until somebody lets go of it.
    #[error("{0}")]
    InUse(String),
    /// A size that cannot be had.
    #[error("{0}")]
    Size(String),
    /// The pool cannot do this.
    #[error("{0}")]
    Unsupported(String),
    /// The pool cannot be asked now, or is not this node's.
    #[error("{0}")]
    Unavailable(String),
    /// It failed.
    #[error("{0}")]
    Failed(String),
}
