//! Pages: what a segment's file is made of.
//!
//! A page is [`PAGE_BYTES`] long: 16 bytes of counter, [`PAYLOAD_BYTES`] of rows, the mark of its segment, its own number, and 16 bytes
//! of authentication code. In a cache it is sealed with the repository's key, as every object of a repository is: a reader of the file
//! learns no more than from the store, and a page that was damaged, put in another place, or made by another program is found out each
//! time it is read, before any of it is used. In scratch space, which has no name and which only this process writes, pages are
//! as they are.
//!
//! Pages are read, not mapped into memory: a read fails where a mapping ends the process (a file cut short, a disk that errs), what
//! was read cannot change while it is verified, and no page counts as memory of this process. It takes a microsecond more, beside
//! the two that opening one takes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::repository::crypto::{CODE_BYTES, COUNTER_BYTES, OVERHEAD, Sealer};
use crate::repository::id::Id;
use crate::scratch::Spill;

/// Bytes of a page: small, because a look-up opens a whole one.
pub(super) const PAGE_BYTES: usize = 1024;
/// Bytes of rows in a page: 20 of 48, or 30 of 32.
pub(super) const PAYLOAD_BYTES: usize = PAGE_BYTES - OVERHEAD - MARK_BYTES - 8;
const MARK_BYTES: usize = 24;
/// Pages that are written or read at once when all are.
pub(super) const STEP_PAGES: u64 = 64;

/// What the pages of one segment have in common and those of others do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark([u8; MARK_BYTES]);

impl Mark {
    /// The mark of the segment of this name.
    pub(super) fn of(name: &Id) -> Self {
        let mut mark = [0; MARK_BYTES];
        mark.copy_from_slice(&name.as_bytes()[..MARK_BYTES]);
        Self(mark)
    }
}

/// Whether pages are sealed.
#[derive(Debug, Clone)]
pub(super) enum Seal {
    /// They are not: in scratch space.
    Plain,
    /// They are sealed with the repository's key: in a cache.
    With(Sealer),
}

/// The file or the scratch space that pages lie in.
#[derive(Debug)]
pub(super) enum Place {
    /// A file of a cache, which is not changed once it has its name.
    File(File),
    Scratch(Spill),
}

impl Place {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_all_at(bytes, offset),
            Self::Scratch(spill) => Ok(spill.write_at(offset, bytes)?),
        }
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(bytes, offset),
            Self::Scratch(spill) => Ok(spill.read_at(offset, bytes)?),
        }
    }
}

/// Why a page was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum PageError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The page of this number is not what was written there.
    #[error("page {0} is not what was written")]
    Damaged(u64),
}

/// Pages that are being written, one after another. The first is written last.
#[derive(Debug)]
pub(super) struct PageWriter {
    place: Place,
    seal: Seal,
    mark: Mark,
    /// Number of the page that `payload` is for.
    number: u64,
    payload: Vec<u8>,
    /// Pages that are not written yet.
    pending: Vec<u8>,
}

impl PageWriter {
    pub(super) fn new(place: Place, seal: Seal, mark: Mark) -> Self {
        Self { place, seal, mark, number: 1, payload: Vec::with_capacity(PAYLOAD_BYTES), pending: Vec::new() }
    }

    /// Adds a row, which lies in one page.
    pub(super) fn push(&mut self, row: &[u8]) -> io::Result<()> {
        if self.payload.len() + row.len() > PAYLOAD_BYTES {
            self.end_page()?;
        }
        self.payload.extend_from_slice(row);
        Ok(())
    }

    /// Makes the next row begin a page.
    pub(super) fn end_section(&mut self) -> io::Result<()> {
        if self.payload.is_empty() { Ok(()) } else { self.end_page() }
    }

    /// Writes the rest and the first page. Returns the number of pages as well.
    pub(super) fn finish(mut self, first: &[u8]) -> io::Result<(Pages, u64)> {
        self.end_section()?;
        self.write_pending()?;
        let count = self.number;
        (self.number, self.payload) = (0, first.to_vec());
        let page = self.page()?;
        self.place.write_at(0, &page)?;
        Ok((Pages { place: self.place, seal: self.seal, mark: self.mark }, count))
    }

