//! What is fetched of a repository and where it goes. Decides only.
//!
//! The list of a file says in which order its blobs follow one another; the index says where each lies. From both come pieces
//! (a blob, where it lies, where it goes), sorted by pack and offset, and from those the requests: neighbouring blobs of a
//! pack are fetched together, with what lies between them if that is little.
//!
//! The list is walked once before anything is fetched, to see that it makes a whole file. Then it is walked in [windows](Window) of
//! so many entries that their pieces take a few MiB, whatever the length of the list. A blob that occurs in several windows is
//! fetched for each.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;

use crate::repository::tree::IdList;
use crate::repository::{BlobLocation, Id};
use crate::scratch::ScratchError;
use crate::transfer::zeros;
use crate::types::ByteRange;

/// Bytes between two blobs that are fetched and thrown away, at most: a request costs as much as they do.
pub const GAP_BYTES: u64 = 1 << 20;

/// Entries of a window: 64 GiB in chunks of 1 MiB, and 4 MB of pieces. Two windows are in memory at a time as a rule: one that is
/// being fetched, and the one before it whose last blobs are being written.
const WINDOW_ENTRIES: u64 = 1 << 16;

/// Entries between two places of the list whose positions are remembered, for reads at random: 8 bytes of memory for so many, and as
/// many are walked over to find a position.
const CHECKPOINT_ENTRIES: u64 = 64;

/// A list of blobs that makes no whole file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A blob is in no index.
    #[error("data blob {id}, which belongs at byte {position}, is in no index")]
    MissingBlob {
        /// The blob.
        id: Id,
        /// Where it belongs, in bytes.
        position: u64,
    },
    /// The blobs are together longer or shorter than the file.
    #[error("the image is recorded with {recorded} bytes and its blobs add up to {found}")]
    SizeMismatch {
        /// Size of the file as recorded.
        recorded: u64,
        /// What the blobs add up to.
        found: u64,
    },
    /// Longer than 64 bits count.
    #[error("the image has more blobs than can be counted")]
    TooMany,
    /// The list or the index could not be read from where they are kept.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
}

/// The index: where the blob lies, if it is stored.
pub type Locate = dyn Fn(&Id) -> Result<Option<BlobLocation>, ScratchError> + Send + Sync;

/// How a file is restored.
pub struct RestorePlan {
    content: IdList,
    locate: Box<Locate>,
    image_bytes: u64,
    sink_bytes: u64,
    data_bytes: u64,
    largest_blob_bytes: u64,
    window_entries: u64,
    /// Where the first of each [`CHECKPOINT_ENTRIES`] entries lies in the file.
    checkpoints: Vec<u64>,
}

/// What an entry of the list is.
enum Entry {
    Zeros(u64),
    Blob(BlobLocation),
}

impl Entry {
    fn length(&self) -> u64 {
        match self {
            Self::Zeros(length) => *length,
            Self::Blob(location) => u64::from(location.plain_length()),
        }
    }
}

impl RestorePlan {
    /// The plan for a file of the blobs `content` and the recorded size `image_bytes`, into a sink of `sink_bytes`. Looks every blob
    /// up: not for an async thread.
    ///
    /// # Errors
    /// [`PlanError`] when a blob is missing or the sizes disagree.
    pub fn new(content: IdList, image_bytes: u64, sink_bytes: u64, locate: Box<Locate>) -> Result<Self, PlanError> {
        let mut plan = Self {
            content,
            locate,
            image_bytes,
            sink_bytes,
            data_bytes: 0,
            largest_blob_bytes: 0,
            window_entries: WINDOW_ENTRIES,
            checkpoints: Vec::new(),
        };
        let (mut position, mut data_bytes, mut largest) = (0_u64, 0_u64, 0);
        let mut checkpoints = Vec::with_capacity(plan.content.len().div_ceil(CHECKPOINT_ENTRIES) as usize);
        for (number, id) in (0_u64..).zip(plan.content.iter()) {
            let entry = plan.entry(&id?, position)?;
            if number.is_multiple_of(CHECKPOINT_ENTRIES) {
                checkpoints.push(position);
            }
            if let Entry::Blob(location) = &entry {
                data_bytes += u64::from(location.plain_length());
                largest = largest.max(location.plain_length()).max(location.length);
            }
            position = position.checked_add(entry.length()).ok_or(PlanError::TooMany)?;
        }
        if position != image_bytes {
            return Err(PlanError::SizeMismatch { recorded: image_bytes, found: position });
        }
        plan.data_bytes = data_bytes;
        plan.largest_blob_bytes = largest.into();
        plan.checkpoints = checkpoints;
        Ok(plan)
    }

