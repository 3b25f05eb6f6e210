//! The image of a volume in a repository, opened to be restored: found, and protected from a prune while it is read.
//!
//! An image is open, and may be read, before its lock is known to hold, which takes 200 ms. The reader confirms the lock meanwhile
//! ([`Image::confirm_lock`]) and relies on nothing that it read before that. What cannot be read may be what a prune is just
//! removing; so a lock that does not hold is the reason that counts: it is taken back, and when the other is done, the same snapshot is
//! looked for anew ([`Image::begin_anew`]).
//!
//! A restore that [skips damage](OnDamage) gets more: its index is made of the index files and packs that read
//! ([`Repository::load_index_that_reads`]), and an image whose metadata is lost opens without any.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::metadata::{self, Metadata};
use crate::repository::copies::is_of_copy;
use crate::repository::lock::{Patience, Waiting};
use crate::repository::tree::{FileSelector, FoundFile, IdList};
use crate::repository::{BlobKind, Damage, Index, LockGuard, Repository, RepositoryError, SnapshotChoice, StoredSnapshot};
use crate::types::error::chain;

pub use crate::repository::Locking;

/// What a restore does when something does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDamage {
    #[default]
    Fail,
    /// It leaves a hole there and reports it.
    Skip,
}

/// How an image is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    pub locking: Locking,
    pub on_damage: OnDamage,
}

/// A file of a snapshot that holds a volume's bytes.
pub struct Image {
    pub(super) repository: Repository,
    pub(super) index: Arc<Index>,
    pub(super) content: IdList,
    pub(super) size_bytes: u64,
    pub(super) on_damage: OnDamage,
    which: FileSelector,
    path: String,
    snapshot: StoredSnapshot,
    metadata: Option<Metadata>,
    lost_metadata: Option<String>,
    lock: Option<LockGuard>,
    patience: Patience,
}

impl Image {
    /// Opens the file `which` of the snapshot that `snapshot` chooses: by its id, the beginning of one, or `latest` with a filter. The
    /// lock is announced and not confirmed yet.
    ///
    /// # Errors
    /// When the repository is locked by another, or the snapshot or the file does not exist, is ambiguous or does not read.
    pub async fn open(
        repository: &Repository,
        snapshot: impl Into<SnapshotChoice>,
        which: &FileSelector,
        locking: Locking,
    ) -> Result<Self, RepositoryError> {
        let reading = Reading { locking, on_damage: OnDamage::Fail };
        Self::open_or_wait(repository, snapshot.into(), which, reading, &|_| {}).await
    }

    /// [`Image::open`] as `reading` says, telling `waiting` what is waited for.
    pub async fn open_or_wait(
        repository: &Repository,
        choice: SnapshotChoice,
        which: &FileSelector,
        reading: Reading,
        waiting: Waiting<'_>,
    ) -> Result<Self, RepositoryError> {
        let Reading { locking, on_damage } = reading;
        let repository = repository.clone().with_locking(locking);
        let mut patience = repository.patience();
        let wanted = ImageChoice { choice: &choice, which, on_damage };
        let (lock, found) = find_locked(&repository, wanted, &mut patience, waiting).await?;
        let FoundImage { index, snapshot, file, metadata, lost_metadata } = found;
        let FoundFile { path, size: size_bytes, content, .. } = file;
        let (which, index) = (which.clone(), Arc::new(index));
        Ok(Self {
            repository,
            index,
            content,
            size_bytes,
            on_damage,
            which,
            path,
            snapshot,
            metadata,
            lost_metadata,
            lock,
            patience,
        })
    }

