//! The list of the blobs that make a volume, while an export collects it.
//!
//! Only chunks that hold something are kept: an id for each in [scratch space](crate::scratch), at the place that the chunk's number
//! says, and a bit for each in memory. Every other chunk is zeros. That absence means zeros is safe because
//! [`ContentBuilder::finish`] is told how many chunks were looked at and refuses a list that lost one.

use super::chunk_set::{ChunkSet, Membership};
use super::chunk_size::ChunkSize;
use super::zeros::{self, Hint};
use crate::repository::Id;
use crate::repository::tree::Content;
use crate::scratch::{Rows, RowsWriter, Scratch, ScratchError};

/// Why the list cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The outcome of some of the `expected` chunks that were handed out never came back, or came back twice.
    #[error("of {expected} chunks only {found} were accounted for")]
    Incomplete { expected: u64, found: u64 },
    /// The list could not be kept.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
}

/// Collects outcomes of chunks in any order, and chunks taken over from an earlier list.
#[derive(Debug)]
pub struct ContentBuilder {
    scratch: Scratch,
    ids: RowsWriter<{ Id::LENGTH }>,
    data: ChunkSet,
    zero_chunks: u64,
    volume_bytes: u64,
    chunk_size: ChunkSize,
}

impl ContentBuilder {
    /// The empty list of a volume of `volume_bytes`.
    pub fn new(scratch: &Scratch, volume_bytes: u64, chunk_size: ChunkSize) -> Self {
        let data = ChunkSet::none(chunk_size.count(volume_bytes));
        Self { scratch: scratch.clone(), ids: RowsWriter::new(scratch), data, zero_chunks: 0, volume_bytes, chunk_size }
    }

    /// Notes that the chunk `index` holds the blob `id`.
    pub fn data(&mut self, index: u32, id: Id) -> Result<(), ScratchError> {
        match self.data.insert(index.into()) {
            Membership::Out => self.ids.set(index.into(), id.as_bytes()),
            // `finish` will find that one chunk is missing.
            Membership::In => Ok(()),
        }
    }

    /// Notes that one more chunk is zeros.
    pub fn zeros(&mut self) {
        self.zero_chunks += 1;
    }

    /// Number of chunks that hold something, so far.
    pub fn chunks(&self) -> u64 {
        self.data.len()
    }

    /// The list, when `planned` chunks were handed out or taken over. The builder is empty afterwards.
    ///
    /// # Errors
    /// [`ContentError::Incomplete`] when not every one of them came back exactly once.
    pub fn finish(&mut self, planned: u64) -> Result<VolumeContent, ContentError> {
        let (volume_bytes, chunk_size) = (self.volume_bytes, self.chunk_size);
        let empty = Self::new(&self.scratch, volume_bytes, chunk_size);
        let Self { ids, data, zero_chunks, .. } = std::mem::replace(self, empty);
        let chunks = data.len();
        let found = chunks + zero_chunks;
        if found == planned {
            Ok(VolumeContent { ids: ids.finish()?, data, chunks, volume_bytes, chunk_size })
        } else {
            Err(ContentError::Incomplete { expected: planned, found })
        }
    }
}

/// A piece of a volume's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// The number of a chunk, and its length.
    Data(u64, u64),
    /// A blob of so many zeros.
    Zeros(u64),
}

impl Piece {
    pub fn length(self) -> u64 {
        match self {
            Self::Data(_, length) | Self::Zeros(length) => length,
        }
    }
}

/// What a volume is made of, from its first byte to its last.
#[derive(Debug)]
pub struct VolumeContent {
    ids: Rows<{ Id::LENGTH }>,
    data: ChunkSet,
    chunks: u64,
    volume_bytes: u64,
    chunk_size: ChunkSize,
}

