//! Capacity ranges, and the smallest size of each mode.

use csi_proto::csi::v1 as proto;

use crate::csi::error::RequestError;
use crate::types::{CapacityRange, VolumeMode, VolumeSize};

/// The range of a request; an absent one is any size.
///
/// # Errors
/// Invalid when a bound is negative; out of range when nothing lies between them, or the lower is above the largest volume.
pub fn capacity(range: Option<&proto::CapacityRange>) -> Result<CapacityRange, RequestError> {
    let Some(range) = range else { return Ok(CapacityRange::ANY) };
    let bound = |field: &'static str, bytes: i64| match u64::try_from(bytes) {
        Ok(0) => Ok(None),
        Ok(bytes) => Ok(Some(bytes)),
        Err(_) => Err(RequestError::invalid(field, "must not be negative")),
    };
    let required = bound("capacity_range.required_bytes", range.required_bytes)?;
    let limit = bound("capacity_range.limit_bytes", range.limit_bytes)?;
    if required.is_some_and(|required| required > VolumeSize::MAX.bytes()) {
        let max = VolumeSize::MAX.bytes();
        return Err(RequestError::out_of_range("capacity_range.required_bytes", format!("must be at most {max}")));
    }
    CapacityRange::new(required, limit)
        .ok_or_else(|| RequestError::out_of_range("capacity_range.limit_bytes", "must not be less than required_bytes"))
}

/// The smallest volume of a mode. For file systems: what is made well on it, and can grow ([`FsType::minimum_bytes`](crate::types::FsType::minimum_bytes)).
pub fn minimum(mode: VolumeMode) -> VolumeSize {
    let bytes = match mode {
        VolumeMode::Block => VolumeSize::GRANULARITY,
        VolumeMode::Filesystem(fs_type) => fs_type.minimum_bytes(),
    };
    // All of them are multiples of 4096 below the largest size.
    VolumeSize::at_least(bytes).unwrap_or(VolumeSize::DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::error::Fault;
    use crate::types::FsType;

    fn check(required_bytes: i64, limit_bytes: i64) -> Result<CapacityRange, Fault> {
        capacity(Some(&proto::CapacityRange { required_bytes, limit_bytes })).map_err(|error| error.fault)
    }

    #[test]
    fn negative_bounds_are_invalid_and_empty_ranges_out_of_range() {
        assert_eq!(check(-1, 0), Err(Fault::Invalid));
        assert_eq!(check(0, -1), Err(Fault::Invalid));
        assert_eq!(check(8192, 4096), Err(Fault::OutOfRange));
        assert_eq!(check(i64::MAX, 0), Err(Fault::OutOfRange));
        assert_eq!(check(0, 0), Ok(CapacityRange::ANY));
        assert_eq!(check(4096, 8192).unwrap().limit(), Some(8192));
    }

    #[test]
    fn minima_are_legal_sizes() {
        for mode in [VolumeMode::Block, VolumeMode::Filesystem(FsType::Ext4), VolumeMode::Filesystem(FsType::Btrfs)] {
            assert!(minimum(mode) < minimum(VolumeMode::Filesystem(FsType::Xfs)));
        }
    }
}
