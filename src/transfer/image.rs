//! The image of a volume in a repository, opened to be restored: found, and protected from a prune while it is read.
//!
//! It is open, and may be read, before its lock is known to hold, which takes 200 ms; whoever reads it confirms the lock meanwhile
//! ([`Image::confirm_lock`]) and makes nothing of what was read before that. What cannot be read may be what a prune is just
//! removing, so that a lock that does not hold is the reason that is told.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::metadata::{self, Metadata};
use crate::repository::copies::is_of_copy;
use crate::repository::tree::{FileSelector, FoundFile, IdList};
use crate::repository::{BlobKind, Damage, Index, LockGuard, Repository, RepositoryError, SnapshotChoice, StoredSnapshot};

pub use crate::repository::Locking;

/// A file of a snapshot that holds a volume's bytes.
pub struct Image {
    pub(super) repository: Repository,
    pub(super) index: Arc<Index>,
    pub(super) content: IdList,
    pub(super) size_bytes: u64,
    path: String,
    snapshot: StoredSnapshot,
    metadata: Option<Metadata>,
    lock: Option<LockGuard>,
}

impl Image {
    /// Opens the file `which` of the snapshot that `snapshot` chooses: its id, the beginning of one, or `latest`, and what else is said of
    /// it. The lock is announced and not confirmed yet.
    ///
    /// # Errors
    /// When the repository is locked by another, or the snapshot or the file does not exist, is ambiguous or does not read.
    pub async fn open(
        repository: &Repository,
        snapshot: impl Into<SnapshotChoice>,
        which: &FileSelector,
        locking: Locking,
    ) -> Result<Self, RepositoryError> {
        let choice = snapshot.into();
        let lock = match locking {
            Locking::Shared => repository.lock_to_read().await?,
            Locking::None => None,
        };
        match find(repository, &choice, which).await {
            Ok((index, snapshot, file, metadata)) => {
                let FoundFile { path, size: size_bytes, content, .. } = file;
                let index = Arc::new(index);
                Ok(Self { repository: repository.clone(), index, content, size_bytes, path, snapshot, metadata, lock })
            }
            Err(error) => {
                // The next export must not build upon what this could not read.
                if is_of_copy(&error) {
                    repository.doubt(None).await;
                }
                let excluded = match &lock {
                    Some(lock) => lock.confirm().await.err(),
                    None => None,
                };
                release(lock).await;
                Err(excluded.unwrap_or(error))
            }
        }
    }

    /// Makes sure that the lock holds, and did since the image was opened.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`]: then what was read may not be whole.
    pub(super) async fn confirm_lock(&self) -> Result<(), RepositoryError> {
        match &self.lock {
            Some(lock) => lock.confirm().await,
            None => Ok(()),
        }
    }

    /// Length of the image in bytes, as recorded. [`restore`](super::restore()) verifies it.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Its path in the snapshot's tree.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The snapshot it lies in.
    pub fn snapshot(&self) -> &StoredSnapshot {
        &self.snapshot
    }

    /// What the volume was; `None` when the snapshot does not say, as those that restic made.
    pub fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }

    /// Ends the use of the repository.
    pub async fn close(self) {
        release(self.lock).await;
    }

    /// The same, without waiting for a store that does not answer once `cancel` is cancelled.
    pub async fn let_go(self, cancel: &CancellationToken) {
        if let Some(lock) = self.lock {
            lock.let_go(cancel).await;
        }
    }
}

async fn release(lock: Option<LockGuard>) {
    if let Some(lock) = lock
        && let Err(error) = lock.release().await
    {
        // The next transfer removes it; what was read is right all the same.
        tracing::warn!(%error, "the repository's lock could not be removed");
    }
}

async fn find(
    repository: &Repository,
    choice: &SnapshotChoice,
    which: &FileSelector,
) -> Result<(Index, StoredSnapshot, FoundFile, Option<Metadata>), RepositoryError> {
    // Snapshots first: whatever one refers to was indexed before it was stored, so an index read later names it.
    let path = match which {
        FileSelector::Path(path) => Some(path.as_str()),
        FileSelector::Only => None,
    };
    let snapshot = repository.choose_snapshot(choice, path).await?;
    let index = repository.load_index().await?;
    let file = repository.find_file(&index, &snapshot.snapshot.tree, which).await?;
    let metadata = match &file.metadata {
        Some((size, content)) => read_metadata(repository, &index, metadata::FILE_NAME, *size, content).await?,
        None => None,
    };
    Ok((index, snapshot, file, metadata))
}

/// The metadata in the file of the blobs `content`; `None` when they are none of ours.
pub(super) async fn read_metadata(
    repository: &Repository,
    index: &Index,
    path: &str,
    size_bytes: u64,
    content: &IdList,
) -> Result<Option<Metadata>, RepositoryError> {
    if size_bytes > metadata::MAX_BYTES {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    // It has a few blobs at most, or is longer than recorded.
    for number in 0..content.len() {
        let Some(id) = content.iter_from(number).next() else { break };
        bytes.extend(repository.read_blob(index, BlobKind::Data, &id?).await?);
        if bytes.len() as u64 > metadata::MAX_BYTES {
            let damage = Damage::Syntax("it is longer than recorded".to_owned());
            return Err(RepositoryError::Damaged { object: path.to_owned(), damage });
        }
    }
    match Metadata::parse(&bytes) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) => {
            tracing::debug!(path, %error, "a snapshot's metadata do not read");
            Ok(None)
        }
    }
}
