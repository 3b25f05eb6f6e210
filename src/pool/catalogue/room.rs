//! Room in a catalogue whose storage cannot grow.
//!
//! A database that finds no room in the middle of a change refuses everything from then on; and once it is full, not even a deletion
//! finds the pages that it needs. So what makes the catalogue larger (intents to create, maps of deleted snapshots) is refused while a
//! fifth of the region is still free: far more than any number of deletions takes.
//!
//! The database doubles its file, so as long as the region holds twice the present length there is room. Beyond, the pages in use are
//! counted, which reads all of them; so half of what is left until the limit is given out as an allowance, from which every change takes
//! twice what it writes, and only when that is spent they are counted again.

use std::sync::{Mutex, PoisonError};

use redb::WriteTransaction;

use super::tables::failed;
use crate::pool::PoolError;
use crate::pool::thin::region::Gauge;

/// Nothing is added when this part of the region is in use.
const LIMIT_PERCENT: u64 = 80;
/// What a record takes besides its bytes, in keys of inner nodes and the like.
const OVERHEAD: u64 = 64;

/// The room of one catalogue.
#[derive(Debug)]
pub(super) struct Room {
    gauge: Gauge,
    /// Bytes that may be written before the pages are counted again.
    allowance: Mutex<u64>,
}

impl Room {
    pub(super) fn new(gauge: Gauge) -> Self {
        Self { gauge, allowance: Mutex::new(0) }
    }

    /// Whether something may be added.
    ///
    /// # Errors
    /// [`PoolError::NoSpace`], [`PoolError::Catalogue`].
    pub(super) fn check(&self, transaction: &WriteTransaction) -> Result<(), PoolError> {
        let capacity = self.gauge.capacity();
        if self.gauge.length().saturating_mul(2) <= capacity {
            return Ok(());
        }
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        if *allowance > 0 {
            return Ok(());
        }
        let stats = transaction.stats().map_err(failed)?;
        let used = stats.allocated_pages().saturating_mul(stats.page_size() as u64);
        match (capacity / 100 * LIMIT_PERCENT).checked_sub(used) {
            Some(left) if left > 1 => {
                *allowance = left / 2;
                Ok(())
            }
            _ => Err(PoolError::NoSpace(format!(
                "its catalogue takes {used} of {capacity} bytes, and what is left is kept for deletions; delete volumes or snapshots"
            ))),
        }
    }

    /// Notes that so many bytes were written.
    pub(super) fn spend(&self, bytes: usize) {
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        *allowance = allowance.saturating_sub(2 * bytes as u64 + OVERHEAD);
    }
}
