//! Snapshots: the roots of what a repository holds.

use serde::{Deserialize, Serialize};

use super::error::RepositoryError;
use super::id::Id;
use super::lock::LockGuard;
use super::open::Repository;

/// A snapshot as it is stored. Times are RFC 3339 text, kept as read ([`super::time`] writes them).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When it was taken.
    pub time: String,
    /// Its root tree.
    pub tree: Id,
    /// What was backed up; `restic forget` groups by it.
    pub paths: Vec<String>,
    /// Where; `restic forget` groups by it.
    #[serde(default)]
    pub hostname: String,
    /// By whom.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Free labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_empty")]
    pub tags: Vec<String>,
    /// The snapshot this one was made from, to save reading; not needed to restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Id>,
    /// The snapshot this one replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Id>,
    /// Which program made it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub program_version: String,
    /// What was done to make it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Option::<Vec<String>>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// What was done to make a snapshot. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// When it began, RFC 3339.
    pub backup_start: String,
    /// When it ended, RFC 3339.
    pub backup_end: String,
    /// Files that the parent did not have.
    pub files_new: u64,
    /// Files that differ from the parent's.
    pub files_changed: u64,
    /// Files as in the parent.
    pub files_unmodified: u64,
    /// Folders that the parent did not have.
    pub dirs_new: u64,
    /// Folders that differ from the parent's.
    pub dirs_changed: u64,
    /// Folders as in the parent.
    pub dirs_unmodified: u64,
    /// Data blobs added.
    pub data_blobs: i64,
    /// Tree blobs added.
    pub tree_blobs: i64,
    /// Plain bytes added.
    pub data_added: u64,
    /// Sealed bytes added.
    pub data_added_packed: u64,
    /// Files in the snapshot.
    pub total_files_processed: u64,
    /// Their bytes.
    pub total_bytes_processed: u64,
}

/// A snapshot and its name.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSnapshot {
    /// Its name.
    pub id: Id,
    /// Its contents.
    pub snapshot: Snapshot,
}

impl Repository {
    /// Stores a snapshot: the commit of an export. Everything it refers to must be stored and indexed. The lock is checked
    /// just before.
    ///
    /// # Errors
    /// [`RepositoryError::LockLost`] when the lock did not hold; then nothing was written.
    pub async fn save_snapshot(&self, snapshot: &Snapshot, lock: &LockGuard) -> Result<Id, RepositoryError> {
        let _ = (snapshot, lock);
        unimplemented!()
    }

    /// All snapshots, oldest first.
    ///
    /// # Errors
    /// When one cannot be read.
    pub async fn snapshots(&self) -> Result<Vec<StoredSnapshot>, RepositoryError> {
        unimplemented!()
    }

    /// The snapshot `id`.
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchSnapshot`] when there is none.
    pub async fn snapshot(&self, id: &Id) -> Result<Snapshot, RepositoryError> {
        let _ = id;
        unimplemented!()
    }

    /// The snapshot whose id begins with `text`, or the newest one for `latest`.
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchSnapshot`] and [`RepositoryError::AmbiguousSnapshot`].
    pub async fn find_snapshot(&self, text: &str) -> Result<StoredSnapshot, RepositoryError> {
        let _ = text;
        unimplemented!()
    }

    /// Removes the snapshot object, which is no longer listed from then on; its blobs stay until a prune. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::Denied`](super::store::StoreError::Denied) from a store that keeps everything: never taken for success.
    pub async fn forget(&self, id: &Id, lock: &LockGuard) -> Result<(), RepositoryError> {
        let _ = (id, lock);
        unimplemented!()
    }
}
