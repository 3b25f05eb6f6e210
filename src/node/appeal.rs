//! What a call that asks for one snapshot falls back on when the snapshot's pool is not here: a witness, if there is one.

use std::collections::HashMap;

use csi_proto::csi::v1 as proto;
use tonic::Status;

use crate::csi::error::Fault;
use crate::types::SnapshotHandle;

use super::answer;
use super::error::CallError;
use super::layer::NodeLayer;
use super::status;

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
