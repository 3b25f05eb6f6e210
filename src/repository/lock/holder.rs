//! Who holds a lock, for messages.

use std::fmt;

use super::mode::LockMode;

/// Who holds a lock, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// How.
    pub mode: LockMode,
    /// On which machine.
    pub hostname: String,
    /// Which user.
    pub username: String,
    /// Which process.
    pub process: u32,
    /// Since when, RFC 3339.
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
