//! A cache of what is read again with every export and restore: index files and trees of repositories that are far away, what long
//! indexes of any repository were made into ([`index`](super::index)), in which packs the blobs of long lists were found
//! ([`checked_tree`](super::checked_tree)), and how far exports have come that are under way ([`checkpoint`](super::checkpoint)).
//!
//! Files in a directory, a folder for each repository: index files and trees with the bytes as the store holds them, and segments of the
//! index, all of them sealed, so that the cache tells nobody more than the store does. Nothing in it is trusted: an index file must
//! hash to its name and a tree must be authentic and hash to its id, exactly as if it had just been fetched, and so must each page of
//! a segment and each list of packs; what is not is removed and fetched, or found out again. Nothing in it is needed: a failure here is
//! a line in the debug log, and the directory may be deleted at any time.
//!
//! A file (a checkpoint apart) is written under another name and renamed, so it is whole or absent, but it is not synced: after a crash of the machine it
//! may hold anything, and is found out. Several processes may use the directory at once.
//!
//! **Everything else in the directory stays**: a user may name one that is not empty. Only folders that are called as a repository is,
//! and in them only files that are called as ours are, count or are removed.
//!
//! **Bound**: [`Cache::LIMIT_BYTES`] for all repositories together, looked at after each tree, list of packs and checkpoint that is added; the
//! files used longest ago go first. Index files that the repository no longer has, or that became part of a segment, go when its
//! index is loaded. Segments have a bound of their own, [`Cache::SEGMENT_LIMIT_BYTES`]: those of a repository that is in use stay,
//! however large they are, since they would be made again at once.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::blob::BlobLocation;
use super::id::Id;
use crate::types::error::chain;

/// A directory of cached objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    directory: PathBuf,
    limit_bytes: u64,
    segment_limit_bytes: u64,
    segments_from_bytes: u64,
    checked_from_blobs: u64,
}

impl Cache {
    /// Environment variable that names the directory; set and empty, there is no cache.
    pub const VARIABLE: &str = "WINDLASS_CACHE_DIR";
    /// Bytes of all files, roughly: the trees of two dozen volumes of a TiB and the index of some.
    pub const LIMIT_BYTES: u64 = 1 << 30;
    /// Bytes of all segments of indexes, with the exception that the header names: 160 million blobs.
    pub const SEGMENT_LIMIT_BYTES: u64 = 8 << 30;
    /// Bytes of all index files of a repository from which on segments are made of them: with fewer (25 000 blobs) an index is made in
    /// memory in the time that looking for segments would take.
    pub const SEGMENTS_FROM_BYTES: u64 = 1 << 20;
    /// Blobs of a list from which on the packs are kept that they were found in: fewer (16 GiB in chunks of 256 KiB) are looked up again in
    /// less than a tenth of a second.
    pub const CHECKED_FROM_BLOBS: u64 = 1 << 16;

    /// A cache in `directory`, made when it is first written to, of `limit_bytes` at most without segments.
    pub fn new(directory: PathBuf, limit_bytes: u64) -> Self {
        let (segment_limit_bytes, segments_from_bytes) = (Self::SEGMENT_LIMIT_BYTES, Self::SEGMENTS_FROM_BYTES);
        Self { directory, limit_bytes, segment_limit_bytes, segments_from_bytes, checked_from_blobs: Self::CHECKED_FROM_BLOBS }
    }

    /// The same, with segments of all indexes of at least `from_bytes`.
    #[must_use]
    pub fn with_segments_from(self, from_bytes: u64) -> Self {
        Self { segments_from_bytes: from_bytes, ..self }
    }

    /// The same, with the packs of all lists of at least `from_blobs` blobs.
    #[must_use]
    pub fn with_checked_from(self, from_blobs: u64) -> Self {
        Self { checked_from_blobs: from_blobs, ..self }
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
        self.trim_to(self.limit_bytes, |_, name| !name.contains(SEGMENT))
    }