    fn entry(&self, id: &Id, position: u64) -> Result<Entry, PlanError> {
        if let Some(length) = zeros::length_of(id) {
            return Ok(Entry::Zeros(length));
        }
        let location = (self.locate)(id)?.ok_or(PlanError::MissingBlob { id: *id, position })?;
        Ok(Entry::Blob(location))
    }

    /// The first window.
    pub fn start(&self) -> Cursor {
        Cursor { entry: 0, position: 0 }
    }

    /// The window at `cursor`, which moves on; `None` after the last one. Looks blobs up: not for an async thread.
    ///
    /// # Errors
    /// [`PlanError`], also when the list is no longer what it was.
    pub fn next_window(&self, cursor: &mut Cursor) -> Result<Option<Arc<Window>>, PlanError> {
        if cursor.entry > self.content.len() {
            return Ok(None);
        }
        let mut window = Building::default();
        let end = cursor.entry.saturating_add(self.window_entries).min(self.content.len());
        for id in self.content.iter_from(cursor.entry).take((end - cursor.entry) as usize) {
            let id = id?;
            let entry = self.entry(&id, cursor.position)?;
            match &entry {
                Entry::Zeros(length) => window.add_zeros(cursor.position, *length),
                Entry::Blob(location) => window.add_piece(id, cursor.position, location),
            }
            cursor.position = cursor.position.checked_add(entry.length()).ok_or(PlanError::TooMany)?;
        }
        cursor.entry = end;
        if end == self.content.len() {
            // What lies beyond the file belongs to the last window, and there is none after it.
            cursor.entry = u64::MAX;
            if cursor.position != self.image_bytes {
                return Err(PlanError::SizeMismatch { recorded: self.image_bytes, found: cursor.position });
            }
            window.add_zeros(self.image_bytes, self.sink_bytes.saturating_sub(self.image_bytes));
        }
        Ok(Some(Arc::new(window.finish())))
    }

    /// The part of the list that `range` of the file touches, as a window of its own. Looks blobs up: not for an async thread.
    ///
    /// # Errors
    /// [`PlanError`], as for [`RestorePlan::next_window`].
    pub fn window_of(&self, range: ByteRange) -> Result<Arc<Window>, PlanError> {
        let mut window = Building::default();
        let checkpoint = self.checkpoints.partition_point(|position| *position <= range.offset()).saturating_sub(1);
        let mut position = self.checkpoints.get(checkpoint).copied().unwrap_or(0);
        for id in self.content.iter_from(checkpoint as u64 * CHECKPOINT_ENTRIES) {
            if position >= range.end() {
                break;
            }
            let id = id?;
            let entry = self.entry(&id, position)?;
            let end = position.checked_add(entry.length()).ok_or(PlanError::TooMany)?;
            if end > range.offset() {
                match &entry {
                    Entry::Zeros(length) => window.add_zeros(position, *length),
                    Entry::Blob(location) => window.add_piece(id, position, location),
                }
            }
            position = end;
        }
        Ok(Arc::new(window.finish()))
    }

    /// Bytes of the file that come out of packs.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Size of the file.
    pub fn image_bytes(&self) -> u64 {
        self.image_bytes
    }

    /// Length in plain bytes of the largest blob, or its length as stored if that is more.
    pub fn largest_blob_bytes(&self) -> u64 {
        self.largest_blob_bytes
    }
}

/// How far the list has been walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    entry: u64,
    position: u64,
}

/// A blob at one place of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Piece {
    // The order of the fields is the order in which pieces are fetched.
    pack: u32,
    offset: u32,
    position: u64,
    length: u32,
    uncompressed_length: Option<NonZeroU32>,
    id: Id,
}

#[derive(Default)]
struct Building {
    window: Window,
    packs: HashMap<Id, u32>,
}

impl Building {
    fn add_zeros(&mut self, position: u64, length: u64) {
        let Some(range) = ByteRange::new(position, length) else { return };
        match self.window.zeros.last_mut() {
            Some(last) if last.end() == position => {
                if let Some(joined) = ByteRange::between(last.offset(), range.end()) {
                    *last = joined;
                }
            }
            _ => self.window.zeros.push(range),
        }
    }

    fn add_piece(&mut self, id: Id, position: u64, location: &BlobLocation) {
        // A window has fewer entries than 32 bits count. Packs are numbered as they first occur, so that the file grows roughly
        // from front to back.
        let next = self.window.packs.len() as u32;
        let pack = *self.packs.entry(location.pack).or_insert_with(|| {
            self.window.packs.push(location.pack);
            next
        });
        let BlobLocation { offset, length, uncompressed_length, .. } = *location;
        self.window.pieces.push(Piece { pack, offset, position, length, uncompressed_length, id });
    }

