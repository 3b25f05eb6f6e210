//! The internal Transfers service: exports and restores that outlive the call that started them.
//!
//! It meets disks only through what a node hands out by [`Blocks`] (a lease, a hidden target), and repositories only through their own
//! types, so that it can live in a process without privilege.
//!
//! A start is refused, with a code, for everything that can be known at once: malformed fields, no such snapshot, a repository
//! that does not open, a name that is taken, too many transfers. What goes wrong afterwards is the transfer's final state.
//! Whoever starts a transfer may go away; only [`Transfers::stop`], a cancellation or its own end ends it.
//!
//! Passwords and store credentials live in the opened repository, in memory, until the transfer ends. They are in no message,
//! log line or state.

pub(super) mod context;
pub(super) mod export;
pub(super) mod message;
pub(super) mod paces;
mod previous;
pub(super) mod registry;
pub(super) mod restore;
pub(super) mod status;

pub use registry::{MAX_ENDED, MAX_RUNNING};

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use csi_proto::windlass::v1 as windlass;
use csi_proto::windlass::v1::transfers_server::Transfers as TransfersApi;
use futures::Stream;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use super::events::{EventSink, Silence};
use super::secret_source::SecretSource;
use crate::blocks::Blocks;
use crate::repository::Workspace;
use crate::telemetry::metrics::TransferMetrics;

use context::Context;
use paces::Paces;
use registry::{Registry, TransferWatch, is_final};

/// Between two messages to a watcher while only counters change: a person sees it move, and the wire stays idle.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// The transfers of a node. Clones are the same.
#[derive(Clone)]
pub struct Transfers {
    context: Context,
}

impl Transfers {
    /// No transfers yet, over the disks of the node with this name.
    pub fn new(blocks: Arc<dyn Blocks>, node: &str) -> Self {
        let (registry, workspace, events) = (Registry::new(), Workspace::default(), Arc::new(Silence));
        Self {
            context: Context { blocks, node: node.into(), registry, events, workspace, paces: Paces::default(), secrets: None },
        }
    }

    /// The same, which tells by `events` how those go that Kubernetes has asked for.
    #[must_use]
    pub fn with_events(self, events: Arc<dyn EventSink>) -> Self {
        Self { context: Context { events, ..self.context } }
    }

    /// The same, whose repositories keep their lists and copies in `workspace`.
    #[must_use]
    pub fn with_workspace(self, workspace: Workspace) -> Self {
        Self { context: Context { workspace, ..self.context } }
    }

    /// The same, counted there. Before any was started.
    #[must_use]
    pub fn with_metrics(self, metrics: TransferMetrics) -> Self {
        Self { context: Context { registry: Registry::counting_in(metrics), ..self.context } }
    }

    /// The same, for which `secrets` reads the Secrets that classes name.
    #[must_use]
    pub fn with_secrets(self, secrets: Arc<dyn SecretSource>) -> Self {
        Self { context: Context { secrets: Some(secrets), ..self.context } }
    }

    /// What its transfers share.
    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// Where repositories keep their lists and copies.
    pub(super) fn workspace(&self) -> &Workspace {
        &self.context.workspace
    }

    /// Starts no more transfers, cancels those that run, and waits until they have undone what they must.
    pub async fn stop(&self) {
        self.context.registry.stop().await;
    }
}

#[tonic::async_trait]
impl TransfersApi for Transfers {
    async fn start_export(
        &self,
        request: Request<windlass::StartExportRequest>,
    ) -> Result<Response<windlass::StartTransferResponse>, Status> {
        let context = self.context.clone();
        let transfer_id = detached(async move { export::start(&context, request.into_inner()).await }).await?;
        Ok(Response::new(windlass::StartTransferResponse { transfer_id }))
    }

    async fn start_restore(
        &self,
        request: Request<windlass::StartRestoreRequest>,
    ) -> Result<Response<windlass::StartTransferResponse>, Status> {
        let context = self.context.clone();
        let transfer_id = detached(async move { restore::start(&context, request.into_inner()).await }).await?;
        Ok(Response::new(windlass::StartTransferResponse { transfer_id }))
    }

    type WatchTransferStream = Pin<Box<dyn Stream<Item = Result<windlass::TransferProgress, Status>> + Send>>;

    async fn watch_transfer(
        &self,
        request: Request<windlass::WatchTransferRequest>,
    ) -> Result<Response<Self::WatchTransferStream>, Status> {
        let id = request.into_inner().transfer_id;
        let watched = self.context.registry.watch(&id).ok_or_else(|| no_such_transfer(&id))?;
        Ok(Response::new(Box::pin(states(watched))))
    }

    async fn cancel_transfer(
        &self,
        request: Request<windlass::CancelTransferRequest>,
    ) -> Result<Response<windlass::CancelTransferResponse>, Status> {
        let id = request.into_inner().transfer_id;
        match self.context.registry.cancel(&id) {
            true => Ok(Response::new(windlass::CancelTransferResponse {})),
            false => Err(no_such_transfer(&id)),
        }
    }

    async fn list_transfers(
        &self,
        _request: Request<windlass::ListTransfersRequest>,
    ) -> Result<Response<windlass::ListTransfersResponse>, Status> {
        Ok(Response::new(windlass::ListTransfersResponse { transfers: self.context.registry.list() }))
    }
}

/// Runs the work of a call to its end, also when the caller goes away meanwhile.
async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T, Status>> + Send + 'static) -> Result<T, Status> {
    tokio::spawn(work.in_current_span())
        .await
        .unwrap_or_else(|error| Err(Status::internal(format!("the call ended early: {error}"))))
}

fn no_such_transfer(id: &str) -> Status {
    if id.is_empty() {
        return Status::invalid_argument("transfer_id: is required");
    }
    Status::not_found("transfer_id: no such transfer; it may have ended so long ago that it is forgotten")
}

/// The state now, then whenever it has changed or the counters may have, and the final one as the last message.
fn states(watched: TransferWatch) -> impl Stream<Item = Result<windlass::TransferProgress, Status>> + Send {
    struct Following {
        watched: TransferWatch,
        tick: tokio::time::Interval,
        last: Option<windlass::TransferProgress>,
    }
    let mut tick = tokio::time::interval(WATCH_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    futures::stream::unfold(Following { watched, tick, last: None }, |mut following| async move {
        if following.last.as_ref().is_some_and(is_final) {
            return None;
        }
        loop {
            let now = following.watched.now();
            if following.last.as_ref() != Some(&now) {
                following.last = Some(now.clone());
                return Some((Ok(now), following));
            }
            tokio::select! {
                _ = following.tick.tick() => {}
                () = following.watched.changed() => {}
            }
        }
    })
}