    /// Takes back the lock that another excludes, waits for the other as long as is left of the repository's patience, and finds the
    /// same image anew.
    ///
    /// # Errors
    /// `excluded` itself when no patience is left or waiting does not help, and what [`Image::open`] may meet. The image must not be used
    /// then.
    pub(super) async fn begin_anew(&mut self, excluded: RepositoryError, waiting: Waiting<'_>) -> Result<(), RepositoryError> {
        release(self.lock.take()).await;
        self.patience.wait(excluded, waiting).await?;
        let same = SnapshotChoice::from(&self.snapshot.id.to_string());
        let wanted = ImageChoice { choice: &same, which: &self.which, on_damage: self.on_damage };
        let (lock, found) = find_locked(&self.repository, wanted, &mut self.patience, waiting).await?;
        self.lock = lock;
        self.index = Arc::new(found.index);
        self.content = found.file.content;
        Ok(())
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

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn snapshot(&self) -> &StoredSnapshot {
        &self.snapshot
    }

    /// Describes the volume; `None` in snapshots that restic made.
    pub fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }

    /// Why the snapshot's metadata is lost, if it had any. Always `None` unless damage is skipped.
    pub fn lost_metadata(&self) -> Option<&str> {
        self.lost_metadata.as_deref()
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
        tracing::warn!(error = %chain(&error), "the repository's lock could not be removed");
    }
}

/// Which image is looked for, and what is done about damage.
#[derive(Clone, Copy)]
struct ImageChoice<'a> {
    choice: &'a SnapshotChoice,
    which: &'a FileSelector,
    on_damage: OnDamage,
}

/// An image as it was found in the repository.
struct FoundImage {
    index: Index,
    snapshot: StoredSnapshot,
    file: FoundFile,
    metadata: Option<Metadata>,
    lost_metadata: Option<String>,
}

/// Finds an image under a lock that is announced. If a prune turns out to exclude us and something is missing, it is looked for again.
async fn find_locked(
    repository: &Repository,
    wanted: ImageChoice<'_>,
    patience: &mut Patience,
    waiting: Waiting<'_>,
) -> Result<(Option<LockGuard>, FoundImage), RepositoryError> {
    loop {
        let lock = repository.announce_to_read(patience, waiting).await?;
        let error = match find(repository, wanted).await {
            Ok(found) => return Ok((lock, found)),
            Err(error) => error,
        };
        let excluded = match &lock {
            Some(lock) => lock.confirm().await.err(),
            None => None,
        };
        release(lock).await;
        let Some(excluded) = excluded else {
            // The next export must not build upon what this could not read.
            if is_of_copy(&error) {
                repository.doubt(None).await;
            }
            return Err(error);
        };
        patience.wait(excluded, waiting).await?;
    }
}

async fn find(
    repository: &Repository,
    ImageChoice { choice, which, on_damage }: ImageChoice<'_>,
) -> Result<FoundImage, RepositoryError> {
    // Snapshots first: all that one refers to was indexed before it was stored, so an index that is read later names it.
    let path = match which {
        FileSelector::Path(path) => Some(path.as_str()),
        FileSelector::Only => None,
    };
    let snapshot = repository.choose_snapshot(choice, path).await?;
    let index = match on_damage {
        OnDamage::Fail => repository.load_index().await?,
        OnDamage::Skip => repository.load_index_that_reads().await?,
    };
    let file = repository.find_file(&index, &snapshot.snapshot.tree, which).await?;
    let (mut metadata, mut lost_metadata) = (None, None);
    if let Some((size, content)) = &file.metadata {
        match read_metadata(repository, &index, metadata::FILE_NAME, *size, content).await {
            Ok(read) => metadata = read,
            Err(error) if on_damage == OnDamage::Skip && is_loss(&error) => {
                tracing::warn!(error = %chain(&error), "the metadata of the volume is lost");
                lost_metadata = Some(chain(&error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(FoundImage { index, snapshot, file, metadata, lost_metadata })
}

/// Whether an error is about what was read, rather than about the store.
fn is_loss(error: &RepositoryError) -> bool {
    is_of_copy(error) || matches!(error, RepositoryError::MissingBlob { .. })
}

/// The metadata in the file of the blobs `content`; `None` when the file is not one of ours.
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
    // The file has a few blobs at most, or is longer than recorded.
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
            tracing::debug!(path, error = %chain(&error), "the metadata of a snapshot does not read");
            Ok(None)
        }
    }
}
