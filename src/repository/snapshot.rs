//! Snapshots: the roots of what a repository holds.
//!
//! Each is complete by itself: it names a tree, and no other snapshot is needed to restore it. Storing the snapshot object is the
//! last step of an export and its commit; a crash before it leaves only blobs that nobody refers to.

use futures::StreamExt;
use serde::{Deserialize, Serialize};

use super::damage::Damage;
use super::error::RepositoryError;
use super::id::Id;
use super::lock::LockGuard;
use super::open::Repository;
use super::store::{Key, Kind, StoreError};
use super::time::parse_rfc3339;
use crate::types::Timestamp;

/// The word that stands for the newest snapshot.
pub const LATEST: &str = "latest";
/// Snapshots fetched at once: each is well below a kilobyte.
const PARALLEL_LOADS: usize = 16;

/// A snapshot as it is stored. Times are RFC 3339 text, kept as read ([`super::time`] writes them).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When it was taken.
    #[serde(default, deserialize_with = "null_as_default")]
    pub time: String,
    pub tree: Id,
    /// The paths that were backed up; `restic forget` groups by them.
    #[serde(default, deserialize_with = "null_as_default")]
    pub paths: Vec<String>,
    /// The host that was backed up; `restic forget` groups by it.
    #[serde(default, deserialize_with = "null_as_default")]
    pub hostname: String,
    /// The user who took it.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub username: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub tags: Vec<String>,
    /// The snapshot this one was made from, to save reading; not needed to restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Id>,
    /// The snapshot this one replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Id>,
    /// The program that made it.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_as_default")]
    pub program_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known_or_none")]
    pub summary: Option<Summary>,
}

/// Reads a null, which some programs write for what they do not know, as an absent field.
fn null_as_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Reads a summary with other fields than these as none: nothing is decided by it.
fn known_or_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Summary>, D::Error> {
    Ok(serde_json::from_value(serde_json::Value::deserialize(deserializer)?).unwrap_or(None))
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
    pub data_blobs: i64,
    pub tree_blobs: i64,
    /// Bytes added, before compression.
    pub data_added: u64,
    /// Bytes added, as they are stored.
    pub data_added_packed: u64,
    /// Files in the snapshot.
    pub total_files_processed: u64,
    /// Bytes of all files in the snapshot.
    pub total_bytes_processed: u64,
}

/// A snapshot and its name.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSnapshot {
    pub id: Id,
    pub snapshot: Snapshot,
}

/// The result of listing a repository's snapshots.
#[derive(Debug, Default)]
pub struct SnapshotList {
    /// Those that can be read, oldest first.
    pub snapshots: Vec<StoredSnapshot>,
    /// Those that cannot, and why.
    pub unreadable: Vec<(Id, RepositoryError)>,
}

impl Snapshot {
    /// When it was taken; `None` when its time cannot be read.
    pub fn taken(&self) -> Option<Timestamp> {
        parse_rfc3339(&self.time)
    }
}

impl Repository {
    /// Stores a snapshot: the commit of an export. Everything it refers to must be stored and indexed. The lock is checked
    /// just before, and must hold until the snapshot is stored.
    ///
    /// # Errors
    /// [`RepositoryError::LockLost`] when the lock did not hold: then nothing was written, or it was too late, and the caller must not
    /// rely on the snapshot.
    pub async fn save_snapshot(&self, snapshot: &Snapshot, lock: &LockGuard) -> Result<Id, RepositoryError> {
        let id = lock.during(self.save_document(Kind::Snapshot, snapshot)).await?;
        tracing::info!(snapshot = %id, paths = ?snapshot.paths, "snapshot stored");
        Ok(id)
    }

    /// All snapshots, oldest first.
    ///
    /// # Errors
    /// When one cannot be read: a list without it would look complete.
    pub async fn snapshots(&self) -> Result<Vec<StoredSnapshot>, RepositoryError> {
        let mut listed = self.list_snapshots().await?;
        listed.unreadable.pop().map_or(Ok(listed.snapshots), |(_, error)| Err(error))
    }

    /// All snapshots that can be read, and those that cannot.
    pub async fn list_snapshots(&self) -> Result<SnapshotList, RepositoryError> {
        let listed = self.store().list(Kind::Snapshot).await?;
        // Futures that own all they use: one that borrows from the stream is not known to be `Send`, and no caller could spawn it.
        let loads = futures::stream::iter(listed).map(|listed| {
            let repository = self.clone();
            async move { (listed.id, repository.snapshot(&listed.id).await) }
        });
        let mut loads = loads.buffer_unordered(PARALLEL_LOADS);
        let mut list = SnapshotList::default();
        while let Some((id, loaded)) = loads.next().await {
            match loaded {
                Ok(snapshot) => list.snapshots.push(StoredSnapshot { id, snapshot }),
                // Forgotten meanwhile.
                Err(RepositoryError::NoSuchSnapshot(_)) => {}
                Err(error @ (RepositoryError::Damaged { .. } | RepositoryError::Store(StoreError::Truncated { .. }))) => {
                    list.unreadable.push((id, error));
                }
                Err(error) => return Err(error),
            }
        }
        list.unreadable.sort_by_key(|(id, _)| *id);
        Ok(SnapshotList { snapshots: in_order(list.snapshots), ..list })
    }

