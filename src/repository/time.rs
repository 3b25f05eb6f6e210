//! RFC 3339 text of points in time.

use crate::types::Timestamp;

/// `2026-11-23T05:37:00.123456789Z`: UTC, nanoseconds.
pub fn rfc3339(time: Timestamp) -> String {
    let _ = time;
    unimplemented!()
}
