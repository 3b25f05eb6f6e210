//! The kinds of pools that a test is run over, and what a test must expect of one and not of another. Whatever is not here is the
//! same over all of them.

use windlass::dm::units::DataBlockSize;

/// The file system of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolFileSystem {
    /// XFS: snapshots by FICLONE.
    Xfs,
    /// Btrfs: snapshots by subvolumes.
    Btrfs,
    /// None: a thin pool, which needs a kernel with device-mapper.
    Thin,
}

impl PoolFileSystem {
    /// Those of reflink pools.
    pub const ALL: [Self; 2] = [Self::Xfs, Self::Btrfs];

    /// As the command line and mkfs call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Thin => "thin",
        }
    }

    /// What is allocated or changed is said in units of this: file systems count in their own blocks, dm-thin in its data blocks.
    pub fn granularity(self) -> u64 {
        match self {
            Self::Xfs | Self::Btrfs => 4096,
            Self::Thin => DataBlockSize::MIN.bytes(),
        }
    }

    /// How often a test does what it otherwise does `often` times. Thin pools are tested in a machine that may be emulated, where
    /// everything takes ten times as long.
    pub fn repetitions(self, often: usize) -> usize {
        match self {
            Self::Xfs | Self::Btrfs => often,
            Self::Thin => often / 10,
        }
    }
}
