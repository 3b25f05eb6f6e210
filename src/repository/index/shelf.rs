//! The segments of a repository in the cache of a machine: a folder that any number of processes and transfers use at once.
//!
//! **What is there** is what the folder lists; no other file says so. A segment is written under another name and renamed, and never
//! changes. It is called by the index files that it is made of, so two processes that make the same one replace each other's by its
//! like. A segment may be removed at any time: a process that has it open goes on reading it.
//!
//! **Index files that the store no longer has** are out of sight at once, because each row leads to its index file and a listing of the
//! store decides which of these count. A segment none of whose files count is removed by the next transfer that looks.
//!
//! **Merging** keeps the number of segments near the logarithm of the number of blobs ([`due`]). Steps: the merged segment is written
//! and gets its name; those that it is made of are removed. A crash before the name leaves a file of no meaning, which goes a day
//! later; a crash after it leaves segments that say the same twice: of each index file the rows of one segment count, the largest
//! first, and one that adds nothing to larger ones is removed as above. One process merges at a time: it holds a lock on the folder,
//! and a process that does not get the lock does not merge.
//!
//! **What is trusted**: nothing. Index files are verified when a segment is made of them (name and authentication code), and each page
//! whenever it is read ([`page`](super::page)). What does not read is removed, and made anew from the store.
//!
//! **Never**: nothing is made durable beyond what [`VERIFIED_PAGES`](super::segment::VERIFIED_PAGES) says, and an export or restore does
//! not fail because the folder cannot be written: then its index lies in scratch space.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};

use super::build::{SortedIndex, merge};
use super::page::{Place, Seal};
use super::segment::{OpenError, Segment, name_of};
use super::view::View;
use crate::failpoint;
use crate::repository::cache::{NEW_SEGMENT, SEGMENT};
use crate::repository::crypto::Sealer;
use crate::repository::id::Id;
use crate::types::error::chain;

/// The writer of a file that is so old and has no name yet is gone.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);
/// How often a folder is listed again in which segments vanished between the list and the opening: others merged them meanwhile.
const ATTEMPTS: usize = 3;
/// How many times as long as all smaller ones together a segment is that is not merged with them. Each blob is then written anew four
/// times at most while the index grows fivefold.
const RATIO: u64 = 4;

/// The segments of one repository; see the module's header. All calls block.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    folder: PathBuf,
    sealer: Sealer,
}

impl Shelf {
    pub(super) fn new(folder: PathBuf, sealer: Sealer) -> Self {
        Self { folder, sealer }
    }

    /// What segments say about the index files `current`, and those of these that none knows of.
    pub(super) fn open(&self, current: &HashSet<Id>) -> (Vec<View>, Vec<Id>) {
        for attempt in 1.. {
            let (mut segments, gone) = self.segments();
            if gone && attempt < ATTEMPTS {
                continue;
            }
            // The one that is about most files makes others superfluous, however many rows it has.
            segments.sort_by_key(|segment| Reverse((segment.files().len(), segment.path().map(Path::to_owned))));
            let mut missing = current.clone();
            let mut views = Vec::new();
            for segment in segments {
                let path = segment.path().map(Path::to_owned);
                match View::new(Arc::new(segment), |file| missing.contains(file)) {
                    Ok(view) if view.live_files().next().is_some() => {
                        for file in view.live_files() {
                            missing.remove(&file);
                        }
                        views.push(view);
                    }
                    // Nothing of it counts.
                    Ok(_) => path.iter().for_each(|path| remove(path)),
                    // It was removed when that was found out.
                    Err(error) => tracing::warn!(error = %chain(&error), "a segment of an index is not used"),
                }
            }
            return (views, missing.into_iter().collect());
        }
        (Vec::new(), current.iter().copied().collect())
    }

    /// The segments in the folder that read, and whether one vanished while this looked.
    fn segments(&self) -> (Vec<Segment>, bool) {
        let (mut segments, mut gone) = (Vec::new(), false);
        for (name, path) in self.named() {
            match Segment::open(&path, &name, &self.sealer) {
                Ok(segment) => {
                    // A file of another user may be read and not touched: then it goes earlier.
                    let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
                    segments.push(segment);
                }
                Err(OpenError::Gone) => gone = true,
                Err(error @ (OpenError::Page(_) | OpenError::Damaged(_))) => {
                    tracing::warn!(path = %path.display(), error = %chain(&error), "a segment of an index is not used; it is made anew");
                    remove(&path);
                }
            }
        }
        (segments, gone)
    }

