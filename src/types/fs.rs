//! File systems that volumes carry.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// File systems that can be made on a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsType {
    /// ext4
    Ext4,
    /// XFS
    Xfs,
    /// Btrfs
    Btrfs,
}

impl FsType {
    /// All of them.
    pub const ALL: [FsType; 3] = [FsType::Ext4, FsType::Xfs, FsType::Btrfs];

    /// The name that mount(2) and StorageClasses use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Smallest device on which a file system of this type is made, in bytes, a multiple of 4096: what the programs accept, for ext4 what leaves
    /// room for a journal (without one, a power cut would lose files), and for Btrfs what the kernel can resize.
    ///
    /// Measured: mkfs.ext4 1.47 makes a file system from 256 KiB on and a journal from 8 MiB on, which takes half of that; mkfs.btrfs 6.2
    /// needs 109 MiB, and the kernel resizes none to less than 256 MiB, so that a smaller one could not become a little larger; mkfs.xfs has
    /// refused less than 300 MiB since 5.19.
    pub const fn minimum_bytes(self) -> u64 {
        match self {
            Self::Ext4 => 16 << 20,
            Self::Xfs => 300 << 20,
            Self::Btrfs => 256 << 20,
        }
    }
}

impl fmt::Display for FsType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Not the name of a file system that can be made here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of ext4, xfs, btrfs")]
pub struct UnknownFsType(String);

impl FromStr for FsType {
    type Err = UnknownFsType;

    fn from_str(text: &str) -> Result<Self, UnknownFsType> {
        Self::ALL.into_iter().find(|fs_type| fs_type.name() == text).ok_or_else(|| UnknownFsType(text.to_owned()))
    }
}
