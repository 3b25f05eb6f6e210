//! Points in time that are stored and answered again unchanged.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A point in time, UTC, at nanosecond resolution, not before 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp {
    /// Whole seconds since 1970-01-01T00:00:00Z.
    pub seconds: u64,
    /// Nanoseconds within the second, below 1_000_000_000.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// The present, by the system's clock. A clock before 1970 reads as 1970.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// The seconds and nanoseconds of a message; `None` for what is no time since 1970.
    pub fn from_signed(seconds: i64, nanoseconds: i32) -> Option<Self> {
        let (seconds, nanoseconds) = (u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?);
        (nanoseconds < 1_000_000_000).then_some(Self { seconds, nanoseconds })
    }

    /// The same as signed numbers, as messages have them. What lies beyond their seconds is told as the last of them.
    pub fn to_signed(self) -> (i64, i32) {
        // A second has fewer nanoseconds than the sign takes away.
        (i64::try_from(self.seconds).unwrap_or(i64::MAX), self.nanoseconds.cast_signed())
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { seconds: since.as_secs(), nanoseconds: since.subsec_nanos() }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> Self {
        UNIX_EPOCH + Duration::new(time.seconds, time.nanoseconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_reads_back_from_signed_numbers_and_what_is_none_is_refused() {
        let time = Timestamp { seconds: 1_700_000_000, nanoseconds: 999_999_999 };
        assert_eq!(time.to_signed(), (1_700_000_000, 999_999_999));
        assert_eq!(Timestamp::from_signed(1_700_000_000, 999_999_999), Some(time));
        assert_eq!(Timestamp { seconds: u64::MAX, nanoseconds: 1 }.to_signed(), (i64::MAX, 1));
        for (seconds, nanoseconds) in [(-1, 0), (0, -1), (0, 1_000_000_000)] {
            assert_eq!(Timestamp::from_signed(seconds, nanoseconds), None, "{seconds} {nanoseconds}");
        }
    }
}
