//! A cache of what is read again with every export and restore: index files and trees, for repositories that are far away.
//!
//! Files in a directory, a folder for each repository, with the bytes as the store holds them: sealed, so that the cache tells nobody
//! more than the store does. Nothing in it is trusted: an index file must hash to its name and a tree must be authentic and hash to
//! its id, exactly as if it had just been fetched; what does not is removed and fetched. Nothing in it is needed: whatever fails here
//! is a line in the debug log, and the directory may be deleted at any time.
//!
//! A file is written under another name and renamed, so it is whole or absent, but it is not synced: after a crash of the machine it
//! may hold anything, and is found out. Several processes may use the directory at once.
//!
//! **Bound**: [`Cache::LIMIT_BYTES`] for all repositories together, looked at after each tree that is added; the files used longest ago
//! go first. Index files that the repository no longer has go when its index is loaded.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::blob::BlobLocation;
use super::id::Id;

/// A directory of cached objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    directory: PathBuf,
    limit_bytes: u64,
}

impl Cache {
    /// Environment variable that names the directory; set and empty, there is no cache.
    pub const VARIABLE: &str = "WINDLASS_CACHE_DIR";
    /// Bytes of all files, roughly: the trees of two dozen volumes of a TiB and the index of some.
    pub const LIMIT_BYTES: u64 = 1 << 30;

    /// A cache in `directory`, made when it is first written to, of `limit_bytes` at most.
    pub fn new(directory: PathBuf, limit_bytes: u64) -> Self {
        Self { directory, limit_bytes }
    }

    /// The cache of this process: where [`Cache::VARIABLE`] says, else systemd's cache directory of the service, else `windlass` in the
    /// user's cache directory. `None` when nothing of that is set.
    pub fn of_process() -> Option<Self> {
        let directory = directory(|name| std::env::var_os(name).map(PathBuf::from))?;
        Some(Self::new(directory, Self::LIMIT_BYTES))
    }

    /// The part that belongs to one repository.
    pub(super) fn of_repository(&self, id: &Id) -> RepositoryCache {
        RepositoryCache { folder: self.directory.join(id.to_string()), cache: self.clone() }
    }

    /// Removes the files used longest ago until the rest is within the limit.
    fn trim(&self) -> io::Result<()> {
        let (mut files, mut bytes) = (Vec::new(), 0);
        for folder in fs::read_dir(&self.directory)? {
            let folder = folder?;
            if !folder.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(folder.path())? {
                let file = file?;
                // Another process may have removed it.
                let Ok(metadata) = file.metadata() else { continue };
                bytes += metadata.len();
                files.push((metadata.modified()?, metadata.len(), file.path()));
            }
        }
        files.sort_unstable();
        for (_, length, path) in files {
            if bytes <= self.limit_bytes {
                break;
            }
            remove(&path)?;
            bytes = bytes.saturating_sub(length);
        }
        Ok(())
    }
}

fn directory(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    if let Some(named) = variable(Cache::VARIABLE) {
        return (!named.as_os_str().is_empty()).then_some(named);
    }
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    // systemd.exec(5); XDG Base Directory Specification.
    absolute("CACHE_DIRECTORY")
        .or_else(|| absolute("XDG_CACHE_HOME").map(|path| path.join("windlass")))
        .or_else(|| absolute("HOME").map(|path| path.join(".cache/windlass")))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cached {
    /// An index file, whole.
    Index(Id),
    /// The sealed bytes of a tree, which lies there.
    Tree(BlobLocation),
    /// What the last listing of packs found ([`doubts`](super::doubts)).
    Listing,
    /// Which packs were found damaged.
    Damaged,
}

const INDEX: &str = "index-";

impl fmt::Display for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(id) => write!(f, "{INDEX}{id}"),
            Self::Listing => f.write_str("listing"),
            Self::Damaged => f.write_str("damaged"),
            Self::Tree(location) => write!(f, "tree-{}-{}-{}", location.pack, location.offset, location.length),
        }
    }
}

/// The cached objects of one repository. All calls block.
#[derive(Debug, Clone)]
pub(super) struct RepositoryCache {
    folder: PathBuf,
    cache: Cache,
}

impl RepositoryCache {
    fn path(&self, what: Cached) -> PathBuf {
        self.folder.join(what.to_string())
    }

    /// The file, if there is one; it counts as used now.
    pub(super) fn open(&self, what: Cached) -> Option<File> {
        let file = File::open(self.path(what)).ok()?;
        // A file of somebody else's may be read and not touched: then it goes earlier.
        let _ = file.set_modified(SystemTime::now());
        Some(file)
    }

    /// Keeps what `write` writes.
    pub(super) fn put(&self, what: Cached, write: impl FnOnce(&mut File) -> io::Result<()>) {
        let put = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            let mut temporary = tempfile::NamedTempFile::new_in(&self.folder)?;
            write(temporary.as_file_mut())?;
            temporary.persist(self.path(what)).map_err(|failure| failure.error)?;
            if matches!(what, Cached::Tree(_)) { self.cache.trim() } else { Ok(()) }
        };
        note(what, put());
    }

    /// Removes what turned out not to be what it is called.
    pub(super) fn evict(&self, what: Cached) {
        tracing::warn!(object = %what, "a cached object is damaged; it is fetched again");
        note(what, remove(&self.path(what)));
    }

    /// Removes the index files that are not `current`.
    pub(super) fn retain_indexes(&self, current: &HashSet<Id>) {
        let retain = || -> io::Result<()> {
            for file in fs::read_dir(&self.folder)? {
                let file = file?;
                let name = file.file_name();
                let id = name.to_str().and_then(|name| name.strip_prefix(INDEX)?.parse().ok());
                if id.is_some_and(|id: Id| !current.contains(&id)) {
                    remove(&file.path())?;
                }
            }
            Ok(())
        };
        match retain() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::debug!(%error, "the cache could not be tidied"),
            _ => {}
        }
    }
}

fn note(what: Cached, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(object = %what, %error, "an object could not be cached");
    }
}

#[cfg(test)]
mod tests;
