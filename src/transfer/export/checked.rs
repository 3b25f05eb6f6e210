//! What is remembered of the tree of a volume's image, whose chunks were all found in the index
//! ([`CheckedTree`](crate::repository::CheckedTree)): what an export needs to know of a list that it does not read.
//!
//! Everything here follows from the tree, which is named by its hash, and from how volumes are cut: a change of that must change
//! [`CUT`].

use serde::{Deserialize, Serialize};

use super::counts::Counts;
use super::options::ExportOptions;
use crate::repository::Id;

/// Which way of cutting a volume into chunks and runs of zeros a note is about.
const CUT: u32 = 1;

/// What a list says of its volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageNote {
    cut: u32,
    pub(super) name: String,
    pub(super) size_bytes: u64,
    pub(super) chunk_bytes: u64,
    /// Chunks that hold something.
    pub(super) chunks: u64,
    /// Bytes of chunks that are zeros as a whole.
    pub(super) zero_bytes: u64,
    /// The distinct lengths of blobs of zeros.
    pub(super) zero_lengths: Vec<u64>,
}

impl ImageNote {
    /// The note about the image that `options` name, with what was counted in its list.
    pub(super) fn of(options: &ExportOptions, size_bytes: u64, counts: &Counts, zero_lengths: Vec<u64>) -> Self {
        Self {
            cut: CUT,
            name: options.path.rsplit('/').next().unwrap_or_default().to_owned(),
            size_bytes,
            chunk_bytes: options.chunk_size.bytes(),
            chunks: counts.chunks,
            zero_bytes: counts.zero_bytes,
            zero_lengths,
        }
    }

    /// Reads a note about an image of that name; `None` when another version wrote it.
    pub(super) fn parse(note: &[u8], name: &str) -> Option<Self> {
        serde_json::from_slice(note).ok().filter(|note: &Self| note.cut == CUT && note.name == name)
    }

    /// What was counted when the list was made.
    pub(super) fn counts(&self) -> Counts {
        Counts { chunks: self.chunks, zero_bytes: self.zero_bytes, ..Counts::default() }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Numbers and a name always serialise; what does not read later was not noted.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// An image that is known by its tree, whose list need not be read.
#[derive(Debug)]
pub(super) struct UnreadImage {
    pub(super) tree: Id,
    pub(super) note: ImageNote,
}
