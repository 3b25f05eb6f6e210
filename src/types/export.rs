//! What is remembered of an export.

use serde::{Deserialize, Serialize};

use super::{SnapshotId, Timestamp, VolumeId, VolumeSize};

/// What is known of the exports of a volume to one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRecord {
    /// Id of the repository (its config's id, 64 hexadecimal digits).
    pub repository: String,
    /// The volume.
    pub volume: VolumeId,
    /// The snapshot that was exported.
    pub snapshot: SnapshotId,
    /// The repository snapshot that holds it (64 hexadecimal digits).
    pub repository_snapshot: String,
    /// Size at the export.
    pub size: VolumeSize,
    /// Chunk size in bytes.
    pub chunk_size: u64,
    /// When it was finished.
    pub finished: Timestamp,
}
