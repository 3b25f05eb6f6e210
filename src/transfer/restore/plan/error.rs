//! Why there is no plan.

use crate::repository::Id;
use crate::scratch::ScratchError;

/// A list of blobs that makes no whole file.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("data blob {id}, which belongs at byte {position}, is in no index")]
    MissingBlob { id: Id, position: u64 },
    /// Blobs are in no index, `id` the first of them, and how long they are does not follow from anything.
    #[error("data blob {id}, which belongs at or behind byte {position}, is in no index, and nothing tells how long it was")]
    UnknownLength { id: Id, position: u64 },
    /// The blobs are together longer or shorter than the file, which is recorded with `recorded` bytes.
    #[error("the image is recorded with {recorded} bytes and its blobs add up to {found}")]
    SizeMismatch { recorded: u64, found: u64 },
    /// 64 bits do not count the blobs.
    #[error("the image has more blobs than can be counted")]
    TooMany,
    /// The list or the index could not be read from where they are kept.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
}
