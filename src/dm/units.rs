//! Units of device-mapper: sectors, thin ids, data block sizes, times.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes of a sector. Device-mapper counts in these, whatever the device's logical blocks are.
pub const SECTOR_BYTES: u64 = 512;

/// A number of sectors of 512 bytes: an offset or a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Sectors(u64);

impl Sectors {
    /// This many sectors; `None` when their bytes do not fit into 64 bits.
    pub const fn new(count: u64) -> Option<Self> {
        if count <= u64::MAX / SECTOR_BYTES { Some(Self(count)) } else { None }
    }

    /// The sectors of this many bytes; `None` when that is no whole number of them.
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        if bytes.is_multiple_of(SECTOR_BYTES) { Some(Self(bytes / SECTOR_BYTES)) } else { None }
    }

    /// How many.
    pub const fn count(self) -> u64 {
        self.0
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0 * SECTOR_BYTES
    }
}

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a thin device within its pool: 24 bits (`MAX_DEV_ID` of the kernel).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct ThinId(u32);

/// A number that is no thin id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a thin id, which has 24 bits")]
pub struct NoThinId(u32);

impl TryFrom<u32> for ThinId {
    type Error = NoThinId;

    fn try_from(number: u32) -> Result<Self, NoThinId> {
        Self::new(number).ok_or(NoThinId(number))
    }
}

impl From<ThinId> for u32 {
    fn from(id: ThinId) -> Self {
        id.0
    }
}

impl ThinId {
    /// The largest.
    pub const MAX: Self = Self((1 << 24) - 1);

    /// The id with this number; `None` above [`ThinId::MAX`].
    pub const fn new(number: u32) -> Option<Self> {
        if number <= Self::MAX.0 { Some(Self(number)) } else { None }
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for ThinId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The pool's clock: raised by every snapshot, and kept with every mapping, where it has 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ThinTime(u32);

impl ThinTime {
    /// The last that a mapping can hold.
    pub const MAX: Self = Self((1 << 24) - 1);

    /// This time; `None` above [`ThinTime::MAX`].
    pub const fn new(time: u32) -> Option<Self> {
        if time <= Self::MAX.0 { Some(Self(time)) } else { None }
    }

    /// As a number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// Size of a pool's data blocks: what it allocates, shares and reports as changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DataBlockSize(u32);

impl DataBlockSize {
    /// 64 KiB: the smallest that the kernel takes, and the cheapest to copy when a shared block is written to.
    pub const MIN: Self = Self(128);
    /// 1 GiB: the largest that the kernel takes.
    pub const MAX: Self = Self(2 << 20);

    /// A size of this many bytes: a multiple of 64 KiB from 64 KiB to 1 GiB, otherwise `None`.
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        if !bytes.is_multiple_of(Self::MIN.bytes()) || bytes < Self::MIN.bytes() || bytes > Self::MAX.bytes() {
            return None;
        }
        #[allow(clippy::cast_possible_truncation, reason = "at most 2^21 sectors")]
        Some(Self((bytes / SECTOR_BYTES) as u32))
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0 as u64 * SECTOR_BYTES
    }

    /// In sectors.
    pub const fn sectors(self) -> Sectors {
        Sectors(self.0 as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_take_what_the_kernel_takes_and_nothing_else() {
        assert_eq!(Sectors::from_bytes(1024).map(Sectors::count), Some(2));
        assert_eq!(Sectors::from_bytes(1000), None);
        assert_eq!(Sectors::new(u64::MAX), None);
        assert_eq!(ThinId::new(1 << 24), None);
        assert_eq!(ThinId::new((1 << 24) - 1), Some(ThinId::MAX));
        assert_eq!(ThinTime::new(1 << 24), None);
        for (bytes, allowed) in
            [(0, false), (4096, false), (65536, true), (65537, false), (196_608, true), (1 << 30, true), (2 << 30, false)]
        {
            assert_eq!(DataBlockSize::from_bytes(bytes).map(DataBlockSize::bytes), allowed.then_some(bytes));
        }
    }
}
