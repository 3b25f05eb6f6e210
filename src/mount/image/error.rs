//! Why an image could not be made, opened, grown or closed.

use std::io;
use std::path::{Path, PathBuf};

use crate::block::loop_device::LoopError;
use crate::mount::MountError;

/// Smallest image in bytes: both file systems accept it and have room left for a volume.
pub const MINIMUM_BYTES: u64 = 512 << 20;

/// Why an image could not be made, opened or closed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Something is there already; it was not touched.
    #[error("{0}: exists already and is not empty")]
    Exists(PathBuf),
    /// The size is too small or no multiple of 4096.
    #[error("an image of {bytes} bytes is not possible: at least {MINIMUM_BYTES}, and a multiple of 4096")]
    Size {
        /// The size asked for.
        bytes: u64,
    },
    /// The file system around the image has less room than the image could take.
    #[error("{path}: {wanted} bytes do not fit into the {available} that are free around it")]
    NoSpace {
        /// The image.
        path: PathBuf,
        /// Its size.
        wanted: u64,
        /// What is free.
        available: u64,
    },
    /// The size asked for is less than it has.
    #[error("{path}: has {current} bytes, more than {bytes}; images do not shrink")]
    Shrinks {
        /// The image.
        path: PathBuf,
        /// Its size.
        current: u64,
        /// The size asked for.
        bytes: u64,
    },
    /// A file system without shared extents was asked for or found.
    #[error("{path}: {found} cannot hold a pool; xfs and btrfs can")]
    Unsuitable {
        /// The image.
        path: PathBuf,
        /// What it is.
        found: String,
    },
    /// Another process has it open.
    #[error("{0}: is in use by another process")]
    Locked(PathBuf),
    /// It is attached in a way this software does not attach it.
    #[error("{path}: {reason}; detach it (losetup -d) and try again")]
    Attached {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Mounting, unmounting or making the file system failed.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Attaching or detaching failed.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// A call of the system failed.
    #[error("{action}")]
    Io {
        /// What was attempted, with its path.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl ImageError {
    pub(super) fn io(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let action = format!("{what} {}", path.display());
        move |source| Self::Io { action, source }
    }
}
