//! Makes a tree: its text is written twice, first for its hash, then through compressor and cipher into scratch space.

use std::io::{self, Write};
use std::num::NonZeroU32;
use std::sync::Arc;

use super::error::ReadError;
use super::list::Content;
use super::read;
use crate::repository::blob::{BlobKind, BlobLocation, PackRecord, PackedBlob};
use crate::repository::crypto::{SealWriter, Sealer};
use crate::repository::error::PackError;
use crate::repository::id::{Id, IdHasher};
use crate::repository::pack::header_of;
use crate::repository::time::rfc3339;
use crate::scratch::{Scratch, ScratchError, Spill};
use crate::types::Timestamp;

/// Higher levels make hexadecimal digits larger, not smaller.
const LEVEL: i32 = 1;

/// A regular file to be put into a tree. It gets mode 0600 and belongs to root.
pub struct NewFile<'a> {
    /// Name: letters, digits and any of `.-_+@:=,` and space.
    pub name: &'a str,
    pub size: u64,
    /// Time of its contents.
    pub modified: Timestamp,
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

/// A tree in a pack of its own, ready to be stored.
#[derive(Debug, Clone)]
pub struct PackedTree {
    pub id: Id,
    /// Name and contents of the pack, as they go into the index.
    pub record: PackRecord,
    pub bytes: Arc<Spill>,
}

/// Makes the tree of `files` (sorted here) as one blob in a pack of its own, in `scratch`. Computes only.
///
/// # Errors
/// The tree must not exceed 4 GiB, a name must be allowed and must not occur twice, and content lists must not change between the walks.
pub fn pack_tree(scratch: &Scratch, sealer: &Sealer, files: &[NewFile<'_>]) -> Result<PackedTree, PackError> {
    let mut sorted: Vec<_> = files.iter().collect();
    sorted.sort_unstable_by_key(|file| file.name);
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(PackError::Name(pair[0].name.to_owned()));
    }
    if let Some(file) = sorted.iter().find(|file| !is_plain_name(file.name)) {
        return Err(PackError::Name(file.name.to_owned()));
    }
    pack_nodes(scratch, sealer, |out| write_files(out, &sorted))
}

/// Makes the tree that holds `folder` alone: one step of the path to what is in it. Otherwise as [`pack_tree`].
pub fn pack_folder(scratch: &Scratch, sealer: &Sealer, folder: &NewFolder<'_>) -> Result<PackedTree, PackError> {
    if !is_plain_name(folder.name) {
        return Err(PackError::Name(folder.name.to_owned()));
    }
    pack_nodes(scratch, sealer, |out| write_folder(out, folder))
}

/// Makes the tree that holds `folder` and, beside it, `file`. Otherwise as [`pack_tree`].
pub fn pack_folder_beside(
    scratch: &Scratch,
    sealer: &Sealer,
    folder: &NewFolder<'_>,
    file: &NewFile<'_>,
) -> Result<PackedTree, PackError> {
    if let Some(name) = [folder.name, file.name].into_iter().find(|name| !is_plain_name(name) || folder.name == file.name) {
        return Err(PackError::Name(name.to_owned()));
    }
    pack_nodes(scratch, sealer, |out| {
        out.write_all(b"{\"nodes\":[")?;
        if folder.name < file.name {
            write_folder_node(out, folder)?;
            out.write_all(b",")?;
            write_file_node(out, file)?;
        } else {
            write_file_node(out, file)?;
            out.write_all(b",")?;
            write_folder_node(out, folder)?;
        }
        out.write_all(b"]}\n")
    })
}

/// The meaning of an error of the layers of writers.
fn failed(error: io::Error) -> PackError {
    match ScratchError::within(&error) {
        Some(scratch) => PackError::Scratch(scratch.clone()),
        None => PackError::Compressor(error),
    }
}

