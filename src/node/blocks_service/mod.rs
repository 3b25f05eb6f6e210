//! [`Blocks`] for an agent that is another process: the service `windlass.v1.Blocks`, and the companion socket for descriptors.
//!
//! The agent is trusted with what it asked for and with nothing else: it names objects by handles, what it holds by secrets of 32 bytes, and
//! never a path. Every field becomes a checked type before it is used, or the call is INVALID_ARGUMENT.
//!
//! # What is held, and for how long
//!
//! A lease and a target live as long as the stream that answered their call. The stream ends when the agent drops it, when its
//! connection or its process ends, or when this node stops; then (`leases`, `targets`):
//!
//! * the lease is taken out of its table, with the lists of ranges that are open on it and with its token, and the snapshot can be deleted;
//! * a target that was not committed is deleted, or kept for the next equal request, as its beginner said. Either is repeated until it works: on a
//!   thin pool the device is busy until the last descriptor is closed, nothing is kept that anybody can write to, and an agent that is
//!   killed closes its connection and its descriptors in any order. Its name is free from then on.
//!
//! A target is committed or aborted once, by whoever has its secret; a second attempt meanwhile is refused. Work that was begun goes on when
//! the caller goes away. A crash of the node between any two steps leaves a hidden target, which the next start deletes or
//! keeps (`pool::owned::recovery`); leases and tokens are in memory only.
//!
//! # Descriptors
//!
//! A token is worth one descriptor, once, within `offers::LIFE`, for the process that asked (`peer`). The node's own copy of a writable descriptor
//! is closed before the agent can have it twice, and before any commit. What was handed out for reading stays with the agent as long as it
//! likes: it reads a snapshot that it had the right to read.
//!
//! # Bounds
//!
//! Derived where they stand: what is held (`holds`), lists of ranges and threads that list (`leases`), tokens (one for each that is held),
//! clients of the companion socket and how long each may be silent (`descriptors`), messages (`blocks::wire`). Connections and calls
//! are bounded for the socket as for any other (`csi::server`).

mod descriptors;
mod holds;
mod leases;
mod offers;
mod open_answer;
mod page;
mod peer;
mod request;
mod socket;
mod status;
mod target_file;
mod targets;
mod work;

pub use socket::DescriptorSocket;

use std::io;
use std::sync::Arc;

use csi_proto::windlass::v1 as proto;
use csi_proto::windlass::v1::begin_target_response::Start;
use csi_proto::windlass::v1::blocks_server::{Blocks as BlocksApi, BlocksServer};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::blocks::wire::{self, FieldError};
use crate::blocks::{Blocks, BlocksError, CommitName};
use crate::csi::plugin::Answers;
use crate::types::{SnapshotHandle, SnapshotId, VolumeHandle};

use holds::Holds;
use leases::Leases;
use offers::Offers;
use peer::Peer;
use status::{field, refusal};
use targets::{Begun, Targets, Wanted};
use work::Work;

/// The service over a node's blocks. Clones are the same.
#[derive(Clone)]
pub struct BlocksService {
    blocks: Arc<dyn Blocks>,
    offers: Offers,
    holds: Holds,
    leases: Leases,
    targets: Targets,
    work: Work,
    stop: CancellationToken,
}

impl BlocksService {
    /// The service over `blocks`. When `stop` is cancelled, everything that is held is let go. Must be called within the runtime.
    pub fn new(blocks: Arc<dyn Blocks>, stop: CancellationToken) -> Self {
        let (offers, work) = (Offers::default(), Work::new());
        let leases = Leases::new(Arc::clone(&blocks), offers.clone(), work.clone());
        let targets = Targets::new(Arc::clone(&blocks), offers.clone(), work.clone(), stop.clone());
        Self { blocks, offers, holds: Holds::default(), leases, targets, work, stop }
    }

    /// What is to be added to the routes of the agent's socket.
    pub fn server(&self) -> BlocksServer<Self> {
        BlocksServer::new(self.clone())
            .max_decoding_message_size(wire::MAX_REQUEST_BYTES)
            .max_encoding_message_size(wire::MAX_ANSWER_BYTES)
    }

    /// Serves descriptors until the service stops.
    ///
    /// # Errors
    /// When the runtime does not take the socket.
    pub async fn serve_descriptors(&self, socket: DescriptorSocket) -> io::Result<()> {
        descriptors::serve(socket, self.offers.clone(), self.stop.clone()).await
    }

    /// Waits until what was begun has ended and, once the socket is no longer served, until all that was held is let go. To be called before the
    /// pools are closed.
    pub async fn ended(&self) {
        self.work.ended().await;
    }

