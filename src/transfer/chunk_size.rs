//! How large the pieces are into which a volume is cut.
//!
//! Small pieces make increments cheap, large ones keep lists short. Measured on a file system of 2.4 GB, in order of the size
//! of a chunk:
//!
//! | | 256 KiB | 512 KiB | 1 MiB |
//! |---|---|---|---|
//! | read and packed when 1 % of it changed, in 700 places of 4 to 64 KiB | 186 MiB | 338 MiB | 605 MiB |
//! | the same, in 6 places | 25 MiB | 27 MiB | 30 MiB |
//! | compressed to, at the level that exports use | 1 / 2.695 | | 1 / 2.699 |
//! | list of 1 TiB that is allocated as a whole, stored once a snapshot | 146 MB | 73 MB | 37 MB |
//!
//! Compression does not argue for large chunks, nor does the speed of a full export; lists do: every snapshot stores its whole list,
//! however little changed. But where anything changed at random in a full volume of 1 TiB, smaller chunks save a hundred times
//! what its list costs more. So the bound is what readers of the format bear, about four million entries: volumes of up to 1 TiB
//! get 256 KiB, and larger ones as much as keeps a full list near that. The same change then costs the same up to 1 TiB.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number of bytes that chunks cannot have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes are not a chunk size: it must be a power of two from 256 KiB to 8 MiB")]
pub struct ChunkSizeError(pub u64);

/// Size of a chunk in bytes: a power of two from 256 KiB to 8 MiB. It must not change during a volume's lifetime: a volume that is
/// cut otherwise shares no chunk with its earlier exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct ChunkSize(u32);

impl ChunkSize {
    /// The smallest, and what volumes of up to 1 TiB get.
    pub const MIN: Self = Self(256 << 10);
    pub const MAX: Self = Self(8 << 20);
    /// What volumes above 1 TiB get: at most four million chunks up to 4 TiB.
    pub const SMALL: Self = Self(1 << 20);
    /// What volumes above 4 TiB get: four million chunks for the first 16 TiB.
    pub const LARGE: Self = Self(4 << 20);

    /// Largest volume that gets [`ChunkSize::MIN`] by default, in bytes.
    const MIN_UP_TO_BYTES: u64 = 1 << 40;
    /// Largest volume that gets [`ChunkSize::SMALL`] by default, in bytes.
    const SMALL_UP_TO_BYTES: u64 = 4 << 40;
    /// Bytes of one entry of a content list in a tree: 64 digits, two quotes, a comma.
    const ENTRY_BYTES: u64 = 67;

    pub const fn new(bytes: u64) -> Result<Self, ChunkSizeError> {
        if bytes.is_power_of_two() && bytes >= Self::MIN.0 as u64 && bytes <= Self::MAX.0 as u64 {
            Ok(Self(bytes as u32))
        } else {
            Err(ChunkSizeError(bytes))
        }
    }

    pub fn all() -> impl Iterator<Item = Self> {
        std::iter::successors(Some(Self::MIN), |size| (size.0 < Self::MAX.0).then(|| Self(size.0 * 2)))
    }

    /// The default for a volume of `volume_bytes`.
    pub const fn for_volume(volume_bytes: u64) -> Self {
        if volume_bytes <= Self::MIN_UP_TO_BYTES {
            Self::MIN
        } else if volume_bytes <= Self::SMALL_UP_TO_BYTES {
            Self::SMALL
        } else {
            Self::LARGE
        }
    }

    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }

    /// Number of chunks of a volume of `volume_bytes`, the last of which may be short.
    pub const fn count(self, volume_bytes: u64) -> u64 {
        volume_bytes.div_ceil(self.bytes())
    }

    /// True when the list of a volume of `volume_bytes` fits a tree (4 GiB of text) even if no chunk is zero.
    pub const fn fits(self, volume_bytes: u64) -> bool {
        // A quarter of a MiB for the rest of the tree.
        self.count(volume_bytes) <= (u32::MAX as u64 - (256 << 10)) / Self::ENTRY_BYTES
    }
}

impl fmt::Display for ChunkSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB", self.0 >> 10)
    }
}

impl TryFrom<u64> for ChunkSize {
    type Error = ChunkSizeError;

    fn try_from(bytes: u64) -> Result<Self, ChunkSizeError> {
        Self::new(bytes)
    }
}

impl From<ChunkSize> for u64 {
    fn from(size: ChunkSize) -> u64 {
        size.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::VolumeSize;

    #[test]
    fn only_powers_of_two_within_the_bounds_are_chunk_sizes() {
        assert_eq!(ChunkSize::new(1 << 20), Ok(ChunkSize::SMALL));
        for bytes in [0, 1, 128 << 10, 3 << 20, 16 << 20, u64::MAX] {
            assert_eq!(ChunkSize::new(bytes), Err(ChunkSizeError(bytes)));
        }
    }

    #[test]
    fn the_default_grows_with_the_volume_and_fits_the_largest() {
        assert_eq!(ChunkSize::for_volume(0), ChunkSize::MIN);
        assert_eq!(ChunkSize::for_volume(1 << 40), ChunkSize::MIN);
        assert_eq!(ChunkSize::for_volume((1 << 40) + 4096), ChunkSize::SMALL);
        assert_eq!(ChunkSize::for_volume(4 << 40), ChunkSize::SMALL);
        assert_eq!(ChunkSize::for_volume((4 << 40) + 4096), ChunkSize::LARGE);
        for volume_bytes in [1 << 40, 4 << 40, 16 << 40] {
            assert!(ChunkSize::for_volume(volume_bytes).count(volume_bytes) <= 4 << 20);
        }
        let largest = VolumeSize::MAX.bytes();
        assert!(ChunkSize::for_volume(largest).fits(largest));
        assert!(!ChunkSize::SMALL.fits(largest));
    }
}
