//! A part of a plan: its pieces, and the requests that fetch them.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;

use crate::repository::{BlobLocation, Id};
use crate::types::ByteRange;

/// Bytes between two blobs that are fetched and thrown away, at most: a request costs as much as they do.
pub const GAP_BYTES: u64 = 1 << 20;

/// An entry of the list, with where its blob lies.
pub(super) enum Entry {
    Zeros(u64),
    Blob(BlobLocation),
    Hole(u64),
}

impl Entry {
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Zeros(length) | Self::Hole(length) => *length,
            Self::Blob(location) => u64::from(location.plain_length()),
        }
    }
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

/// A window while it is made.
#[derive(Default)]
pub(super) struct WindowBuilder {
    window: Window,
    packs: HashMap<Id, u32>,
}

impl WindowBuilder {
    pub(super) fn add(&mut self, id: Id, position: u64, entry: &Entry) {
        match entry {
            Entry::Zeros(length) => self.add_zeros(position, *length),
            Entry::Blob(location) => self.add_piece(id, position, location),
            Entry::Hole(length) => self.window.holes.extend(ByteRange::new(position, *length).map(|range| (range, id))),
        }
    }

    pub(super) fn add_zeros(&mut self, position: u64, length: u64) {
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

    pub(super) fn finish(mut self) -> Window {
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
    pub pack: Id,
    /// The range of the pack.
    pub bytes: Range<u64>,
    window: Arc<Window>,
    pieces: Range<usize>,
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
                // A blob that occurs again adds no bytes.
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

impl Request {
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

    /// Those of its blobs that `is_wanted` names, one by one, as a window of their own.
    pub fn narrowed(&self, is_wanted: &[bool]) -> Arc<Window> {
        let blobs = self.window.pieces[self.pieces.clone()].chunk_by(same_blob).zip(is_wanted);
        let wanted = blobs.filter(|(_, is_wanted)| **is_wanted).flat_map(|(pieces, _)| pieces);
        let pieces = wanted.map(|piece| Piece { pack: 0, ..*piece }).collect();
        Arc::new(Window { packs: vec![self.pack], pieces, ..Window::default() })
    }
}

/// A blob of a request, and everywhere it goes.
pub struct Occurrences<'a> {
    pub id: Id,
    pub location: BlobLocation,
    pieces: &'a [Piece],
}

impl Occurrences<'_> {
    /// The offsets in the file, ascending.
    pub fn positions(&self) -> impl Iterator<Item = u64> + '_ {
        self.pieces.iter().map(|piece| piece.position)
    }
}

fn same_blob(a: &Piece, b: &Piece) -> bool {
    (a.pack, a.offset) == (b.pack, b.offset)
}
