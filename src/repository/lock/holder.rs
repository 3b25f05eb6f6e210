//! Who holds a lock, for messages.

use std::fmt;

use super::mode::LockMode;

/// Who holds a lock, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    pub mode: LockMode,
    pub hostname: String,
    pub username: String,
    pub process: u32,
    /// The time of the last refresh, in RFC 3339.
    pub since: String,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            LockMode::Shared => "by",
            LockMode::Exclusive => "exclusively by",
        };
        write!(f, "{mode} {}@{} (process {}) since {}", self.username, self.hostname, self.process, self.since)
    }
}
