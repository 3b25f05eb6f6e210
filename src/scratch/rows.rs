//! Lists of rows of one length.

use super::{Scratch, ScratchError, Spill};

/// Bytes that are written or read at once.
const STEP_BYTES: usize = 64 << 10;

/// A list that is being written: at its end, or at any place. Rows that were left out are zeros.
#[derive(Debug)]
pub struct RowsWriter<const ROW: usize> {
    spill: Spill,
    /// Rows that follow one another and are not in `spill` yet, so that a list written in order takes few calls.
    pending: Vec<u8>,
    /// Number of the first pending row.
    pending_first: u64,
    length: u64,
}

impl<const ROW: usize> RowsWriter<ROW> {
    pub fn new(scratch: &Scratch) -> Self {
        Self { spill: Spill::new(scratch), pending: Vec::new(), pending_first: 0, length: 0 }
    }

    pub fn len(&self) -> u64 {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds a row at the end.
    pub fn push(&mut self, row: &[u8; ROW]) -> Result<(), ScratchError> {
        self.set(self.length, row)
    }

    /// Writes the row `number`, beyond the end too. Quick when rows are written one after another.
    pub fn set(&mut self, number: u64, row: &[u8; ROW]) -> Result<(), ScratchError> {
        if number != self.pending_first + (self.pending.len() / ROW) as u64 || self.pending.len() + ROW > STEP_BYTES {
            self.write_pending()?;
            self.pending_first = number;
        }
        self.pending.extend_from_slice(row);
        self.length = self.length.max(number + 1);
        Ok(())
    }

    /// Ends the writing, and makes the list readable.
    pub fn finish(mut self) -> Result<Rows<ROW>, ScratchError> {
        self.write_pending()?;
        Ok(Rows { spill: self.spill, length: self.length })
    }

    fn write_pending(&mut self) -> Result<(), ScratchError> {
        if !self.pending.is_empty() {
            self.spill.write_at(self.pending_first * ROW as u64, &self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }
}

/// A list that is only read.
#[derive(Debug)]
pub struct Rows<const ROW: usize> {
    spill: Spill,
    length: u64,
}

impl<const ROW: usize> Rows<ROW> {
    pub fn len(&self) -> u64 {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Reads rows by number.
    pub fn cursor(&self) -> RowsCursor<'_, ROW> {
        RowsCursor { rows: self, first: 0, buffer: Vec::new() }
    }

    /// Reads the `count` rows from `first` on into `buffer`, which is cleared first.
    pub(super) fn read(&self, first: u64, count: u64, buffer: &mut Vec<u8>) -> Result<(), ScratchError> {
        buffer.clear();
        buffer.resize(count as usize * ROW, 0);
        self.spill.read_at(first * ROW as u64, buffer)
    }

    /// All rows, when they are in memory.
    pub(super) fn in_memory(&self) -> Option<&[u8]> {
        self.spill.in_memory()
    }

    /// The rows from `first` up to `end` (or the last one), in order. An error is the last thing that comes.
    pub fn iter(&self, first: u64, end: u64) -> RowsIter<'_, ROW> {
        self.iter_in_steps(first, end, STEP_BYTES)
    }

    /// As [`Rows::iter`], with so many bytes read at once; one row at least.
    pub(super) fn iter_in_steps(&self, first: u64, end: u64, step_bytes: usize) -> RowsIter<'_, ROW> {
        let step_rows = (step_bytes / ROW).max(1) as u64;
        RowsIter { rows: self, next: first, end: end.min(self.length), step_rows, buffer: Vec::new(), at: 0 }
    }
}

/// Reads single rows of a list, quickly where their numbers ascend by little.
#[derive(Debug)]
pub struct RowsCursor<'a, const ROW: usize> {
    rows: &'a Rows<ROW>,
    first: u64,
    buffer: Vec<u8>,
}

impl<const ROW: usize> RowsCursor<'_, ROW> {
    /// Reads the row `number`, which must be one of the list.
    pub fn get(&mut self, number: u64) -> Result<[u8; ROW], ScratchError> {
        let is_here = number.checked_sub(self.first).is_some_and(|ahead| ahead < (self.buffer.len() / ROW) as u64);
        if !is_here {
            let count = self.rows.length.saturating_sub(number).clamp(1, (STEP_BYTES / ROW) as u64);
            let read = self.rows.read(number, count, &mut self.buffer);
            self.first = number;
            if let Err(error) = read {
                self.buffer.clear();
                return Err(error);
            }
        }
        let at = (number - self.first) as usize * ROW;
        let mut row = [0; ROW];
        row.copy_from_slice(&self.buffer[at..at + ROW]);
        Ok(row)
    }
}

/// Iterates over rows in order.
#[derive(Debug)]
pub struct RowsIter<'a, const ROW: usize> {
    rows: &'a Rows<ROW>,
    /// Number of the row after those in the buffer.
    next: u64,
    end: u64,
    step_rows: u64,
    buffer: Vec<u8>,
    at: usize,
}

impl<const ROW: usize> RowsIter<'_, ROW> {
    fn fill(&mut self) -> Result<(), ScratchError> {
        let count = self.end.saturating_sub(self.next).min(self.step_rows);
        self.at = 0;
        let (first, end) = (self.next, self.end);
        // After an error there is nothing more.
        self.next = end;
        self.rows.read(first, count, &mut self.buffer)?;
        self.next = first + count;
        Ok(())
    }
}

impl<const ROW: usize> Iterator for RowsIter<'_, ROW> {
    type Item = Result<[u8; ROW], ScratchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.buffer.len() {
            if self.next >= self.end {
                return None;
            }
            if let Err(error) = self.fill() {
                self.buffer.clear();
                return Some(Err(error));
            }
        }
        let mut row = [0; ROW];
        row.copy_from_slice(&self.buffer[self.at..self.at + ROW]);
        self.at += ROW;
        Some(Ok(row))
    }
}
