//! What is fetched of a repository and where it goes. Decides only.
//!
//! The list of a file says in which order its blobs follow one another; the index says where each lies. From both come pieces
//! (a blob, where it lies, where it goes), sorted by pack and offset, and from those the requests: neighbouring blobs of a
//! pack are fetched together, with what lies between them if that is little.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;

use crate::repository::{BlobLocation, Id};
use crate::transfer::zeros;
use crate::types::ByteRange;

/// Bytes between two blobs that are fetched and thrown away, at most: a request costs as much as they do.
pub const GAP_BYTES: u64 = 1 << 20;

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
    /// More blobs or packs than 32 bits count.
    #[error("the image has more blobs than can be counted")]
    TooMany,
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
    /// Its number in the list, by which its id is found.
    entry: u32,
}

/// How a file is restored.
#[derive(Debug)]
pub struct RestorePlan {
    content: Arc<Vec<Id>>,
    packs: Vec<Id>,
    pieces: Vec<Piece>,
    zeros: Vec<ByteRange>,
    data_bytes: u64,
    image_bytes: u64,
}

/// A range of a pack, and which pieces it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The pack.
    pub pack: Id,
    /// The bytes of it.
    pub bytes: Range<u64>,
    pieces: Range<usize>,
}

impl Request {
    /// Length in bytes.
    pub fn length(&self) -> u64 {
        self.bytes.end - self.bytes.start
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

impl RestorePlan {
    /// The plan for a file of the blobs `content` and the recorded size `image_bytes`, into a sink of `sink_bytes`. `locate` is
    /// the index.
    ///
    /// # Errors
    /// [`PlanError`] when a blob is missing or the sizes disagree.
    pub fn new(
        content: Arc<Vec<Id>>,
        image_bytes: u64,
        sink_bytes: u64,
        locate: impl Fn(&Id) -> Option<BlobLocation>,
    ) -> Result<Self, PlanError> {
        let mut plan = Self { content, packs: Vec::new(), pieces: Vec::new(), zeros: Vec::new(), data_bytes: 0, image_bytes };
        let mut packs = HashMap::new();
        let mut position = 0_u64;
        for entry in 0..plan.content.len() {
            let id = plan.content[entry];
            let length = match zeros::length_of(&id) {
                Some(length) => {
                    plan.add_zeros(position, length);
                    length
                }
                None => {
                    let location = locate(&id).ok_or(PlanError::MissingBlob { id, position })?;
                    plan.add_piece(entry, position, &location, &mut packs)?;
                    u64::from(location.plain_length())
                }
            };
            position = position.checked_add(length).ok_or(PlanError::TooMany)?;
        }
        if position != image_bytes {
            return Err(PlanError::SizeMismatch { recorded: image_bytes, found: position });
        }
        if let Some(beyond) = sink_bytes.checked_sub(image_bytes) {
            plan.add_zeros(image_bytes, beyond);
        }
        plan.pieces.sort_unstable();
        Ok(plan)
    }

    fn add_zeros(&mut self, position: u64, length: u64) {
        let Some(range) = ByteRange::new(position, length) else { return };
        match self.zeros.last_mut() {
            Some(last) if last.end() == position => {
                if let Some(joined) = ByteRange::between(last.offset(), range.end()) {
                    *last = joined;
                }
            }
            _ => self.zeros.push(range),
        }
    }

    fn add_piece(
        &mut self,
        entry: usize,
        position: u64,
        location: &BlobLocation,
        packs: &mut HashMap<Id, u32>,
    ) -> Result<(), PlanError> {
        let next = u32::try_from(self.packs.len()).map_err(|_| PlanError::TooMany)?;
        // Packs are numbered as they first occur, so that the file grows roughly from front to back.
        let pack = *packs.entry(location.pack).or_insert_with(|| {
            self.packs.push(location.pack);
            next
        });
        let entry = u32::try_from(entry).map_err(|_| PlanError::TooMany)?;
        let BlobLocation { offset, length, uncompressed_length, .. } = *location;
        self.pieces.push(Piece { pack, offset, position, length, uncompressed_length, entry });
        self.data_bytes += u64::from(location.plain_length());
        Ok(())
    }

    fn location(&self, piece: &Piece) -> BlobLocation {
        BlobLocation {
            pack: self.packs[piece.pack as usize],
            offset: piece.offset,
            length: piece.length,
            uncompressed_length: piece.uncompressed_length,
        }
    }

    /// Ranges of zeros, ascending, up to the sink's end. They were not looked up: they are zeros by their id, or by lying beyond
    /// the file.
    pub fn zeros(&self) -> &[ByteRange] {
        &self.zeros
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
        let lengths = self.pieces.iter().map(|piece| self.location(piece).plain_length().max(piece.length));
        u64::from(lengths.max().unwrap_or(0))
    }

    /// Number of different blobs that are fetched.
    pub fn blob_count(&self) -> u64 {
        self.pieces.chunk_by(same_blob).count() as u64
    }

    /// The requests that fetch everything, of at most `limit_bytes` unless a single blob is longer.
    pub fn requests(&self, limit_bytes: u64) -> impl Iterator<Item = Request> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = self.pieces.get(next)?;
            let start = u64::from(first.offset);
            let mut end = self.location(first).end();
            let mut after = next + 1;
            while let Some(piece) = self.pieces.get(after) {
                let piece_end = self.location(piece).end().max(end);
                let is_near = piece.pack == first.pack && u64::from(piece.offset) <= end.saturating_add(GAP_BYTES);
                // A blob that occurs again is no further byte, however long it is.
                if !is_near || piece_end > end && piece_end - start > limit_bytes {
                    break;
                }
                end = piece_end;
                after += 1;
            }
            let pieces = next..after;
            next = after;
            Some(Request { pack: self.packs[first.pack as usize], bytes: start..end, pieces })
        })
    }

    /// The blobs of a request, each once.
    pub fn blobs(&self, request: &Request) -> impl Iterator<Item = Occurrences<'_>> {
        self.pieces[request.pieces.clone()].chunk_by(same_blob).filter_map(|pieces| {
            let first = pieces.first()?;
            Some(Occurrences { id: self.content[first.entry as usize], location: self.location(first), pieces })
        })
    }
}

