//! Checks of the requests: pure, and complete before anything is looked at.

use csi_proto::csi::v1 as proto;

use crate::csi::error::RequestError;
use crate::csi::validate;
use crate::types::SnapshotHandle;

use super::page::{DEFAULT_RANGES, MAX_RANGES, Page};

pub(super) const SNAPSHOT_ID: &str = "snapshot_id";
pub(super) const BASE_ID: &str = "base_snapshot_id";
pub(super) const TARGET_ID: &str = "target_snapshot_id";
pub(super) const STARTING_OFFSET: &str = "starting_offset";

/// A checked request for the ranges of `of`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RangesRequest<T> {
    pub of: T,
    pub page: Page,
}

/// Two snapshots, either of which may be the handle of nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SnapshotPair {
    pub base: Option<SnapshotHandle>,
    pub target: Option<SnapshotHandle>,
}

/// # Errors
/// Invalid or out of range, naming the field.
pub(super) fn allocated(
    request: &proto::GetMetadataAllocatedRequest,
) -> Result<RangesRequest<Option<SnapshotHandle>>, RequestError> {
    let of = validate::snapshot_handle(SNAPSHOT_ID, &request.snapshot_id)?;
    validate::map("secrets", &request.secrets)?;
    Ok(RangesRequest { of, page: page(request.starting_offset, request.max_results)? })
}

/// # Errors
/// Invalid or out of range, naming the field. Snapshots of two pools are of two volumes: that is known from the handles,
/// wherever the pools are, and no repetition changes it.
pub(super) fn delta(request: &proto::GetMetadataDeltaRequest) -> Result<RangesRequest<SnapshotPair>, RequestError> {
    let base = validate::snapshot_handle(BASE_ID, &request.base_snapshot_id)?;
    let target = validate::snapshot_handle(TARGET_ID, &request.target_snapshot_id)?;
    validate::map("secrets", &request.secrets)?;
    let page = page(request.starting_offset, request.max_results)?;
    if let (Some(base), Some(target)) = (base, target)
        && base.pool != target.pool
    {
        return Err(RequestError::invalid(BASE_ID, "is in another pool than the target, so it is of another volume"));
    }
    Ok(RangesRequest { of: SnapshotPair { base, target }, page })
}

fn page(starting_offset: i64, max_results: i32) -> Result<Page, RequestError> {
    let start_bytes =
        u64::try_from(starting_offset).map_err(|_| RequestError::out_of_range(STARTING_OFFSET, "must not be negative"))?;
    let ranges_per_message = match usize::try_from(max_results) {
        Err(_) => return Err(RequestError::invalid("max_results", "must not be negative")),
        Ok(0) => DEFAULT_RANGES,
        Ok(most) => most.min(MAX_RANGES),
    };
    Ok(Page { start_bytes, ranges_per_message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::error::Fault;
    use crate::types::{PoolId, SnapshotId};

    fn fault<T>(result: Result<T, RequestError>) -> Option<Fault> {
        result.err().map(|error| error.fault)
    }

    #[test]
    fn a_page_is_never_empty_and_never_too_large() {
        assert_eq!(page(0, 0).unwrap(), Page { start_bytes: 0, ranges_per_message: DEFAULT_RANGES });
        assert_eq!(page(i64::MAX, 1).unwrap(), Page { start_bytes: i64::MAX.unsigned_abs(), ranges_per_message: 1 });
        assert_eq!(page(7, i32::MAX).unwrap().ranges_per_message, MAX_RANGES);
        assert_eq!(fault(page(-1, 0)), Some(Fault::OutOfRange));
        assert_eq!(fault(page(0, -1)), Some(Fault::Invalid));
    }

    #[test]
    fn snapshots_of_two_pools_are_refused_wherever_the_pools_are() {
        let handle = |pool: u8| {
            let snapshot = SnapshotId::from_bytes([9; 16]);
            SnapshotHandle { pool: PoolId::from_bytes([pool; 16]), snapshot }.to_string()
        };
        let request = |base: String, target: String| {
            delta(&proto::GetMetadataDeltaRequest { base_snapshot_id: base, target_snapshot_id: target, ..Default::default() })
        };
        assert!(request(handle(1), handle(1)).is_ok());
        assert_eq!(fault(request(handle(1), handle(2))), Some(Fault::Invalid));
        // The handle of nothing is not found, which is for the look-up to say.
        assert!(request("fake".to_owned(), handle(2)).is_ok());
        assert_eq!(fault(request(String::new(), handle(2))), Some(Fault::Invalid));
        assert_eq!(fault(request(handle(1), String::new())), Some(Fault::Invalid));
    }
}
