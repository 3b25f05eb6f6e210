//! Loop devices as types: what is attached, how it is to be, and why it could not.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::types::{Access, LogicalBlockSize};

/// Why a loop device operation failed.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// The file is attached already; a second device would be a second cache over the same bytes.
    #[error("the file is attached already as {}", .0.path.display())]
    Attached(Box<LoopDevice>),
    /// Another thread is attaching the file at this moment.
    #[error("the file is being attached by another call")]
    Attaching,
    /// The device is mounted, claimed or open. It was left as it was.
    #[error("{}: is in use", .0.display())]
    Busy(PathBuf),
    /// The file system of the file has no direct I/O for this logical block size.
    #[error("{}: the file system beneath offers no direct I/O in blocks of {block_size} bytes", .device.display())]
    NoDirectIo {
        /// The device that was tried, free again.
        device: PathBuf,
        /// Logical block size in bytes.
        block_size: u32,
    },
    /// The file's size is zero or no multiple of the logical block size.
    #[error("a size of {size} bytes is not a multiple of the logical block size {block_size}")]
    Size {
        /// Size of the file in bytes.
        size: u64,
        /// Logical block size in bytes.
        block_size: u32,
    },
    /// The name of the device is taken in /dev.
    #[error("{}: is the node of another device", .0.display())]
    WrongNode(PathBuf),
    /// The file system of the file behind a device does not tell the file's state.
    #[error("the state of {} cannot be told", .device.display())]
    Silent {
        device: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A call of the system failed.
    #[error("{action}")]
    Io {
        /// What was attempted, with its path.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl LoopError {
    pub(super) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}

/// Which file is behind a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackingFile {
    /// Device number of its file system, as `stat` gives it.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

impl BackingFile {
    /// The identity of an open file.
    pub fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// Whether direct I/O is a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectIo {
    /// An error without it.
    Required,
    /// Through the page cache where the file system has none.
    IfPossible,
    /// Through the page cache. A flush of the device is an fsync of its file either way.
    Off,
}

/// How to attach a file.
#[derive(Debug, Clone)]
pub struct LoopOptions<'a> {
    /// What the device allows.
    pub access: Access,
    /// Its logical block size.
    pub block_size: LogicalBlockSize,
    /// A name for people and for [`LoopDevice::label`]; at most 63 bytes are kept.
    pub label: &'a str,
    /// Direct I/O or not.
    pub direct_io: DirectIo,
}

/// An attached loop device, as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopDevice {
    /// Its node.
    pub path: PathBuf,
    /// Its number: 7 for `/dev/loop7`.
    pub number: u32,
    /// The file behind it.
    pub backing: BackingFile,
    /// What it allows.
    pub access: Access,
    /// Whether it passes the page cache of the file system beneath.
    pub direct_io: bool,
    /// Whether it will vanish at its last close: someone detached it while it was open.
    pub vanishing: bool,
    /// The name it was given.
    pub label: String,
}
