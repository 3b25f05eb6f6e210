//! Tables that are searched by the key their rows begin with.
//!
//! Rows are sorted as bytes, in runs that fit the memory, which are merged in the end. A directory in memory has the first four
//! bytes of every 16th row (a quarter of a byte for each row), so that a look-up reads one block.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::{Rows, RowsWriter, Scratch, ScratchError};

pub const KEY_BYTES: usize = 32;
/// What rows begin with and are found by. Spread evenly, as hashes are; otherwise look-ups are slower, and right all the same.
pub type Key = [u8; KEY_BYTES];

/// Rows that a look-up reads at once.
const BLOCK_ROWS: u64 = 16;

/// Takes rows in any order.
#[derive(Debug)]
pub struct Sorter<const ROW: usize> {
    scratch: Scratch,
    rows: Vec<[u8; ROW]>,
    /// Sorted runs one behind another, in one list: each alone would be short enough to stay in memory.
    runs: RowsWriter<ROW>,
    /// Where each run ends.
    ends: Vec<u64>,
}

impl<const ROW: usize> Sorter<ROW> {
    pub fn new(scratch: &Scratch) -> Self {
        const { assert!(ROW >= KEY_BYTES, "a row begins with a key") };
        Self { scratch: scratch.clone(), rows: Vec::new(), runs: RowsWriter::new(scratch), ends: Vec::new() }
    }

    pub fn push(&mut self, row: [u8; ROW]) -> Result<(), ScratchError> {
        if (self.rows.len() + 1) * ROW > self.scratch.memory_bytes() {
            self.end_run()?;
        }
        self.rows.push(row);
        Ok(())
    }

    /// The table of all rows; of equal ones, one.
    pub fn finish(self) -> Result<SortedRows<ROW>, ScratchError> {
        let scratch = self.scratch.clone();
        let runs = self.finish_runs()?;
        if runs.ends.len() <= 1 { SortedRows::of(runs.rows) } else { SortedRows::of_rows(&scratch, runs.iter()) }
    }

    /// All rows, to be gone through in order: without the table, which would take as much room again.
    pub fn finish_runs(mut self) -> Result<SortedRuns<ROW>, ScratchError> {
        self.end_run()?;
        Ok(SortedRuns { rows: self.runs.finish()?, ends: self.ends, step_bytes: self.scratch.memory_bytes() })
    }

    fn end_run(&mut self) -> Result<(), ScratchError> {
        // Nearly all differ in the first eight bytes, which are compared at once.
        let first = |row: &[u8; ROW]| row.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        self.rows.sort_unstable_by(|a, b| first(a).cmp(&first(b)).then_with(|| a.cmp(b)));
        self.rows.dedup();
        self.rows.drain(..).try_for_each(|row| self.runs.push(&row))?;
        self.ends.push(self.runs.len());
        Ok(())
    }
}

/// Rows in sorted runs.
#[derive(Debug)]
pub struct SortedRuns<const ROW: usize> {
    rows: Rows<ROW>,
    /// Where each run ends.
    ends: Vec<u64>,
    step_bytes: usize,
}

impl<const ROW: usize> SortedRuns<ROW> {
    /// All rows in order; of equal ones, one. An error is the last thing that comes.
    pub fn iter(&self) -> impl Iterator<Item = Result<[u8; ROW], ScratchError>> + '_ {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let runs: Vec<_> = starts.zip(&self.ends).map(|(start, end)| (&self.rows, start..*end)).collect();
        Merge::new(self.step_bytes, &runs)
    }
}

/// One table of all rows of several sorted parts of lists; of equal ones, one.
pub(super) fn merge<const ROW: usize>(
    scratch: &Scratch,
    runs: &[(&Rows<ROW>, Range<u64>)],
) -> Result<SortedRows<ROW>, ScratchError> {
    SortedRows::of_rows(scratch, Merge::new(scratch.memory_bytes(), runs))
}

/// The rows of several sorted parts of lists in order; of equal ones, one. An error is the last thing that comes.
struct Merge<'a, const ROW: usize> {
    runs: Vec<super::RowsIter<'a, ROW>>,
    /// The next row of each run.
    heads: BinaryHeap<Reverse<([u8; ROW], usize)>>,
    last: Option<[u8; ROW]>,
    failed: Option<ScratchError>,
}

