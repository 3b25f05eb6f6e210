//! Trees: lists of files, and of the blobs that each file is made of.

use super::crypto::Sealer;
use super::error::{PackError, RepositoryError};
use super::id::Id;
use super::pack::Pack;
use crate::types::Timestamp;

/// The blobs of a file in order. May be asked for twice and must answer the same.
pub trait Content {
    /// The ids, from the first byte of the file to the last.
    fn ids(&self) -> Box<dyn Iterator<Item = Id> + '_>;
}

impl Content for [Id] {
    fn ids(&self) -> Box<dyn Iterator<Item = Id> + '_> {
        Box::new(self.iter().copied())
    }
}

impl Content for Vec<Id> {
    fn ids(&self) -> Box<dyn Iterator<Item = Id> + '_> {
        Box::new(self.iter().copied())
    }
}

/// A regular file to be put into a tree. It gets mode 0600 and belongs to root.
pub struct NewFile<'a> {
    /// Name without slashes.
    pub name: &'a str,
    /// Length in bytes.
    pub size: u64,
    /// Time of its contents.
    pub modified: Timestamp,
    /// Its blobs.
    pub content: &'a dyn Content,
}

/// Makes the tree of `files` (sorted here) as one blob in a pack of its own. The list is walked twice and never held as text:
/// memory is the compressed tree, about 36 bytes for each blob of a file. Returns the tree's id and its pack. Computes only.
///
/// # Errors
/// [`PackError`] when it would exceed 4 GiB, when two files share a name, or when a content list changes between the walks.
pub fn pack_tree(sealer: &Sealer, files: &[NewFile<'_>]) -> Result<(Id, Pack), PackError> {
    let _ = (sealer, files);
    unimplemented!()
}

/// What a node of a tree is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// A regular file: its blobs in order.
    File(Vec<Id>),
    /// A folder: its tree.
    Folder(Id),
    /// Anything else, by its name in the format (`symlink`, `dev`, ...).
    Other(String),
}

/// An entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Name within its folder.
    pub name: String,
    /// Length in bytes as recorded; what the blobs add up to decides.
    pub size: u64,
    /// What it is.
    pub kind: NodeKind,
}

/// A regular file found in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFile {
    /// Its path within the snapshot, with a slash before each part.
    pub path: String,
    /// Length in bytes as recorded.
    pub size: u64,
    /// Its blobs in order.
    pub content: Vec<Id>,
}

/// Which file of a snapshot is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileSelector {
    /// The one at this path, with or without a slash before it.
    Path(String),
    /// The only regular file; our own `meta.json` does not count.
    Only,
}

impl super::open::Repository {
    /// The nodes of the tree `id`, after its hash was verified.
    ///
    /// # Errors
    /// When it is missing, damaged or unreadable.
    pub async fn read_tree(&self, index: &super::index::Index, id: &Id) -> Result<Vec<Node>, RepositoryError> {
        let _ = (index, id);
        unimplemented!()
    }

    /// Finds a file in the tree `root`, in folders within folders.
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchFile`], [`RepositoryError::NotOneFile`], or whatever reading the trees meets.
    pub async fn find_file(
        &self,
        index: &super::index::Index,
        root: &Id,
        which: &FileSelector,
    ) -> Result<FoundFile, RepositoryError> {
        let _ = (index, root, which);
        unimplemented!()
    }
}
