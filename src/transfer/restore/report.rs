//! What a restore did.

use std::time::Duration;

use super::holes::Holes;
use crate::repository::Id;

/// What a restore did. Sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RestoreReport {
    /// The snapshot in the repository.
    pub snapshot: Id,
    /// Size of the image.
    pub size_bytes: u64,
    /// Written to the sink.
    pub written_bytes: u64,
    /// Fetched from the repository.
    pub fetched_bytes: u64,
    /// Blobs that were decoded: each counts once, in very long images (65 536 blobs) once for each part in which it occurs.
    pub blobs: u64,
    /// What of an image that bears damage could not be had; zeros were written there.
    pub holes: Holes,
    /// Time from the call to its return.
    pub elapsed: Duration,
}
