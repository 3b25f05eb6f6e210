//! What was written since a snapshot that is gone.
//!
//! A pool's clock is raised before each snapshot, and a mapping carries the time at which its data block was allocated. A write after the
//! snapshot finds the block shared, or not there, and allocates one; that it is in place only where the block was allocated
//! since then anyway. So what was written since carries the snapshot's creation time or a later one. What carries an earlier one is
//! in the snapshot too, unless it was discarded since, and then the device does not have it.
//!
//! Of a device that belongs to the snapshot, nothing that is older than the snapshot is missing there. Where it is, the two do not belong
//! together, and the block is passed on as well: it costs nothing, and errs on the right side.

use super::kept::KeptMap;
use super::node::{NUMBER, Node, TIME_BITS};
use super::run::{BlockRun, Runs};

/// The part of a mapping that is its time.
const TIME: u64 = (1 << TIME_BITS) - 1;

/// One pass over a device, beside the blocks that the snapshot had.
pub(super) struct Since<'k, 's, E> {
    creation_time: u64,
    kept: std::slice::Iter<'k, BlockRun>,
    /// What is left of the snapshot's run that was reached, from the first block that the device was not asked about.
    begin: u64,
    end: u64,
    runs: Runs<'s, E>,
}

impl<'k, 's, E> Since<'k, 's, E> {
    pub(super) fn new(base: &'k KeptMap, runs: Runs<'s, E>) -> Self {
        let creation_time = base.creation_time().number().into();
        let mut since = Self { creation_time, kept: base.runs().iter(), begin: 0, end: 0, runs };
        since.next_kept();
        since
    }

    /// The next leaf of the device.
    pub(super) fn leaf(&mut self, node: Node<'_, NUMBER>) -> Result<(), E> {
        for (key, value) in node.keys().iter().zip(node.values()) {
            let (block, time) = (u64::from_le_bytes(*key), u64::from_le_bytes(*value) & TIME);
            let had = self.reach(block)?;
            if time >= self.creation_time || !had {
                self.runs.push(block)?;
            }
        }
        Ok(())
    }

    /// The device has no more.
    pub(super) fn finish(mut self) -> Result<(), E> {
        self.reach(u64::MAX)?;
        self.runs.finish()
    }

    /// Whether the snapshot had this block, after what it had before, and the device has not, was passed on.
    fn reach(&mut self, block: u64) -> Result<bool, E> {
        while self.begin < block && self.begin < self.end {
            let end = self.end.min(block);
            self.runs.extend(self.begin, end)?;
            self.begin = end;
            if self.begin == self.end {
                self.next_kept();
            }
        }
        let had = self.begin == block && self.begin < self.end;
        if had {
            self.begin += 1;
            if self.begin == self.end {
                self.next_kept();
            }
        }
        Ok(had)
    }

    fn next_kept(&mut self) {
        (self.begin, self.end) = self.kept.next().map_or((0, 0), |run| (run.begin(), run.end()));
    }
}
