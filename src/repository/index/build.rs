//! Segments in the making: from index files, and from other segments.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;

use super::entry::{BlobRow, PackRow, ROW_BYTES, Row};
use super::page::{Place, Seal};
use super::scan::SegmentRows;
use super::segment::{Segment, SegmentContents};
use super::view::View;
use crate::repository::blob::{BlobKind, PackRecord};
use crate::repository::id::Id;
use crate::scratch::{Rows, RowsWriter, Scratch, ScratchError, SortedRuns, Sorter, Spill};

/// An index in the making.
pub(in crate::repository) struct IndexBuilder {
    scratch: Scratch,
    /// The index files and their numbers, as they came.
    files: HashMap<Id, u32>,
    packs: RowsWriter<ROW_BYTES>,
    data: Sorter<ROW_BYTES>,
    trees: Sorter<ROW_BYTES>,
}

impl IndexBuilder {
    pub(in crate::repository) fn new(scratch: &Scratch) -> Self {
        Self {
            scratch: scratch.clone(),
            files: HashMap::new(),
            packs: RowsWriter::new(scratch),
            data: Sorter::new(scratch),
            trees: Sorter::new(scratch),
        }
    }

    pub(super) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Adds the packs that the index file `file` names.
    pub(in crate::repository) fn add(&mut self, file: Id, records: &[PackRecord]) -> Result<(), ScratchError> {
        // Fewer than 32 bits count: each is a file on the store.
        let next = self.files.len() as u32;
        let file = *self.files.entry(file).or_insert(next);
        for record in records {
            let pack = u32::try_from(self.packs.len()).map_err(|_| too_many_packs(&self.scratch))?;
            self.packs.push(&PackRow::of(record, file).to_row())?;
            for blob in &record.blobs {
                let (id, offset, length, uncompressed_length) = (blob.id, blob.offset, blob.length, blob.uncompressed_length);
                let row = BlobRow { id, pack, offset, length, uncompressed_length }.to_row();
                match blob.kind {
                    BlobKind::Data => self.data.push(row)?,
                    BlobKind::Tree => self.trees.push(row)?,
                }
            }
        }
        Ok(())
    }

    /// Sorts what was added.
    pub(super) fn finish(self) -> Result<SortedIndex, ScratchError> {
        let (files, numbers) = ascending(self.files);
        let (packs, data, trees) = (self.packs.finish()?, self.data.finish_runs()?, self.trees.finish_runs()?);
        Ok(SortedIndex { scratch: self.scratch, files, numbers, packs, data, trees })
    }
}

fn too_many_packs(scratch: &Scratch) -> ScratchError {
    scratch.error("an index has more packs than can be numbered")
}

/// The files in ascending order, and for each number that one had, the one that it has now.
fn ascending(files: HashMap<Id, u32>) -> (Vec<Id>, Vec<u32>) {
    let mut sorted: Vec<(Id, u32)> = files.into_iter().collect();
    sorted.sort_unstable();
    let mut numbers = vec![0; sorted.len()];
    for (now, (_, before)) in (0..).zip(&sorted) {
        numbers[*before as usize] = now;
    }
    (sorted.into_iter().map(|(file, _)| file).collect(), numbers)
}

/// The contents of index files, in runs that are sorted.
pub(super) struct SortedIndex {
    scratch: Scratch,
    files: Vec<Id>,
    /// For each number with which a file was added, its number in order.
    numbers: Vec<u32>,
    packs: Rows<ROW_BYTES>,
    data: SortedRuns<ROW_BYTES>,
    trees: SortedRuns<ROW_BYTES>,
}

impl SortedIndex {
    pub(super) fn files(&self) -> &[Id] {
        &self.files
    }

