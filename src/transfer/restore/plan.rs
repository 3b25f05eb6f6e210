//! What is fetched of a repository and where it goes. Decides only.
//!
//! The list of a file says in which order its blobs follow one another; the index says where each lies. From both come pieces
//! (a blob, where it lies, where it goes), sorted by pack and offset, and from those the requests: neighbouring blobs of a
//! pack are fetched together, with what lies between them if that is little.
//!
//! The list is walked once before anything is fetched, to see that it makes a whole file. Then it is walked in [windows](Window) of
//! so many entries that their pieces take a few MiB, whatever the length of the list. A blob that occurs in several windows is
//! fetched for each.
//!
//! Of a blob that is in no index nobody knows the length, and with it where all others go that follow. It is an error, unless
//! [what is lost is left out](Lost::Leave): then it is a hole whose length follows from how the file was cut, if it was cut into chunks of
//! one size, or from the file's size, if all such blobs follow one another. Both must add up to the size; else it is an error all the same.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;

use crate::repository::tree::IdList;
use crate::repository::{BlobLocation, Id};
use crate::scratch::ScratchError;
use crate::transfer::chunk_size::ChunkSize;
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
    /// Blobs are in no index, and how long they are does not follow from anything.
    #[error("data blob {id}, which belongs at or behind byte {position}, is in no index, and nothing tells how long it was")]
    UnknownLength {
        /// The first of them.
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

/// What is done about a blob that is in no index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// There is no plan.
    Refuse,
    /// It is a hole.
    Leave(Cut),
}

/// How a file was cut into blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Into chunks of so many bytes, but for the last, and runs of zeros.
    Chunks(u64),
    /// Into chunks of one of the sizes that [chunks have](ChunkSize), nobody tells which.
    UnknownChunks,
    /// Anyhow.
    Anyhow,
}

/// How long blobs are that are in no index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    /// They are an error.
    Refuse,
    /// That is being found out; they count as empty.
    Unknown,
    /// They are chunks of so many bytes, but for the last of the file.
    Chunks(u64),
    /// They follow one another from this entry on and have so many bytes together.
    Run { first: u64, bytes: u64 },
}

/// Blobs that are in no index.
#[derive(Debug, Default)]
struct Missing {
    count: u64,
    /// The first: its number in the list, and where it belongs.
    first: Option<(u64, Id, u64)>,
    last: u64,
}

impl Missing {
    fn add(&mut self, number: u64, id: &Id, position: u64) {
        self.count += 1;
        self.first.get_or_insert((number, *id, position));
        self.last = number;
    }

    /// How long they are, if they have `bytes` together of a file of `entries` entries.
    fn gap(&self, cut: Cut, bytes: u64, entries: u64) -> Option<Gap> {
        let (first, ..) = self.first?;
        let ends_the_file = self.last + 1 == entries;
        let fits = |chunk: u64| match chunk.checked_mul(self.count) {
            Some(whole) if ends_the_file => bytes <= whole && bytes > whole - chunk,
            whole => whole == Some(bytes),
        };
        let chunk = match cut {
            Cut::Chunks(bytes) => Some(bytes).filter(|bytes| fits(*bytes)),
            Cut::UnknownChunks => ChunkSize::all().map(ChunkSize::bytes).find(|bytes| fits(*bytes)),
            Cut::Anyhow => None,
        };
        let is_one_run = self.last - first + 1 == self.count;
        chunk.map(Gap::Chunks).or_else(|| is_one_run.then_some(Gap::Run { first, bytes }))
    }
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
    gap: Gap,
}

/// What an entry of the list is.
enum Entry {
    Zeros(u64),
    Blob(BlobLocation),
    Hole(u64),
}

