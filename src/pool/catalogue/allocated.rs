//! A file for the catalogue that never needs space of its file system.
//!
//! Volumes are sparse, so their writers may take the last block of a pool; what the catalogue then needs to let anything be deleted must be
//! its own already. So every byte of the file is *written* beforehand, with zeros, and on Btrfs the file is NODATACOW: a commit
//! overwrites blocks that are the file's. Zeros rather than `fallocate`: an unwritten extent is converted when it is first written to,
//! which takes metadata blocks at the moment at which there are none.
//!
//! * **The length that the database sees at the start is that of the whole file**, and what it sets afterwards is only noted: nothing is
//!   ever given back to writers. The database accepts a file longer than it left it, and counts the rest as free pages. (It is a plain
//!   file of that database all the same, as in the first versions.)
//! * The file grows by whole steps of zeros, durable before they count, [ahead of need](AllocatedFile::grow_ahead) and only while the
//!   file system has room to spare; a step that does not fit is taken back.
//! * Positions that the database gave up and takes again read as zeros, as of a file that was cut off.
//! * A file that is not like that (made by the first versions, or shared with a copy of the directory) is
//!   [replaced](AllocatedFile::open) by one that is, if there is room: written beside it, synced, renamed over it, the directory
//!   synced. A crash before the rename leaves the old one, and a name that the next replacement removes. Without room it serves as it
//!   is, with a warning, until it is opened again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::statvfs::fstatvfs;
use redb::StorageBackend;

use crate::block::fiemap::{self, FiemapOptions};
use crate::block::{btrfs, file_ops};
use crate::failpoint;
use crate::pool::PoolError;
use crate::types::ByteRange;
use crate::types::error::chain;

/// Bytes of the smallest file: room for some 2,000 volumes and snapshots before it must grow. The database begins with 90 KB, and at worst
/// cannot use half of what it has (see `room`); the tenth of the other half that is kept for deletions is 100 pages.
pub(super) const MIN_BYTES: u64 = 8 << 20;
/// The file grows by multiples of this, in bytes.
const STEP: u64 = 1 << 20;

/// An open file, allocated as far as its file system allowed. A clone is another reference to it.
#[derive(Debug, Clone)]
pub(super) struct AllocatedFile {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    file: File,
    extent: Mutex<Extent>,
}

#[derive(Debug, Clone, Copy)]
struct Extent {
    /// Bytes of the file.
    capacity: u64,
    /// Bytes that the database counts on, at most `capacity`.
    length: u64,
}

impl AllocatedFile {
    /// Makes an empty one at `path`, where nothing may be; mode 0600, whatever the umask. The database begins in it as in an empty
    /// file. Not durable by name.
    pub(super) fn create(path: &Path) -> Result<Self, PoolError> {
        let io = |what: &str, source| PoolError::io(format!("{what} {}", path.display()), source);
        let file = new_file(path).map_err(|error| io("create", error))?;
        let made = Self::over(file, Extent { capacity: 0, length: 0 });
        made.grow(MIN_BYTES).map_err(|error| io("allocate", error))?;
        Ok(made)
    }

    /// Opens the one at `path`, which is a database of ours, and replaces it first if it is not allocated.
    pub(super) fn open(path: &Path) -> Result<Self, PoolError> {
        let io = |source| PoolError::io(format!("open {}", path.display()), source);
        let mut file = File::options().read(true).write(true).open(path).map_err(io)?;
        if let Err(why) = check_allocated(&file, path) {
            match replacement(&file, path) {
                Ok(replacement) => {
                    tracing::info!(catalogue = %path.display(), why, "the catalogue's space is its own now");
                    file = replacement;
                }
                Err(error) => tracing::warn!(
                    catalogue = %path.display(), why, error = %chain(&error),
                    "the catalogue has no space of its own yet: once the pool is full, nothing can be deleted"
                ),
            }
        }
        let capacity = file.metadata().map_err(io)?.len();
        Ok(Self::over(file, Extent { capacity, length: capacity }))
    }

    fn over(file: File, extent: Extent) -> Self {
        Self { shared: Arc::new(Shared { file, extent: Mutex::new(extent) }) }
    }

    /// Bytes of the file.
    pub(super) fn capacity(&self) -> u64 {
        self.extent().capacity
    }

    /// Bytes that the database counts on.
    pub(super) fn length(&self) -> u64 {
        self.extent().length
    }

    /// Makes the file at least this long if the file system can spare it; whether it is that long. What fails is tried again by the
    /// next call.
    pub(super) fn grow_ahead(&self, bytes: u64) -> bool {
        let missing = bytes.saturating_sub(self.capacity());
        if missing == 0 {
            return true;
        }
        let grown = check_spare(&self.shared.file, missing + STEP).and_then(|()| self.grow(bytes));
        if let Err(error) = &grown {
            tracing::debug!(error = %chain(&error), bytes, "the catalogue's file does not grow");
        }
        grown.is_ok()
    }

