//! What an export takes over from an earlier one, after the repository was asked whether that one is what it is said to be.

use std::sync::Arc;

use super::checked::{ImageNote, UnreadImage};
use super::checkpoint::{Findings, TakenUp};
use super::error::ExportError;
use super::options::ExportOptions;
use super::scope::{ExportMode, FullReason, Parent};
use super::touched::Touched;
use super::untouched::{Unfit, untouched};
use crate::repository::tree::{Content, FoundFolder, IdList};
use crate::repository::{BlobKind, Id, Index, PackSet, Repository, RepositoryError, Snapshot, StoreError, StoredSnapshot};
use crate::scratch::ScratchError;
use crate::transfer::chunk_size::ChunkSize;
use crate::transfer::content::ContentBuilder;
use crate::transfer::image::read_metadata;
use crate::transfer::metadata::{self, Metadata};
use crate::types::error::chain;
use crate::types::{ByteRange, RangeStream};

/// A parent as its caller describes it, with what changed since it as chunks.
pub(super) struct ParentClaim {
    snapshot: Id,
    volume_handle: String,
    snapshot_handle: String,
    size_bytes: u64,
    /// The chunks that have to be read again, if that can be told.
    touched: Result<Touched, FullReason>,
}

impl ParentClaim {
    /// Reads what changed, which takes as long as two file systems take to list their extents. Needs no repository.
    pub(super) fn read(parent: Parent, volume_bytes: u64, chunk_size: ChunkSize) -> Self {
        let Parent { snapshot, volume_handle, snapshot_handle, size_bytes, changed } = parent;
        let touched = touched(changed, size_bytes, volume_bytes, chunk_size);
        Self { snapshot, volume_handle, snapshot_handle, size_bytes, touched }
    }

    /// Bytes that are to be read again at most, if the parent holds what it is said to hold.
    pub(super) fn touched_bytes(&self) -> Option<u64> {
        self.touched.as_ref().ok().map(Touched::bytes)
    }
}

/// A parent whose snapshot was found.
pub(super) struct ParentSnapshot {
    parent: ParentClaim,
    snapshot: Snapshot,
}

/// The image of a parent in a tree of its own, which is also that of a volume with the same list.
pub(super) struct ParentImage {
    pub(super) tree: Id,
    size_bytes: u64,
    content: IdList,
}

impl ParentImage {
    /// Whether a volume of `size_bytes` has this list.
    pub(super) fn is_of(&self, size_bytes: u64, content: &dyn Content) -> Result<bool, ScratchError> {
        let (mut ids, mut own) = (content.ids(), self.content.iter());
        loop {
            match (ids.next().transpose()?, own.next().transpose()?) {
                (None, None) => return Ok(size_bytes == self.size_bytes),
                (id, own) if id != own => return Ok(false),
                _ => {}
            }
        }
    }
}

/// What an export begins with.
pub(super) struct Inheritance {
    pub(super) mode: ExportMode,
    pub(super) image: InheritedImage,
    /// Chunks of it that earlier attempts at this export have found.
    pub(super) resumed_chunks: u64,
}

/// What is known of the volume's image before any of it is read.
pub(super) enum InheritedImage {
    /// A list that is to be completed.
    Listed(InheritedList),
    /// It is the parent's, of which nothing changed.
    Unread(UnreadImage),
}

impl InheritedImage {
    /// Chunks that are taken over.
    pub(super) fn chunks(&self) -> u64 {
        match self {
            Self::Listed(list) => list.content.chunks(),
            Self::Unread(image) => image.note.chunks,
        }
    }
}

/// A list that is to be completed by what is read.
pub(super) struct InheritedList {
    /// The list, with the chunks that are known already.
    pub(super) content: ContentBuilder,
    /// The packs in which these chunks lie.
    pub(super) packs: PackSet,
    /// The tree of the parent's image, where it holds nothing else.
    pub(super) image: Option<ParentImage>,
    /// What is allocated of all others.
    pub(super) extents: RangeStream,
}

