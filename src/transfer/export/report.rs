//! What an export did.

use std::time::Duration;

use super::scope::ExportMode;
use crate::repository::{Id, Verification};

/// What an export did. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ExportReport {
    pub snapshot: Id,
    #[serde(flatten)]
    pub mode: ExportMode,
    pub size_bytes: u64,
    /// Blobs that the repository's index named when the export began, without those that are doubted, and counted as often as index
    /// files name them.
    pub indexed_blobs: u64,
    /// Chunks that earlier attempts had read, and that were not read again.
    pub resumed_chunks: u64,
    /// Bytes that were read from the source.
    pub read_bytes: u64,
    /// Bytes of the chunks that are zeros as a whole, allocated or not.
    pub zero_bytes: u64,
    /// Chunks that are not zeros.
    pub chunks: u64,
    /// Those of `chunks` that the repository did not have.
    pub new_chunks: u64,
    /// Those of `read_bytes` that lie in new chunks, before compression.
    pub new_bytes: u64,
    /// Bytes of everything stored in packs.
    pub stored_bytes: u64,
    /// Whether what was packed was decoded again before it was stored.
    pub verification: Verification,
    /// Time from the call to its return.
    pub elapsed: Duration,
}
