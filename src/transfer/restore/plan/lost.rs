//! Blobs that are in no index, and how long they were.

use crate::repository::Id;
use crate::transfer::chunk_size::ChunkSize;

/// What is done about a blob that is in no index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The plan fails, and the restore with it.
    Refuse,
    /// The blob becomes a hole.
    Leave(Cut),
}

/// How a file was cut into blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Into chunks of so many bytes, but for the last, and runs of zeros.
    Chunks(u64),
    /// Into chunks of one of the sizes that [chunks have](ChunkSize); which one is unknown.
    UnknownChunks,
    /// In any way, as restic cuts by content.
    Anyhow,
}

/// The length of the blobs that are in no index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gap {
    Refuse,
    /// The survey is finding it out; they count as empty meanwhile.
    Unknown,
    /// They are chunks of so many bytes, but for the last of the file.
    Chunks(u64),
    /// They follow one another from this entry on and have so many bytes together.
    Run {
        first: u64,
        bytes: u64,
    },
}

/// The blobs that are in no index.
#[derive(Debug, Default)]
pub(super) struct Missing {
    count: u64,
    /// The first of them: its number in the list, its id, and where it belongs.
    pub(super) first: Option<(u64, Id, u64)>,
    last: u64,
}

impl Missing {
    pub(super) fn add(&mut self, number: u64, id: &Id, position: u64) {
        self.count += 1;
        self.first.get_or_insert((number, *id, position));
        self.last = number;
    }

    /// How long they are, if they have `bytes` together of a file of `entries` entries.
    pub(super) fn gap(&self, cut: Cut, bytes: u64, entries: u64) -> Option<Gap> {
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