    fn finish(mut self) -> Window {
        self.window.pieces.sort_unstable();
        self.window
    }
}

/// A part of the list, in the order in which it is fetched.
#[derive(Debug, Default)]
pub struct Window {
    packs: Vec<Id>,
    pieces: Vec<Piece>,
    zeros: Vec<ByteRange>,
}

/// A range of a pack, and which pieces it holds.
#[derive(Debug, Clone)]
pub struct Request {
    /// The pack.
    pub pack: Id,
    /// The bytes of it.
    pub bytes: Range<u64>,
    window: Arc<Window>,
    pieces: Range<usize>,
}

impl Request {
    /// Length in bytes.
    pub fn length(&self) -> u64 {
        self.bytes.end - self.bytes.start
    }

    /// The blobs of the request, each once.
    pub fn blobs(&self) -> impl Iterator<Item = Occurrences<'_>> {
        self.window.pieces[self.pieces.clone()].chunk_by(same_blob).filter_map(|pieces| {
            let first = pieces.first()?;
            Some(Occurrences { id: first.id, location: self.window.location(first), pieces })
        })
    }
}

/// A blob of a request, and everywhere it goes.
pub struct Occurrences<'a> {
    /// The blob.
    pub id: Id,
    /// Where it lies.
    pub location: BlobLocation,
    pieces: &'a [Piece],
}

impl Occurrences<'_> {
    /// The offsets in the file, ascending.
    pub fn positions(&self) -> impl Iterator<Item = u64> + '_ {
        self.pieces.iter().map(|piece| piece.position)
    }
}

impl Window {
    fn location(&self, piece: &Piece) -> BlobLocation {
        BlobLocation {
            pack: self.packs[piece.pack as usize],
            offset: piece.offset,
            length: piece.length,
            uncompressed_length: piece.uncompressed_length,
        }
    }

    /// Ranges of zeros, ascending; those of the last window go up to the sink's end. They were not looked up: they are zeros by their
    /// id, or by lying beyond the file.
    pub fn zeros(&self) -> &[ByteRange] {
        &self.zeros
    }

    /// Number of different blobs that are fetched.
    pub fn blob_count(&self) -> u64 {
        self.pieces.chunk_by(same_blob).count() as u64
    }

    /// The requests that fetch everything, of at most `limit_bytes` unless a single blob is longer.
    pub fn requests(self: &Arc<Self>, limit_bytes: u64) -> impl Iterator<Item = Request> + use<> {
        let (window, mut next) = (Arc::clone(self), 0);
        std::iter::from_fn(move || {
            let first = window.pieces.get(next)?;
            let start = u64::from(first.offset);
            let mut end = window.location(first).end();
            let mut after = next + 1;
            while let Some(piece) = window.pieces.get(after) {
                let piece_end = window.location(piece).end().max(end);
                let is_near = piece.pack == first.pack && u64::from(piece.offset) <= end.saturating_add(GAP_BYTES);
                // A blob that occurs again is no further byte, however long it is.
                if !is_near || piece_end > end && piece_end - start > limit_bytes {
                    break;
                }
                end = piece_end;
                after += 1;
            }
            let pack = window.packs[first.pack as usize];
            let pieces = next..after;
            next = after;
            Some(Request { pack, bytes: start..end, window: Arc::clone(&window), pieces })
        })
    }
}

