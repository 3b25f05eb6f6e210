//! Trees: lists of files, and of the blobs that each file is made of.
//!
//! A tree is one blob of JSON, ended by a line feed. That of a large volume names millions of blobs, 67 bytes each, so neither
//! side here ever holds its text: the writer walks the content list twice (for the tree's id, then through the compressor),
//! the reader parses while it decompresses. What is held is the sealed tree (about 36 bytes for each blob) and 32 bytes for
//! each id read.

use std::io::{self, Read, Write};
use std::num::NonZeroU32;

use super::blob::{BlobKind, BlobLocation};
use super::crypto::{Sealer, begin};
use super::error::{Damage, PackError, RepositoryError};
use super::id::{Hasher, Id};
use super::index::Index;
use super::open::{Repository, damaged_blob};
use super::pack::{Pack, PackBuilder, Verification, compressor};
use super::time::rfc3339;
use crate::types::Timestamp;

mod parse;

/// Name of the small file that we put beside a volume's image, which is not meant when "the only file" is.
pub const METADATA_FILE: &str = "meta.json";
/// Higher levels make hexadecimal digits larger, not smaller.
const LEVEL: i32 = 1;
/// Folders within folders that are followed. Trees cannot form a circle, being named by their hash; this bounds memory.
const MAX_DEPTH: usize = 256;

/// The blobs of a file in order. May be asked for twice and must answer the same.
pub trait Content: Send + Sync {
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
    /// Name: letters, digits and any of `.-_+@:=,` and space.
    pub name: &'a str,
    /// Length in bytes.
    pub size: u64,
    /// Time of its contents.
    pub modified: Timestamp,
    /// Its blobs.
    pub content: &'a dyn Content,
}

/// A folder to be put into a tree. It gets mode 0700 and belongs to root.
pub struct NewFolder<'a> {
    /// Name: as for [`NewFile`].
    pub name: &'a str,
    /// Time of its contents.
    pub modified: Timestamp,
    /// The tree of what is in it.
    pub tree: Id,
}

/// Makes the tree of `files` (sorted here) as one blob in a pack of its own. Returns the tree's id and its pack. Computes only.
///
/// # Errors
/// [`PackError::TooLarge`] when it would exceed 4 GiB, [`PackError::Name`] when a name is not allowed or occurs twice,
/// [`PackError::Unstable`] when a content list changes between the walks.
pub fn pack_tree(sealer: &Sealer, files: &[NewFile<'_>]) -> Result<(Id, Pack), PackError> {
    let mut sorted: Vec<_> = files.iter().collect();
    sorted.sort_unstable_by_key(|file| file.name);
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(PackError::Name(pair[0].name.to_owned()));
    }
    if let Some(file) = sorted.iter().find(|file| !is_plain_name(file.name)) {
        return Err(PackError::Name(file.name.to_owned()));
    }
    pack_nodes(sealer, |out| write_files(out, &sorted))
}

/// Makes the tree that holds `folder` alone: one step of the path to what is in it. Otherwise as [`pack_tree`].
///
/// # Errors
/// [`PackError::Name`] when its name is not allowed.
pub fn pack_folder(sealer: &Sealer, folder: &NewFolder<'_>) -> Result<(Id, Pack), PackError> {
    if !is_plain_name(folder.name) {
        return Err(PackError::Name(folder.name.to_owned()));
    }
    pack_nodes(sealer, |out| write_folder(out, folder))
}

/// Seals a tree whose nodes `write` writes, twice the same.
fn pack_nodes(sealer: &Sealer, write: impl Fn(&mut dyn Write) -> io::Result<()>) -> Result<(Id, Pack), PackError> {
    let mut hashed = HashingWriter::new(io::sink());
    write(&mut hashed).map_err(compressor)?;
    let (id, bytes) = hashed.finish();
    let too_large = PackError::TooLarge { what: "blob", bytes };
    let length = u32::try_from(bytes).ok().and_then(NonZeroU32::new).ok_or_else(|| too_large.clone())?;

    let mut builder = PackBuilder::new(sealer.clone(), BlobKind::Tree, 0, Verification::Decode);
    let start = begin(builder.body());
    let mut zstd = zstd::stream::write::Encoder::new(builder.body(), LEVEL).map_err(compressor)?;
    zstd.include_checksum(false).map_err(compressor)?;
    zstd.set_pledged_src_size(Some(bytes)).map_err(compressor)?;
    let mut hashed = HashingWriter::new(io::BufWriter::with_capacity(1 << 16, &mut zstd));
    let written = write(&mut hashed).and_then(|()| hashed.flush());
    if hashed.finish() != (id, bytes) {
        return Err(PackError::Unstable);
    }
    written.and_then(|()| zstd.finish().map(|_| ())).map_err(compressor)?;
    builder.make_room(0).map_err(|_| too_large)?;
    builder.seal(id, start, Some(length))?;
    let sealed = &builder.body()[start..];
    verify(sealer, &id, length.get(), sealed).map_err(|damage| PackError::Corrupted { id, damage })?;
    let pack = builder.finish()?.ok_or(PackError::Unstable)?;
    Ok((id, pack))
}

