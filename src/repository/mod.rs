//! Backups in the open restic format, version 2, on a directory or a bucket.
//!
//! Stock restic lists, checks, dumps, mounts and prunes what is written here, and this reads what restic wrote. The module
//! knows nothing of pools, volumes or CSI: it stores blobs, lists of blobs, and snapshots of such lists.
//!
//! # What lies where
//! | object | holds | written |
//! |---|---|---|
//! | `config` | version, id; sealed with the master key | once, by a conditional put ([`open`]) |
//! | `keys/` | the master key, sealed with a password's ([`key_file`]) | by init |
//! | `data/hh/` | packs: sealed blobs and their directory ([`pack`]) | by exports |
//! | `index/` | which blob lies in which pack ([`index`]) | by exports, every 50 000 blobs or 5 minutes |
//! | `snapshots/` | a root tree and what was backed up ([`snapshot`]) | last, by exports |
//! | `locks/` | who uses the repository ([`lock`]) | by everyone |
//!
//! All but `config` are named by the SHA-256 of their bytes, blobs by that of their plain bytes. All but `keys/` are sealed
//! ([`crypto`]).
//!
//! # Order of durable steps
//! An export takes a shared lock, stores packs, then the index files that name them, then checks its lock and stores its snapshot:
//! the commit. Nothing refers to what is not durable yet. A crash leaves
//!
//! * before an index: packs that nobody names. Harmless; a [prune](prune) removes them, a repeated export stores those blobs again;
//! * between index and snapshot: blobs that no snapshot needs. A repeated export finds and reuses them;
//! * anywhere: a lock that the next transfer of the same node removes, and with a directory a temporary file, which an export
//!   sweeps when it is a day old.
//!
//! Readers go the other way: snapshots, then indexes, then packs.
//!
//! # Who may do what at once
//! Any number of exports, restores, checks and forgets run at once, on this machine or others; the deletes of a prune run alone. The
//! tables with the reasons are in [`lock`] and [`prune`].
//!
//! # Cancellation
//! Any future here may be dropped. A put that was under way may still happen, whole. A [`LockGuard`] takes its lock away when it
//! is dropped.
//!
//! # What this never does
//! Delete a pack or an index, but for [`prune`]; overwrite an object with other bytes; return a byte that was not authenticated and
//! hashed; follow a length in a file without a bound; take "forbidden" or "not found" for success; put a secret into a log or a Debug
//! string.

pub mod blob;
pub mod cache;
pub mod check;
pub mod checked_tree;
pub mod checkpoint;
pub mod choose;
pub mod config;
pub(crate) mod copies;
pub mod crypto;
pub mod damage;
pub mod doubts;
pub mod environment;
pub mod error;
mod file;
pub mod forget;
pub mod id;
pub mod identity;
pub mod index;
pub mod key_file;
pub mod location;
pub mod lock;
pub mod open;
pub mod pace;
pub mod pack;
pub mod password;
mod polynomial;
pub mod prune;
pub mod random;
mod read;
mod row;
pub mod snapshot;
pub mod store;
pub mod time;
pub mod tree;

pub use blob::{BlobKind, BlobLocation, PackRecord, PackedBlob};
pub use cache::Cache;
pub use checked_tree::{CheckedTree, UsedPacks};
pub use checkpoint::Checkpoint;
pub use choose::SnapshotChoice;
pub use crypto::Sealer;
pub use damage::Damage;
pub use environment::Environment;
pub use error::{PackError, RepositoryError};
pub use id::Id;
pub use index::{Claim, Index, IndexWriter, IndexedPack, PackSet, SortedLookup};
pub use key_file::KdfCost;
pub use location::Location;
pub use lock::{LockGuard, LockMode, LockOwner, Locking, RETRY_LOCK};
pub use open::Repository;
pub use pace::Pace;
pub use pack::{Compressor, Pack, PackBuilder, UnnamedPack, Verification};
pub use password::Password;
pub use snapshot::{Snapshot, StoredSnapshot};
pub use store::{Store, StoreError, connect};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::scratch::Scratch;
use crate::telemetry::metrics::StoreMetrics;

/// Where this process keeps what it needs beside the repositories that it opens. Passed to each, so that all of them have one limit
/// together.
#[derive(Debug, Clone, Default)]
pub struct Workspace {
    /// Space for lists and tables that do not fit the memory.
    pub scratch: Scratch,
    /// Copies of what is read again; `None` when nothing is to be kept.
    pub cache: Option<Cache>,
    /// Where the calls to stores are counted.
    pub stores: StoreMetrics,
    /// How old a pack may become before an index file names it, if that is to be another time than usual.
    pub index_every: Option<Duration>,
}

impl Workspace {
    /// Environment variable that says how many seconds old a pack may become before an index file names it.
    pub const INDEX_VARIABLE: &str = "WINDLASS_INDEX_SECONDS";

    /// The workspace that the environment names, for the entry of a process. What is no number of seconds is as if it were not said.
    pub fn from_environment() -> Self {
        let seconds = std::env::var(Self::INDEX_VARIABLE).ok().and_then(|text| text.parse().ok());
        let (scratch, cache, stores) = (Scratch::of_process(), Cache::of_process(), StoreMetrics::default());
        Self { scratch, cache, stores, index_every: seconds.map(Duration::from_secs) }
    }

    /// The same, with scratch space in this directory, within the limits of a process.
    #[must_use]
    pub fn with_scratch_in(self, directory: &Path) -> Self {
        Self { scratch: Scratch::new(directory, Scratch::LIMIT_BYTES, Scratch::MEMORY_BYTES), ..self }
    }

    /// The same, with the cache in this directory, within its usual limits.
    #[must_use]
    pub fn with_cache_in(self, directory: PathBuf) -> Self {
        Self { cache: Some(Cache::new(directory, Cache::LIMIT_BYTES)), ..self }
    }
}

impl Workspace {
    /// The same, whose stores count there.
    #[must_use]
    pub fn counting_in(self, stores: StoreMetrics) -> Self {
        Self { stores, ..self }
    }

    /// The store at `location`, whose calls are counted.
    ///
    /// # Errors
    /// Those of [`connect`].
    pub fn connect(&self, location: &Location, environment: &Environment) -> Result<Arc<dyn Store>, StoreError> {
        store::connect::connect_counted(location, environment, &self.stores)
    }

    /// Opens the repository in `store`, which is the one at `location`; keeps its lists and copies here.
    ///
    /// # Errors
    /// Those of [`Repository::open`].
    pub async fn open(
        &self,
        store: Arc<dyn Store>,
        location: &Location,
        password: &Password,
    ) -> Result<Repository, RepositoryError> {
        let repository = Repository::open(store, password).await?.with_scratch(self.scratch.clone());
        let repository = match self.index_every {
            Some(index_every) => repository.with_index_every(index_every),
            None => repository,
        };
        Ok(match (location, &self.cache) {
            (Location::S3(_) | Location::Gcs(_) | Location::Azure(_), Some(cache)) => repository.with_cache(cache),
            (Location::Local(_), Some(cache)) => repository.with_doubts_in(cache),
            (_, None) => repository,
        })
    }
}

/// Opens the repository at `location`, which keeps its lists and copies in `workspace`.
pub async fn open_at(
    location: &Location,
    environment: &Environment,
    password: &Password,
    workspace: &Workspace,
) -> Result<Repository, RepositoryError> {
    workspace.open(workspace.connect(location, environment)?, location, password).await
}
