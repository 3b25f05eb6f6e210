//! Why a store did not do what it was asked to.

use std::time::Duration;

/// Why a store did not do what it was asked to. Each case names the object.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("{object} does not exist")]
    NotFound {
        /// Path of the object in the repository.
        object: String,
    },
    /// The object exists and was to be made only if it did not.
    #[error("{object} exists already")]
    AlreadyExists {
        /// Path of the object in the repository.
        object: String,
    },
    /// The store refuses: credentials or permissions. Repeating does not help.
    #[error("access to {object} was denied: {reason}")]
    Denied {
        /// Path of the object in the repository.
        object: String,
        /// What the store said.
        reason: String,
    },
    /// The store did not answer, or said that it cannot now. Repeating later may help.
    #[error("{object} could not be reached: {reason}")]
    Unavailable {
        /// Path of the object in the repository.
        object: String,
        /// What the store said.
        reason: String,
    },
    /// The store, or the line to it, has too much to do: fewer calls at a time may succeed, and this one later.
    #[error("{object} could not be reached: the store is too busy: {reason}")]
    Busy {
        /// Path of the object in the repository.
        object: String,
        /// What the store said.
        reason: String,
    },
    /// Fewer bytes came than the object must have.
    #[error("{object} is truncated: {expected} bytes expected, {found} found")]
    Truncated {
        /// Path of the object in the repository.
        object: String,
        /// Bytes asked for.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// Any other failure of the medium.
    #[error("input or output on {object} failed")]
    Io {
        /// Path of the object in the repository.
        object: String,
        /// The failure.
        source: std::io::Error,
    },
    /// The store cannot be used as it is configured.
    #[error("the store cannot be used: {0}")]
    Configuration(String),
}

impl StoreError {
    /// True when the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Busy { .. })
    }

    /// The same error, after it was met for so long.
    pub(super) fn after(self, failing: Duration) -> Self {
        let again = |reason| format!("{reason} (for {} minutes, the last time)", failing.as_secs() / 60);
        match self {
            Self::Unavailable { object, reason } => Self::Unavailable { object, reason: again(reason) },
            Self::Busy { object, reason } => Self::Busy { object, reason: again(reason) },
            other => other,
        }
    }

    /// True when the object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}