    fn named(&self) -> Vec<(Id, PathBuf)> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let named = entries.filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().to_str()?.strip_prefix(SEGMENT)?.parse().ok()?;
            Some((name, entry.path()))
        });
        named.collect()
    }

    /// Writes a segment and gives it its name.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(super) fn add(&self, index: &SortedIndex) -> io::Result<Segment> {
        self.write(&name_of(index.files()), |place, seal| index.write(place, seal))
    }

    fn write(&self, name: &Id, write: impl FnOnce(Place, Seal) -> io::Result<Segment>) -> io::Result<Segment> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let temporary = tempfile::Builder::new().prefix(NEW_SEGMENT).tempfile_in(&self.folder)?;
        let segment = write(Place::File(temporary.as_file().try_clone()?), Seal::With(self.sealer.clone()))?;
        failpoint::hit("index.segment.before");
        let path = self.folder.join(format!("{SEGMENT}{name}"));
        temporary.persist(&path).map_err(|failure| failure.error)?;
        failpoint::hit("index.segment.after");
        Ok(segment.named(path))
    }

    /// Merges what is [`due`] of the segments that say something about `current`, unless another process does so at this moment.
    pub(super) fn tidy(&self, current: &HashSet<Id>) {
        let Some(_lock) = self.lock() else { return };
        self.sweep();
        let (views, _) = self.open(current);
        let due: Vec<View> = due(&views).into_iter().map(|number| views[number].clone()).collect();
        if due.is_empty() {
            return;
        }
        drop(views);
        match self.merge(&due) {
            Ok(rows) => tracing::debug!(segments = due.len(), rows, "segments of an index merged"),
            Err(error) => tracing::debug!(error = %chain(&error), "segments of an index were not merged"),
        }
    }

    /// Makes one segment of several and removes these.
    fn merge(&self, views: &[View]) -> io::Result<u64> {
        let mut files: Vec<Id> = views.iter().flat_map(View::live_files).collect();
        files.sort_unstable();
        let merged = self.write(&name_of(&files), |place, seal| merge(views, place, seal))?;
        for path in views.iter().filter_map(|view| view.segment().path()) {
            // One of which all files count is called as the merged one is, when it is merged alone.
            if Some(path) != merged.path() {
                remove(path);
                failpoint::hit("index.merged.after");
            }
        }
        Ok(views.iter().map(View::live_blobs).sum())
    }

    /// The lock of the process that merges; `None` when another has it, or there is no folder.
    fn lock(&self) -> Option<Flock<File>> {
        let folder = File::open(&self.folder).ok()?;
        Flock::lock(folder, FlockArg::LockExclusiveNonblock).ok()
    }

    /// Removes the files of processes that were killed while they wrote.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let is_new = entry.file_name().to_str().is_some_and(|name| name.starts_with(NEW_SEGMENT));
            let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|modified| modified.elapsed());
            if is_new && matches!(age, Ok(Ok(age)) if age > ABANDONED) {
                remove(&entry.path());
            }
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(path = %path.display(), error = %chain(&error), "a segment of an index could not be removed");
    }
}

/// The size of a segment, in rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    /// Rows that are visible.
    live: u64,
    /// Rows that it has.
    rows: u64,
}

/// The numbers of the segments that are to become one, if any are.
pub(super) fn due(views: &[View]) -> Vec<usize> {
    let sizes: Vec<Size> = views.iter().map(|view| Size { live: view.live_blobs(), rows: view.rows() }).collect();
    due_of(&sizes)
}

/// The same by their sizes: all that are not [`RATIO`] times as long as those shorter than they are together, and
/// one that is half out of sight.
fn due_of(sizes: &[Size]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&number| sizes[number].live);
    let (mut sum, mut few) = (0_u64, 0);
    for (position, &number) in order.iter().enumerate() {
        if position > 0 && sizes[number].live <= sum.saturating_mul(RATIO) {
            few = position + 1;
        }
        sum += sizes[number].live;
    }
    let mut due = order[..few].to_vec();
    let half_gone = |&number: &usize| sizes[number].rows > 2 * sizes[number].live;
    due.extend(order[few..].iter().copied().filter(half_gone));
    due.sort_unstable();
    due
}

#[cfg(test)]
mod tests;
