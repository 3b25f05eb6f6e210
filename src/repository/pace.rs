//! How fast packs are sent to a store: no faster than so many bytes a second on average.
//!
//! Everything that is sent takes its time on a line, one after another; a pack is sent when those before it have had theirs. So the bound
//! holds over any length of time, but for one pack of each sender at its beginning: a pack is handed to the store as a whole, which may
//! send it as fast as it can. Time in which nothing was sent is not made up for later.
//!
//! It counts packs. Index files, a fiftieth of a hundredth of these, and locks, which must not be late, go by.
//!
//! Owned by whoever knows what shares a line; clones of the `Arc` share it. A sender that goes away while it waits leaves its time
//! unused: it was about to send, and nobody is sooner for it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::types::Bandwidth;

/// A line of so many bytes a second.
#[derive(Debug)]
pub struct Pace {
    bandwidth: Bandwidth,
    /// When the line is free.
    free: Mutex<Option<Instant>>,
}

impl Pace {
    pub fn new(bandwidth: Bandwidth) -> Self {
        Self { bandwidth, free: Mutex::new(None) }
    }

    pub fn bandwidth(&self) -> Bandwidth {
        self.bandwidth
    }

    /// Returns when `bytes` may be sent.
    pub async fn take(&self, bytes: u64) {
        tokio::time::sleep_until(self.reserve(bytes, Instant::now())).await;
    }

    /// When `bytes` may be sent, whose time on the line is taken from then on.
    fn reserve(&self, bytes: u64, now: Instant) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let start = free.map_or(now, |free| free.max(now));
        // A pack is far below what would not fit: 16 MiB take four minutes at the least.
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.bandwidth.bytes());
        *free = Some(start + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)));
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_takes_its_time_one_after_another_and_idle_time_is_not_made_up_for() {
        let (pace, begun) = (Pace::new(Bandwidth::new(1 << 20).unwrap()), Instant::now());
        let at = |seconds: f64| begun + Duration::from_secs_f64(seconds);
        assert_eq!(pace.reserve(2 << 20, begun), begun, "the line is free");
        assert_eq!(pace.reserve(1 << 19, begun), at(2.0));
        assert_eq!(pace.reserve(1 << 20, at(1.0)), at(2.5));
        assert_eq!(pace.reserve(1 << 20, at(60.0)), at(60.0));
        assert_eq!(pace.reserve(1, at(60.0)), at(61.0));
    }

    #[test]
    fn any_number_of_senders_share_the_line() {
        let (pace, begun) = (Pace::new(Bandwidth::new(1 << 20).unwrap()), Instant::now());
        let last = (0..21).map(|_| pace.reserve(1 << 20, begun)).max().unwrap();
        assert_eq!(last, begun + Duration::from_secs(20));
    }
}
