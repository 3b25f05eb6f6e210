//! Reads the tables of a segment in order, many pages at a time where most of them are wanted.

use super::entry::{ROW_BYTES, Row};
use super::layout::{ROWS_OF_PAGE, Section};
use super::page::{PAYLOAD_BYTES, STEP_PAGES};
use super::segment::Segment;
use crate::repository::blob::BlobKind;
use crate::repository::id::Id;
use crate::scratch::ScratchError;

impl Segment {
    /// All rows of a table in order. An error is the last thing that comes.
    pub(super) fn rows(&self, kind: BlobKind) -> SegmentRows<'_> {
        SegmentRows { segment: self, section: self.table(kind).section, next: 0, buffer: Vec::new(), at: 0, left: 0 }
    }

    /// A place in a table that moves forward, for about so many look-ups in ascending order.
    pub(super) fn cursor(&self, kind: BlobKind, lookups: u64) -> PageCursor<'_> {
        let pages = self.table(kind).section.pages(ROWS_OF_PAGE);
        // Where most pages are asked for, many are read at once; where few are, none for nothing.
        let step_pages = if lookups >= pages / 2 { STEP_PAGES } else { 1 };
        PageCursor { segment: self, kind, step_pages, first_page: 0, buffer: Vec::new() }
    }
}

/// A place in a table that moves forward; see [`Segment::cursor`].
#[derive(Debug)]
pub(super) struct PageCursor<'a> {
    segment: &'a Segment,
    kind: BlobKind,
    step_pages: u64,
    /// Page of the table that the buffer begins with.
    first_page: u64,
    /// Rows of the table, without what the last page has none of.
    buffer: Vec<u8>,
}

impl PageCursor<'_> {
    /// Gives `visit` the rows of the blob `id`, which comes after all that were looked for before it.
    pub(super) fn seek(&mut self, id: &Id, mut visit: impl FnMut(&Row)) -> Result<(), ScratchError> {
        let pages = self.segment.table(self.kind).section.pages(ROWS_OF_PAGE);
        let mut page = self.segment.page_of(self.kind, id);
        while page < pages {
            self.load(page, pages)?;
            let from = (page - self.first_page) as usize * PAYLOAD_BYTES;
            let (rows, _) = self.buffer[from..(from + PAYLOAD_BYTES).min(self.buffer.len())].as_chunks::<ROW_BYTES>();
            let at = rows.partition_point(|row| row[..Id::LENGTH] < id.as_bytes()[..]);
            let alike = rows[at..].iter().take_while(|row| row.starts_with(id.as_bytes())).map(&mut visit).count();
            if at + alike < rows.len() {
                break;
            }
            page += 1;
        }
        Ok(())
    }

    /// Reads the page into the buffer, unless it is there.
    fn load(&mut self, page: u64, pages: u64) -> Result<(), ScratchError> {
        let held = (self.buffer.len().div_ceil(PAYLOAD_BYTES)) as u64;
        if page >= self.first_page && page < self.first_page + held {
            return Ok(());
        }
        let section = self.segment.table(self.kind).section;
        let count = (pages - page).min(self.step_pages);
        self.first_page = page;
        if let Err(error) = self.segment.pages.many(section.first_page + page, count, &mut self.buffer) {
            self.buffer.clear();
            return Err(self.segment.failed(error));
        }
        let rows = (section.rows - page * ROWS_OF_PAGE).min(count * ROWS_OF_PAGE);
        self.buffer.truncate(rows as usize * ROW_BYTES);
        Ok(())
    }
}

/// Iterates over the rows of a table in order.
#[derive(Debug)]
pub(super) struct SegmentRows<'a> {
    segment: &'a Segment,
    section: Section,
    /// Page after those in the buffer.
    next: u64,
    buffer: Vec<u8>,
    at: usize,
    /// Rows of the buffer that have not come yet.
    left: usize,
}

impl Iterator for SegmentRows<'_> {
    type Item = Result<Row, ScratchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let end = self.section.pages(ROWS_OF_PAGE);
            if self.next >= end {
                return None;
            }
            let count = (end - self.next).min(STEP_PAGES);
            let rows = (self.section.rows - self.next * ROWS_OF_PAGE).min(count * ROWS_OF_PAGE) as usize;
            let first = self.section.first_page + self.next;
            if let Err(error) = self.segment.pages.many(first, count, &mut self.buffer) {
                self.next = end;
                return Some(Err(self.segment.failed(error)));
            }
            (self.next, self.at, self.left) = (self.next + count, 0, rows);
        }
        let mut row = [0; ROW_BYTES];
        row.copy_from_slice(&self.buffer[self.at..self.at + ROW_BYTES]);
        self.at += ROW_BYTES;
        self.left -= 1;
        Some(Ok(row))
    }
}
