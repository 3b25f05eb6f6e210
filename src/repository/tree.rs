//! Trees: lists of files, and of the blobs that each file is made of.
//!
//! A tree is one blob of JSON, ended by a line feed. That of a large volume names millions of blobs, 67 bytes each, so neither
//! side here ever holds its text: the writer walks the content list twice (for the tree's id, then through the compressor),
//! the reader parses while it decompresses. The sealed tree (about 36 bytes for each blob) and the lists that are read (32 bytes for
//! each) are in [scratch space](crate::scratch).

mod error;
mod list;
mod node;
mod parse;
mod read;
mod write;

use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;

use super::blob::{BlobKind, BlobLocation};
use super::cache::Cached;
use super::copies::Copies;
use super::crypto::Sealer;
use super::damage::Damage;
use super::error::RepositoryError;
use super::id::Id;
use super::index::Index;
use super::open::Repository;
use super::read::damaged_blob;
use super::store::Kind;
use crate::scratch::{ScratchError, Spill};

pub use list::{Content, IdList};
pub use node::{Node, NodeKind};
pub use write::{NewFile, NewFolder, PackedTree, pack_folder, pack_folder_beside, pack_tree};

use error::ReadError;
use read::parse_sealed;

/// Name of the small file that we put beside the folder of a volume's image, and earlier versions beside the image. It does not count
/// where the only file is meant.
pub const METADATA_FILE: &str = "meta.json";
/// Folders within folders that are followed. Trees cannot form a circle, being named by their hash; this bounds memory.
const MAX_DEPTH: usize = 256;

/// A regular file found in a snapshot.
#[derive(Debug, Clone)]
pub struct FoundFile {
    /// Its path within the snapshot, with a slash before each part.
    pub path: String,
    /// Length in bytes as recorded.
    pub size: u64,
    pub content: IdList,
    /// The file beside it, or beside its folder, that tells what it is, if there is one: its length as recorded and its blobs.
    pub metadata: Option<(u64, IdList)>,
    /// The tree that holds this file and nothing else, if that is so.
    pub alone_in: Option<Id>,
}

/// The folder of a file, whose tree was not read.
#[derive(Debug, Clone)]
pub struct FoundFolder {
    pub tree: Id,
    /// Path of the file within the snapshot, with a slash before each part.
    pub path: String,
    /// Name of the file in the folder.
    pub name: String,
    /// The file beside the folder that tells what the file is, if there is one: its length as recorded and its blobs.
    pub metadata: Option<(u64, IdList)>,
}

/// Which file of a snapshot is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileSelector {
    /// The one at this path, with or without a slash before it.
    Path(String),
    /// The only regular file; our own `meta.json` does not count.
    Only,
}

/// Verifies the sealed blob at `location` of a pack whose bytes are `pack`, as a stream; returns what is wrong with it.
pub(super) fn verify_blob(
    sealer: &Sealer,
    id: &Id,
    location: &BlobLocation,
    pack: &Spill,
) -> Result<Option<Damage>, ScratchError> {
    match read::verify(sealer, id, location, pack, location.offset.into()) {
        Ok(()) => Ok(None),
        Err(ReadError::Damage(damage)) => Ok(Some(damage)),
        Err(ReadError::Scratch(error)) => Err(error),
    }
}

/// Copies in steps that suit files.
fn copy(from: impl Read, to: &mut impl Write) -> io::Result<()> {
    io::copy(&mut BufReader::with_capacity(1 << 20, from), to).map(drop)
}

/// The file of a folder that tells what its image is.
fn metadata_among(nodes: &[Node]) -> Option<(u64, IdList)> {
    nodes.iter().find(|node| node.name == METADATA_FILE).and_then(|node| match &node.kind {
        NodeKind::File(content) => Some((node.size, content.clone())),
        NodeKind::Folder(_) | NodeKind::Other(_) => None,
    })
}

/// The node of that name. Two nodes have it when the bytes of one show as the text of the other.
fn only_named(nodes: Vec<Node>, name: &str) -> Result<Option<Node>, RepositoryError> {
    let mut named = nodes.into_iter().filter(|node| node.name == name);
    let found = named.next();
    match named.next() {
        Some(_) => Err(RepositoryError::AmbiguousFile(name.to_owned())),
        None => Ok(found),
    }
}

impl Repository {
    /// Stores the pack of a tree, durably. The tree may be referred to once an index names it.
    pub async fn put_tree(&self, tree: &PackedTree) -> Result<(), RepositoryError> {
        self.keep_pace(tree.bytes.len()).await;
        self.put_spilled_object(Kind::Data, tree.record.id, Arc::clone(&tree.bytes)).await?;
        if let (Some(cache), Some(blob)) = (self.cache().cloned(), tree.record.blobs.first()) {
            let (offset, length, uncompressed_length) = (blob.offset, blob.length, blob.uncompressed_length);
            let location = BlobLocation { pack: tree.record.id, offset, length, uncompressed_length };
            let bytes = Arc::clone(&tree.bytes);
            tokio::task::spawn_blocking(move || {
                let sealed = bytes.reader(location.offset.into()).up_to(location.end());
                cache.put(Cached::Tree(location), |file| copy(sealed, file));
            })
            .await?;
        }
        Ok(())
    }

    /// Reads the nodes of the tree `id` from the first copy that does, verified by its hash.
    pub async fn read_tree(&self, index: &Index, id: &Id) -> Result<Vec<Node>, RepositoryError> {
        let mut copies = Copies::new(index, BlobKind::Tree, id);
        loop {
            let location = copies.next()?;
            match self.read_tree_at(id, location).await {
                Err(error) => copies.failed(&location, error)?,
                read => return read,
            }
        }
    }

