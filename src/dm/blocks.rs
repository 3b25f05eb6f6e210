//! Counts and places in a thin pool's own units, which are not each other's.

use std::fmt;

/// A number of a pool's data blocks, whose size the pool's table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct DataBlocks(u64);

impl DataBlocks {
    /// This many.
    pub const fn new(count: u64) -> Self {
        Self(count)
    }

    /// How many.
    pub const fn count(self) -> u64 {
        self.0
    }

    /// What is left of these when `used` are taken; none when more are.
    pub const fn less(self, used: Self) -> Self {
        Self(self.0.saturating_sub(used.0))
    }
}

impl fmt::Display for DataBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number of metadata blocks of 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MetadataBlocks(u64);

impl MetadataBlocks {
    /// Bytes of one: the same for every pool.
    pub const BYTES: u64 = 4096;

    /// This many.
    pub const fn new(count: u64) -> Self {
        Self(count)
    }

    /// How many.
    pub const fn count(self) -> u64 {
        self.0
    }

    /// What is left of these when `used` are taken; none when more are.
    pub const fn less(self, used: Self) -> Self {
        Self(self.0.saturating_sub(used.0))
    }
}

impl fmt::Display for MetadataBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where the copy of the superblock for a metadata snapshot lies: the number of its block of 4 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeldRoot(u64);

impl HeldRoot {
    /// The block with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for HeldRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number that a pool's owner keeps in its metadata, changed only by compare-and-swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(u64);

impl TransactionId {
    /// That of a pool just formatted.
    pub const FIRST: Self = Self(0);

    /// This id.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// As a number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The one after it; `None` after the last.
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