    async fn ranges(
        &self,
        lease_id: &[u8],
        base: Option<SnapshotId>,
    ) -> Result<Response<Answers<proto::ListRangesResponse>>, Status> {
        let lease_id = wire::secret::Secret::read("lease_id", lease_id).map_err(field)?;
        self.leases.list(&lease_id, base).await.map(Response::new).map_err(refusal)
    }
}

#[tonic::async_trait]
impl BlocksApi for BlocksService {
    async fn get_pools(&self, _: Request<proto::GetPoolsRequest>) -> Result<Response<proto::GetPoolsResponse>, Status> {
        let pools = self.blocks.state().await.iter().map(wire::pools::state_message).collect();
        Ok(Response::new(proto::GetPoolsResponse { pools }))
    }

    async fn find_pool(&self, request: Request<proto::FindPoolRequest>) -> Result<Response<proto::FindPoolResponse>, Status> {
        let wanted = request::pool(request.into_inner().pool).map_err(refusal)?;
        let pool = self.blocks.pool(&wanted).await.map_err(refusal)?;
        Ok(Response::new(proto::FindPoolResponse { pool: Some(wire::pools::message(&pool)) }))
    }

    async fn find_volume(
        &self,
        request: Request<proto::FindVolumeRequest>,
    ) -> Result<Response<proto::FindVolumeResponse>, Status> {
        let name = wire::name("name", &request.get_ref().name).map_err(field)?;
        let found = self.blocks.find_volume(&name).await.map_err(refusal)?;
        let volume_id = found.map(|volume| volume.to_string()).unwrap_or_default();
        Ok(Response::new(proto::FindVolumeResponse { volume_id }))
    }

    async fn find_snapshot(
        &self,
        request: Request<proto::FindSnapshotRequest>,
    ) -> Result<Response<proto::FindSnapshotResponse>, Status> {
        let name = wire::name("name", &request.get_ref().name).map_err(field)?;
        let found = self.blocks.find_snapshot(&name).await.map_err(refusal)?;
        let snapshot_id = found.map(|snapshot| snapshot.to_string()).unwrap_or_default();
        Ok(Response::new(proto::FindSnapshotResponse { snapshot_id }))
    }

    type LeaseSnapshotStream = Answers<proto::LeaseSnapshotResponse>;

    async fn lease_snapshot(
        &self,
        request: Request<proto::LeaseSnapshotRequest>,
    ) -> Result<Response<Self::LeaseSnapshotStream>, Status> {
        let peer = Peer::of(&request);
        let snapshot: SnapshotHandle = wire::handle("snapshot_id", &request.get_ref().snapshot_id).map_err(field)?;
        let hold = self.holds.take(peer).map_err(refusal)?;
        let (message, held) = self.leases.lease(snapshot, peer, hold).await.map_err(refusal)?;
        Ok(Response::new(open_answer::open(message, held, self.stop.clone())))
    }

    type ListAllocatedStream = Answers<proto::ListRangesResponse>;

    async fn list_allocated(
        &self,
        request: Request<proto::ListAllocatedRequest>,
    ) -> Result<Response<Self::ListAllocatedStream>, Status> {
        self.ranges(&request.get_ref().lease_id, None).await
    }

    type ListChangedStream = Answers<proto::ListRangesResponse>;

    async fn list_changed(
        &self,
        request: Request<proto::ListChangedRequest>,
    ) -> Result<Response<Self::ListChangedStream>, Status> {
        let request = request.get_ref();
        let base = wire::object_id("base_id", &request.base_id).map_err(field)?;
        self.ranges(&request.lease_id, Some(base)).await
    }

    type BeginTargetStream = Answers<proto::BeginTargetResponse>;

    async fn begin_target(
        &self,
        request: Request<proto::BeginTargetRequest>,
    ) -> Result<Response<Self::BeginTargetStream>, Status> {
        let peer = Peer::of(&request);
        let request = request.into_inner();
        let pool = wire::pool_id("pool_id", &request.pool_id).map_err(field)?;
        let volume = request::volume(request.volume).map_err(field)?;
        let on_loss = wire::target::read_on_loss(request.on_loss).map_err(field)?;
        let hold = self.holds.take(peer).map_err(refusal)?;
        match self.targets.begin(Wanted { pool, volume, on_loss }, peer, hold).await.map_err(refusal)? {
            Begun::Target(message, held) => Ok(Response::new(open_answer::open(message, held, self.stop.clone()))),
            Begun::Existing(volume) => {
                let start = Some(Start::ExistingVolumeId(volume.to_string()));
                let only = proto::BeginTargetResponse { start, ..Default::default() };
                Ok(Response::new(Box::pin(futures::stream::iter([Ok(only)]))))
            }
        }
    }

