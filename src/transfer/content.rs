//! The list of blobs that a volume is made of, while it is being found out.
//!
//! Only chunks that hold something are kept, each as its number and id: 36 bytes. Every other chunk is zeros, so a sparse volume
//! costs what is in it, not what it could hold; a volume of 4 TiB full of data costs 151 MB. What makes it safe that absence
//! means zeros: [`ContentBuilder::finish`] is told how many chunks were looked at and refuses a list that lost one.

use super::chunk_size::ChunkSize;
use super::zeros::{self, Hint};
use crate::repository::Id;
use crate::repository::tree::Content;

/// Chunks were handed out whose outcome never came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("of {expected} chunks only {found} were accounted for")]
pub struct Incomplete {
    /// Chunks that were handed out.
    pub expected: u64,
    /// Outcomes that came back.
    pub found: u64,
}

/// Collects outcomes of chunks in any order, and chunks taken over from an earlier list.
#[derive(Debug, Default)]
pub struct ContentBuilder {
    entries: Vec<(u32, Id)>,
    zero_chunks: u64,
}

impl ContentBuilder {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The chunk `index` holds what `id` names.
    pub fn data(&mut self, index: u32, id: Id) {
        self.entries.push((index, id));
    }

    /// Takes over chunks that were not looked at.
    pub fn inherit(&mut self, chunks: Vec<(u32, Id)>) {
        match self.entries.is_empty() {
            // The list of a large volume is not held twice.
            true => self.entries = chunks,
            false => self.entries.extend(chunks),
        }
    }

    /// A chunk turned out to be zeros.
    pub fn zeros(&mut self) {
        self.zero_chunks += 1;
    }

    /// The list of a volume of `volume_bytes`, of whose chunks `planned` were handed out or taken over.
    ///
    /// # Errors
    /// [`Incomplete`] when not every one of them came back exactly once.
    pub fn finish(mut self, volume_bytes: u64, chunk_size: ChunkSize, planned: u64) -> Result<VolumeContent, Incomplete> {
        self.entries.sort_unstable_by_key(|&(index, _)| index);
        self.entries.dedup_by_key(|&mut (index, _)| index);
        let found = self.entries.len() as u64 + self.zero_chunks;
        if found == planned {
            Ok(VolumeContent { entries: self.entries, volume_bytes, chunk_size })
        } else {
            Err(Incomplete { expected: planned, found })
        }
    }
}

/// A piece of a volume's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// A chunk of this length.
    Data(Id, u64),
    /// A blob of so many zeros.
    Zeros(u64),
}

impl Piece {
    /// Length in bytes.
    pub fn length(self) -> u64 {
        match self {
            Self::Data(_, length) | Self::Zeros(length) => length,
        }
    }
}

/// What a volume is made of, from its first byte to its last.
#[derive(Debug, Clone)]
pub struct VolumeContent {
    entries: Vec<(u32, Id)>,
    volume_bytes: u64,
    chunk_size: ChunkSize,
}

impl VolumeContent {
    /// The pieces in order; their lengths add up to the volume's size.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        let chunk = self.chunk_size.bytes();
        let mut entries = self.entries.iter().peekable();
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
                let next_data = entries.peek().map_or(self.volume_bytes, |(index, _)| u64::from(*index) * chunk);
                if next_data > position {
                    let length = next_data - position;
                    run = zeros::run(length, hint);
                    if length >= zeros::SPARSE_HINT_BYTES {
                        hint = Hint::Given;
                    }
                    continue;
                }
                let (_, id) = entries.next()?;
                let length = chunk.min(self.volume_bytes - position);
                position += length;
                return Some(Piece::Data(*id, length));
            }
        })
    }

    /// Number of chunks that hold something.
    pub fn chunks(&self) -> u64 {
        self.entries.len() as u64
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
    fn ids(&self) -> Box<dyn Iterator<Item = Id> + '_> {
        // The one length that is not constant, at the end of a volume of odd size, is hashed once more for each walk: below
        // 4096 bytes.
        Box::new(self.pieces().map(|piece| match piece {
            Piece::Data(id, _) => id,
            Piece::Zeros(length) => zeros::id(length),
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
        ) {
            let chunk_size = ChunkSize::new(ChunkSize::MIN.bytes() << exponent).unwrap();
            let indexes: Vec<_> = indexes.into_iter().filter(|&index| u64::from(index) < chunk_size.count(volume)).collect();
            let mut builder = ContentBuilder::new();
            for &index in indexes.iter().rev() {
                builder.data(index, Id::of(&index.to_le_bytes()));
            }
            let content = builder.finish(volume, chunk_size, indexes.len() as u64).unwrap();
            let mut position = 0;
            let mut data = Vec::new();
            for piece in content.pieces() {
                if let Piece::Data(id, length) = piece {
                    prop_assert_eq!(length, chunk_size.bytes().min(volume - position));
                    data.push((position / chunk_size.bytes(), id));
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
        let content = ContentBuilder::new().finish(16 << 40, ChunkSize::LARGE, 0).unwrap();
        assert!(content.pieces().count() <= (16 << 40) / zeros::LARGEST_BYTES as usize + 8);
    }

    #[test]
    fn a_lost_or_doubled_chunk_is_an_error() {
        let mut builder = ContentBuilder::new();
        builder.data(3, Id::of(b"a"));
        builder.data(3, Id::of(b"a"));
        builder.zeros();
        assert_eq!(builder.finish(8 << 20, ChunkSize::SMALL, 3).unwrap_err(), Incomplete { expected: 3, found: 2 });
    }
}
