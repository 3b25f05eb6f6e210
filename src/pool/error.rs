//! Why a verb of a pool fails: what callers act on.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::types::{Object, PoolId};

/// A cause whose type the pool does not know.
pub type Cause = Box<dyn Error + Send + Sync>;

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
    #[error(transparent)]
    Unsupported(Refusal),
    /// The cut would block writers for longer than the deadline.
    #[error("a cut of {object} would block its writers for about {estimate:?}, longer than {limit:?}: it has {extents} extents")]
    TooSlow {
        /// The volume.
        object: Object,
        extents: u64,
        /// Estimated stall.
        estimate: Duration,
        /// Longest allowed.
        limit: Duration,
    },
    /// The freeze could not be made, or its deadline passed before the cut returned; nothing was kept.
    #[error("the volume could not be held still")]
    Quiesce(#[source] Cause),
    /// The volume's file system cannot be held still, and that will not change by itself; nothing was kept.
    #[error("the volume cannot be held still")]
    CannotQuiesce(#[source] Cause),
    /// Another process owns the pool.
    #[error("{0}: the pool is in use by another process")]
    Owned(String),
    /// The catalogue or pool is of a newer format, or not one at all.
    #[error(transparent)]
    Format(Refusal),
    /// The catalogue is missing or damaged, or one of an earlier moment lies in its place. The objects may be well, and nothing was changed.
    #[error("{0}")]
    CatalogueLost(String),
    /// The catalogue failed.
    #[error("the catalogue does not work")]
    Catalogue(#[from] CatalogueFault),
    /// It failed for the reason told, and what it had made could not be taken back yet: it stays hidden, and is undone before the next
    /// change. Whatever the reason, the answer must not be a final one.
    #[error("it failed, and what it had made could not be taken back yet")]
    Unfinished(#[source] Box<PoolError>),
    /// A call of the system failed.
    #[error("{action}")]
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

/// A refusal in words, with its cause if something beneath is why.
#[derive(Debug)]
pub struct Refusal {
    text: String,
    source: Option<Cause>,
}

impl Refusal {
    /// A refusal whose reason is `source`, which `text` does not repeat.
    pub fn because(text: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self { text: text.into(), source: Some(source.into()) }
    }
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self { text, source: None }
    }
}

impl From<&str> for Refusal {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Refusal {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// What is wrong with a catalogue that was opened.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueFault {
    /// What it is stored on failed.
    #[error(transparent)]
    Storage(io::Error),
    /// The database failed.
    #[error(transparent)]
    Database(Box<redb::Error>),
    /// A record has no form in JSON.
    #[error("a record cannot be encoded")]
    Encode(#[source] serde_json::Error),
    /// A record is none, or one that this version does not understand.
    #[error("a record does not read back")]
    Decode(#[source] serde_json::Error),
    /// A counter or a name is malformed.
    #[error("{0} does not read back")]
    Malformed(String),
    /// What it records does not read back; the text says what of it.
    #[error("what it records does not read back: {0}")]
    Records(String),
    /// The index of snapshots and their records do not fit together.
    #[error("the index of snapshots names one that is not recorded")]
    DanglingIndex,
    /// It works for readers alone, since it could not be opened for writing.
    #[error("it can be read, and not be changed")]
    ReadOnly(#[source] Arc<PoolError>),
    /// Another thread is opening it again.
    #[error("it failed, and is being opened again")]
    BeingReopened,
    /// It failed, and so did opening it again.
    #[error("it failed, and cannot be opened again")]
    NotReopened(#[source] Box<PoolError>),
    /// Another pool's catalogue lies where it was.
    #[error("it failed, and in its place lies the catalogue of the pool {0}")]
    Replaced(PoolId),
    /// It lay in memory, and is lost.
    #[error("it was in memory")]
    InMemory,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::error::{chain, repeated};

    fn disk() -> io::Error {
        io::Error::other("the disk is gone")
    }

    #[test]
    fn an_error_of_a_pool_says_its_own_part_and_its_chain_the_whole() {
        let of_system = || PoolError::io("read /dev/x", disk());
        let encode = serde_json::from_str::<u8>("x").unwrap_err();
        let errors = [
            (of_system(), "read /dev/x: the disk is gone"),
            (PoolError::Format(Refusal::because("/dev/x was not changed", disk())), "/dev/x was not changed: the disk is gone"),
            (PoolError::Format("there is no pool".into()), "there is no pool"),
            (PoolError::Quiesce(disk().into()), "the volume could not be held still: the disk is gone"),
            (PoolError::CannotQuiesce("shut down".into()), "the volume cannot be held still: shut down"),
            (
                PoolError::Unfinished(Box::new(of_system())),
                "it failed, and what it had made could not be taken back yet: read /dev/x: the disk is gone",
            ),
            (CatalogueFault::Storage(disk()).into(), "the catalogue does not work: the disk is gone"),
            (
                CatalogueFault::Decode(encode).into(),
                "the catalogue does not work: a record does not read back: expected value at line 1 column 1",
            ),
            (
                CatalogueFault::ReadOnly(Arc::new(of_system())).into(),
                "the catalogue does not work: it can be read, and not be changed: read /dev/x: the disk is gone",
            ),
            (
                CatalogueFault::NotReopened(Box::new(CatalogueFault::InMemory.into())).into(),
                "the catalogue does not work: it failed, and cannot be opened again: the catalogue does not work: it was in memory",
            ),
        ];
        for (error, whole) in errors {
            assert_eq!(repeated(&error), None);
            assert_eq!(chain(&error), whole);
        }
    }
}
