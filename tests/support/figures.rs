//! What this process has of what it may run out of.

#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "test support")]

use std::fs;
use std::time::Duration;

use windlass::types::poll::{self, Patience};

/// Figures of /proc/self.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    pub descriptors: usize,
    pub threads: usize,
    pub resident_bytes: u64,
}

impl Figures {
    pub fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let number = |key: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
        };
        Self {
            descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
            threads: usize::try_from(number("Threads")).unwrap(),
            resident_bytes: number("VmRSS") << 10,
        }
    }

    /// Waits until there is no more than this of anything, but for what the allocator keeps.
    ///
    /// Threads that have nothing to do end after 10 s.
    pub async fn again(self, kept: u64) {
        let patience = Patience { limit: Duration::from_secs(60), every: Duration::from_millis(50) };
        let question = move || {
            let now = Self::now();
            let is_again = now.descriptors <= self.descriptors
                // This question runs on one.
                && now.threads <= self.threads + 1
                && now.resident_bytes <= self.resident_bytes + kept;
            Ok::<_, Figures>(is_again.then_some(()))
        };
        let ended = tokio::task::spawn_blocking(move || poll::until(patience, question)).await.unwrap();
        assert_eq!(ended.unwrap(), Some(()), "before: {self:?}; now: {:?}", Self::now());
    }
}