/// Finds the parent's snapshot. One that was given other tags by restic has another name since, and says which was its first.
///
/// # Errors
/// When the store fails.
pub(super) async fn find(
    repository: &Repository,
    since: Result<ParentClaim, FullReason>,
) -> Result<Result<ParentSnapshot, FullReason>, ExportError> {
    let parent = match since {
        Ok(parent) => parent,
        Err(reason) => return Ok(Err(reason)),
    };
    match repository.snapshot(&parent.snapshot).await {
        Ok(snapshot) => Ok(Ok(ParentSnapshot { parent, snapshot })),
        Err(RepositoryError::NoSuchSnapshot(_)) => renamed(repository, parent).await,
        Err(error) => unusable(parent.snapshot, error).map(Err),
    }
}

/// Looks through the snapshots for the newest that is the parent under another name. What it holds is compared like any parent's.
async fn renamed(repository: &Repository, parent: ParentClaim) -> Result<Result<ParentSnapshot, FullReason>, ExportError> {
    let original = Some(parent.snapshot);
    let stored = match repository.snapshots().await {
        Ok(stored) => stored,
        Err(error) => return unusable(parent.snapshot, error).map(Err),
    };
    match stored.into_iter().rev().find(|stored| stored.snapshot.original == original) {
        Some(StoredSnapshot { id, snapshot }) => {
            tracing::info!(snapshot = %parent.snapshot, renamed = %id, "the last export has another name");
            Ok(Ok(ParentSnapshot { parent: ParentClaim { snapshot: id, ..parent }, snapshot }))
        }
        None => Ok(Err(FullReason::SnapshotGone(parent.snapshot))),
    }
}

/// What is taken over of a parent.
enum TakenOver {
    Listed(BegunList),
    Unread(UnreadImage),
}

/// A list that is to be completed, before it is known what of it earlier attempts have found.
struct BegunList {
    content: ContentBuilder,
    packs: PackSet,
    image: Option<ParentImage>,
    /// The chunks that are to be read.
    touched: Touched,
}

/// Decides what an export takes over of its parent.
#[derive(Clone, Copy)]
pub(super) struct Inheriting<'a> {
    pub(super) repository: &'a Repository,
    pub(super) index: &'a Arc<Index>,
    pub(super) options: &'a ExportOptions,
    pub(super) volume_bytes: u64,
    pub(super) findings: &'a Arc<Findings>,
}