impl Entry {
    fn length(&self) -> u64 {
        match self {
            Self::Zeros(length) | Self::Hole(length) => *length,
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
    pub fn new(content: IdList, image_bytes: u64, sink_bytes: u64, lost: Lost, locate: Box<Locate>) -> Result<Self, PlanError> {
        let mut plan = Self {
            content,
            locate,
            image_bytes,
            sink_bytes,
            data_bytes: 0,
            largest_blob_bytes: 0,
            window_entries: WINDOW_ENTRIES,
            checkpoints: Vec::new(),
            gap: if lost == Lost::Refuse { Gap::Refuse } else { Gap::Unknown },
        };
        let (mut found, missing) = plan.survey()?;
        if let (Lost::Leave(cut), Some((_, id, position))) = (lost, missing.first) {
            let mismatch = PlanError::SizeMismatch { recorded: image_bytes, found };
            let bytes = image_bytes.checked_sub(found).ok_or(mismatch)?;
            plan.gap = missing.gap(cut, bytes, plan.content.len()).ok_or(PlanError::UnknownLength { id, position })?;
            (found, _) = plan.survey()?;
        }
        if found == image_bytes { Ok(plan) } else { Err(PlanError::SizeMismatch { recorded: image_bytes, found }) }
    }

    /// Walks the list once and takes down what is in it. Returns what its blobs add up to, and which are in no index.
    fn survey(&mut self) -> Result<(u64, Missing), PlanError> {
        let (mut position, mut data_bytes, mut largest, mut missing) = (0_u64, 0_u64, 0, Missing::default());
        let mut checkpoints = Vec::with_capacity(self.content.len().div_ceil(CHECKPOINT_ENTRIES) as usize);
        for (number, id) in (0_u64..).zip(self.content.iter()) {
            let id = id?;
            let entry = self.entry(number, &id, position)?;
            if number.is_multiple_of(CHECKPOINT_ENTRIES) {
                checkpoints.push(position);
            }
            match &entry {
                Entry::Blob(location) => {
                    data_bytes += u64::from(location.plain_length());
                    largest = largest.max(location.plain_length()).max(location.length);
                }
                Entry::Hole(_) => missing.add(number, &id, position),
                Entry::Zeros(_) => {}
            }
            position = position.checked_add(entry.length()).ok_or(PlanError::TooMany)?;
        }
        (self.data_bytes, self.largest_blob_bytes, self.checkpoints) = (data_bytes, largest.into(), checkpoints);
        Ok((position, missing))
    }

    fn entry(&self, number: u64, id: &Id, position: u64) -> Result<Entry, PlanError> {
        if let Some(length) = zeros::length_of(id) {
            return Ok(Entry::Zeros(length));
        }
        if let Some(location) = (self.locate)(id)? {
            return Ok(Entry::Blob(location));
        }
        match self.gap {
            Gap::Refuse => Err(PlanError::MissingBlob { id: *id, position }),
            Gap::Unknown => Ok(Entry::Hole(0)),
            Gap::Chunks(bytes) => Ok(Entry::Hole(bytes.min(self.image_bytes.saturating_sub(position)))),
            Gap::Run { first, bytes } => Ok(Entry::Hole(if number == first { bytes } else { 0 })),
        }
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
        for (number, id) in (cursor.entry..end).zip(self.content.iter_from(cursor.entry)) {
            let id = id?;
            let entry = self.entry(number, &id, cursor.position)?;
            window.add(id, cursor.position, &entry);
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
        let from = checkpoint as u64 * CHECKPOINT_ENTRIES;
        for (number, id) in (from..).zip(self.content.iter_from(from)) {
            if position >= range.end() {
                break;
            }
            let id = id?;
            let entry = self.entry(number, &id, position)?;
            let end = position.checked_add(entry.length()).ok_or(PlanError::TooMany)?;
            if end > range.offset() {
                window.add(id, position, &entry);
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
    fn add(&mut self, id: Id, position: u64, entry: &Entry) {
        match entry {
            Entry::Zeros(length) => self.add_zeros(position, *length),
            Entry::Blob(location) => self.add_piece(id, position, location),
            Entry::Hole(length) => self.window.holes.extend(ByteRange::new(position, *length).map(|range| (range, id))),
        }
    }

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
    holes: Vec<(ByteRange, Id)>,
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

    /// Ranges whose blobs are in no index, ascending, with the first blob that belongs there.
    pub fn holes(&self) -> &[(ByteRange, Id)] {
        &self.holes
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
        RestorePlan::new(content, image_bytes, sink_bytes, Lost::Refuse, Box::new(move |id| Ok(locate(id))))
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

    /// The holes of a plan for a file of `size` bytes that is cut as `cut` says: `Some` are the lengths of blobs that an index names, `None`
    /// are those in none.
    fn holes(list: &[Option<u32>], size: u64, cut: Cut) -> Result<Vec<(u64, u64)>, PlanError> {
        let content: Vec<_> = (0..).zip(list).map(|(number, _)| id(number)).collect();
        let content = IdList::from_ids(&Scratch::of_process(), &content).unwrap();
        let lengths: HashMap<_, _> = (0..).zip(list).filter_map(|(number, length)| Some((id(number), (*length)?))).collect();
        let locate = move |wanted: &Id| {
            let length = lengths.get(wanted).map(|length| length + 32);
            Ok(length.map(|length| BlobLocation { pack: id(1000), offset: 0, length, uncompressed_length: None }))
        };
        let plan = RestorePlan::new(content, size, size, Lost::Leave(cut), Box::new(locate))?;
        let holes: Vec<_> = windows(&plan).iter().flat_map(|window| window.holes().to_vec()).collect();
        let whole = ByteRange::new(0, size).unwrap();
        assert_eq!(plan.window_of(whole).unwrap().holes(), holes, "read at random they are where they are");
        let data: u64 = list.iter().flatten().map(|length| u64::from(*length)).sum();
        assert_eq!(plan.data_bytes() + holes.iter().map(|(range, _)| range.length()).sum::<u64>(), size);
        assert_eq!(plan.data_bytes(), data);
        Ok(holes.into_iter().map(|(range, _)| (range.offset(), range.length())).collect())
    }

    #[test]
    fn a_blob_in_no_index_is_a_hole_as_long_as_chunks_are() {
        const CHUNK: u32 = 512 << 10;
        let (c, known) = (u64::from(CHUNK), Some(CHUNK));
        let size = 4 * c + 4096;
        for cut in [Cut::Chunks(c), Cut::UnknownChunks] {
            assert_eq!(holes(&[known, None, known, None, Some(4096)], size, cut).unwrap(), [(c, c), (3 * c, c)]);
            assert_eq!(holes(&[known, None, known, known, None], size, cut).unwrap(), [(c, c), (4 * c, 4096)]);
            assert_eq!(holes(&[None; 5], size, cut).unwrap(), [(0, c), (c, c), (2 * c, c), (3 * c, c), (4 * c, 4096)]);
        }
    }

    #[test]
    fn of_a_file_that_was_cut_anyhow_one_gap_follows_from_its_size_and_several_do_not() {
        let list = [Some(1000), None, None, Some(77)];
        for cut in [Cut::Anyhow, Cut::Chunks(512 << 10), Cut::UnknownChunks] {
            assert_eq!(holes(&list, 5000, cut).unwrap(), [(1000, 3923)], "{cut:?}");
        }
        let error = holes(&[None, Some(1000), None, Some(77)], 5000, Cut::Anyhow).unwrap_err();
        assert_eq!(error, PlanError::UnknownLength { id: id(0), position: 0 });
        // What is known alone is too long already.
        let error = holes(&[Some(1000), None], 999, Cut::Anyhow).unwrap_err();
        assert_eq!(error, PlanError::SizeMismatch { recorded: 999, found: 1000 });
    }
}
