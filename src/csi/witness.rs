//! Who else may say that a snapshot exists.
//!
//! Only the pool that owns a snapshot may say that it does not exist; one that is not here cannot be asked. A repository may hold its
//! export all the same: the caller of ListSnapshots and GetSnapshot who brings the credentials of one (the class's list secret) is told
//! what it holds. So a VolumeSnapshotContent that was written by hand gets ready in a cluster that never had the pool.
//!
//! A witness never says "not found": what a repository does not hold may be in the pool. It keeps nothing, credentials least of all.

use std::collections::HashMap;

use csi_proto::csi::v1 as proto;
use tonic::Status;

use crate::types::{SnapshotHandle, Timestamp, VolumeHandle, VolumeSize};

use super::answer;
use super::error::{CallError, Fault};
use super::node_layer::NodeLayer;
use super::status;

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

/// What a call that asked for one snapshot may fall back on.
pub(super) struct Appeal {
    handle: Option<SnapshotHandle>,
    secrets: HashMap<String, String>,
}

impl Appeal {
    /// For the snapshot that a request names, by the credentials that it brings.
    pub(super) fn new(snapshot_id: &str, secrets: &HashMap<String, String>) -> Self {
        Self { handle: snapshot_id.parse().ok(), secrets: secrets.clone() }
    }

    /// What the witness of `layer` says after the call has failed with `error`; `None` when it is not to be asked or knows nothing.
    ///
    /// # Errors
    /// The witness's; FAILED_PRECONDITION for a repository where none is served.
    pub(super) async fn hear(self, layer: &NodeLayer, error: &CallError) -> Result<Option<proto::Snapshot>, Status> {
        let elsewhere = matches!(error, CallError::Request(error) if error.fault == Fault::PoolElsewhere);
        if !elsewhere || self.secrets.is_empty() {
            return Ok(None);
        }
        layer.check_secrets(&self.secrets).map_err(|error| status::read(error.into()))?;
        let (Some(handle), Some(witness)) = (self.handle, &layer.witness) else { return Ok(None) };
        let found = witness.snapshot(handle, self.secrets).await?;
        Ok(found.as_ref().map(answer::witnessed_snapshot))
    }
}