impl Inheriting<'_> {
    /// Decides what of the volume is taken over and what is read.
    ///
    /// # Errors
    /// When the store fails. What is wrong with the parent makes the export a full one.
    pub(super) async fn inherit(
        &self,
        found: Result<ParentSnapshot, FullReason>,
        allocated: RangeStream,
    ) -> Result<Inheritance, ExportError> {
        let taken = match found {
            Ok(found) => self.take(found).await?,
            Err(reason) => Err(reason),
        };
        let (mode, begun) = match taken {
            Ok((parent, TakenOver::Unread(image))) => {
                let image = InheritedImage::Unread(image);
                return Ok(Inheritance { mode: ExportMode::Incremental { parent }, image, resumed_chunks: 0 });
            }
            Ok((parent, TakenOver::Listed(begun))) => (ExportMode::Incremental { parent }, begun),
            Err(reason) => {
                let content = ContentBuilder::new(self.repository.scratch(), self.volume_bytes, self.options.chunk_size);
                let touched = Touched::all(self.volume_bytes, self.options.chunk_size);
                (ExportMode::Full(reason), BegunList { content, packs: self.index.no_packs(), image: None, touched })
            }
        };
        let (begun, resumed_chunks) = self.resume(begun).await?;
        let BegunList { content, packs, image, touched } = begun;
        let list = InheritedList { content, packs, image, extents: touched.within(allocated) };
        Ok(Inheritance { mode, image: InheritedImage::Listed(list), resumed_chunks })
    }

    /// Adds to a list what earlier attempts at this export have found; how many chunks.
    async fn resume(&self, mut begun: BegunList) -> Result<(BegunList, u64), ExportError> {
        let (scratch, index, findings) = (self.repository.scratch().clone(), Arc::clone(self.index), Arc::clone(self.findings));
        // Looks up each blob: not for an async thread.
        let resumed = tokio::task::spawn_blocking(move || {
            let BegunList { content, packs, touched, .. } = &mut begun;
            let resumed = findings.take_over(&scratch, &index, TakenUp { content, packs, to_read: touched })?;
            Ok((begun, resumed))
        });
        resumed.await.map_err(|error| ExportError::Inside(error.into()))?
    }

    async fn take(
        &self,
        ParentSnapshot { parent, snapshot }: ParentSnapshot,
    ) -> Result<Result<(Id, TakenOver), FullReason>, ExportError> {
        let Self { repository, index, options, volume_bytes, .. } = *self;
        let folder = match repository.find_folder(index, &snapshot.tree, &options.path).await {
            Ok(folder) => folder,
            Err(error) => return unusable(parent.snapshot, error).map(Err),
        };
        if let Some(image) = self.unread(&parent, &folder).await? {
            return Ok(Ok((parent.snapshot, TakenOver::Unread(image))));
        }
        let name = folder.name.clone();
        let image = match repository.file_in(index, folder).await {
            Ok(image) => image,
            Err(error) => return unusable(parent.snapshot, error).map(Err),
        };
        let metadata = match &image.metadata {
            Some((size, content)) => match read_metadata(repository, index, metadata::FILE_NAME, *size, content).await {
                Ok(metadata) => metadata,
                Err(error) => return unusable(parent.snapshot, error).map(Err),
            },
            None => None,
        };
        let snapshot = parent.snapshot;
        let Some(metadata) = metadata else {
            return Ok(Err(FullReason::Unusable { snapshot, problem: "it holds no volume of ours".to_owned() }));
        };
        if let Some(what) = mismatch(&parent, &metadata, image.size, options.chunk_size, volume_bytes) {
            return Ok(Err(FullReason::Mismatch { snapshot, what }));
        }
        let touched = match parent.touched {
            Ok(touched) => touched,
            Err(reason) => return Ok(Err(reason)),
        };
        let remembered = match image.alone_in {
            Some(tree) if repository.remembers_trees_of(image.content.len()) => {
                let is_of = |note: ImageNote| note.size_bytes == image.size && note.chunk_bytes == options.chunk_size.bytes();
                let remembered = repository.checked_tree(index, &tree).await?;
                remembered.filter(|remembered| ImageNote::parse(&remembered.note, &name).is_some_and(is_of))
            }
            _ => None,
        };
        let (index, scratch) = (Arc::clone(index), repository.scratch().clone());
        // Looks up each blob: not for an async thread.
        let taken = tokio::task::spawn_blocking(move || {
            let (content, packs) = match remembered {
                Some(remembered) => (untouched(&scratch, &image.content, image.size, &touched, None), remembered.packs),
                None => {
                    let (mut lookup, packs) = (index.sorted_lookup(BlobKind::Data, image.content.len()), index.no_packs());
                    let mut has = |id: &Id| {
                        let found = lookup.find(id)?;
                        found.iter().for_each(|found| packs.insert(found.pack));
                        Ok(found.map(|found| found.plain_length.into()))
                    };
                    (untouched(&scratch, &image.content, image.size, &touched, Some(&mut has)), packs)
                }
            };
            match content {
                Ok(content) => {
                    let own = image.alone_in.map(|tree| ParentImage { tree, size_bytes: image.size, content: image.content });
                    Ok(Ok((snapshot, TakenOver::Listed(BegunList { content, packs, image: own, touched }))))
                }
                Err(Unfit::Problem(problem)) => Ok(Err(FullReason::Unusable { snapshot, problem })),
                Err(Unfit::Scratch(error)) => Err(error.into()),
            }
        });
        taken.await.map_err(|error| ExportError::Inside(error.into()))?
    }

    /// The parent's image, if the volume has the same and its list need not be read for that: nothing changed, and this machine
    /// remembers that all of its chunks are in packs that the index names. Only where trees are cached: where reading one asks the
    /// store, it also tells whether the store still has it whole. What is wrong with the parent is found, and told, by what
    /// reads the list.
    async fn unread(&self, parent: &ParentClaim, folder: &FoundFolder) -> Result<Option<UnreadImage>, ExportError> {
        let Self { repository, index, options, volume_bytes, .. } = *self;
        let is_unchanged = parent.size_bytes == volume_bytes && parent.touched.as_ref().is_ok_and(Touched::is_empty);
        let (true, true, Some((size, content))) = (is_unchanged, repository.caches_trees(), &folder.metadata) else {
            return Ok(None);
        };
        if index.get(BlobKind::Tree, &folder.tree)?.is_none() {
            return Ok(None);
        }
        let Some(remembered) = repository.checked_tree(index, &folder.tree).await? else { return Ok(None) };
        let note = ImageNote::parse(&remembered.note, &folder.name);
        let Some(note) = note.filter(|note| repository.remembers_trees_of(note.chunks)) else { return Ok(None) };
        let metadata = match read_metadata(repository, index, metadata::FILE_NAME, *size, content).await {
            Ok(Some(metadata)) => metadata,
            Ok(None) => return Ok(None),
            Err(error) => return unusable(parent.snapshot, error).map(|_| None),
        };
        let is_sound = mismatch(parent, &metadata, note.size_bytes, options.chunk_size, volume_bytes).is_none()
            && note.chunk_bytes == options.chunk_size.bytes();
        Ok(is_sound.then_some(UnreadImage { tree: folder.tree, note }))
    }
}

