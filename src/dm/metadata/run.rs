//! Runs of blocks of a thin device.

use crate::dm::units::DataBlockSize;
use crate::types::ByteRange;

/// A run of virtual blocks of a thin device, in units of its pool's data block size; never empty, its end fits into 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockRun {
    begin: u64,
    length: u64,
}

impl BlockRun {
    /// `length` blocks from `begin` on; `None` when there are none, or the end does not fit.
    pub const fn new(begin: u64, length: u64) -> Option<Self> {
        if length == 0 || begin.checked_add(length).is_none() { None } else { Some(Self { begin, length }) }
    }

    /// The blocks from `begin` up to, not including, `end`; `None` when there are none.
    pub const fn between(begin: u64, end: u64) -> Option<Self> {
        if begin < end { Some(Self { begin, length: end - begin }) } else { None }
    }

    /// First block.
    pub const fn begin(self) -> u64 {
        self.begin
    }

    /// Number of blocks, at least 1.
    pub const fn length(self) -> u64 {
        self.length
    }

    /// The block after the last.
    pub const fn end(self) -> u64 {
        self.begin + self.length
    }

    /// In bytes; `None` when they do not fit into 64 bits, which no run that is read from a pool is.
    pub fn bytes(self, size: DataBlockSize) -> Option<ByteRange> {
        ByteRange::new(self.begin.checked_mul(size.bytes())?, self.length.checked_mul(size.bytes())?)
    }
}

/// Makes runs of blocks that come in ascending order, and passes each on when it is complete.
pub(super) struct Runs<'s, E> {
    sink: &'s mut dyn FnMut(BlockRun) -> Result<(), E>,
    begin: u64,
    end: u64,
}

impl<'s, E> Runs<'s, E> {
    pub(super) fn new(sink: &'s mut dyn FnMut(BlockRun) -> Result<(), E>) -> Self {
        Self { sink, begin: 0, end: 0 }
    }

    /// One block, not below the end of what came before.
    pub(super) fn push(&mut self, block: u64) -> Result<(), E> {
        self.extend(block, block + 1)
    }

    /// The blocks from `begin` up to `end`, which is above it.
    pub(super) fn extend(&mut self, begin: u64, end: u64) -> Result<(), E> {
        if begin != self.end {
            self.flush()?;
            self.begin = begin;
        }
        self.end = end;
        Ok(())
    }

    /// Passes on the last run.
    pub(super) fn finish(mut self) -> Result<(), E> {
        self.flush()
    }

    fn flush(&mut self) -> Result<(), E> {
        match BlockRun::between(self.begin, self.end) {
            Some(run) => (self.sink)(run),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_one_run() {
        let mut seen = Vec::new();
        let mut sink = |run: BlockRun| {
            seen.push((run.begin(), run.length()));
            Ok::<(), std::convert::Infallible>(())
        };
        let mut runs = Runs::new(&mut sink);
        for block in [0, 1, 2, 5, 7, 8] {
            runs.push(block).unwrap();
        }
        runs.extend(9, 20).unwrap();
        runs.finish().unwrap();
        assert_eq!(seen, [(0, 3), (5, 1), (7, 13)]);
    }

    #[test]
    fn nothing_makes_no_run() {
        let mut sink = |_| -> Result<(), ()> { Err(()) };
        Runs::new(&mut sink).finish().unwrap();
    }

    #[test]
    fn runs_are_not_empty_and_do_not_overflow() {
        assert_eq!(BlockRun::new(3, 0), None);
        assert_eq!(BlockRun::new(u64::MAX, 1), None);
        assert_eq!(BlockRun::between(4, 4), None);
        let run = BlockRun::new(2, 3).unwrap();
        assert_eq!(run.bytes(DataBlockSize::MIN), ByteRange::new(2 * 65536, 3 * 65536));
        assert_eq!(BlockRun::new(u64::MAX / 4, 1).unwrap().bytes(DataBlockSize::MIN), None);
    }
}
