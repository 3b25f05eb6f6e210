//! The end of an export: blobs of zeros and metadata, the trees down to the image, the last index file, and the snapshot that is to be
//! saved.

use std::sync::Arc;

use super::checked::{ImageNote, UnreadImage};
use super::counts::Counts;
use super::error::ExportError;
use super::options::{ExportOptions, path_parts};
use super::parent::ParentImage;
use super::upload::StoredPacks;
use super::worker::ZSTD_LEVEL;
use crate::repository::pack::verify_ids;
use crate::repository::snapshot::Summary;
use crate::repository::time::rfc3339;
use crate::repository::tree::{NewFile, NewFolder, PackedTree, pack_folder, pack_folder_beside, pack_tree};
use crate::repository::{BlobKind, Claim, Compressor, Id, Index, Pack, PackBuilder, Repository, Sealer, Snapshot, Verification};
use crate::transfer::content::VolumeContent;
use crate::transfer::progress::Progress;
use crate::transfer::{metadata, zeros};
use crate::types::Timestamp;

/// Named in snapshots, as restic names itself.
const PROGRAM: &str = concat!("windlass ", env!("CARGO_PKG_VERSION"));

/// Files of a snapshot: the image and its metadata.
const FILES: u64 = 2;

pub(super) struct Commit<'a> {
    pub(super) repository: &'a Repository,
    pub(super) index: &'a Arc<Index>,
    pub(super) options: &'a ExportOptions,
    pub(super) volume_bytes: u64,
    pub(super) begun: Timestamp,
    /// The snapshot that this export builds upon.
    pub(super) parent: Option<Id>,
}

impl Commit<'_> {
    /// Stores and indexes all that the snapshot refers to; the snapshot is the caller's to save.
    pub(super) async fn prepare(
        &self,
        image: Image,
        counts: &Counts,
        uploaded: &mut StoredPacks,
        progress: &Progress,
    ) -> Result<Prepared, ExportError> {
        let metadata = self.options.metadata.to_bytes()?;
        let metadata_id = Id::of(&metadata);
        let metadata_bytes = metadata.len() as u64;
        let note = match &image {
            Image::Listed { content, .. } => ImageNote::of(self.options, self.volume_bytes, counts, content.zero_lengths()),
            Image::Unread(image) => image.note.clone(),
        };
        let small = Small {
            sealer: self.repository.sealer(),
            index: Arc::clone(self.index),
            verification: self.options.verification,
            zero_lengths: note.zero_lengths.clone(),
            metadata,
        };
        let (pack, added) = computed(move || small.pack()).await?;
        if let Some(pack) = pack {
            uploaded.store(pack, progress).await?;
        }

        let (scratch, sealer) = (self.repository.scratch().clone(), self.repository.sealer());
        let (size, modified) = (self.volume_bytes, self.options.time);
        let path = self.options.path.clone();
        let Trees { new, image, folder } = computed(move || {
            let (folders, name) = path_parts(&path).ok_or_else(|| ExportError::Options(format!("`{path}` names no file")))?;
            let beside = NewFile { name: metadata::FILE_NAME, size: metadata_bytes, modified, content: &vec![metadata_id] };
            let file = |content| NewFile { name, size, modified, content };
            let (same, content) = match image {
                Image::Unread(image) => (Some(image.tree), None),
                Image::Listed { content, parent } => {
                    let same = match parent {
                        Some(parent) => parent.is_of(size, &content)?.then_some(parent.tree),
                        None => None,
                    };
                    (same, Some(content))
                }
            };
            let Some((&folder, outer)) = folders.split_last() else {
                // No folder, no tree of its own.
                let content = content.ok_or_else(|| ExportError::Inside("an image without a folder was not read".into()))?;
                let new = vec![pack_tree(&scratch, &sealer, &[file(&content), beside])?];
                return Ok(Trees { new, image: ImageTree::New, folder: None });
            };
            let mut new = Vec::new();
            let tree = match (same, content) {
                (Some(tree), _) => tree,
                (None, Some(content)) => {
                    new.push(pack_tree(&scratch, &sealer, &[file(&content)])?);
                    new[0].id
                }
                (None, None) => return Err(ExportError::Inside("an image has neither tree nor list".into())),
            };
            new.push(pack_folder_beside(&scratch, &sealer, &NewFolder { name: folder, modified, tree }, &beside)?);
            for &name in outer.iter().rev() {
                let tree = new[new.len() - 1].id;
                new.push(pack_folder(&scratch, &sealer, &NewFolder { name, modified, tree })?);
            }
            let image = if same.is_some() { ImageTree::Parents } else { ImageTree::New };
            Ok(Trees { new, image, folder: Some(tree) })
        })
        .await?;
        // Inner ones first; the last is the root.
        let (mut root, mut new_trees) = (metadata_id, 0);
        for tree in new {
            root = tree.id;
            if self.index.claim(BlobKind::Tree, &tree.id)? == Claim::Yours {
                uploaded.store_tree(tree, progress).await?;
                new_trees += 1;
            }
        }
        uploaded.finish_index().await?;
        let stored_bytes = uploaded.stored_bytes();
        let written = Written { tree: root, new_trees, image, counts, added, metadata_bytes, stored_bytes };
        let snapshot = self.snapshot(&written);
        Ok(Prepared { snapshot, image: folder.map(|tree| UnreadImage { tree, note }) })
    }

    fn snapshot(&self, written: &Written<'_>) -> Snapshot {
        let Written { tree, new_trees, image, counts, added, metadata_bytes, stored_bytes } = *written;
        let unmodified = u64::from(image == ImageTree::Parents);
        Snapshot {
            time: rfc3339(self.options.time),
            tree,
            paths: vec![self.options.path.clone()],
            hostname: self.options.hostname.clone(),
            username: String::new(),
            tags: self.options.tags.clone(),
            parent: self.parent,
            original: None,
            program_version: PROGRAM.to_owned(),
            summary: Some(Summary {
                backup_start: rfc3339(self.begun),
                backup_end: rfc3339(Timestamp::now()),
                files_new: if self.parent.is_none() { FILES } else { 0 },
                files_changed: if self.parent.is_some() { FILES - unmodified } else { 0 },
                files_unmodified: unmodified,
                data_blobs: i64::try_from(counts.new_chunks + added.blobs).unwrap_or(i64::MAX),
                tree_blobs: new_trees,
                data_added: counts.new_bytes + added.bytes,
                data_added_packed: stored_bytes,
                total_files_processed: FILES,
                total_bytes_processed: self.volume_bytes + metadata_bytes,
                ..Summary::default()
            }),
        }
    }
}

