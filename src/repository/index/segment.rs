//! A segment: the blobs that some index files name, sorted by id, in a file that never changes.
//!
//! | section | rows | bytes of one |
//! |---|---|---|
//! | header, one page | magic, and the number of rows of the next four | |
//! | index files | their ids, ascending | 32 |
//! | packs | each as often as one of the files names it, in no order ([`PackRow`]) | 48 |
//! | data | blobs sorted by id ([`BlobRow`]), with the number of a row among the packs | 48 |
//! | trees | the same of trees | 48 |
//! | fences | the first four bytes of each page of data, then of trees | 4 |
//!
//! The fences are in memory, a fifth of a byte for each blob, so that a look-up reads one page. A segment is called by the hash of the
//! ids of its index files, which its pages are marked with: two that are called alike say the same.
//!
//! **Errors**: a page that is not what was written fails the look-up, which is never answered by "not there" or "there"; the file is
//! removed, so that the next transfer makes it anew from the store's index files.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::entry::{BlobRow, PackRow, ROW_BYTES, Row};
use super::layout::{FENCE_BYTES, Layout, MAGIC, ROWS_OF_PAGE, Section};
use super::page::{Mark, PAGE_BYTES, PAYLOAD_BYTES, PageError, PageWriter, Pages, Payload, Place, STEP_PAGES, Seal};
use crate::repository::blob::BlobKind;
use crate::repository::cache::Cache;
use crate::repository::crypto::Sealer;
use crate::repository::id::{Id, IdHasher};
use crate::scratch::ScratchError;
use crate::types::error::chain;

/// Segments of up to so many pages (4 MiB) are not made durable, which would cost a small export more than all the rest of its index;
/// they are read whole instead when they are opened.
pub(super) const VERIFIED_PAGES: u64 = 4096;

/// The name of the segment of these index files, which are in ascending order.
pub(super) fn name_of(files: &[Id]) -> Id {
    let mut hasher = IdHasher::new();
    hasher.update(MAGIC);
    files.iter().for_each(|file| hasher.update(file.as_bytes()));
    hasher.finish()
}

/// A sorted table of blobs, and what of it is in memory.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) section: Section,
    /// The beginning of the first row of each page.
    fences: Vec<u32>,
}

/// An open segment; see the module's header.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) pages: Pages,
    /// The file's name, unless it is in scratch space.
    path: Option<PathBuf>,
    files: Vec<Id>,
    packs: Section,
    data: Table,
    trees: Table,
    /// The page of packs that was read last: neighbours in a volume are neighbours in packs.
    last_packs: Mutex<Option<(u64, Box<Payload>)>>,
}

