//! The node's [`Blocks`] in another process: its agent's form.
//!
//! Calls go over a gRPC channel, descriptors over the companion socket (`blocks::descriptor`). Whatever is held is bound to a stream that this
//! keeps: a lease to its own, until it is dropped; a target to one that lies in a table by the volume's handle, for whoever writes to
//! the target has only its descriptor. The entry goes with a commit, an abort, when the target is let go of, or with an answer that there is no such target. When this
//! and all its clones are dropped, or the process ends, the streams end, and the node lets go of all that was not committed: it deletes it, or keeps it for the next equal request.
//!
//! A connection that is lost ends its streams: what they held is gone, and calls that need it are [`BlocksError::Unavailable`]. The next call
//! connects anew if the channel does. A refusal of the node has the kind that the node gave it; everything that the connection says in its
//! place is `Unavailable` too, since nobody knows what became of the call.
//!
//! What the node says is checked like what a client says: sizes, handles, and that ranges ascend and lie within their snapshot. A stream of
//! ranges that ends without its last message is an error (invariant 8).

#![allow(clippy::disallowed_types, reason = "the gRPC boundary")]

mod lease;
mod ranges;
mod told;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use csi_proto::windlass::v1 as proto;
use csi_proto::windlass::v1::begin_target_response::Start;
use csi_proto::windlass::v1::blocks_client::BlocksClient as Calls;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::descriptor;
use super::wire::secret::Secret;
use super::wire::{self, FieldError};
use super::{
    Blocks, BlocksError, CommitName, OpenPool, PoolState, ProtectionPage, ProtectionQuery, RestoreTarget, SnapshotCopies,
    SnapshotLease, TargetStart, TaskPage, TaskQuery, UsagePage, UsageQuery,
};
use crate::types::{ExportRecord, ExportTask, NewVolume, ObjectName, OnLoss, PoolId, SnapshotHandle, VolumeHandle};

use lease::RemoteLease;
use told::told;

/// The blocks of a node at the other end of a channel. Clones are the same, and hold the same.
#[derive(Clone)]
pub struct BlocksClient {
    connection: Connection,
    targets: Arc<Mutex<HashMap<VolumeHandle, HeldTarget>>>,
}

/// By what the node is reached.
#[derive(Clone)]
struct Connection {
    calls: Calls<Channel>,
    descriptors: Arc<Path>,
}

/// What keeps a target at the node.
struct HeldTarget {
    id: Secret,
    _stream: Streaming<proto::BeginTargetResponse>,
}

/// How the channel of a [`BlocksClient`] must be made: lists of ranges are read as slowly as their volumes are, and with larger windows a few that
/// wait would take all the room of the connection, in which every other call would be stuck.
pub fn endpoint(endpoint: Endpoint) -> Endpoint {
    endpoint.initial_stream_window_size(wire::STREAM_WINDOW_BYTES).initial_connection_window_size(wire::CONNECTION_WINDOW_BYTES)
}

impl BlocksClient {
    /// The node that serves on the other end of `channel`, whose endpoint was made by [`endpoint`], and descriptors on the socket at this path.
    /// Nothing is connected yet.
    pub fn connect(channel: Channel, descriptors: PathBuf) -> Self {
        let calls = Calls::new(channel)
            .max_decoding_message_size(wire::MAX_ANSWER_BYTES)
            .max_encoding_message_size(wire::MAX_REQUEST_BYTES);
        Self { connection: Connection { calls, descriptors: descriptors.into() }, targets: Arc::default() }
    }

    fn calls(&self) -> Calls<Channel> {
        self.connection.calls.clone()
    }

    fn targets(&self) -> MutexGuard<'_, HashMap<VolumeHandle, HeldTarget>> {
        // Entries go in and out whole.
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id of a target for a message; empty for one that is not held here.
    fn target_id(&self, volume: VolumeHandle) -> Vec<u8> {
        self.targets().get(&volume).map(|target| target.id.to_vec()).unwrap_or_default()
    }

    /// Lets go of a target: its stream ends.
    fn settled(&self, volume: VolumeHandle) {
        let target = self.targets().remove(&volume);
        drop(target);
    }
}

