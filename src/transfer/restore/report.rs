//! What a restore did.

use std::time::Duration;

use super::holes::Holes;
use crate::repository::Id;

/// What a restore did. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RestoreReport {
    pub snapshot: Id,
    pub size_bytes: u64,
    /// Bytes that were written to the sink.
    pub written_bytes: u64,
    /// Bytes of blobs that the sink held already, where it was looked at for them.
    pub present_bytes: u64,
    /// Bytes that were fetched from the repository.
    pub fetched_bytes: u64,
    /// Blobs that were fetched and decoded: each counts once, in very long images (65 536 blobs) once for each part in which it occurs.
    pub blobs: u64,
    /// What could not be restored where damage is skipped; zeros were written there.
    pub holes: Holes,
    /// Time from the call to its return.
    pub elapsed: Duration,
}