impl<'a, const ROW: usize> Merge<'a, ROW> {
    /// The buffers of all runs together take `memory_bytes`.
    fn new(memory_bytes: usize, runs: &[(&'a Rows<ROW>, Range<u64>)]) -> Self {
        let step_bytes = memory_bytes / runs.len().max(1);
        let runs: Vec<_> = runs.iter().map(|(run, range)| run.iter_in_steps(range.start, range.end, step_bytes)).collect();
        let heads = BinaryHeap::with_capacity(runs.len());
        let mut merge = Self { runs, heads, last: None, failed: None };
        (0..merge.runs.len()).for_each(|number| merge.advance(number));
        merge
    }

    /// Puts the next row of a run among the heads.
    fn advance(&mut self, run: usize) {
        match self.runs[run].next() {
            Some(Ok(row)) => self.heads.push(Reverse((row, run))),
            Some(Err(error)) => self.failed = Some(error),
            None => {}
        }
    }
}

impl<const ROW: usize> Iterator for Merge<'_, ROW> {
    type Item = Result<[u8; ROW], ScratchError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(error) = self.failed.take() {
                self.heads.clear();
                return Some(Err(error));
            }
            let Reverse((row, run)) = self.heads.pop()?;
            self.advance(run);
            if self.last != Some(row) {
                self.last = Some(row);
                return Some(Ok(row));
            }
        }
    }
}

/// A table of rows in ascending order, each once.
#[derive(Debug)]
pub struct SortedRows<const ROW: usize> {
    rows: Rows<ROW>,
    /// The beginning of the first row of each block.
    directory: Vec<u32>,
}

fn beginning(row: &[u8]) -> u32 {
    row.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

impl<const ROW: usize> SortedRows<ROW> {
    /// The table of rows that come in order.
    fn of_rows(scratch: &Scratch, rows: impl Iterator<Item = Result<[u8; ROW], ScratchError>>) -> Result<Self, ScratchError> {
        let mut written = RowsWriter::new(scratch);
        for row in rows {
            written.push(&row?)?;
        }
        Self::of(written.finish()?)
    }

    /// The table of rows that are in order.
    fn of(rows: Rows<ROW>) -> Result<Self, ScratchError> {
        let mut directory = Vec::with_capacity(rows.len().div_ceil(BLOCK_ROWS) as usize);
        for (number, row) in rows.iter(0, u64::MAX).enumerate() {
            let row = row?;
            if (number as u64).is_multiple_of(BLOCK_ROWS) {
                directory.push(beginning(&row));
            }
        }
        Ok(Self { rows, directory })
    }

    pub fn len(&self) -> u64 {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All rows in order.
    pub fn iter(&self) -> super::RowsIter<'_, ROW> {
        self.rows.iter(0, u64::MAX)
    }

    /// The list that the table is made of.
    pub(super) fn rows(&self) -> &Rows<ROW> {
        &self.rows
    }

    /// The first row that begins with `key`, and its number.
    pub fn find(&self, key: &Key) -> Result<Option<(u64, [u8; ROW])>, ScratchError> {
        let found = match self.rows.in_memory() {
            Some(bytes) => first_at_least(bytes, key),
            None => return self.find_in_file(key),
        };
        Ok(found.filter(|(_, row)| row.starts_with(key)))
    }

    fn find_in_file(&self, key: &Key) -> Result<Option<(u64, [u8; ROW])>, ScratchError> {
        // The last block that begins before the key may hold it; so may those that begin alike.
        let wanted = beginning(key);
        let block = self.directory.partition_point(|first| *first < wanted).saturating_sub(1) as u64;
        let mut buffer = Vec::new();
        for block in block.. {
            let first = block * BLOCK_ROWS;
            let count = self.rows.len().saturating_sub(first).min(BLOCK_ROWS);
            if count == 0 {
                break;
            }
            self.rows.read(first, count, &mut buffer)?;
            if let Some((at, row)) = first_at_least(&buffer, key) {
                return Ok(row.starts_with(key).then_some((first + at, row)));
            }
        }
        Ok(None)
    }
}

/// The first of the rows in `bytes` that does not come before `key`, and its number.
fn first_at_least<const ROW: usize>(bytes: &[u8], key: &Key) -> Option<(u64, [u8; ROW])> {
    let (rows, _) = bytes.as_chunks::<ROW>();
    let at = rows.partition_point(|row| row[..KEY_BYTES] < key[..]);
    rows.get(at).map(|row| (at as u64, *row))
}