    fn extent(&self) -> MutexGuard<'_, Extent> {
        self.shared.extent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the file at least this long, durably.
    fn grow(&self, bytes: u64) -> io::Result<()> {
        let mut extent = self.extent();
        let wanted = bytes.checked_next_multiple_of(STEP).ok_or(io::ErrorKind::FileTooLarge)?;
        if let Some(range) = ByteRange::between(extent.capacity, wanted) {
            let file = &self.shared.file;
            if let Err(error) = write_zeros(file, range).and_then(|()| file.sync_all()) {
                // Or the next start would take half a step for the database's.
                file.set_len(extent.capacity)?;
                return Err(error);
            }
            extent.capacity = wanted;
        }
        Ok(())
    }
}

impl StorageBackend for AllocatedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.extent().length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.shared.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (capacity, length) = (self.capacity(), self.length());
        if len > capacity {
            self.grow(len)?;
        }
        if let Some(range) = ByteRange::between(length, len.min(capacity)) {
            write_zeros(&self.shared.file, range)?;
        }
        self.extent().length = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.shared.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.shared.file.write_all_at(data, offset)
    }
}

/// Whether a commit to this file overwrites what is the file's own; why not.
fn check_allocated(file: &File, path: &Path) -> Result<(), &'static str> {
    let Ok(metadata) = file.metadata() else { return Err("it cannot be looked at") };
    if metadata.len() < MIN_BYTES { Err("it is shorter than it must be") } else { check_own_space(file, path) }
}

/// Whether what is overwritten in this file, which lies at `path`, takes no space of the file system; why not.
pub(super) fn check_own_space(file: &File, path: &Path) -> Result<(), &'static str> {
    let Ok(metadata) = file.metadata() else { return Err("it cannot be looked at") };
    // Blocks of stat(2) are 512 bytes on every file system.
    if metadata.blocks().saturating_mul(512) < metadata.len() {
        return Err("it is sparse");
    }
    if btrfs::is_btrfs(path).unwrap_or(false) && !file_ops::is_no_cow(file).unwrap_or(false) {
        return Err("it is copied on write");
    }
    // File systems that do not tell do not share either.
    let mut extents = fiemap::extents(file, FiemapOptions::default());
    if extents.any(|extent| extent.is_ok_and(|extent| extent.flags.is_shared())) {
        Err("it shares blocks with a copy of it")
    } else {
        Ok(())
    }
}

/// A new file with the content of `old`, in its place.
fn replacement(old: &File, path: &Path) -> io::Result<File> {
    let content = old.metadata()?.len();
    // Twice: the half that the database can use at worst is to be what it has now.
    let bytes = content.saturating_mul(2).max(MIN_BYTES).next_multiple_of(STEP);
    check_spare(old, bytes)?;
    let unfinished = unfinished(path);
    remove(&unfinished)?;
    let fill = || -> io::Result<File> {
        let file = new_file(&unfinished)?;
        let mut piece = vec![0; STEP as usize];
        let mut offset = 0;
        while offset < content {
            let piece = &mut piece[..usize::try_from(content - offset).unwrap_or(STEP as usize).min(STEP as usize)];
            old.read_exact_at(piece, offset)?;
            file.write_all_at(piece, offset)?;
            offset += piece.len() as u64;
        }
        if let Some(rest) = ByteRange::between(content, bytes) {
            write_zeros(&file, rest)?;
        }
        file.sync_all()?;
        failpoint::around("catalogue.replace", || {
            fs::rename(&unfinished, path)?;
            file_ops::sync_dir(path.parent().unwrap_or(Path::new("/")))
        })?;
        Ok(file)
    };
    fill().inspect_err(|_| drop(remove(&unfinished)))
}

/// Where a catalogue is made before it has its name.
pub(super) fn unfinished(path: &Path) -> std::path::PathBuf {
    path.with_extension("new")
}

/// Removes what an interrupted attempt left. Absent is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A new empty file that only its owner reads, overwritten in place also on Btrfs.
pub(super) fn new_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    // Whatever the umask, nobody else reads it.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    if btrfs::is_btrfs(path)? {
        file_ops::set_no_cow(&file)?;
    }
    Ok(file)
}

/// Whether the file system has twice as much free: what is taken ahead of need is not to be what a writer lacks the next moment.
pub(super) fn check_spare(file: &File, bytes: u64) -> io::Result<()> {
    let stat = fstatvfs(file)?;
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    if free / 2 < bytes { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
}

pub(super) fn write_zeros(file: &File, range: ByteRange) -> io::Result<()> {
    let zeros = vec![0; STEP as usize];
    let mut offset = range.offset();
    while offset < range.end() {
        let piece = usize::try_from(range.end() - offset).unwrap_or(zeros.len()).min(zeros.len());
        file.write_all_at(&zeros[..piece], offset)?;
        offset += piece as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