    /// Writes a segment of it to `place`.
    pub(super) fn write(&self, place: Place, seal: Seal) -> io::Result<Segment> {
        let packs = self.packs.iter(0, u64::MAX).map(|row| {
            let pack = PackRow::of_row(&row?);
            Ok(PackRow { file: self.numbers[pack.file as usize], ..pack })
        });
        let contents = SegmentContents { files: self.files.clone(), packs, data: self.data.iter(), trees: self.trees.iter() };
        Segment::write(place, seal, contents)
    }

    /// Writes it to scratch space.
    pub(super) fn write_to_scratch(&self) -> Result<Segment, ScratchError> {
        let written = self.write(Place::Scratch(Spill::new(&self.scratch)), Seal::Plain);
        written.map_err(|error| match ScratchError::within(&error) {
            Some(error) => error.clone(),
            None => self.scratch.error(error),
        })
    }
}

/// Writes to `place` one segment of all that is visible of several.
pub(super) fn merge(views: &[View], place: Place, seal: Seal) -> io::Result<Segment> {
    let mut files: Vec<Id> = views.iter().flat_map(View::live_files).collect();
    files.sort_unstable();
    let number_of = |file: &Id| files.binary_search(file).map_or(0, |at| at as u32);
    // What number each visible pack has in the new segment, and which packs come.
    let mut next = 0_u32;
    let mut numbers: Vec<Vec<u32>> = Vec::new();
    for view in views {
        let packs = (0..view.segment().packs()).map(|number| {
            let is_live = view.has_pack(number as u32);
            let here = next;
            next = next.checked_add(is_live.into())?;
            Some(here)
        });
        numbers
            .push(packs.collect::<Option<_>>().ok_or_else(|| io::Error::other("an index has more packs than can be numbered"))?);
    }
    let packs = views.iter().flat_map(|view| {
        let (mut live, mut number) = (Vec::new(), 0);
        let read = view.segment().each_pack(|pack| {
            if view.has_pack(number) {
                live.push(Ok(PackRow { file: number_of(&view.segment().files()[pack.file as usize]), ..pack }));
            }
            number += 1;
        });
        live.extend(read.err().map(Err));
        live
    });
    let rows = |kind| MergedRows::new(views, &numbers, kind);
    let (data, trees) = (rows(BlobKind::Data), rows(BlobKind::Tree));
    Segment::write(place, seal, SegmentContents { files: files.clone(), packs, data, trees })
}

/// The visible rows of several segments by their ids, with the numbers that their packs are to have. An error is the last thing that
/// comes.
struct MergedRows<'a> {
    views: &'a [View],
    numbers: &'a [Vec<u32>],
    rows: Vec<SegmentRows<'a>>,
    heads: BinaryHeap<Reverse<(Row, usize)>>,
    failed: Option<ScratchError>,
}

impl<'a> MergedRows<'a> {
    fn new(views: &'a [View], numbers: &'a [Vec<u32>], kind: BlobKind) -> Self {
        let rows = views.iter().map(|view| view.segment().rows(kind)).collect();
        let mut merged = Self { views, numbers, rows, heads: BinaryHeap::with_capacity(views.len()), failed: None };
        (0..views.len()).for_each(|view| merged.advance(view));
        merged
    }

    fn advance(&mut self, view: usize) {
        loop {
            match self.rows[view].next() {
                Some(Ok(row)) => {
                    let blob = BlobRow::of_row(&row);
                    if self.views[view].has_pack(blob.pack) {
                        let pack = self.numbers[view][blob.pack as usize];
                        self.heads.push(Reverse((BlobRow { pack, ..blob }.to_row(), view)));
                        return;
                    }
                }
                Some(Err(error)) => {
                    self.failed = Some(error);
                    return;
                }
                None => return,
            }
        }
    }
}

impl Iterator for MergedRows<'_> {
    type Item = Result<Row, ScratchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            self.heads.clear();
            return Some(Err(error));
        }
        let Reverse((row, view)) = self.heads.pop()?;
        self.advance(view);
        Some(Ok(row))
    }
}
