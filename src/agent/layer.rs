//! The agent layer: a node's services, with what needs a network and credentials around them.
//!
//! It owns the layer below and is one itself. A call goes on without the secrets that came with it: the process that holds the disks
//! holds no credentials. What the layer below cannot tell of a snapshot, whose pool is not there, a repository may (`witness`).

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use csi_proto::csi::v1 as proto;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use crate::blocks::Blocks;
use crate::csi::plugin::Plugin;
use crate::repository::Workspace;
use crate::telemetry::metrics::TransferMetrics;
use crate::types::{ExportOrder, Timestamp};

use super::credentials::{self, Credentialed};
use super::events::EventSink;
use super::exporting::{self, Exporting};
use super::protecting::{AT_LEAST_EVERY, ProtectionStatus, Sweep};
use super::restoring::Restoring;
use super::secret_source::SecretSource;
use super::transfers::Transfers;
use super::wakening::Wakening;
use super::witness::{self, WitnessedSnapshot};

/// The agent's services over those of a node. Clones are the same layer.
#[derive(Clone)]
pub struct AgentLayer<P> {
    below: P,
    transfers: Transfers,
    exporting: Exporting,
    restoring: Restoring,
    wakening: Wakening,
}

/// Between two sweeps at least, unless something has happened.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// A call of a layer that runs.
type Call<'a, A> = Pin<Box<dyn Future<Output = Result<Response<A>, Status>> + Send + 'a>>;

impl<P: Plugin> AgentLayer<P> {
    /// The layer over that of the node with this name, and over what it hands out.
    pub fn new(below: P, blocks: Arc<dyn Blocks>, node: &str) -> Self {
        Self::over(below, Transfers::new(blocks, node))
    }

    /// The same, whose repositories keep their lists and copies in `workspace`.
    #[must_use]
    pub fn with_workspace(self, workspace: Workspace) -> Self {
        Self::over(self.below, self.transfers.with_workspace(workspace))
    }

    /// The same, which tells people by `events` how transfers go.
    #[must_use]
    pub fn with_events(self, events: Arc<dyn EventSink>) -> Self {
        Self::over(self.below, self.transfers.with_events(events))
    }

    /// The same, whose transfers are counted there.
    #[must_use]
    pub fn with_metrics(self, metrics: TransferMetrics) -> Self {
        Self::over(self.below, self.transfers.with_metrics(metrics))
    }

    /// The same, for which `secrets` reads the Secrets that classes name. Without it no volume is protected.
    #[must_use]
    pub fn with_secrets(self, secrets: Arc<dyn SecretSource>) -> Self {
        Self::over(self.below, self.transfers.with_secrets(secrets))
    }

    fn over(below: P, transfers: Transfers) -> Self {
        let wakening = Wakening::default();
        let exporting = Exporting::new(transfers.context().clone(), wakening.clone());
        let restoring = Restoring::new(transfers.context().clone());
        Self { below, transfers, exporting, restoring, wakening }
    }

    /// Protects volumes until `stop` is cancelled: what is due is done, and waited for otherwise.
    pub async fn protect(&self, stop: &CancellationToken) {
        loop {
            let Some(next) = stop.run_until_cancelled(self.sweep(Timestamp::now())).await else { return };
            let pause = next.seconds.saturating_sub(Timestamp::now().seconds);
            // What is due now and was not done is not tried without a pause.
            let pause = Duration::from_secs(pause).clamp(LEAST_PAUSE, AT_LEAST_EVERY);
            // Woken earlier, or not: there is something to look at by then.
            let woken = tokio::time::timeout(pause, self.wakening.woken());
            if stop.run_until_cancelled(woken).await.is_none() {
                return;
            }
        }
    }

    /// Does for protected volumes what is due at this time; when something is due next.
    pub async fn sweep(&self, now: Timestamp) -> Timestamp {
        self.a_sweep().run(now).await
    }

    /// How the protection of each volume does.
    pub async fn protections(&self, now: Timestamp) -> Vec<ProtectionStatus> {
        self.a_sweep().statuses(now).await
    }

