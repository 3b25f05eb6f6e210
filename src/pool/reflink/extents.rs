//! The extents of a snapshot's file, by the cheapest way its file system has.

use std::fs::File;
use std::io;

use super::sharing::Sharing;
use crate::block::btrfs_extents::{self, TreeExtents};
use crate::block::fiemap::{self, Extents, FiemapOptions, FileExtent};
use crate::types::error::chain;

/// Written extents in ascending order; see [`of_snapshot`].
pub(super) enum SnapshotExtents {
    /// Asked of the file. Also where the tree is not shown to this process.
    File(Extents<File>),
    /// Read from the tree of a subvolume.
    Tree(TreeExtents),
}

/// The written extents of a snapshot's file, which nobody writes to.
///
/// # Errors
/// Whatever the system reports; the list may fail later.
pub(super) fn of_snapshot(file: File, sharing: Sharing) -> io::Result<SnapshotExtents> {
    if sharing == Sharing::Subvolumes {
        match btrfs_extents::extents(file.try_clone()?) {
            Ok(extents) => return Ok(SnapshotExtents::Tree(extents)),
            Err(error) if is_not_offered(&error) => {
                tracing::debug!(error = %chain(&error), "no look into the tree; the files are asked")
            }
            Err(error) => return Err(error),
        }
    }
    // Written out first: costs nothing where nothing is left to write.
    Ok(SnapshotExtents::File(fiemap::extents(file, FiemapOptions::LIVE)))
}

fn is_not_offered(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied || error.raw_os_error() == Some(libc::ENOTTY)
}

impl Iterator for SnapshotExtents {
    type Item = io::Result<FileExtent>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::File(extents) => extents.next(),
            Self::Tree(extents) => extents.find(|extent| !extent.as_ref().is_ok_and(|extent| extent.flags.is_unwritten())),
        }
    }
}
