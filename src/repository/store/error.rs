//! Why a store did not do what it was asked to.

use std::error::Error;
use std::time::Duration;

/// What a store said, or what failed on the way to it.
///
/// Errors of `object_store` and of HTTP clients do not come here as they are, since some of them show addresses with signatures in
/// them: [`Fault`](super::http::fault::Fault) and [`BucketStore`](super::bucket::BucketStore) keep of them what may be shown.
pub type StoreCause = Box<dyn Error + Send + Sync>;

/// Why a store did not do what it was asked to. Each case but the last names the object by its path in the repository.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{object} does not exist")]
    NotFound { object: String },
    /// The object exists and was to be made only if it did not.
    #[error("{object} exists already")]
    AlreadyExists { object: String },
    /// The store refuses: credentials or permissions. Repeating does not help.
    #[error("access to {object} was denied")]
    Denied { object: String, source: StoreCause },
    /// The store did not answer, or said that it cannot now. Repeating later may help.
    #[error("{object} could not be reached")]
    Unavailable { object: String, source: StoreCause },
    /// The store, or the line to it, has too much to do: fewer calls at a time may succeed, and this one later.
    #[error("{object} could not be reached: the store is too busy")]
    Busy { object: String, source: StoreCause },
    /// Fewer bytes came than the object must have.
    #[error("{object} is truncated: {expected} bytes expected, {found} found")]
    Truncated { object: String, expected: u64, found: u64 },
    /// Any other failure of the medium.
    #[error("input or output on {object} failed")]
    Io { object: String, source: std::io::Error },
    /// The store cannot be used as it is configured.
    #[error("the store cannot be used")]
    Configuration(#[source] StoreCause),
}

/// The last of the failures that a call met for so long.
#[derive(Debug, thiserror::Error)]
#[error("repeated for {minutes} minutes, the last time")]
struct Repeated {
    minutes: u64,
    source: StoreCause,
}

impl StoreError {
    /// The error that the configuration is wrong, in words of our own.
    pub(in crate::repository) fn configuration(what: impl Into<StoreCause>) -> Self {
        Self::Configuration(what.into())
    }

    /// What kind of error it is, in a word that holds no name of anything.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::AlreadyExists { .. } => "exists",
            Self::Denied { .. } => "denied",
            Self::Unavailable { .. } => "unavailable",
            Self::Busy { .. } => "busy",
            Self::Truncated { .. } => "truncated",
            Self::Io { .. } => "io",
            Self::Configuration(_) => "configuration",
        }
    }

    /// True when the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Busy { .. })
    }

    /// The same error, after it was met for so long.
    pub(in crate::repository) fn after(self, failing: Duration) -> Self {
        let again = |source| Box::new(Repeated { minutes: failing.as_secs() / 60, source });
        match self {
            Self::Unavailable { object, source } => Self::Unavailable { object, source: again(source) },
            Self::Busy { object, source } => Self::Busy { object, source: again(source) },
            other => other,
        }
    }

    /// True when the object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}