fn beginning(row: &[u8]) -> u32 {
    row.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// Why a file is not taken for a segment.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("it is gone")]
    Gone,
    #[error("it does not read")]
    Page(#[from] PageError),
    /// It is not what a segment of its name must be.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

impl OpenError {
    /// The meaning of a failure to open the file.
    fn of(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Gone,
            _ => Self::Page(error.into()),
        }
    }
}

/// Why a page of a segment that is open was not read, and what becomes of the segment.
#[derive(Debug, thiserror::Error)]
enum UnreadIndex {
    #[error("the index that is kept there did not read")]
    Kept(#[source] PageError),
    #[error("the index that is kept there did not read and is made anew when this is tried again")]
    Removed(#[source] PageError),
}

/// The rows that a segment is written of.
pub(super) struct SegmentContents<P, D, T> {
    /// The index files, ascending.
    pub(super) files: Vec<Id>,
    pub(super) packs: P,
    /// Blobs of data, which ascend by their ids.
    pub(super) data: D,
    /// Trees, which ascend by their ids.
    pub(super) trees: T,
}

impl Segment {
    /// Opens the file of the segment that is called `name`.
    pub(super) fn open(path: &Path, name: &Id, sealer: &Sealer) -> Result<Self, OpenError> {
        let file = File::open(path).map_err(OpenError::of)?;
        let length = file.metadata().map_err(OpenError::of)?.len();
        let pages = Pages::new(Place::File(file), Seal::With(sealer.clone()), Mark::of(name));
        let layout = Layout::parse(&pages.one(0)?).ok_or_else(|| OpenError::Damaged("its header says nothing".to_owned()))?;
        if layout.pages.checked_mul(PAGE_BYTES as u64) != Some(length) {
            return Err(OpenError::Damaged(format!("it has {length} bytes, not {} pages", layout.pages)));
        }
        if layout.pages <= VERIFIED_PAGES {
            sections(&pages, 0, layout.pages, |_| ())?;
        }
        let mut files = Vec::new();
        rows(&pages, layout.files, |row: &[u8; Id::LENGTH]| files.push(Id::from_bytes(*row)))?;
        if name_of(&files) != *name {
            return Err(OpenError::Damaged("it is about other index files than it is called by".to_owned()));
        }
        let fences = |section: Section, fences: Section| -> Result<Table, PageError> {
            let mut found = Vec::with_capacity(fences.rows as usize);
            rows(&pages, fences, |row: &[u8; FENCE_BYTES]| found.push(u32::from_be_bytes(*row)))?;
            Ok(Table { section, fences: found })
        };
        let (data, trees) = (fences(layout.data, layout.data_fences)?, fences(layout.trees, layout.tree_fences)?);
        Ok(Self { pages, path: Some(path.to_owned()), files, packs: layout.packs, data, trees, last_packs: Mutex::default() })
    }

    /// Writes a segment of `contents` to `place`. An error of any of its iterators ends it.
    pub(super) fn write<P, D, T>(place: Place, seal: Seal, contents: SegmentContents<P, D, T>) -> Result<Self, io::Error>
    where
        P: Iterator<Item = Result<PackRow, ScratchError>>,
        D: Iterator<Item = Result<Row, ScratchError>>,
        T: Iterator<Item = Result<Row, ScratchError>>,
    {
        let SegmentContents { files, packs, data, trees } = contents;
        let mut writer = PageWriter::new(place, seal, Mark::of(&name_of(&files)));
        files.iter().try_for_each(|file| writer.push(file.as_bytes()))?;
        writer.end_section()?;
        let mut pack_rows = 0;
        for pack in packs {
            writer.push(&pack?.to_row())?;
            pack_rows += 1;
        }
        writer.end_section()?;
        let (data_rows, data_fences) = write_table(&mut writer, data)?;
        let (tree_rows, tree_fences) = write_table(&mut writer, trees)?;
        for fences in [&data_fences, &tree_fences] {
            fences.iter().try_for_each(|fence| writer.push(&fence.to_be_bytes()))?;
            writer.end_section()?;
        }
        let layout = Layout::of([files.len() as u64, pack_rows, data_rows, tree_rows]);
        let layout = layout.ok_or_else(|| io::Error::other("an index has more packs than can be numbered"))?;
        let (pages, count) = writer.finish(&layout.header())?;
        debug_assert_eq!(count, layout.pages);
        if let Some(file) = pages.file().filter(|_| layout.pages > VERIFIED_PAGES) {
            file.sync_all()?;
        }
        let data = Table { section: layout.data, fences: data_fences };
        let trees = Table { section: layout.trees, fences: tree_fences };
        Ok(Self { pages, path: None, files, packs: layout.packs, data, trees, last_packs: Mutex::default() })
    }

    /// The same segment, whose file now has this name.
    pub(super) fn named(self, path: PathBuf) -> Self {
        Self { path: Some(path), ..self }
    }

    /// The file's name; `None` in scratch space.
    pub(super) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The index files that it is made of, ascending.
    pub(super) fn files(&self) -> &[Id] {
        &self.files
    }

    /// Number of packs, counted as often as an index file names them.
    pub(super) fn packs(&self) -> u64 {
        self.packs.rows
    }

    /// Number of blobs of `kind`, counted as often as an index file names them.
    pub(super) fn len(&self, kind: BlobKind) -> u64 {
        self.table(kind).section.rows
    }

    pub(super) fn table(&self, kind: BlobKind) -> &Table {
        match kind {
            BlobKind::Data => &self.data,
            BlobKind::Tree => &self.trees,
        }
    }

    /// The page of a table in which the first row of `id` lies, if any does.
    pub(super) fn page_of(&self, kind: BlobKind, id: &Id) -> u64 {
        // The last page that begins before the id may hold it; so may those that begin alike.
        let wanted = beginning(id.as_bytes());
        self.table(kind).fences.partition_point(|first| *first < wanted).saturating_sub(1) as u64
    }

    /// Gives `visit` the rows of the blob `id` with their numbers, until it has seen enough.
    pub(super) fn find(
        &self,
        kind: BlobKind,
        id: &Id,
        mut visit: impl FnMut(u64, BlobRow) -> Enough,
    ) -> Result<(), ScratchError> {
        let section = self.table(kind).section;
        for page in self.page_of(kind, id)..section.pages(ROWS_OF_PAGE) {
            let payload = self.pages.one(section.first_page + page).map_err(|error| self.failed(error))?;
            let count = (section.rows - page * ROWS_OF_PAGE).min(ROWS_OF_PAGE) as usize;
            let rows = &payload.as_chunks::<ROW_BYTES>().0[..count];
            let from = rows.partition_point(|row| row[..Id::LENGTH] < id.as_bytes()[..]);
            for (at, row) in rows.iter().enumerate().skip(from) {
                if !row.starts_with(id.as_bytes()) || visit(page * ROWS_OF_PAGE + at as u64, BlobRow::of_row(row)) == Enough::Yes
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The pack of that number.
    pub(super) fn pack(&self, number: u32) -> Result<PackRow, ScratchError> {
        let (page, at) = (u64::from(number) / ROWS_OF_PAGE, (u64::from(number) % ROWS_OF_PAGE) as usize);
        let row = |payload: &Payload| PackRow::of_row(&payload.as_chunks::<ROW_BYTES>().0[at]);
        // No code panics while it holds the lock.
        if let Some((_, payload)) =
            self.last_packs.lock().unwrap_or_else(PoisonError::into_inner).as_ref().filter(|(last, _)| *last == page)
        {
            return Ok(row(payload));
        }
        let payload = self.pages.one(self.packs.first_page + page).map_err(|error| self.failed(error))?;
        let found = row(&payload);
        *self.last_packs.lock().unwrap_or_else(PoisonError::into_inner) = Some((page, Box::new(payload)));
        Ok(found)
    }

    /// Gives `visit` all packs in order of their numbers.
    pub(super) fn each_pack(&self, mut visit: impl FnMut(PackRow)) -> Result<(), ScratchError> {
        rows(&self.pages, self.packs, |row: &Row| visit(PackRow::of_row(row))).map_err(|error| self.failed(error))
    }

    /// The error that a page could not be read. A file that is not what it was is removed.
    pub(super) fn failed(&self, error: PageError) -> ScratchError {
        let folder = self.path.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let unread = match (error, &self.path) {
            (error @ PageError::Damaged(_), Some(path)) => {
                tracing::warn!(path = %path.display(), error = %chain(&error), "a segment of an index is damaged; it is removed");
                // The next transfer that opens it finds the damage again, if it cannot be removed.
                let _ = fs::remove_file(path);
                UnreadIndex::Removed(error)
            }
            (error, _) => UnreadIndex::Kept(error),
        };
        ScratchError::of_place("cache", folder, Cache::VARIABLE, unread)
    }
}

/// Whether a visitor wants no more rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Enough {
    Yes,
    No,
}

/// Gives `visit` the payloads of pages, many at a time.
fn sections(pages: &Pages, first: u64, end: u64, mut visit: impl FnMut(&[u8])) -> Result<(), PageError> {
    let mut buffer = Vec::new();
    let mut next = first;
    while next < end {
        let count = (end - next).min(STEP_PAGES);
        pages.many(next, count, &mut buffer)?;
        visit(&buffer);
        next += count;
    }
    Ok(())
}

/// Gives `visit` the rows of a section, `N` bytes each.
fn rows<const N: usize>(pages: &Pages, section: Section, mut visit: impl FnMut(&[u8; N])) -> Result<(), PageError> {
    let end = section.first_page + section.pages((PAYLOAD_BYTES / N) as u64);
    let mut left = section.rows as usize;
    sections(pages, section.first_page, end, |payloads| {
        // Rows fill pages without a rest, for every length there is.
        const { assert!(PAYLOAD_BYTES.is_multiple_of(N)) };
        let (rows, _) = payloads.as_chunks::<N>();
        rows.iter().take(left).for_each(&mut visit);
        left = left.saturating_sub(rows.len());
    })
}

fn write_table(
    writer: &mut PageWriter,
    rows: impl Iterator<Item = Result<Row, ScratchError>>,
) -> Result<(u64, Vec<u32>), io::Error> {
    let (mut count, mut fences) = (0_u64, Vec::new());
    for row in rows {
        let row = row?;
        if count.is_multiple_of(ROWS_OF_PAGE) {
            fences.push(beginning(&row));
        }
        writer.push(&row)?;
        count += 1;
    }
    writer.end_section()?;
    Ok((count, fences))
}
