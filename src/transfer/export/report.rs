//! What an export did.

use std::time::Duration;

use super::scope::ExportMode;
use crate::repository::{Id, Verification};

/// What an export did. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ExportReport {
    /// The snapshot in the repository.
    pub snapshot: Id,
    /// How it came by the volume's content.
    #[serde(flatten)]
    pub mode: ExportMode,
    /// Size of the volume.
    pub size_bytes: u64,
    /// Blobs that the repository's index named when the export began, without those that are doubted, and counted as often as index
    /// files name them.
    pub indexed_blobs: u64,
    /// Read from the source.
    pub read_bytes: u64,
    /// Chunks that are zeros as a whole, allocated or not.
    pub zero_bytes: u64,
    /// Chunks that are not zeros.
    pub chunks: u64,
    /// Of these, chunks that the repository did not have.
    pub new_chunks: u64,
    /// Of what was read, what the new chunks hold, before compression.
    pub new_bytes: u64,
    /// Bytes of everything stored in packs.
    pub stored_bytes: u64,
    /// Whether what was packed was decoded again before it was stored.
    pub verification: Verification,
    /// Time from the call to its return.
    pub elapsed: Duration,
}