/// Seals a tree whose nodes `write` writes, twice the same.
fn pack_nodes(
    scratch: &Scratch,
    sealer: &Sealer,
    write: impl Fn(&mut dyn Write) -> io::Result<()>,
) -> Result<PackedTree, PackError> {
    let mut hashed = HashingWriter::new(io::sink());
    write(&mut hashed).map_err(failed)?;
    let (id, bytes) = (hashed.hasher.finish(), hashed.bytes);
    let too_large = || PackError::TooLarge { what: "blob", bytes };
    let plain_length = u32::try_from(bytes).ok().and_then(NonZeroU32::new).ok_or_else(too_large)?;

    // The pack is named by its hash, so its bytes are hashed on their way.
    let pack = HashingWriter::new(Spill::new(scratch));
    let mut zstd = zstd::stream::write::Encoder::new(sealer.writer(pack).map_err(failed)?, LEVEL).map_err(failed)?;
    zstd.include_checksum(false).map_err(failed)?;
    zstd.set_pledged_src_size(Some(bytes)).map_err(failed)?;
    let mut hashed = HashingWriter::new(io::BufWriter::with_capacity(64 << 10, zstd));
    // A list that does not read, or no more room, is the reason for another hash and not the consequence.
    write(&mut hashed).and_then(|()| hashed.flush()).map_err(failed)?;
    if (hashed.hasher.finish(), hashed.bytes) != (id, bytes) {
        return Err(PackError::Unstable);
    }
    let zstd = hashed.inner.into_inner().map_err(|error| failed(error.into_error()))?;
    let mut pack = zstd.finish().and_then(SealWriter::finish).map_err(failed)?;

    let length = u32::try_from(pack.bytes).map_err(|_| too_large())?;
    let blob = PackedBlob { id, kind: BlobKind::Tree, offset: 0, length, uncompressed_length: Some(plain_length) };
    pack.write_all(&header_of(sealer, &[blob])?).map_err(failed)?;
    let record = PackRecord { id: pack.hasher.finish(), blobs: vec![blob] };
    let location = BlobLocation { pack: record.id, offset: 0, length, uncompressed_length: Some(plain_length) };
    read::verify(sealer, &id, &location, &pack.inner, 0).map_err(|error| match error {
        ReadError::Damage(damage) => PackError::Corrupted { id, damage },
        ReadError::Scratch(error) => PackError::Scratch(error),
    })?;
    Ok(PackedTree { id, record, bytes: Arc::new(pack.inner) })
}

fn write_folder(out: &mut dyn Write, folder: &NewFolder<'_>) -> io::Result<()> {
    out.write_all(b"{\"nodes\":[")?;
    write_folder_node(out, folder)?;
    out.write_all(b"]}\n")
}

fn write_folder_node(out: &mut dyn Write, folder: &NewFolder<'_>) -> io::Result<()> {
    let time = rfc3339(folder.modified);
    // The mode is 0700 with the bit by which restic, as Go does, marks a folder.
    write!(
        out,
        r#"{{"name":"{}","type":"dir","mode":2147484096,"mtime":"{time}","atime":"{time}","ctime":"{time}","uid":0,"gid":0,"user":"root","group":"root","content":null,"subtree":"{}"}}"#,
        folder.name, folder.tree
    )
}

pub(super) fn write_files(out: &mut dyn Write, files: &[&NewFile<'_>]) -> io::Result<()> {
    out.write_all(b"{\"nodes\":[")?;
    for (position, file) in files.iter().enumerate() {
        if position > 0 {
            out.write_all(b",")?;
        }
        write_file_node(out, file)?;
    }
    out.write_all(b"]}\n")
}

fn write_file_node(out: &mut dyn Write, file: &NewFile<'_>) -> io::Result<()> {
    let time = rfc3339(file.modified);
    write!(
        out,
        r#"{{"name":"{}","type":"file","mode":384,"mtime":"{time}","atime":"{time}","ctime":"{time}","uid":0,"gid":0,"user":"root","group":"root","size":{},"links":1,"content":["#,
        file.name, file.size
    )?;
    let mut quoted = *b",\"0000000000000000000000000000000000000000000000000000000000000000\"";
    for (position, id) in file.content.ids().enumerate() {
        quoted[2..66].copy_from_slice(&id?.hex());
        out.write_all(&quoted[usize::from(position == 0)..])?;
    }
    out.write_all(b"]}")
}

/// Hashes and counts what passes through.
struct HashingWriter<W> {
    inner: W,
    hasher: IdHasher,
    bytes: u64,
}

impl<W> HashingWriter<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: IdHasher::new(), bytes: 0 }
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

/// Names that are the same in JSON, in Go's quoting inside of it, and on every file system.
fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_+@:=, ".contains(&byte);
    !matches!(name, "" | "." | "..") && name.len() <= 255 && name.bytes().all(plain)
}