    /// Trims the files that `is_meant` tells by their folders and names.
    fn trim_to(&self, limit_bytes: u64, is_meant: impl Fn(&Path, &str) -> bool) -> io::Result<()> {
        let (mut files, mut bytes) = (Vec::new(), 0);
        for folder in fs::read_dir(&self.directory)? {
            let folder = folder?;
            let is_of_repository = folder.file_name().to_str().is_some_and(|name| name.parse::<Id>().is_ok());
            if !is_of_repository || !folder.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(folder.path())? {
                let file = file?;
                let name = file.file_name();
                if !name.to_str().is_some_and(|name| is_cached_name(name) && is_meant(&folder.path(), name)) {
                    continue;
                }
                // Another process may have removed it.
                let Ok(metadata) = file.metadata() else { continue };
                bytes += metadata.len();
                files.push((metadata.modified()?, metadata.len(), file.path()));
            }
        }
        files.sort_unstable();
        for (_, length, path) in files {
            if bytes <= limit_bytes {
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

/// Whether a file of this name in a repository's folder is one of the cache's.
fn is_cached_name(name: &str) -> bool {
    let begins = |beginning: &&str| name.starts_with(beginning);
    // The last is what earlier versions called unfinished files.
    [INDEX, TREE, CHECKED, CHECKPOINT, SEGMENT, NEW_SEGMENT, UNFINISHED, ".tmp"].iter().any(begins)
        || [LISTING, DAMAGED].contains(&name)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A cached file of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cached {
    /// An index file, whole.
    Index(Id),
    /// The sealed bytes of a tree, which lies there.
    Tree(BlobLocation),
    /// In which packs the blobs of that tree's lists were found ([`checked_tree`](super::checked_tree)).
    Checked(Id),
    /// How far an export has come ([`checkpoint`](super::checkpoint)).
    Checkpoint(Id),
    /// What the last listing of packs found ([`doubts`](super::doubts)).
    Listing,
    /// Which packs were found damaged.
    Damaged,
}

const INDEX: &str = "index-";
const TREE: &str = "tree-";
const CHECKED: &str = "checked-";
/// Names of checkpoints begin with this.
pub(super) const CHECKPOINT: &str = "checkpoint-";
const LISTING: &str = "listing";
const DAMAGED: &str = "damaged";
/// Names of files begin with this while they are written, and after their writer died.
const UNFINISHED: &str = ".unfinished-";
/// Names of segments begin with this.
pub(super) const SEGMENT: &str = "segment-";
/// Names of segments begin with this while they are written.
pub(super) const NEW_SEGMENT: &str = "new-segment-";

impl fmt::Display for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(id) => write!(f, "{INDEX}{id}"),
            Self::Checked(tree) => write!(f, "{CHECKED}{tree}"),
            Self::Checkpoint(name) => write!(f, "{CHECKPOINT}{name}"),
            Self::Listing => f.write_str(LISTING),
            Self::Damaged => f.write_str(DAMAGED),
            Self::Tree(location) => write!(f, "{TREE}{}-{}-{}", location.pack, location.offset, location.length),
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
    pub(super) fn path(&self, what: Cached) -> PathBuf {
        self.folder.join(what.to_string())
    }

    /// The file, if there is one; it counts as used now.
    pub(super) fn open(&self, what: Cached) -> Option<File> {
        let file = File::open(self.path(what)).ok()?;
        // A file of another user may be read and not touched: then it goes earlier.
        let _ = file.set_modified(SystemTime::now());
        Some(file)
    }

    /// Keeps a file with what `write` writes.
    pub(super) fn put(&self, what: Cached, write: impl FnOnce(&mut File) -> io::Result<()>) {
        let put = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            let mut temporary = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.folder)?;
            write(temporary.as_file_mut())?;
            temporary.persist(self.path(what)).map_err(|failure| failure.error)?;
            if matches!(what, Cached::Tree(_) | Cached::Checked(_)) { self.cache.trim() } else { Ok(()) }
        };
        note(what, put());
    }

    /// Removes a file that is not what its name says.
    pub(super) fn evict(&self, what: Cached) {
        tracing::warn!(object = %what, "a cached object is damaged; it is fetched or made again");
        note(what, remove(&self.path(what)));
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, what: Cached) -> io::Result<()> {
        remove(&self.path(what))
    }

    /// Removes the files of all repositories used longest ago until the rest is within the limit.
    pub(super) fn trim(&self) -> io::Result<()> {
        self.cache.trim()
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes of index files from which on segments are made of them.
    pub(super) fn segments_from_bytes(&self) -> u64 {
        self.cache.segments_from_bytes
    }

    /// Blobs of a list from which on the packs are kept that they were found in.
    pub(super) fn checked_from_blobs(&self) -> u64 {
        self.cache.checked_from_blobs
    }

    /// Removes segments of other repositories, those used longest ago first, until all others are within the limit.
    pub(super) fn trim_segments(&self) {
        let is_meant = |folder: &Path, name: &str| name.starts_with(SEGMENT) && folder != self.folder;
        if let Err(error) = self.cache.trim_to(self.cache.segment_limit_bytes, is_meant) {
            tracing::debug!(error = %chain(&error), "the cache could not be trimmed");
        }
    }

    /// Removes index files that became part of a segment.
    pub(super) fn forget_indexes<'a>(&self, ids: impl Iterator<Item = &'a Id>) {
        for what in ids.copied().map(Cached::Index) {
            note(what, remove(&self.path(what)));
        }
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
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(error = %chain(&error), "the cache could not be tidied")
            }
            _ => {}
        }
    }
}

fn note(what: Cached, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(object = %what, error = %chain(&error), "an object could not be cached");
    }
}

#[cfg(test)]
mod tests;