/// How the content of the volume's image is known.
pub(super) enum Image {
    /// Its list was made; with the image of the parent, if there is one.
    Listed { content: VolumeContent, parent: Option<ParentImage> },
    /// It is the parent's image, whose list was not read.
    Unread(UnreadImage),
}

pub(super) struct Prepared {
    /// The snapshot that is to be saved.
    pub(super) snapshot: Snapshot,
    /// The image as one that need not be read again, if it has a tree of its own.
    pub(super) image: Option<UnreadImage>,
}

/// What was written for a snapshot, to be told in it.
struct Written<'a> {
    /// The root of the snapshot.
    tree: Id,
    new_trees: i64,
    image: ImageTree,
    counts: &'a Counts,
    added: Added,
    metadata_bytes: u64,
    stored_bytes: u64,
}

/// The trees of a snapshot.
struct Trees {
    /// The trees that were made, inner ones first.
    new: Vec<PackedTree>,
    image: ImageTree,
    /// The tree of the image's folder, if it lies in one.
    folder: Option<Id>,
}

/// Which tree the image lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ImageTree {
    /// One that this export made.
    New,
    /// The tree that the parent has for it.
    Parents,
}

/// Blobs that are made once at the end: zeros, and the metadata.
struct Small {
    sealer: Sealer,
    index: Arc<Index>,
    verification: Verification,
    zero_lengths: Vec<u64>,
    metadata: Vec<u8>,
}

/// Blobs that the repository did not have.
#[derive(Clone, Copy, Default)]
struct Added {
    blobs: u64,
    bytes: u64,
}

impl Small {
    /// Packs what the repository does not have; at most one pack, for zeros compress to nothing.
    fn pack(self) -> Result<(Option<Pack>, Added), ExportError> {
        let mut pack = PackBuilder::new(self.sealer, BlobKind::Data, 1 << 20, self.verification);
        let mut compressor = Compressor::new(ZSTD_LEVEL)?;
        let mut added = Added::default();
        let mut add = |id: Id, plain: &[u8]| -> Result<(), ExportError> {
            pack.add(id, plain, &mut compressor)?;
            if self.verification == Verification::Decode {
                verify_ids(&[id], &[Id::of(plain)])?;
            }
            added.blobs += 1;
            added.bytes += plain.len() as u64;
            Ok(())
        };
        for length in self.zero_lengths {
            let id = zeros::id(length);
            if self.index.claim(BlobKind::Data, &id)? == Claim::Yours {
                add(id, &vec![0; length as usize])?;
            }
        }
        let id = Id::of(&self.metadata);
        if self.index.claim(BlobKind::Data, &id)? == Claim::Yours {
            add(id, &self.metadata)?;
        }
        Ok((pack.finish()?, added))
    }
}

/// Computes off the async threads.
async fn computed<T: Send + 'static>(work: impl FnOnce() -> Result<T, ExportError> + Send + 'static) -> Result<T, ExportError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(ExportError::Inside(error.into())))
}