impl Connection {
    /// Fetches the descriptor that a message has a token for.
    async fn descriptor(&self, token: &[u8]) -> Result<File, BlocksError> {
        let (path, token) = (Arc::clone(&self.descriptors), Secret::read("descriptor_token", token).map_err(not_understood)?);
        let fetched = tokio::task::spawn_blocking(move || descriptor::fetch(&path, &token)).await;
        let fetched = fetched.map_err(|error| BlocksError::Unavailable(format!("the descriptor was not fetched: {error}")))?;
        fetched.map(File::from).map_err(|error| {
            let text = crate::types::error::chain(&error);
            match error {
                descriptor::FetchError::Socket { .. } => BlocksError::Unavailable(text),
                descriptor::FetchError::Answer(descriptor::ReceiveError::Refused) => BlocksError::Unavailable(text),
                descriptor::FetchError::Answer(_) => BlocksError::Failed(text),
            }
        })
    }
}

/// An answer that no node of this release gives.
fn not_understood(error: FieldError) -> BlocksError {
    BlocksError::Failed(format!("the node's answer is not understood: {error}"))
}

/// The stream ended where its first message was due.
fn silent() -> BlocksError {
    BlocksError::Unavailable("the node ended its answer before it began".to_owned())
}

#[async_trait::async_trait]
impl Blocks for BlocksClient {
    async fn state(&self) -> Vec<PoolState> {
        let answer = self.calls().get_pools(proto::GetPoolsRequest {}).await.map_err(told);
        let states = answer.and_then(|answer| {
            let pools = answer.into_inner().pools.into_iter();
            pools.map(wire::pools::read_state).collect::<Result<_, _>>().map_err(not_understood)
        });
        states.unwrap_or_else(|error| vec![PoolState::Failed { id: None, reason: error.to_string() }])
    }

    async fn pool(&self, wanted: &str) -> Result<OpenPool, BlocksError> {
        let request = proto::FindPoolRequest { pool: wanted.to_owned() };
        let answer = self.calls().find_pool(request).await.map_err(told)?;
        wire::pools::read(answer.into_inner().pool).map_err(not_understood)
    }

    async fn find_volume(&self, name: &ObjectName) -> Result<Option<VolumeHandle>, BlocksError> {
        let request = proto::FindVolumeRequest { name: name.to_string() };
        let found = self.calls().find_volume(request).await.map_err(told)?.into_inner().volume_id;
        (!found.is_empty()).then(|| wire::handle("volume_id", &found)).transpose().map_err(not_understood)
    }

    async fn find_snapshot(&self, name: &ObjectName) -> Result<Option<SnapshotHandle>, BlocksError> {
        let request = proto::FindSnapshotRequest { name: name.to_string() };
        let found = self.calls().find_snapshot(request).await.map_err(told)?.into_inner().snapshot_id;
        (!found.is_empty()).then(|| wire::handle("snapshot_id", &found)).transpose().map_err(not_understood)
    }

    async fn lease(&self, snapshot: SnapshotHandle) -> Result<Arc<dyn SnapshotLease>, BlocksError> {
        let request = proto::LeaseSnapshotRequest { snapshot_id: snapshot.to_string() };
        let mut stream = self.calls().lease_snapshot(request).await.map_err(told)?.into_inner();
        let held = stream.message().await.map_err(told)?.ok_or_else(silent)?;
        let id = Secret::read("lease_id", &held.lease_id).map_err(not_understood)?;
        let record = wire::snapshot::read(held.snapshot).map_err(not_understood)?;
        let file = self.connection.descriptor(&held.descriptor_token).await?;
        Ok(Arc::new(RemoteLease::new(record, file, id, (self.calls(), stream))))
    }

    async fn begin(&self, pool: PoolId, volume: NewVolume, on_loss: OnLoss) -> Result<TargetStart, BlocksError> {
        if volume.source.is_some() {
            // There is no word for it.
            return Err(BlocksError::Unsupported("a volume is either restored or copied from another object".to_owned()));
        }
        let (volume, on_loss) = (Some(wire::volume::message(volume)), wire::target::on_loss(on_loss));
        let request = proto::BeginTargetRequest { pool_id: pool.to_string(), volume, on_loss };
        let mut stream = self.calls().begin_target(request).await.map_err(told)?.into_inner();
        let begun = stream.message().await.map_err(told)?.ok_or_else(silent)?;
        let held = match begun.start {
            Some(Start::Target(held)) => held,
            Some(Start::ExistingVolumeId(volume)) => {
                return wire::handle("existing_volume_id", &volume).map(TargetStart::Existing).map_err(not_understood);
            }
            None => return Err(not_understood(FieldError::new("start", "is required"))),
        };
        let id = Secret::read("target_id", &held.target_id).map_err(not_understood)?;
        let volume = wire::handle("volume_id", &held.volume_id).map_err(not_understood)?;
        let size = wire::size("size_bytes", held.size_bytes).map_err(not_understood)?;
        let content = wire::target::read_content(begun.content).map_err(not_understood)?;
        let file = self.connection.descriptor(&held.descriptor_token).await?;
        self.targets().insert(volume, HeldTarget { id, _stream: stream });
        Ok(TargetStart::Target(RestoreTarget { volume, size, content, file }))
    }