/// Names that are the same in JSON, in Go's quoting inside of it, and on every file system.
fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_+@:=, ".contains(&byte);
    !matches!(name, "" | "." | "..") && name.len() <= 255 && name.bytes().all(plain)
}

fn write_folder(out: &mut dyn Write, folder: &NewFolder<'_>) -> io::Result<()> {
    let time = rfc3339(folder.modified);
    // The mode is 0700 with the bit by which restic, as Go does, marks a folder.
    writeln!(
        out,
        r#"{{"nodes":[{{"name":"{}","type":"dir","mode":2147484096,"mtime":"{time}","atime":"{time}","ctime":"{time}","uid":0,"gid":0,"user":"root","group":"root","content":null,"subtree":"{}"}}]}}"#,
        folder.name, folder.tree
    )
}

fn write_files(out: &mut dyn Write, files: &[&NewFile<'_>]) -> io::Result<()> {
    out.write_all(b"{\"nodes\":[")?;
    for (position, file) in files.iter().enumerate() {
        let (separator, time) = (if position == 0 { "" } else { "," }, rfc3339(file.modified));
        write!(
            out,
            r#"{separator}{{"name":"{}","type":"file","mode":384,"mtime":"{time}","atime":"{time}","ctime":"{time}","uid":0,"gid":0,"user":"root","group":"root","size":{},"links":1,"content":["#,
            file.name, file.size
        )?;
        let mut quoted = *b",\"0000000000000000000000000000000000000000000000000000000000000000\"";
        for (position, id) in file.content.ids().enumerate() {
            quoted[2..66].copy_from_slice(&id.hex());
            out.write_all(&quoted[usize::from(position == 0)..])?;
        }
        out.write_all(b"]}")?;
    }
    out.write_all(b"]}\n")
}

/// Hashes and counts what passes through.
struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W> HashingWriter<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::new(), bytes: 0 }
    }

    fn finish(self) -> (Id, u64) {
        (self.hasher.finish(), self.bytes)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Hashes and counts what passes through, and passes no more than a limit.
struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
    bytes: u64,
}

impl<R: Read> HashingReader<R> {
    fn new(inner: R) -> Self {
        Self { inner, hasher: Hasher::new(), bytes: 0 }
    }

    /// Reads to the end and compares.
    fn expect(mut self, id: &Id, bytes: u64) -> Result<(), Damage> {
        io::copy(&mut self, &mut io::sink()).map_err(|error| Damage::Compression(error.to_string()))?;
        if self.bytes != bytes {
            return Err(Damage::Compression(format!("{bytes} bytes expected, {} or more found", self.bytes)));
        }
        match self.hasher.finish() {
            found if found == *id => Ok(()),
            found => Err(Damage::WrongHash { found }),
        }
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

/// The plain bytes of a sealed blob as a stream of at most one byte more than `location` promises.
fn plain_reader<'a>(sealer: &Sealer, location: &BlobLocation, sealed: &'a [u8]) -> Result<Box<dyn Read + 'a>, Damage> {
    let opened = sealer.reader(sealed)?;
    let limit = u64::from(location.plain_length()) + 1;
    Ok(match location.uncompressed_length {
        None => Box::new(opened),
        Some(_) => {
            let decoder = zstd::stream::read::Decoder::new(opened).map_err(|error| Damage::Compression(error.to_string()))?;
            Box::new(decoder.take(limit))
        }
    })
}

fn verify(sealer: &Sealer, id: &Id, length: u32, sealed: &[u8]) -> Result<(), Damage> {
    let location =
        BlobLocation { pack: *id, offset: 0, length: sealed.len() as u32, uncompressed_length: NonZeroU32::new(length) };
    HashingReader::new(plain_reader(sealer, &location, sealed)?).expect(id, length.into())
}

