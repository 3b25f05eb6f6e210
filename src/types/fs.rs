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
