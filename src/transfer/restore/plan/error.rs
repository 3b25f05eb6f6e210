//! Why there is no plan.

use crate::repository::Id;
use crate::scratch::ScratchError;

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
