//! Who else may say that a snapshot exists.
//!
//! Only the pool that owns a snapshot may say that it does not exist; one that is not here cannot be asked. A repository may hold its
//! export all the same: the caller of ListSnapshots and GetSnapshot who brings the credentials of one (the class's list secret) is told
//! what it holds. So a VolumeSnapshotContent that was written by hand gets ready in a cluster that never had the pool.
//!
//! A witness never says "not found": what a repository does not hold may be in the pool. It keeps nothing, credentials least of all.

use std::collections::HashMap;

use tonic::Status;

use crate::types::{SnapshotHandle, Timestamp, VolumeHandle, VolumeSize};

/// A snapshot by the word of somebody who is not its pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessedSnapshot {
    /// The snapshot.
    pub handle: SnapshotHandle,
    /// The volume it was cut of.
    pub source: VolumeHandle,
    /// Its size.
    pub size: VolumeSize,
    /// When it was cut.
    pub created: Timestamp,
}

/// Whoever can tell of snapshots whose pools are not here.
#[tonic::async_trait]
pub trait SnapshotWitness: Send + Sync {
    /// The snapshot `handle`, if the place that `secrets` open holds all of it.
    ///
    /// # Errors
    /// A status for secrets that open nothing, and for a place that does not answer. Never NOT_FOUND.
    async fn snapshot(
        &self,
        handle: SnapshotHandle,
        secrets: HashMap<String, String>,
    ) -> Result<Option<WitnessedSnapshot>, Status>;
}
