//! Hidden targets of restores.

use std::fs::File;
use std::io;

use crate::block::{FileSink, FileSource};
use crate::types::{LogicalBlockSize, ObjectName, TargetContent, VolumeHandle, VolumeSize};

/// Answer to [`Blocks::begin`](super::Blocks::begin).
#[derive(Debug)]
pub enum TargetStart {
    /// Write to this, close it, then commit or abort it.
    Target(RestoreTarget),
    /// There is a volume that was made by an equal request; nothing is to be done.
    Existing(VolumeHandle),
}

/// A volume to write to that nobody sees. Dropping it closes its descriptor, and neither commits nor aborts it.
#[derive(Debug)]
pub struct RestoreTarget {
    /// The handle that it will have.
    pub volume: VolumeHandle,
    /// Its size.
    pub size: VolumeSize,
    /// What it holds at first.
    pub content: TargetContent,
    /// A descriptor for reading and writing.
    pub file: File,
}

impl RestoreTarget {
    /// What is written to it. Its size is a multiple of 4096 bytes whatever its device's blocks will be.
    ///
    /// # Errors
    /// Whatever the system reports of the descriptor.
    pub fn into_sink(self) -> io::Result<FileSink> {
        FileSink::new(self.file, self.size.bytes(), LogicalBlockSize::B4096)
    }

    /// What was written to it, by a copy of its descriptor.
    ///
    /// # Errors
    /// Whatever the system reports of the descriptor.
    pub fn source(&self) -> io::Result<FileSource> {
        FileSource::new(self.file.try_clone()?, self.size.bytes(), LogicalBlockSize::B4096)
    }
}

/// Under which name, and as what, a target becomes visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitName {
    /// The one that it was begun with.
    AsBegun,
    /// The same; and its image says that its volume was never formatted. So is this one, if nothing was written to it: it has content else.
    AsBegunUnformatted,
    /// Another, since it is not what the first promises; that one is free again.
    Instead(ObjectName),
}
