//! Points in time as the protocol writes them.

use crate::types::Timestamp;

/// The same point in time.
pub fn to_proto(time: Timestamp) -> prost_types::Timestamp {
    let (seconds, nanos) = time.to_signed();
    prost_types::Timestamp { seconds, nanos }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_in_time_is_told_to_the_nanosecond() {
        let told = to_proto(Timestamp { seconds: 1_700_000_000, nanoseconds: 999_999_999 });
        assert_eq!((told.seconds, told.nanos), (1_700_000_000, 999_999_999));
    }
}