impl VolumeContent {
    /// The pieces in order; their lengths add up to the volume's size.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        let chunk = self.chunk_size.bytes();
        let mut numbers = self.data.iter().peekable();
        let mut position = 0;
        let mut run = zeros::run(0, Hint::Given);
        let mut hint = Hint::Lead;
        std::iter::from_fn(move || {
            loop {
                if let Some(length) = run.next() {
                    position += length;
                    return Some(Piece::Zeros(length));
                }
                if position == self.volume_bytes {
                    return None;
                }
                let next_data = numbers.peek().map_or(self.volume_bytes, |number| number * chunk);
                if next_data > position {
                    let length = next_data - position;
                    run = zeros::run(length, hint);
                    if length >= zeros::SPARSE_HINT_BYTES {
                        hint = Hint::Given;
                    }
                    continue;
                }
                let number = numbers.next()?;
                let length = chunk.min(self.volume_bytes - position);
                position += length;
                return Some(Piece::Data(number, length));
            }
        })
    }

    /// Number of chunks that hold something.
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// The distinct lengths of its zero blobs, ascending.
    pub fn zero_lengths(&self) -> Vec<u64> {
        let lengths: std::collections::BTreeSet<_> =
            self.pieces().filter_map(|piece| if let Piece::Zeros(length) = piece { Some(length) } else { None }).collect();
        lengths.into_iter().collect()
    }

    /// Bytes of the volume that are zeros by whole chunks.
    pub fn zero_bytes(&self) -> u64 {
        self.pieces().filter(|piece| matches!(piece, Piece::Zeros(_))).map(Piece::length).sum()
    }
}

impl Content for VolumeContent {
    fn ids(&self) -> Box<dyn Iterator<Item = Result<Id, ScratchError>> + '_> {
        let mut ids = self.ids.cursor();
        // The one length that is not constant, at the end of a volume of odd size, is hashed once more for each walk: below
        // 4096 bytes.
        Box::new(self.pieces().map(move |piece| match piece {
            Piece::Data(number, _) => ids.get(number).map(Id::from_bytes),
            Piece::Zeros(length) => Ok(zeros::id(length)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_pieces_cover_the_volume_exactly_and_keep_the_order(
            volume in 1_u64..300 << 20,
            indexes in proptest::collection::btree_set(0_u32..300, 0..100),
            exponent in 0_u32..6,
            memory in 0_usize..8000,
        ) {
            let chunk_size = ChunkSize::new(ChunkSize::MIN.bytes() << exponent).unwrap();
            let indexes: Vec<_> = indexes.into_iter().filter(|&index| u64::from(index) < chunk_size.count(volume)).collect();
            let folder = tempfile::tempdir().unwrap();
            let mut builder = ContentBuilder::new(&Scratch::new(folder.path(), 1 << 20, memory), volume, chunk_size);
            for &index in indexes.iter().rev() {
                builder.data(index, Id::of(&index.to_le_bytes())).unwrap();
            }
            prop_assert_eq!(builder.chunks(), indexes.len() as u64);
            let content = builder.finish(indexes.len() as u64).unwrap();
            let mut position = 0;
            let mut data = Vec::new();
            for (piece, id) in content.pieces().zip(content.ids()) {
                if let Piece::Data(number, length) = piece {
                    prop_assert_eq!(length, chunk_size.bytes().min(volume - position));
                    prop_assert_eq!(number, position / chunk_size.bytes());
                    data.push((number, id.unwrap()));
                }
                position += piece.length();
            }
            prop_assert_eq!(position, volume);
            let expected: Vec<_> = indexes.iter().map(|&index| (u64::from(index), Id::of(&index.to_le_bytes()))).collect();
            prop_assert_eq!(data, expected);
            prop_assert_eq!(content.ids().count(), content.pieces().count());
            let has_long_run = volume_runs(&content).any(|run| run >= zeros::SPARSE_HINT_BYTES);
            let has_hint = content.zero_lengths().contains(&zeros::SPARSE_HINT_BYTES);
            prop_assert!(!has_long_run || has_hint);
        }
    }

    fn volume_runs(content: &VolumeContent) -> impl Iterator<Item = u64> {
        let mut runs = vec![0];
        for piece in content.pieces() {
            match piece {
                Piece::Zeros(length) => *runs.last_mut().unwrap() += length,
                Piece::Data(..) => runs.push(0),
            }
        }
        runs.into_iter()
    }

    #[test]
    fn sixteen_sparse_tebibytes_are_half_a_million_entries() {
        let content = ContentBuilder::new(&Scratch::of_process(), 16 << 40, ChunkSize::LARGE).finish(0).unwrap();
        assert!(content.pieces().count() <= (16 << 40) / zeros::LARGEST_BYTES as usize + 8);
    }

    #[test]
    fn a_lost_or_doubled_chunk_is_an_error() {
        let mut builder = ContentBuilder::new(&Scratch::of_process(), 8 << 20, ChunkSize::SMALL);
        builder.data(3, Id::of(b"a")).unwrap();
        builder.data(3, Id::of(b"a")).unwrap();
        builder.zeros();
        assert!(matches!(builder.finish(3), Err(ContentError::Incomplete { expected: 3, found: 2 })));
    }
}