    fn a_sweep(&self) -> Sweep<'_, P> {
        Sweep { below: &self.below, context: self.transfers.context(), exporting: &self.exporting }
    }

    /// The internal service for exports and restores.
    pub fn transfers(&self) -> &Transfers {
        &self.transfers
    }

    /// Passes a call on.
    pub(super) async fn forward<'a, Q: Credentialed, A>(
        &'a self,
        request: Request<Q>,
        call: impl FnOnce(&'a P, Request<Q>) -> Call<'a, A>,
    ) -> Result<Response<A>, Status> {
        let (request, _) = credentials::split(request)?;
        call(&self.below, request).await
    }

    /// Makes a volume; one from a snapshot that only a repository has by a restore.
    pub(super) async fn create_or_restore_volume(
        &self,
        request: Request<proto::CreateVolumeRequest>,
    ) -> Result<Response<proto::CreateVolumeResponse>, Status> {
        let patience = exporting::patience(request.metadata());
        let (request, secrets) = credentials::split(request)?;
        self.restoring.check_protection(request.get_ref())?;
        if let Some(newest) = self.restoring.newest(request.get_ref()).await? {
            self.restoring.restore_newest(request.get_ref(), newest, secrets, patience).await?;
        } else if !self.restoring.is_for_the_layer_below(request.get_ref(), &secrets).await? {
            self.restoring.restore(request.get_ref(), secrets, patience).await?;
        }
        let made = self.below.create_volume(request).await?;
        self.wakening.wake();
        Ok(made)
    }

    /// Deletes a volume; what its protection has cut goes with it.
    pub(super) async fn delete_volume_and_its_cuts(
        &self,
        request: Request<proto::DeleteVolumeRequest>,
    ) -> Result<Response<proto::DeleteVolumeResponse>, Status> {
        let (request, _) = credentials::split(request)?;
        let deleted = self.below.delete_volume(request).await?;
        self.wakening.wake();
        Ok(deleted)
    }

    /// Cuts, and sees to the export if the class asks for one.
    pub(super) async fn create_and_export_snapshot(
        &self,
        request: Request<proto::CreateSnapshotRequest>,
    ) -> Result<Response<proto::CreateSnapshotResponse>, Status> {
        let patience = exporting::patience(request.metadata());
        let (request, secrets) = credentials::split(request)?;
        if request.get_ref().parameters.contains_key(ExportOrder::ORIGIN) {
            let reason = format!("parameters: `{}` is not a known parameter", ExportOrder::ORIGIN);
            return Err(Status::invalid_argument(reason));
        }
        let Some(order) = Exporting::order(&request.get_ref().parameters)? else {
            return self.below.create_snapshot(request).await;
        };
        let secret = self.exporting.secret(&request.get_ref().name, secrets).await?;
        let mut answer = self.below.create_snapshot(request).await?;
        let (Some(secret), Some(snapshot)) = (secret, &mut answer.get_mut().snapshot) else { return Ok(answer) };
        if !snapshot.ready_to_use {
            let unreadable = |_| Status::internal("the layer below has cut a snapshot whose handle does not read");
            let handle = snapshot.snapshot_id.parse().map_err(unreadable)?;
            let progress = self.exporting.follow(handle, order, secret, patience).await?;
            snapshot.ready_to_use = progress == exporting::Progress::Complete;
        }
        Ok(answer)
    }

    /// Withdraws the export of a snapshot, if there is any, and deletes the snapshot.
    pub(super) async fn withdraw_and_delete_snapshot(
        &self,
        request: Request<proto::DeleteSnapshotRequest>,
    ) -> Result<Response<proto::DeleteSnapshotResponse>, Status> {
        let (request, secrets) = credentials::split(request)?;
        // A text that is no handle of ours is for the layer below to judge.
        let _alone = match request.get_ref().snapshot_id.parse() {
            Ok(handle) => self.exporting.withdraw(handle, secrets).await?,
            Err(_) => None,
        };
        self.below.delete_snapshot(request).await
    }

    pub(super) async fn list_snapshots_or_ask_a_witness(
        &self,
        request: Request<proto::ListSnapshotsRequest>,
    ) -> Result<Response<proto::ListSnapshotsResponse>, Status> {
        let (request, secrets) = credentials::split(request)?;
        let (snapshot, source) = (request.get_ref().snapshot_id.clone(), request.get_ref().source_volume_id.clone());
        match self.below.list_snapshots(request).await {
            Err(refusal) => match self.witnessed(&snapshot, secrets, &refusal).await? {
                Some(witnessed) => Ok(Response::new(only(&witnessed, &source))),
                None => Err(refusal),
            },
            listed => listed,
        }
    }

    pub(super) async fn get_snapshot_or_ask_a_witness(
        &self,
        request: Request<proto::GetSnapshotRequest>,
    ) -> Result<Response<proto::GetSnapshotResponse>, Status> {
        let (request, secrets) = credentials::split(request)?;
        let snapshot = request.get_ref().snapshot_id.clone();
        match self.below.get_snapshot(request).await {
            Err(refusal) => match self.witnessed(&snapshot, secrets, &refusal).await? {
                Some(witnessed) => Ok(Response::new(proto::GetSnapshotResponse { snapshot: Some((&witnessed).into()) })),
                None => Err(refusal),
            },
            found => found,
        }
    }

    /// What a repository says of a snapshot after the layer below has answered with `refusal`; `None` when none is to be asked or it knows
    /// nothing.
    ///
    /// # Errors
    /// Those of [`witness::snapshot`].
    async fn witnessed(
        &self,
        snapshot: &str,
        secrets: HashMap<String, String>,
        refusal: &Status,
    ) -> Result<Option<WitnessedSnapshot>, Status> {
        // Of all else its pool has the last word.
        if refusal.code() != Code::Unavailable || secrets.is_empty() {
            return Ok(None);
        }
        match snapshot.parse() {
            Ok(handle) => witness::snapshot(handle, secrets, self.transfers.workspace()).await,
            Err(_) => Ok(None),
        }
    }
}

/// The list of one snapshot, of those whose volume is `source` unless that is empty.
fn only(witnessed: &WitnessedSnapshot, source: &str) -> proto::ListSnapshotsResponse {
    let is_asked_for = source.is_empty() || source == witnessed.source.to_string();
    let entry = proto::list_snapshots_response::Entry { snapshot: Some(witnessed.into()) };
    proto::ListSnapshotsResponse { entries: is_asked_for.then_some(entry).into_iter().collect(), next_token: String::new() }
}