fn same_blob(a: &Piece, b: &Piece) -> bool {
    (a.pack, a.offset) == (b.pack, b.offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(number: u64) -> Id {
        Id::of(&number.to_le_bytes())
    }

    proptest! {
        #[test]
        fn every_byte_of_the_file_comes_from_exactly_one_place(
            lengths in proptest::collection::vec(1_u32..3 << 20, 1..30),
            list in proptest::collection::vec((0_usize..40, 0_u64..4), 0..60),
            beyond in 0_u64..1000,
            limit in 1_u64..8 << 20,
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
            let locate = |wanted: &Id| (0..lengths.len()).find(|&number| id(number as u64) == *wanted).map(|number| locations[number]);
            let plan = RestorePlan::new(content.into(), size, size + beyond, locate).unwrap();

            let mut placed: Vec<(u64, u64, Id)> =
                plan.zeros().iter().map(|range| (range.offset(), range.length(), zero)).collect();
            let mut last: Option<Request> = None;
            for request in plan.requests(limit) {
                for blob in plan.blobs(&request) {
                    prop_assert_eq!(locate(&blob.id), Some(blob.location));
                    prop_assert_eq!(blob.location.pack, request.pack);
                    prop_assert!(u64::from(blob.location.offset) >= request.bytes.start && blob.location.end() <= request.bytes.end);
                    placed.extend(blob.positions().map(|position| (position, u64::from(blob.location.plain_length()), blob.id)));
                }
                prop_assert!(request.length() <= limit || plan.blobs(&request).count() == 1);
                if let Some(last) = last {
                    prop_assert!(last.pack != request.pack || last.bytes.end <= request.bytes.start);
                }
                last = Some(request);
            }
            placed.sort_unstable();
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
        let mismatch = RestorePlan::new(vec![id(1)].into(), 11, 11, locate).unwrap_err();
        assert_eq!(mismatch, PlanError::SizeMismatch { recorded: 11, found: 10 });
        let missing = RestorePlan::new(vec![zeros::id(4096), id(1)].into(), 11, 11, |_| None).unwrap_err();
        assert_eq!(missing, PlanError::MissingBlob { id: id(1), position: 4096 });
    }

    #[test]
    fn neighbours_are_fetched_together_and_distant_blobs_are_not() {
        let offsets = [0, 200, 200 + 2 * GAP_BYTES as u32];
        let locate = |wanted: &Id| {
            let number = (0..3).find(|&number| id(number) == *wanted)?;
            Some(BlobLocation { pack: id(9), offset: offsets[number as usize], length: 132, uncompressed_length: None })
        };
        let plan = RestorePlan::new(vec![id(2), id(0), id(1), id(0)].into(), 400, 400, locate).unwrap();
        let requests: Vec<_> = plan.requests(1 << 20).map(|request| request.bytes).collect();
        assert_eq!(requests, [0..332, u64::from(offsets[2])..u64::from(offsets[2]) + 132]);
        assert_eq!(plan.blob_count(), 3);
    }
}
