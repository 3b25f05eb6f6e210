//! Named objects in a directory or a bucket: all that a repository needs of the world.
//!
//! A [`Store`] puts whole objects, reads them whole or in part, lists and deletes. Names are typed ([`Key`]), so that no
//! caller builds a path. Every implementation gives the same promises:
//!
//! * `put` that returned `Ok` is durable, and before that the object is absent or whole, never partial;
//! * `PutMode::IfAbsent` makes the object exactly once among any number of competitors;
//! * `get` and `get_range` return exactly what was asked for, or an error: a short answer is [`StoreError::Truncated`];
//! * a call may be dropped while it runs: a put may then still happen, whole.
//!
//! What is worth repeating is repeated by a layer of its own ([`patient`]) around the stores that lie behind a network; an error that
//! comes out of what [`connect`] returns is final for this call.

pub mod azure;
mod bucket;
#[cfg(test)]
pub(crate) mod conformance;
pub mod fault;
pub mod gcs;
pub mod http;
pub mod local;
pub mod memory;
pub mod patient;
pub mod retry;
pub mod s3;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::environment::Environment;
use super::id::Id;
use super::location::Location;
use crate::scratch::{ScratchError, Spill};
use http::Limits;
use patient::{Patient, PatientStore};
use retry::Patience;

/// Kinds of objects that are named by their hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Password-protected copies of the master key.
    Key,
    /// Snapshots.
    Snapshot,
    /// Which blob lies in which pack.
    Index,
    /// Who uses the repository.
    Lock,
    /// Packs of blobs.
    Data,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Key, Self::Snapshot, Self::Index, Self::Lock, Self::Data];

    /// The folder they lie in.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Key => "keys",
            Self::Snapshot => "snapshots",
            Self::Index => "index",
            Self::Lock => "locks",
            Self::Data => "data",
        }
    }
}

/// The name of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// The one object that makes a store a repository.
    Config,
    /// An object named by its hash.
    File(Kind, Id),
}

impl Key {
    /// The path below the root of the repository, with `/` between its parts.
    pub fn path(&self) -> String {
        match self {
            Self::Config => "config".to_owned(),
            Self::File(Kind::Data, id) => {
                let id = id.to_string();
                format!("data/{}/{id}", &id[..2])
            }
            Self::File(kind, id) => format!("{}/{id}", kind.folder()),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

/// What `put` does when the object exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// Replaces it. Right for objects named by their hash: the bytes are the same.
    Overwrite,
    /// Fails with [`StoreError::AlreadyExists`] and leaves it as it is.
    IfAbsent,
}

/// An object found by listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its name within its kind.
    pub id: Id,
    /// Its length in bytes.
    pub bytes: u64,
}

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
    fn after(self, failing: Duration) -> Self {
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

/// Where the objects of one repository lie. See the module's header for what each implementation promises.
pub trait Store: fmt::Debug + Send + Sync {
    /// Makes what must exist before the first `put` (folders, for a directory). Idempotent.
    fn prepare(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Stores `bytes` under `key`, durably.
    fn put(&self, key: Key, bytes: Bytes, mode: PutMode) -> BoxFuture<'_, Result<(), StoreError>>;

    /// As [`Store::put`] with [`PutMode::Overwrite`], for an object that may be longer than the memory. This default takes it into
    /// memory all the same.
    fn put_spill(&self, key: Key, bytes: Arc<Spill>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let bytes = read_spill(&bytes, 0..bytes.len()).map_err(|error| spill_failed(key, error))?;
            self.put(key, bytes, PutMode::Overwrite).await
        })
    }

    /// The whole object.
    fn get(&self, key: Key) -> BoxFuture<'_, Result<Bytes, StoreError>>;

    /// The bytes `range` of the object, all of them.
    fn get_range(&self, key: Key, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, StoreError>>;

    /// All objects of `kind`, in any order. Names that are no ids are left out.
    fn list(&self, kind: Kind) -> BoxFuture<'_, Result<Vec<Listed>, StoreError>>;

    /// Length of the object in bytes; `None` when it does not exist.
    fn size(&self, key: Key) -> BoxFuture<'_, Result<Option<u64>, StoreError>>;

    /// Deletes the object; it is no error when it does not exist.
    fn delete(&self, key: Key) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Removes what puts that were cut off left behind and that is older than `older_than`; returns how many files. Most stores
    /// leave nothing.
    fn sweep(&self, older_than: Duration) -> BoxFuture<'_, Result<u64, StoreError>> {
        let _ = older_than;
        Box::pin(std::future::ready(Ok(0)))
    }

    /// Since when the store has not answered, while calls are repeated for that; `None` when it answers.
    fn away_since(&self) -> Option<SystemTime> {
        None
    }
}

/// A part of `spill`, in memory.
fn read_spill(spill: &Spill, range: Range<u64>) -> Result<Bytes, ScratchError> {
    let mut bytes = vec![0; range.end.saturating_sub(range.start) as usize];
    spill.read_at(range.start, &mut bytes)?;
    Ok(bytes.into())
}

fn spill_failed(key: Key, error: ScratchError) -> StoreError {
    StoreError::Io { object: key.path(), source: error.into() }
}

/// The store at `location`, with the credentials in `environment`. Nothing is read or written yet.
///
/// # Errors
/// [`StoreError::Configuration`] when the location cannot be used with these credentials.
pub fn connect(location: &Location, environment: &Environment) -> Result<Arc<dyn Store>, StoreError> {
    connect_with(location, environment, Endurance::default())
}

/// How a store behind a network is waited for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Endurance {
    /// How long a call that fails is repeated.
    pub patience: Patience,
    /// How long one request may take.
    pub limits: Limits,
}

/// As [`connect`], with other limits than a product has.
///
/// # Errors
/// As for [`connect`].
pub fn connect_with(location: &Location, environment: &Environment, endurance: Endurance) -> Result<Arc<dyn Store>, StoreError> {
    connect_at(location, environment, endurance, None)
}

/// As [`connect_with`]. `endpoint` is the address of a server that stands for Google's or Azure's.
fn connect_at(
    location: &Location,
    environment: &Environment,
    endurance: Endurance,
    endpoint: Option<&str>,
) -> Result<Arc<dyn Store>, StoreError> {
    let patient = Arc::new(Patient::new(endurance.patience));
    let bucket = match location {
        Location::Local(path) => return Ok(Arc::new(local::LocalStore::new(path.clone()))),
        Location::S3(s3) => s3::connect(s3, environment, endurance.limits, Arc::clone(&patient))?,
        Location::Gcs(gcs) => gcs::connect(gcs, environment, endurance.limits, Arc::clone(&patient), endpoint)?,
        Location::Azure(azure) => azure::connect(azure, environment, endurance.limits, Arc::clone(&patient), endpoint)?,
    };
    Ok(Arc::new(PatientStore::new(Arc::new(bucket), patient)))
}