fn same_blob(a: &Piece, b: &Piece) -> bool {
    (a.pack, a.offset) == (b.pack, b.offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use proptest::prelude::*;

    fn id(number: u64) -> Id {
        Id::of(&number.to_le_bytes())
    }

    fn plan(
        content: &[Id],
        image_bytes: u64,
        sink_bytes: u64,
        locate: impl Fn(&Id) -> Option<BlobLocation> + Send + Sync + 'static,
    ) -> Result<RestorePlan, PlanError> {
        let content = IdList::from_ids(&Scratch::of_process(), content).unwrap();
        RestorePlan::new(content, image_bytes, sink_bytes, Box::new(move |id| Ok(locate(id))))
    }

    fn windows(plan: &RestorePlan) -> Vec<Arc<Window>> {
        let mut cursor = plan.start();
        std::iter::from_fn(|| plan.next_window(&mut cursor).unwrap()).collect()
    }

    proptest! {
        #[test]
        fn every_byte_of_the_file_comes_from_exactly_one_place(
            lengths in proptest::collection::vec(1_u32..3 << 20, 1..30),
            list in proptest::collection::vec((0_usize..40, 0_u64..4), 0..160),
            beyond in 0_u64..1000,
            limit in 1_u64..8 << 20,
            window_entries in 1_u64..70,
            (from, wanted) in (any::<u64>(), 1_u64..4 << 20),
        ) {
            // Blobs lie one behind another in three packs; entries beyond their number are zeros.
            let mut ends = [0_u32; 3];
            let locations: Vec<_> = lengths.iter().enumerate().map(|(number, &length)| {
                let pack = number % 3;
                let offset = ends[pack];
                ends[pack] += length + 32;
                BlobLocation { pack: id(1000 + pack as u64), offset, length: length + 32, uncompressed_length: None }
            }).collect();
            let zero = zeros::id(4096);
            let content: Vec<_> = list.iter().map(|&(number, _)| if number < lengths.len() { id(number as u64) } else { zero }).collect();
            let size = list.iter().map(|&(number, _)| lengths.get(number).map_or(4096, |&length| u64::from(length))).sum();
            let known = locations.clone();
            let locate = move |wanted: &Id| (0..known.len()).find(|&number| id(number as u64) == *wanted).map(|number| known[number]);
            let mut plan = plan(&content, size, size + beyond, locate.clone()).unwrap();
            plan.window_entries = window_entries;

            let mut placed = Vec::new();
            for window in windows(&plan) {
                placed.extend(window.zeros().iter().map(|range| (range.offset(), range.length(), zero)));
                let mut last: Option<Request> = None;
                for request in window.requests(limit) {
                    for blob in request.blobs() {
                        prop_assert_eq!(locate(&blob.id), Some(blob.location));
                        prop_assert_eq!(blob.location.pack, request.pack);
                        prop_assert!(u64::from(blob.location.offset) >= request.bytes.start && blob.location.end() <= request.bytes.end);
                        placed.extend(blob.positions().map(|position| (position, u64::from(blob.location.plain_length()), blob.id)));
                    }
                    prop_assert!(request.length() <= limit || request.blobs().count() == 1);
                    if let Some(last) = last {
                        prop_assert!(last.pack != request.pack || last.bytes.end <= request.bytes.start);
                    }
                    last = Some(request);
                }
            }
            placed.sort_unstable();
            if let Some(range) = ByteRange::new(from % size.max(1), wanted).filter(|range| range.end() <= size) {
                let window = plan.window_of(range).unwrap();
                let pieces = window.requests(limit).flat_map(|request| {
                    request.blobs().flat_map(|blob| {
                        let length = blob.location.plain_length();
                        blob.positions().map(|position| (position, u64::from(length), blob.id)).collect::<Vec<_>>()
                    }).collect::<Vec<_>>()
                });
                let mut found: Vec<_> = pieces.collect();
                found.sort_unstable();
                let touches = |&&(offset, length, id): &&(u64, u64, Id)| {
                    id != zero && offset < range.end() && offset + length > range.offset()
                };
                prop_assert_eq!(found, placed.iter().filter(touches).copied().collect::<Vec<_>>());
            }
            let mut at = 0;
            for (offset, length, _) in placed {
                prop_assert_eq!(offset, at);
                at += length;
            }
            prop_assert_eq!(at, size + beyond);
        }
    }

    #[test]
    fn sizes_that_disagree_and_missing_blobs_are_errors() {
        let locate = |_: &Id| Some(BlobLocation { pack: id(0), offset: 0, length: 42, uncompressed_length: None });
        let mismatch = plan(&[id(1)], 11, 11, locate).err().unwrap();
        assert_eq!(mismatch, PlanError::SizeMismatch { recorded: 11, found: 10 });
        let missing = plan(&[zeros::id(4096), id(1)], 11, 11, |_| None).err().unwrap();
        assert_eq!(missing, PlanError::MissingBlob { id: id(1), position: 4096 });
    }

    #[test]
    fn neighbours_are_fetched_together_and_distant_blobs_are_not() {
        let offsets = [0, 200, 200 + 2 * GAP_BYTES as u32];
        let locate = move |wanted: &Id| {
            let number = (0..3).find(|&number| id(number) == *wanted)?;
            Some(BlobLocation { pack: id(9), offset: offsets[number as usize], length: 132, uncompressed_length: None })
        };
        let plan = plan(&[id(2), id(0), id(1), id(0)], 400, 400, locate).unwrap();
        let window = &windows(&plan)[0];
        let requests: Vec<_> = window.requests(1 << 20).map(|request| request.bytes).collect();
        assert_eq!(requests, [0..332, u64::from(offsets[2])..u64::from(offsets[2]) + 132]);
        assert_eq!(window.blob_count(), 3);
    }
}
