//! How the file system of a pool's directory shares extents, and whether it does.

use std::io;
use std::path::Path;

use crate::block::reflink;
use crate::pool::PoolError;

/// How the directory's file system shares extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// FICLONE of files.
    Files,
    /// Snapshots of subvolumes.
    Subvolumes,
}

/// Tries it, which takes a block of the file system: for a new pool.
pub(super) fn try_sharing(directory: &Path) -> Result<(), PoolError> {
    check_sharing(directory, reflink::supports_reflink(directory))
}

pub(super) fn check_sharing(directory: &Path, supported: io::Result<bool>) -> Result<(), PoolError> {
    if supported.map_err(|error| PoolError::io(format!("try to share extents in {}", directory.display()), error))? {
        return Ok(());
    }
    Err(PoolError::Unsupported(format!(
        "{}: its file system cannot share extents between files, so it cannot hold snapshots; use a directory on XFS or Btrfs, or \
         make an image file that can: windlass pool create --image PATH --size SIZE",
        directory.display()
    ).into()))
}
