//! Room in a catalogue whose storage cannot grow, or only while its file system has room.
//!
//! A database that finds no room in the middle of a change fails; and once it is full, not even a deletion finds the pages that it
//! needs. So what makes the catalogue larger is refused while there is still room: what is new (intents to create, maps of deleted snapshots)
//! when a fifth of it is left, what is noted about what exists (publications, exports) when a tenth is left. The last tenth is for
//! deletions, which take two commits of some 30 pages each, whose old pages are free again one commit later.
//!
//! *How much there is.* The database doubles its length, so what counts is the largest length that doubling reaches within the storage,
//! which is more than half of the storage. It halves what it finds unused at its end, which leaves it a third more than it uses, and so never less than it
//! is refused at.
//!
//! *How much is used.* As long as the storage holds twice the present length nobody asks. Beyond, the pages in use are counted,
//! which reads all of them; so half of what is left until the limit is given out as an allowance, from which every change takes twice what it
//! writes, and only when that is spent they are counted again. A file is grown then to four times what is used, so that in an ordinary
//! pool the limit is never met: there the pool has no room for what is new long before its catalogue has none.

use std::sync::{Mutex, PoisonError};

use redb::WriteTransaction;

use super::allocated::AllocatedFile;
use super::tables::failed;
use crate::pool::PoolError;
use crate::pool::thin::region::Gauge;

/// What a record takes besides its bytes, in keys of inner nodes and the like.
const OVERHEAD: u64 = 64;
/// A file is made to hold this many times what is used, while its file system has room.
const LEAD: u64 = 4;

/// What room is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Something new.
    New,
    /// A note about something that exists.
    Note,
}

impl Need {
    /// It is refused when this part of the storage is in use.
    fn limit_percent(self) -> u64 {
        match self {
            Self::New => 80,
            Self::Note => 90,
        }
    }
}

#[derive(Debug)]
enum Storage {
    Region(Gauge),
    File(AllocatedFile),
}

/// Bytes that may be written before the pages are counted again.
#[derive(Debug, Default)]
struct Allowances {
    new: u64,
    note: u64,
}

impl Allowances {
    fn of(&mut self, need: Need) -> &mut u64 {
        match need {
            Need::New => &mut self.new,
            Need::Note => &mut self.note,
        }
    }
}

/// The room of one catalogue.
#[derive(Debug)]
pub(super) struct Room {
    storage: Storage,
    allowances: Mutex<Allowances>,
}

impl Room {
    /// In a region, whose size is given.
    pub(super) fn of_region(gauge: Gauge) -> Self {
        Self { storage: Storage::Region(gauge), allowances: Mutex::default() }
    }

    /// In a file.
    pub(super) fn of_file(file: AllocatedFile) -> Self {
        Self { storage: Storage::File(file), allowances: Mutex::default() }
    }

    fn capacity(&self) -> u64 {
        match &self.storage {
            Storage::Region(gauge) => gauge.capacity(),
            Storage::File(file) => file.capacity(),
        }
    }

    fn length(&self) -> u64 {
        match &self.storage {
            Storage::Region(gauge) => gauge.length(),
            Storage::File(file) => file.length(),
        }
    }

    /// Whether something may be added.
    pub(super) fn check(&self, transaction: &WriteTransaction, need: Need) -> Result<(), PoolError> {
        if self.length().saturating_mul(2) <= self.capacity() {
            return Ok(());
        }
        let mut allowances = self.allowances.lock().unwrap_or_else(PoisonError::into_inner);
        let allowance = allowances.of(need);
        if *allowance > 0 {
            return Ok(());
        }
        let stats = transaction.stats().map_err(failed)?;
        let used = stats.allocated_pages().saturating_mul(stats.page_size() as u64);
        if let Storage::File(file) = &self.storage {
            file.grow_ahead(used.saturating_mul(LEAD));
        }
        let usable = reach(self.length(), self.capacity());
        match (usable / 100 * need.limit_percent()).checked_sub(used) {
            Some(left) if left > 1 => {
                *allowance = left / 2;
                Ok(())
            }
            _ => Err(PoolError::NoSpace(format!(
                "its catalogue takes {used} of {usable} bytes, and what is left is kept for deletions; delete volumes or snapshots"
            ))),
        }
    }

    /// Notes that so many bytes were written.
    pub(super) fn spend(&self, bytes: usize) {
        let spent = 2 * bytes as u64 + OVERHEAD;
        let mut allowances = self.allowances.lock().unwrap_or_else(PoisonError::into_inner);
        allowances.new = allowances.new.saturating_sub(spent);
        allowances.note = allowances.note.saturating_sub(spent);
    }
}

/// The largest length that doubling reaches within the capacity.
fn reach(length: u64, capacity: u64) -> u64 {
    let mut reach = length;
    while reach > 0 && reach <= capacity / 2 {
        reach *= 2;
    }
    reach
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubling_reaches_more_than_half_of_the_capacity_and_never_more_than_it() {
        for capacity in [8 << 20, (9 << 20) + 4096, 257 << 20] {
            for length in [1 << 20, (1 << 20) + 4096, 5 << 20, capacity / 2, capacity / 2 + 4096, capacity] {
                let reach = reach(length, capacity);
                assert!(reach > capacity / 2 && reach <= capacity, "{length} in {capacity}: {reach}");
            }
        }
    }
}
