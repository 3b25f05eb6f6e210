//! Sizes of volumes, and the range of sizes a request accepts.

use serde::{Deserialize, Serialize};

/// Why a size was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a multiple of [`VolumeSize::GRANULARITY`].
    #[error("{0} bytes is not a multiple of {granularity}", granularity = VolumeSize::GRANULARITY)]
    Unaligned(u64),
    /// Zero, or more than [`VolumeSize::MAX`].
    #[error("{0} bytes is not between {granularity} and {max}", granularity = VolumeSize::GRANULARITY, max = VolumeSize::MAX.bytes())]
    OutOfBounds(u64),
}

/// Size of a volume in bytes: a multiple of 4096, from 4096 to 64 TiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct VolumeSize(u64);

impl VolumeSize {
    /// Every size is a multiple of this many bytes, so that a volume fits any pool and any logical block size.
    pub const GRANULARITY: u64 = 4096;
    /// Largest volume. The content list of a volume of this size in 8 MiB chunks has 8 million entries, about what the
    /// readers of the repository format bear.
    pub const MAX: VolumeSize = VolumeSize(64 << 40);
    /// Size given to a volume whose creator asked for none.
    pub const DEFAULT: VolumeSize = VolumeSize(1 << 30);

    /// The checked size.
    ///
    /// # Errors
    /// [`SizeError`] when `bytes` is zero, too large or no multiple of 4096.
    pub const fn new(bytes: u64) -> Result<Self, SizeError> {
        if bytes == 0 || bytes > Self::MAX.0 {
            return Err(SizeError::OutOfBounds(bytes));
        }
        if !bytes.is_multiple_of(Self::GRANULARITY) {
            return Err(SizeError::Unaligned(bytes));
        }
        Ok(Self(bytes))
    }

    /// The smallest legal size of at least `bytes`.
    ///
    /// # Errors
    /// [`SizeError::OutOfBounds`] when there is none.
    pub fn at_least(bytes: u64) -> Result<Self, SizeError> {
        let rounded = bytes.max(1).checked_next_multiple_of(Self::GRANULARITY).ok_or(SizeError::OutOfBounds(bytes))?;
        Self::new(rounded)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for VolumeSize {
    type Error = SizeError;

    fn try_from(bytes: u64) -> Result<Self, SizeError> {
        Self::new(bytes)
    }
}

impl From<VolumeSize> for u64 {
    fn from(size: VolumeSize) -> u64 {
        size.0
    }
}

/// Logical block size of a volume: the smallest unit its device reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LogicalBlockSize {
    /// 512 bytes.
    B512,
    /// 4096 bytes.
    B4096,
}

impl LogicalBlockSize {
    /// Key of the StorageClass parameter.
    pub const PARAMETER: &'static str = "logicalBlockSize";

    /// The value of the parameter: `512` or `4096`.
    pub fn parse(value: &str) -> Option<Self> {
        match value {
            "512" => Some(Self::B512),
            "4096" => Some(Self::B4096),
            _ => None,
        }
    }

    /// The size of this many bytes; `None` for any other than the two there are.
    pub const fn from_bytes(bytes: u32) -> Option<Self> {
        match bytes {
            512 => Some(Self::B512),
            4096 => Some(Self::B4096),
            _ => None,
        }
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u32 {
        match self {
            Self::B512 => 512,
            Self::B4096 => 4096,
        }
    }
}

/// The sizes a request accepts: at least `required`, at most `limit`. Zero of CSI ("not set") is `None` here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapacityRange {
    required: Option<u64>,
    limit: Option<u64>,
}

impl CapacityRange {
    /// Any size.
    pub const ANY: CapacityRange = CapacityRange { required: None, limit: None };

    /// The range from `required` to `limit` bytes; `None` when nothing lies between them.
    pub fn new(required: Option<u64>, limit: Option<u64>) -> Option<Self> {
        match (required, limit) {
            (Some(required), Some(limit)) if limit < required => None,
            _ => Some(Self { required, limit }),
        }
    }

    /// Exactly `size`.
    pub fn exactly(size: VolumeSize) -> Self {
        Self { required: Some(size.bytes()), limit: Some(size.bytes()) }
    }

    /// The lower bound in bytes, if one was given.
    pub fn required(self) -> Option<u64> {
        self.required
    }

    /// The upper bound in bytes, if one was given.
    pub fn limit(self) -> Option<u64> {
        self.limit
    }

    /// True when a volume of `size` satisfies this range.
    pub fn contains(self, size: VolumeSize) -> bool {
        self.required.is_none_or(|required| size.bytes() >= required) && self.limit.is_none_or(|limit| size.bytes() <= limit)
    }

    /// The size to give: the smallest legal one that is at least `required` (or `default` when that was not set) and at least
    /// `minimum`, if the limit allows it. `default` is clipped by the limit; `minimum` (a file system's smallest size, a
    /// source's size) is not.
    pub fn choose(self, minimum: VolumeSize, default: VolumeSize) -> Option<VolumeSize> {
        let wanted = match (self.required, self.limit) {
            (Some(required), _) => required,
            (None, Some(limit)) => default.bytes().min(limit - limit % VolumeSize::GRANULARITY),
            (None, None) => default.bytes(),
        };
        let size = VolumeSize::at_least(wanted.max(minimum.bytes())).ok()?;
        self.contains(size).then_some(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(bytes: u64) -> VolumeSize {
        VolumeSize::new(bytes).unwrap()
    }

    proptest! {
        #[test]
        fn the_chosen_size_satisfies_the_range_and_the_minimum(
            required in proptest::option::of(1_u64..1 << 47), limit in proptest::option::of(1_u64..1 << 47), minimum in 1_u64..1 << 30,
        ) {
            let minimum = VolumeSize::at_least(minimum).unwrap();
            if let Some(range) = CapacityRange::new(required, limit)
                && let Some(chosen) = range.choose(minimum, VolumeSize::DEFAULT)
            {
                prop_assert!(range.contains(chosen));
                prop_assert!(chosen >= minimum);
            }
        }
    }

    #[test]
    fn a_size_between_two_multiples_with_an_equal_limit_has_no_choice() {
        let range = CapacityRange::new(Some(4097), Some(4097)).unwrap();
        assert_eq!(range.choose(size(4096), VolumeSize::DEFAULT), None);
        let range = CapacityRange::new(Some(4097), None).unwrap();
        assert_eq!(range.choose(size(4096), VolumeSize::DEFAULT), Some(size(8192)));
    }

    #[test]
    fn without_a_requirement_the_default_is_clipped_by_the_limit() {
        let range = CapacityRange::new(None, Some(10_000)).unwrap();
        assert_eq!(range.choose(size(4096), VolumeSize::DEFAULT), Some(size(8192)));
        assert_eq!(CapacityRange::ANY.choose(size(4096), VolumeSize::DEFAULT), Some(VolumeSize::DEFAULT));
    }

    #[test]
    fn sizes_off_the_grid_are_refused() {
        assert_eq!(VolumeSize::new(0), Err(SizeError::OutOfBounds(0)));
        assert_eq!(VolumeSize::new(512), Err(SizeError::Unaligned(512)));
        assert!(VolumeSize::new(VolumeSize::MAX.bytes() + 4096).is_err());
    }
}