/// What differs between the parent as it is known and as the repository holds it.
fn mismatch(
    parent: &ParentClaim,
    metadata: &Metadata,
    image_bytes: u64,
    chunk_size: ChunkSize,
    volume_bytes: u64,
) -> Option<&'static str> {
    let checks = [
        ("volume", metadata.volume_handle.as_ref() == Some(&parent.volume_handle)),
        ("snapshot of the volume", metadata.snapshot_handle.as_ref() == Some(&parent.snapshot_handle)),
        ("size", metadata.size_bytes == parent.size_bytes && image_bytes == parent.size_bytes),
        ("chunk size", metadata.chunk_bytes == Some(chunk_size.bytes())),
        // Volumes never shrink.
        ("size", parent.size_bytes <= volume_bytes),
    ];
    checks.into_iter().find(|&(_, holds)| !holds).map(|(what, _)| what)
}

/// The chunks that have to be read again.
fn touched(changed: RangeStream, parent_bytes: u64, volume_bytes: u64, chunk_size: ChunkSize) -> Result<Touched, FullReason> {
    let mut touched = Touched::none(volume_bytes, chunk_size);
    touched.add_all(changed).map_err(|error| FullReason::ChangesUnknown(chain(&error)))?;
    // A short chunk at the parent's end is longer now, whether anything was written there or not.
    let short = parent_bytes % chunk_size.bytes();
    if parent_bytes < volume_bytes
        && let Some(range) = ByteRange::between(parent_bytes - short, parent_bytes)
    {
        touched.add(range);
    }
    Ok(touched)
}

/// Tells what is wrong with the parent from what is wrong with the store, which also fails a full export.
fn unusable(snapshot: Id, error: RepositoryError) -> Result<FullReason, ExportError> {
    match error {
        RepositoryError::Damaged { .. }
        | RepositoryError::MissingBlob { .. }
        | RepositoryError::NoSuchFile(_)
        | RepositoryError::Store(StoreError::NotFound { .. } | StoreError::Truncated { .. }) => {
            Ok(FullReason::Unusable { snapshot, problem: chain(&error) })
        }
        error => Err(error.into()),
    }
}
