//! Scratch space: lists and tables whose length depends on a volume or a repository, in memory that does not.
//!
//! Each [`Spill`] keeps its first few MiB ([`Scratch::MEMORY_BYTES`]) in memory and all of itself in an unlinked file from then on,
//! so a small volume never touches a disk and a large one costs no memory. On it stand [`Rows`], a list of rows of one length;
//! [`SortedRows`], a table that is searched by the key its rows begin with; and [`KeySet`], a set of keys that grows.
//!
//! **Owns** the files, which have no name: however the process ends, nothing is left. Nothing here is ever made durable, nor
//! read by another process. The files of a process lie in one directory and have one limit together ([`Scratch::of_process`]), since
//! it is one disk that they fill. What was written is read back through the page cache, which the kernel can take away; so the memory
//! of a transfer stays constant also where it is counted by a control group.
//!
//! **Errors**: [`ScratchError`] when the directory cannot be written or the limit is reached; what needed the space fails as a
//! whole. Nothing is tried again and nothing falls back to memory.
//!
//! It blocks, as files do; nothing of it runs on an async thread when it may be long.

mod key_set;
mod rows;
mod sorted;
mod spill;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::{fmt, io};

pub use key_set::{Inserted, KeySet};
pub use rows::{Rows, RowsCursor, RowsIter, RowsWriter};
pub use sorted::{KEY_BYTES, Key, SortedRows, SortedRuns, Sorter};
pub use spill::{Spill, SpillReader};

/// Scratch space, or a cache, failed: its directory cannot be written or read, or has no room. Clones share the cause.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{place} in {} failed ({variable} names another directory)", directory.display())]
pub struct ScratchError {
    place: &'static str,
    directory: PathBuf,
    variable: &'static str,
    source: Arc<dyn Error + Send + Sync>,
}

impl ScratchError {
    /// The failure of `place`, which lies in the `directory` that `variable` names.
    pub fn of_place(
        place: &'static str,
        directory: &Path,
        variable: &'static str,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { place, directory: directory.to_owned(), variable, source: Arc::from(cause.into()) }
    }

    /// The failure of scratch space that an error of the readers and writers above it wraps.
    pub fn within(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<ScratchError> for io::Error {
    fn from(error: ScratchError) -> Self {
        Self::other(error)
    }
}

/// A directory with room for files without a name, and how much of it may be used. Clones share the limit.
#[derive(Clone)]
pub struct Scratch(Arc<Inner>);

struct Inner {
    directory: PathBuf,
    limit_bytes: u64,
    memory_bytes: usize,
    used_bytes: AtomicU64,
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scratch({})", self.0.directory.display())
    }
}

impl Default for Scratch {
    /// Space of its own in [`Scratch::DIRECTORY`], with the limits of a process.
    fn default() -> Self {
        Self::new(Path::new(Self::DIRECTORY), Self::LIMIT_BYTES, Self::MEMORY_BYTES)
    }
}

impl Scratch {
    /// Environment variable that names the directory of [`Scratch::of_process`].
    pub const VARIABLE: &str = "WINDLASS_SCRATCH_DIR";
    /// The directory otherwise: unlike `/tmp` it is on a disk, by the Filesystem Hierarchy Standard.
    pub const DIRECTORY: &str = "/var/tmp";
    /// Bytes of a [`Spill`] that stay in memory: the list of 128 GiB in chunks of 1 MiB. A transfer has six spills at most that are
    /// as long as that at one time (index, its runs, claims, the parent's list, the new one, the tree).
    pub const MEMORY_BYTES: usize = 4 << 20;
    /// Bytes of all files of a process at most. The longest list there can be (64 million chunks) takes 2 GiB, the tree of it as
    /// much again; an index of as many blobs 3 GiB, and as much again where no cache keeps it.
    pub const LIMIT_BYTES: u64 = 32 << 30;

    /// Space in `directory`, of which `limit_bytes` may be used; what needs no more than `memory_bytes` stays in memory.
    pub fn new(directory: &Path, limit_bytes: u64, memory_bytes: usize) -> Self {
        Self(Arc::new(Inner { directory: directory.to_owned(), limit_bytes, memory_bytes, used_bytes: AtomicU64::new(0) }))
    }

    pub fn directory_of_process() -> PathBuf {
        Self::of_process().0.directory.clone()
    }

    /// The space of this process, in the directory that [`Scratch::VARIABLE`] names when this is first called.
    pub fn of_process() -> Self {
        static SPACE: OnceLock<Scratch> = OnceLock::new();
        let space = SPACE.get_or_init(|| {
            let named = std::env::var_os(Self::VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from);
            let directory = named.unwrap_or_else(|| PathBuf::from(Self::DIRECTORY));
            Self::new(&directory, Self::LIMIT_BYTES, Self::MEMORY_BYTES)
        });
        space.clone()
    }

    /// Bytes of a spill that stay in memory.
    pub fn memory_bytes(&self) -> usize {
        self.0.memory_bytes
    }

    /// Bytes of all files at this moment.
    pub fn used_bytes(&self) -> u64 {
        self.0.used_bytes.load(Ordering::Relaxed)
    }

    fn reserve(&self, bytes: u64) -> Result<(), ScratchError> {
        let before = self.0.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) <= self.0.limit_bytes {
            return Ok(());
        }
        self.release(bytes);
        Err(self.error(format!("all {} bytes are used", self.0.limit_bytes)))
    }

    fn release(&self, bytes: u64) {
        self.0.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The error that something of this space failed, for `cause`.
    pub(crate) fn error(&self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> ScratchError {
        ScratchError::of_place("scratch space", &self.0.directory, Self::VARIABLE, cause)
    }
}

#[cfg(test)]
mod tests;
