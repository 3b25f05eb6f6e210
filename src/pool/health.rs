//! Whether a pool works, and whether it takes changes.

use std::io;

use super::PoolError;

/// How a pool is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolHealth {
    /// What is wrong, in a sentence that says what to do about it; `None` when all is well.
    pub problem: Option<String>,
    /// Whether objects can be made, changed and deleted all the same.
    pub changes: Changes,
    /// Transaction id of a thin pool's metadata.
    pub transaction_id: Option<u64>,
}

impl PoolHealth {
    /// Refuses a change of a pool that takes none, with what is wrong and what to do about it. `location` names the pool.
    pub fn check_changes(self, location: &str) -> Result<(), PoolError> {
        match self.changes {
            Changes::Taken => Ok(()),
            Changes::Refused => {
                let problem = self.problem.unwrap_or_else(|| "it takes no changes".to_owned());
                Err(PoolError::io(format!("change the pool at {location}"), io::Error::other(problem)))
            }
        }
    }
}

/// Whether a pool takes changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Changes {
    /// It does.
    #[default]
    Taken,
    /// It does not, until what is wrong is repaired. What it holds can still be read, as far as the disk can be.
    Refused,
}