    async fn read_tree_at(&self, id: &Id, location: BlobLocation) -> Result<Vec<Node>, RepositoryError> {
        if let Some(nodes) = self.read_cached_tree(*id, location).await? {
            return Ok(nodes);
        }
        let sealed = self.read_spilled(&location).await?;
        let (scratch, sealer, cache, id) = (self.scratch().clone(), self.sealer(), self.cache().cloned(), *id);
        let parsed = tokio::task::spawn_blocking(move || {
            let parsed = parse_sealed(&scratch, &sealer, &id, &location, &sealed);
            if let (Ok(_), Some(cache)) = (&parsed, cache) {
                cache.put(Cached::Tree(location), |file| copy(sealed.reader(0), file));
            }
            parsed
        });
        parsed.await?.map_err(|error| match error {
            ReadError::Damage(damage) => damaged_blob(BlobKind::Tree, &id, &location, damage),
            ReadError::Scratch(error) => error.into(),
        })
    }

    /// The nodes of a tree, if it is in the cache and sound.
    async fn read_cached_tree(&self, id: Id, location: BlobLocation) -> Result<Option<Vec<Node>>, RepositoryError> {
        let Some(cache) = self.cache().cloned() else { return Ok(None) };
        let (scratch, sealer) = (self.scratch().clone(), self.sealer());
        let read = tokio::task::spawn_blocking(move || {
            let what = Cached::Tree(location);
            let Some(file) = cache.open(what) else { return Ok(None) };
            let mut sealed = Spill::new(&scratch);
            let copied = copy(file.take(u64::from(location.length) + 1), &mut sealed);
            let is_whole = copied.is_ok() && sealed.len() == u64::from(location.length);
            match is_whole.then(|| parse_sealed(&scratch, &sealer, &id, &location, &sealed)) {
                Some(Ok(nodes)) => Ok(Some(nodes)),
                Some(Err(ReadError::Scratch(error))) => Err(error),
                Some(Err(ReadError::Damage(_))) | None => {
                    cache.evict(what);
                    Ok(None)
                }
            }
        });
        Ok(read.await??)
    }

    /// Finds a file in the tree `root`, in folders within folders. Exactly one must be meant.
    pub async fn find_file(&self, index: &Index, root: &Id, which: &FileSelector) -> Result<FoundFile, RepositoryError> {
        match which {
            FileSelector::Path(path) => self.file_in(index, self.find_folder(index, root, path).await?).await,
            FileSelector::Only => self.only_file(index, root).await,
        }
    }

    /// Finds the folder in which the file at `path` would lie, without reading its tree.
    pub async fn find_folder(&self, index: &Index, root: &Id, path: &str) -> Result<FoundFolder, RepositoryError> {
        let missing = || RepositoryError::NoSuchFile(path.to_owned());
        // A list, not an iterator with a closure: the future that holds one of those is not known to be `Send`.
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (name, folders) = parts.split_last().ok_or_else(missing)?;
        let (mut tree, mut metadata) = (*root, None);
        for part in folders {
            let nodes = self.read_tree(index, &tree).await?;
            metadata = metadata_among(&nodes);
            let Some(Node { kind: NodeKind::Folder(inner), .. }) = only_named(nodes, part)? else { return Err(missing()) };
            tree = inner;
        }
        Ok(FoundFolder { tree, path: format!("/{}", parts.join("/")), name: (*name).to_owned(), metadata })
    }

    /// Reads a folder's tree and finds the file.
    pub async fn file_in(&self, index: &Index, folder: FoundFolder) -> Result<FoundFile, RepositoryError> {
        let FoundFolder { tree, path, name, metadata } = folder;
        let nodes = self.read_tree(index, &tree).await?;
        let metadata = metadata_among(&nodes).or(metadata);
        let alone_in = (nodes.len() == 1).then_some(tree);
        match only_named(nodes, &name)? {
            Some(Node { size, kind: NodeKind::File(content), .. }) => Ok(FoundFile { path, size, content, metadata, alone_in }),
            _ => Err(RepositoryError::NoSuchFile(path)),
        }
    }

    async fn only_file(&self, index: &Index, root: &Id) -> Result<FoundFile, RepositoryError> {
        let mut found: Option<FoundFile> = None;
        let mut folders = vec![(String::new(), *root, 0_usize, None)];
        while let Some((folder, tree, depth, above)) = folders.pop() {
            let nodes = self.read_tree(index, &tree).await?;
            let here = metadata_among(&nodes);
            let alone_in = (nodes.len() == 1).then_some(tree);
            for node in nodes {
                let path = format!("{folder}/{}", node.name);
                match node.kind {
                    NodeKind::File(_) if node.name == METADATA_FILE => {}
                    NodeKind::File(content) => {
                        if let Some(first) = found {
                            return Err(RepositoryError::SeveralFiles { first: first.path, second: path });
                        }
                        let metadata = here.clone().or_else(|| above.clone());
                        found = Some(FoundFile { path, size: node.size, content, metadata, alone_in });
                    }
                    NodeKind::Folder(inner) if depth < MAX_DEPTH => folders.push((path, inner, depth + 1, here.clone())),
                    NodeKind::Folder(_) | NodeKind::Other(_) => {}
                }
            }
        }
        found.ok_or(RepositoryError::NoFile)
    }
}

#[cfg(test)]
mod tests;
