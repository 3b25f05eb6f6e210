//! What is kept of a snapshot that was deleted, to tell later what changed since: when it was made, and which blocks it had.
//!
//! The number of its runs is bounded by whoever makes the map. A snapshot with more has its smallest gaps closed: then the map says
//! of blocks that were not there that they were, and a device that has them not is said to have changed in them. That costs a
//! reader of changes some blocks of zeros, and nothing is ever missed.

use std::num::NonZeroUsize;

use super::run::BlockRun;
use crate::dm::units::ThinTime;

/// The kept map of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptMap {
    creation_time: ThinTime,
    runs: Vec<BlockRun>,
}

impl KeptMap {
    /// A map of runs that ascend and do not touch; `None` when they do otherwise.
    pub(super) fn new(creation_time: ThinTime, runs: Vec<BlockRun>) -> Option<Self> {
        runs.is_sorted_by(|run, next| run.end() < next.begin()).then_some(Self { creation_time, runs })
    }

    /// The pool's time when the snapshot was made.
    pub const fn creation_time(&self) -> ThinTime {
        self.creation_time
    }

    /// All blocks that it had, and perhaps some more: ascending runs with gaps between them.
    pub fn runs(&self) -> &[BlockRun] {
        &self.runs
    }
}

/// Makes a [`KeptMap`] of runs in ascending order.
///
/// Memory: twice the limit of runs (16 bytes each). What it makes has the smallest number of blocks too many that there can be: the
/// gaps that stay open are the largest of all, since a gap that is not among the largest seen so far never will be.
#[derive(Debug)]
pub struct KeptMapBuilder {
    creation_time: ThinTime,
    limit: NonZeroUsize,
    runs: Vec<BlockRun>,
}

impl KeptMapBuilder {
    /// For a snapshot that was made at this time; the map will have at most `limit` runs.
    pub fn new(creation_time: ThinTime, limit: NonZeroUsize) -> Self {
        Self { creation_time, limit, runs: Vec::new() }
    }

    /// Adds a run that begins at or after the end of the last one.
    ///
    /// # Errors
    /// [`OutOfOrder`] when it begins before that.
    pub fn push(&mut self, run: BlockRun) -> Result<(), OutOfOrder> {
        if let Some(last) = self.runs.last_mut() {
            if run.begin() < last.end() {
                return Err(OutOfOrder);
            }
            if run.begin() == last.end() {
                *last = joined(*last, run);
                return Ok(());
            }
        }
        if self.runs.len() >= self.limit.get().saturating_mul(2) {
            self.close_smallest_gaps();
        }
        self.runs.push(run);
        Ok(())
    }

    /// The map.
    pub fn finish(mut self) -> KeptMap {
        self.close_smallest_gaps();
        KeptMap { creation_time: self.creation_time, runs: self.runs }
    }

    /// Leaves as many runs as the limit allows, and the largest gaps between them.
    fn close_smallest_gaps(&mut self) {
        let surplus = self.runs.len().saturating_sub(self.limit.get());
        let Some(last) = surplus.checked_sub(1) else { return };
        let mut gaps: Vec<u64> = self.runs.windows(2).map(gap).collect();
        let (smaller, &mut threshold, _) = gaps.select_nth_unstable(last);
        let mut equal = surplus - smaller.iter().filter(|&&gap| gap < threshold).count();
        let mut kept: Vec<BlockRun> = Vec::with_capacity(self.limit.get());
        for &run in &self.runs {
            match kept.last_mut() {
                Some(previous) => {
                    let gap = run.begin() - previous.end();
                    let closes = gap < threshold || (gap == threshold && equal > 0);
                    if gap == threshold && closes {
                        equal -= 1;
                    }
                    if closes { *previous = joined(*previous, run) } else { kept.push(run) }
                }
                None => kept.push(run),
            }
        }
        self.runs = kept;
    }
}

/// A run begins before the end of the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("runs of blocks are not in ascending order")]
pub struct OutOfOrder;

fn gap(pair: &[BlockRun]) -> u64 {
    match pair {
        [one, next] => next.begin() - one.end(),
        _ => 0,
    }
}

/// Both runs and what is between them.
fn joined(one: BlockRun, next: BlockRun) -> BlockRun {
    BlockRun::between(one.begin(), next.end()).unwrap_or(one)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn build(limit: usize, runs: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut builder = KeptMapBuilder::new(ThinTime::new(1).unwrap(), NonZeroUsize::new(limit).unwrap());
        for &(begin, length) in runs {
            builder.push(BlockRun::new(begin, length).unwrap()).unwrap();
        }
        builder.finish().runs().iter().map(|run| (run.begin(), run.length())).collect()
    }

    #[test]
    fn the_smallest_gaps_are_closed_first() {
        let runs = [(0, 1), (3, 1), (5, 1), (10, 1), (11, 2), (20, 1)];
        assert_eq!(build(9, &runs), [(0, 1), (3, 1), (5, 1), (10, 3), (20, 1)]);
        assert_eq!(build(4, &runs), [(0, 1), (3, 3), (10, 3), (20, 1)]);
        assert_eq!(build(3, &runs), [(0, 6), (10, 3), (20, 1)]);
        assert_eq!(build(1, &runs), [(0, 21)]);
        assert_eq!(build(1, &[]), []);
    }

    #[test]
    fn runs_out_of_order_are_refused() {
        let mut builder = KeptMapBuilder::new(ThinTime::new(1).unwrap(), NonZeroUsize::MIN);
        builder.push(BlockRun::new(5, 2).unwrap()).unwrap();
        assert_eq!(builder.push(BlockRun::new(6, 1).unwrap()), Err(OutOfOrder));
    }

    proptest! {
        #[test]
        fn no_block_is_lost_and_the_open_gaps_are_the_largest(
            steps in proptest::collection::vec((0_u64..50, 1_u64..9), 0..300),
            limit in 1_usize..40,
        ) {
            let mut position = 0;
            let mut runs: Vec<(u64, u64)> = Vec::new();
            for (gap, length) in steps {
                runs.push((position + gap, length));
                position += gap + length;
            }
            let built = build(limit, &runs);
            prop_assert!(built.len() <= limit);
            for &(begin, length) in &runs {
                prop_assert!(built.iter().any(|&(start, count)| start <= begin && begin + length <= start + count));
            }
            // By hand: sort the gaps, leave the largest.
            let mut gaps: Vec<u64> =
                runs.windows(2).map(|pair| pair[1].0 - pair[0].0 - pair[0].1).filter(|&gap| gap > 0).collect();
            gaps.sort_unstable();
            let closed: u64 = gaps[..gaps.len().saturating_sub(limit - 1)].iter().sum();
            let before: u64 = runs.iter().map(|run| run.1).sum();
            prop_assert_eq!(built.iter().map(|run| run.1).sum::<u64>(), before + closed);
        }
    }
}