    fn end_page(&mut self) -> io::Result<()> {
        let page = self.page()?;
        self.pending.extend_from_slice(&page);
        self.number += 1;
        self.payload.clear();
        if self.pending.len() == STEP_PAGES as usize * PAGE_BYTES { self.write_pending() } else { Ok(()) }
    }

    fn page(&mut self) -> io::Result<Vec<u8>> {
        self.payload.resize(PAYLOAD_BYTES, 0);
        self.payload.extend_from_slice(&self.mark.0);
        self.payload.extend_from_slice(&self.number.to_be_bytes());
        match &self.seal {
            Seal::With(sealer) => sealer.seal(&self.payload).map_err(io::Error::other),
            Seal::Plain => Ok([&[0; COUNTER_BYTES][..], &self.payload, &[0; CODE_BYTES]].concat()),
        }
    }

    fn write_pending(&mut self) -> io::Result<()> {
        let first = self.number - (self.pending.len() / PAGE_BYTES) as u64;
        self.place.write_at(first * PAGE_BYTES as u64, &self.pending)?;
        self.pending.clear();
        Ok(())
    }
}

/// Pages that are only read, by any number of threads.
#[derive(Debug)]
pub(super) struct Pages {
    place: Place,
    seal: Seal,
    mark: Mark,
}

/// The rows of a page, and what follows them.
pub(super) type Payload = [u8; PAYLOAD_BYTES];

impl Pages {
    pub(super) fn new(place: Place, seal: Seal, mark: Mark) -> Self {
        Self { place, seal, mark }
    }

    /// The file beneath; `None` in scratch space.
    pub(super) fn file(&self) -> Option<&File> {
        match &self.place {
            Place::File(file) => Some(file),
            Place::Scratch(_) => None,
        }
    }

    /// Reads one page.
    pub(super) fn one(&self, number: u64) -> Result<Payload, PageError> {
        let mut page = [0; PAGE_BYTES];
        self.place.read_at(number.saturating_mul(PAGE_BYTES as u64), &mut page)?;
        let mut payload = [0; PAYLOAD_BYTES];
        payload.copy_from_slice(self.open(number, &mut page)?);
        Ok(payload)
    }

    /// Reads `count` pages into `buffer`, which holds their rows afterwards: [`PAYLOAD_BYTES`] of each.
    pub(super) fn many(&self, first: u64, count: u64, buffer: &mut Vec<u8>) -> Result<(), PageError> {
        buffer.clear();
        buffer.resize(count as usize * PAGE_BYTES, 0);
        self.place.read_at(first.saturating_mul(PAGE_BYTES as u64), buffer)?;
        let mut end = 0;
        for (at, number) in (first..first + count).enumerate() {
            let from = at * PAGE_BYTES;
            self.open(number, &mut buffer[from..from + PAGE_BYTES])?;
            let rows = from + COUNTER_BYTES;
            buffer.copy_within(rows..rows + PAYLOAD_BYTES, end);
            end += PAYLOAD_BYTES;
        }
        buffer.truncate(end);
        Ok(())
    }

    /// The rows of the page, after it was verified.
    fn open<'a>(&self, number: u64, page: &'a mut [u8]) -> Result<&'a [u8], PageError> {
        let plain: &[u8] = match &self.seal {
            Seal::With(sealer) => sealer.open(page).map_err(|_| PageError::Damaged(number))?,
            Seal::Plain => &page[COUNTER_BYTES..page.len() - CODE_BYTES],
        };
        let (rows, rest) = plain.split_at(PAYLOAD_BYTES);
        let (mark, found) = rest.split_at(MARK_BYTES);
        if mark == self.mark.0 && found == number.to_be_bytes() { Ok(rows) } else { Err(PageError::Damaged(number)) }
    }
}