    async fn commit_target(
        &self,
        request: Request<proto::CommitTargetRequest>,
    ) -> Result<Response<proto::CommitTargetResponse>, Status> {
        let request = request.into_inner();
        let volume: VolumeHandle = wire::handle("volume_id", &request.volume_id).map_err(field)?;
        let name = match (request.name.as_str(), request.unformatted) {
            ("", false) => CommitName::AsBegun,
            ("", true) => CommitName::AsBegunUnformatted,
            (name, false) => CommitName::Instead(wire::name("name", name).map_err(field)?),
            (_, true) => return Err(field(FieldError::new("unformatted", "must not be set with a name"))),
        };
        let target = request::target_id(&request.target_id).map_err(field)?;
        self.targets.commit(target, volume, name).await.map_err(refusal)?;
        Ok(Response::new(proto::CommitTargetResponse {}))
    }

    async fn abort_target(
        &self,
        request: Request<proto::AbortTargetRequest>,
    ) -> Result<Response<proto::AbortTargetResponse>, Status> {
        let request = request.into_inner();
        let volume: VolumeHandle = wire::handle("volume_id", &request.volume_id).map_err(field)?;
        let target = request::target_id(&request.target_id).map_err(field)?;
        match self.targets.abort(target, volume).await {
            Ok(()) | Err(BlocksError::Missing(_)) => Ok(Response::new(proto::AbortTargetResponse {})),
            Err(error) => Err(refusal(error)),
        }
    }

    async fn put_export(&self, request: Request<proto::PutExportRequest>) -> Result<Response<proto::PutExportResponse>, Status> {
        let request = request.into_inner();
        let pool = wire::pool_id("pool_id", &request.pool_id).map_err(field)?;
        let record = wire::export::read(request.record).map_err(field)?;
        self.blocks.put_export(pool, record).await.map_err(refusal)?;
        Ok(Response::new(proto::PutExportResponse {}))
    }

    async fn get_last_export(
        &self,
        request: Request<proto::GetLastExportRequest>,
    ) -> Result<Response<proto::GetLastExportResponse>, Status> {
        let request = request.into_inner();
        let volume: VolumeHandle = wire::handle("volume_id", &request.volume_id).map_err(field)?;
        request::repository(&request.repository).map_err(field)?;
        let record = self.blocks.last_export(volume, &request.repository).await.map_err(refusal)?;
        Ok(Response::new(proto::GetLastExportResponse { record: record.map(wire::export::message) }))
    }

    async fn get_copies(&self, request: Request<proto::GetCopiesRequest>) -> Result<Response<proto::GetCopiesResponse>, Status> {
        let snapshot: SnapshotHandle = wire::handle("snapshot_id", &request.get_ref().snapshot_id).map_err(field)?;
        let known = self.blocks.copies(snapshot).await.map_err(refusal)?;
        Ok(Response::new(proto::GetCopiesResponse { copies: Some(wire::copies::message(known)) }))
    }

    async fn put_task(&self, request: Request<proto::PutTaskRequest>) -> Result<Response<proto::PutTaskResponse>, Status> {
        let request = request.into_inner();
        let snapshot: SnapshotHandle = wire::handle("snapshot_id", &request.snapshot_id).map_err(field)?;
        let task = wire::copies::read_task(request.task).map_err(field)?;
        self.blocks.put_task(snapshot, task).await.map_err(refusal)?;
        Ok(Response::new(proto::PutTaskResponse {}))
    }

    async fn list_tasks(&self, request: Request<proto::ListTasksRequest>) -> Result<Response<proto::ListTasksResponse>, Status> {
        let query = wire::copies::read_query(request.get_ref()).map_err(field)?;
        let page = self.blocks.tasks(query).await.map_err(refusal)?;
        Ok(Response::new(wire::copies::page_message(page)))
    }

    async fn list_protected(
        &self,
        request: Request<proto::ListProtectedRequest>,
    ) -> Result<Response<proto::ListProtectedResponse>, Status> {
        let query = wire::protection::read_query(request.get_ref()).map_err(field)?;
        let page = self.blocks.protected(query).await.map_err(refusal)?;
        Ok(Response::new(wire::protection::page_message(page)))
    }

    async fn give_up_local_copy(
        &self,
        request: Request<proto::GiveUpLocalCopyRequest>,
    ) -> Result<Response<proto::GiveUpLocalCopyResponse>, Status> {
        let snapshot: SnapshotHandle = wire::handle("snapshot_id", &request.get_ref().snapshot_id).map_err(field)?;
        self.blocks.give_up_local_copy(snapshot).await.map_err(refusal)?;
        Ok(Response::new(proto::GiveUpLocalCopyResponse {}))
    }

    async fn get_usage(&self, request: Request<proto::GetUsageRequest>) -> Result<Response<proto::GetUsageResponse>, Status> {
        let query = wire::usage::read_query(request.get_ref()).map_err(field)?;
        let page = self.blocks.usage(query).await.map_err(refusal)?;
        Ok(Response::new(wire::usage::page_message(&page)))
    }
}