fn parse_sealed(sealer: &Sealer, id: &Id, location: &BlobLocation, sealed: &[u8]) -> Result<Vec<Node>, Damage> {
    let mut reader = HashingReader::new(plain_reader(sealer, location, sealed)?);
    let parsed = parse::tree(io::BufReader::with_capacity(1 << 16, &mut reader));
    // A wrong hash explains whatever the parser stumbled over.
    reader.expect(id, location.plain_length().into())?;
    parsed
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
    /// Name within its folder; bytes that are no UTF-8 are replaced.
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

impl Repository {
    /// The nodes of the tree `id`, after its hash was verified.
    ///
    /// # Errors
    /// When it is missing, damaged or unreadable.
    pub async fn read_tree(&self, index: &Index, id: &Id) -> Result<Vec<Node>, RepositoryError> {
        let (location, sealed) = self.read_sealed(index, BlobKind::Tree, id).await?;
        let (sealer, id) = (self.sealer(), *id);
        let parsed = tokio::task::spawn_blocking(move || parse_sealed(&sealer, &id, &location, &sealed)).await?;
        parsed.map_err(|damage| damaged_blob(BlobKind::Tree, &id, &location, damage))
    }

    /// Finds a file in the tree `root`, in folders within folders.
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchFile`], [`RepositoryError::NoFile`], [`RepositoryError::SeveralFiles`], or whatever reading the
    /// trees meets.
    pub async fn find_file(&self, index: &Index, root: &Id, which: &FileSelector) -> Result<FoundFile, RepositoryError> {
        match which {
            FileSelector::Path(path) => self.file_at(index, root, path).await,
            FileSelector::Only => self.only_file(index, root).await,
        }
    }

    /// The nodes of the folder at `path` in the tree `root`, which is the folder at no path.
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchFile`] when there is no such folder, or whatever reading the trees meets.
    pub async fn read_folder(&self, index: &Index, root: &Id, path: &str) -> Result<Vec<Node>, RepositoryError> {
        // A list, not an iterator with a closure: the future that holds one of those is not known to be `Send`.
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let mut nodes = self.read_tree(index, root).await?;
        for part in parts {
            match nodes.into_iter().find(|node| node.name == part).map(|node| node.kind) {
                Some(NodeKind::Folder(tree)) => nodes = self.read_tree(index, &tree).await?,
                _ => return Err(RepositoryError::NoSuchFile(path.to_owned())),
            }
        }
        Ok(nodes)
    }

    async fn file_at(&self, index: &Index, root: &Id, path: &str) -> Result<FoundFile, RepositoryError> {
        let missing = || RepositoryError::NoSuchFile(path.to_owned());
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (name, folders) = parts.split_last().ok_or_else(missing)?;
        let nodes = match self.read_folder(index, root, &folders.join("/")).await {
            Err(RepositoryError::NoSuchFile(_)) => return Err(missing()),
            other => other?,
        };
        match nodes.into_iter().find(|node| node.name == *name) {
            Some(Node { size, kind: NodeKind::File(content), .. }) => {
                Ok(FoundFile { path: format!("/{}", parts.join("/")), size, content })
            }
            _ => Err(missing()),
        }
    }

    async fn only_file(&self, index: &Index, root: &Id) -> Result<FoundFile, RepositoryError> {
        let mut found: Option<FoundFile> = None;
        let mut folders = vec![(String::new(), *root, 0_usize)];
        while let Some((folder, tree, depth)) = folders.pop() {
            for node in self.read_tree(index, &tree).await? {
                let path = format!("{folder}/{}", node.name);
                match node.kind {
                    NodeKind::File(_) if node.name == METADATA_FILE => {}
                    NodeKind::File(content) => {
                        if let Some(first) = found {
                            return Err(RepositoryError::SeveralFiles { first: first.path, second: path });
                        }
                        found = Some(FoundFile { path, size: node.size, content });
                    }
                    NodeKind::Folder(inner) if depth < MAX_DEPTH => folders.push((path, inner, depth + 1)),
                    NodeKind::Folder(_) | NodeKind::Other(_) => {}
                }
            }
        }
        found.ok_or(RepositoryError::NoFile)
    }
}

#[cfg(test)]
mod tests;