    /// Reads the snapshot `id`, which must exist.
    pub async fn snapshot(&self, id: &Id) -> Result<Snapshot, RepositoryError> {
        match self.load_document(Kind::Snapshot, *id).await {
            Ok(json) => serde_json::from_slice(&json)
                .map_err(|error| RepositoryError::damaged(Key::File(Kind::Snapshot, *id), Damage::json(error))),
            Err(RepositoryError::Store(StoreError::NotFound { .. })) => Err(RepositoryError::NoSuchSnapshot(id.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Finds the one snapshot whose id begins with `text`, or the newest one for `latest`.
    pub async fn find_snapshot(&self, text: &str) -> Result<StoredSnapshot, RepositoryError> {
        if text == LATEST {
            return self.snapshots().await?.pop().ok_or_else(|| RepositoryError::NoSuchSnapshot(text.to_owned()));
        }
        let listed = self.store().list(Kind::Snapshot).await?;
        let id = only_with_prefix(listed.iter().map(|listed| listed.id), text)?;
        Ok(StoredSnapshot { id, snapshot: self.snapshot(&id).await? })
    }

    /// Removes the snapshot object, which is no longer listed from then on; its blobs stay until a prune. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::Denied`] from a store that keeps everything: that is never taken for success.
    pub async fn forget(&self, id: &Id, lock: &LockGuard) -> Result<(), RepositoryError> {
        lock.check().await?;
        self.delete_object(Kind::Snapshot, *id).await?;
        tracing::info!(snapshot = %id, "snapshot forgotten");
        Ok(())
    }
}

/// Oldest first; those of unreadable times before all others, so that none of them is ever the latest.
fn in_order(mut snapshots: Vec<StoredSnapshot>) -> Vec<StoredSnapshot> {
    snapshots.sort_by_cached_key(|stored| (stored.snapshot.taken(), stored.id));
    snapshots
}

fn only_with_prefix(ids: impl Iterator<Item = Id>, text: &str) -> Result<Id, RepositoryError> {
    let prefix = text.to_ascii_lowercase();
    let mut matching = ids.filter(|id| !prefix.is_empty() && id.hex().starts_with(prefix.as_bytes()));
    let Some(id) = matching.next() else { return Err(RepositoryError::NoSuchSnapshot(text.to_owned())) };
    match matching.next() {
        Some(_) => Err(RepositoryError::AmbiguousSnapshot(text.to_owned())),
        None => Ok(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::key_file::KdfCost;
    use crate::repository::lock::LockMode;
    use crate::repository::password::Password;
    use crate::repository::store::fault::{Call, Fault, FaultyStore};
    use crate::repository::store::memory::MemoryStore;
    use crate::repository::store::{PutMode, Store};
    use std::sync::Arc;

    fn snapshot(time: &str) -> Snapshot {
        Snapshot {
            time: time.into(),
            tree: Id::of(b"tree"),
            paths: vec!["/ns/pvc/disk.img".into()],
            hostname: "cluster".into(),
            username: String::new(),
            tags: vec![],
            parent: None,
            original: None,
            program_version: String::new(),
            summary: None,
        }
    }

    async fn repository(store: Arc<dyn Store>) -> Repository {
        Repository::init(store, &Password::new("x").unwrap(), KdfCost::TEST).await.unwrap()
    }

    #[tokio::test]
    async fn snapshots_are_listed_by_time_found_and_forgotten() {
        let repository = repository(Arc::new(MemoryStore::new())).await;
        let lock = repository.lock(LockMode::Shared).await.unwrap();
        assert!(matches!(repository.find_snapshot("latest").await, Err(RepositoryError::NoSuchSnapshot(_))));
        // The second is earlier: its offset lies ahead of UTC.
        let late = repository.save_snapshot(&snapshot("2026-01-01T10:00:00Z"), &lock).await.unwrap();
        let early = repository.save_snapshot(&snapshot("2026-01-01T10:30:00+02:00"), &lock).await.unwrap();
        let listed = repository.snapshots().await.unwrap();
        assert_eq!(listed.iter().map(|stored| stored.id).collect::<Vec<_>>(), [early, late]);
        assert_eq!(repository.find_snapshot("latest").await.unwrap().id, late);
        assert_eq!(repository.find_snapshot(&early.short()).await.unwrap().id, early);
        assert!(matches!(repository.find_snapshot("xyz").await, Err(RepositoryError::NoSuchSnapshot(_))));
        assert!(matches!(repository.find_snapshot("").await, Err(RepositoryError::NoSuchSnapshot(_))));
        for _ in 0..2 {
            repository.forget(&early, &lock).await.unwrap();
        }
        assert!(matches!(repository.snapshot(&early).await, Err(RepositoryError::NoSuchSnapshot(_))));
        assert_eq!(repository.snapshots().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn without_its_lock_nothing_is_saved_or_forgotten() {
        let store = Arc::new(MemoryStore::new());
        let repository = repository(store.clone()).await;
        let lock = repository.lock(LockMode::Shared).await.unwrap();
        let id = repository.save_snapshot(&snapshot("2026-01-01T10:00:00Z"), &lock).await.unwrap();
        let held = store.list(Kind::Lock).await.unwrap()[0].id;
        store.delete(Key::File(Kind::Lock, held)).await.unwrap();
        let saved = repository.save_snapshot(&snapshot("2026-01-02T10:00:00Z"), &lock).await;
        assert!(matches!(saved, Err(RepositoryError::LockLost(_))));
        assert!(matches!(repository.forget(&id, &lock).await, Err(RepositoryError::LockLost(_))));
        assert_eq!(repository.snapshots().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_store_that_refuses_to_delete_is_an_error() {
        let refuses = |call: &Call| matches!(call, Call::Delete(Key::File(Kind::Snapshot, _))).then_some(Fault::Denied);
        let repository = repository(Arc::new(FaultyStore::new(Arc::new(MemoryStore::new()), refuses))).await;
        let lock = repository.lock(LockMode::Shared).await.unwrap();
        let id = repository.save_snapshot(&snapshot("2026-01-01T10:00:00Z"), &lock).await.unwrap();
        assert!(matches!(repository.forget(&id, &lock).await, Err(RepositoryError::Store(StoreError::Denied { .. }))));
    }

    #[tokio::test]
    async fn a_damaged_snapshot_hides_no_other_and_is_named() {
        let store = Arc::new(MemoryStore::new());
        let repository = repository(store.clone()).await;
        let lock = repository.lock(LockMode::Shared).await.unwrap();
        let sound = repository.save_snapshot(&snapshot("2026-01-01T10:00:00Z"), &lock).await.unwrap();
        lock.release().await.unwrap();
        for bytes in [&b"junk"[..], b""] {
            store
                .put(Key::File(Kind::Snapshot, Id::of(bytes)), bytes::Bytes::copy_from_slice(bytes), PutMode::Overwrite)
                .await
                .unwrap();
        }
        let listed = repository.list_snapshots().await.unwrap();
        assert_eq!(listed.snapshots.iter().map(|stored| stored.id).collect::<Vec<_>>(), [sound]);
        assert_eq!(listed.unreadable.len(), 2);
        assert_eq!(repository.choose_snapshot(&LATEST.into(), None).await.unwrap().id, sound);
        let key = Key::File(Kind::Snapshot, Id::of(b"junk"));
        store.put(key, bytes::Bytes::from_static(b"junk"), PutMode::Overwrite).await.unwrap();
        let error = repository.snapshots().await.unwrap_err();
        assert!(error.to_string().contains(&key.path()), "{error}");
    }

    #[test]
    fn what_others_leave_out_or_write_as_null_is_read_as_nothing() {
        let tree = Id::of(b"").to_string();
        for nulls in [
            r#""time":null,"paths":null,"hostname":null,"username":null,"tags":null,"program_version":null,"summary":null,"parent":null"#,
            r#""summary":{"files_new":null}"#,
            r#""summary":{"data_added":1.5e300},"unknown":[{}]"#,
            r#""summary":"none""#,
        ] {
            let read: Snapshot = serde_json::from_str(&format!(r#"{{"tree":"{tree}",{nulls}}}"#)).unwrap();
            assert_eq!((read.paths.len(), read.hostname.as_str(), read.taken(), read.summary), (0, "", None, None), "{nulls}");
        }
        assert!(serde_json::from_str::<Snapshot>(r#"{"tree":null}"#).is_err());
    }

    #[test]
    fn a_prefix_of_several_ids_is_ambiguous() {
        let ids = [Id::from_bytes([0x11; 32]), Id::from_bytes([0x12; 32])];
        assert!(matches!(only_with_prefix(ids.into_iter(), "1"), Err(RepositoryError::AmbiguousSnapshot(_))));
        assert_eq!(only_with_prefix(ids.into_iter(), "12").unwrap(), ids[1]);
    }

    #[test]
    fn snapshots_of_restic_s_are_read() {
        let json = format!(
            r#"{{"time":"2026-01-01T10:00:00.1+01:00","parent":null,"tree":"{}","paths":["/stdin"],"hostname":"h","username":"u","uid":1000,"gid":1000,"excludes":["x"],"tags":null,"program_version":"restic 0.19.1"}}"#,
            Id::of(b"")
        );
        let read: Snapshot = serde_json::from_str(&json).unwrap();
        assert_eq!((read.paths.len(), read.tags.len(), read.taken().unwrap().nanoseconds), (1, 0, 100_000_000));
    }
}