    async fn commit(&self, volume: VolumeHandle, name: CommitName) -> Result<(), BlocksError> {
        let unformatted = name == CommitName::AsBegunUnformatted;
        let name = match name {
            CommitName::AsBegun | CommitName::AsBegunUnformatted => String::new(),
            CommitName::Instead(name) => name.into(),
        };
        let (target_id, volume_id) = (self.target_id(volume), volume.to_string());
        let request = proto::CommitTargetRequest { target_id, volume_id, name, unformatted };
        let committed = self.calls().commit_target(request).await.map(drop).map_err(told);
        if matches!(committed, Ok(()) | Err(BlocksError::Missing(_))) {
            self.settled(volume);
        }
        committed
    }

    async fn abort(&self, volume: VolumeHandle) -> Result<(), BlocksError> {
        let request = proto::AbortTargetRequest { target_id: self.target_id(volume), volume_id: volume.to_string() };
        let aborted = self.calls().abort_target(request).await.map(drop).map_err(told);
        if aborted.is_ok() {
            self.settled(volume);
        }
        aborted
    }

    async fn let_go(&self, volume: VolumeHandle) -> Result<(), BlocksError> {
        self.settled(volume);
        Ok(())
    }

    async fn put_export(&self, pool: PoolId, record: ExportRecord) -> Result<(), BlocksError> {
        let request = proto::PutExportRequest { pool_id: pool.to_string(), record: Some(wire::export::message(record)) };
        self.calls().put_export(request).await.map(drop).map_err(told)
    }

    async fn last_export(&self, volume: VolumeHandle, repository: &str) -> Result<Option<ExportRecord>, BlocksError> {
        let request = proto::GetLastExportRequest { volume_id: volume.to_string(), repository: repository.to_owned() };
        let record = self.calls().get_last_export(request).await.map_err(told)?.into_inner().record;
        record.map(|record| wire::export::read(Some(record))).transpose().map_err(not_understood)
    }

    async fn copies(&self, snapshot: SnapshotHandle) -> Result<SnapshotCopies, BlocksError> {
        let request = proto::GetCopiesRequest { snapshot_id: snapshot.to_string() };
        let answer = self.calls().get_copies(request).await.map_err(told)?;
        wire::copies::read(answer.into_inner().copies).map_err(not_understood)
    }

    async fn put_task(&self, snapshot: SnapshotHandle, task: ExportTask) -> Result<(), BlocksError> {
        let task = Some(wire::copies::task_message(task));
        let request = proto::PutTaskRequest { snapshot_id: snapshot.to_string(), task };
        self.calls().put_task(request).await.map(drop).map_err(told)
    }

    async fn tasks(&self, query: TaskQuery) -> Result<TaskPage, BlocksError> {
        let answer = self.calls().list_tasks(wire::copies::query_message(&query)).await.map_err(told)?;
        wire::copies::read_page(answer.into_inner()).map_err(not_understood)
    }

    async fn protected(&self, query: ProtectionQuery) -> Result<ProtectionPage, BlocksError> {
        let answer = self.calls().list_protected(wire::protection::query_message(&query)).await.map_err(told)?;
        wire::protection::read_page(answer.into_inner()).map_err(not_understood)
    }

    async fn give_up_local_copy(&self, snapshot: SnapshotHandle) -> Result<(), BlocksError> {
        let request = proto::GiveUpLocalCopyRequest { snapshot_id: snapshot.to_string() };
        self.calls().give_up_local_copy(request).await.map(drop).map_err(told)
    }

    async fn usage(&self, query: UsageQuery) -> Result<UsagePage, BlocksError> {
        let answer = self.calls().get_usage(wire::usage::query_message(&query)).await.map_err(told)?;
        wire::usage::read_page(answer.get_ref()).map_err(not_understood)
    }
}
