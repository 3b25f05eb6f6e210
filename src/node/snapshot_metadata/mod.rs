//! The SnapshotMetadata service: which ranges of a snapshot hold data, and in which two snapshots of a volume differ.
//!
//! A backup client reads the ranges named here and nothing else, so one that is missing is a backup that is silently wrong.
//! Hence, in this order of importance:
//!
//! * The stream ends with OK only when everything was sent. A failure, a lost thread, a call that was given up and a pool that
//!   breaks its own rules of order all end it with an error; the client goes on where the last range ended.
//! * Ranges ascend, do not touch, and have variable lengths. There is at least one message, since each carries the capacity.
//! * Ranges may be reported that did not change. None is left out that did.
//!
//! The work happens on blocking threads, one message at a time and only when the transport asks for the next: a client that
//! reads slowly holds no thread and no more than two messages in memory, and one that goes away stops the listing at the
//! next range. The snapshots cannot be deleted while the stream lives, which ends when its client does not read for long
//! (`turns`); nothing else is locked, so a snapshot can be read,
//! exported and restored from meanwhile.
//!
//! The one thing that is written: a snapshot whose ranges were all read is recorded as used by a metadata client, which makes it
//! an anchor when it is deleted. It is recorded before the stream ends, so that the client may delete it at once. A crash
//! before, or a failure, costs the client a full copy next time, and nothing else.

mod messages;
mod page;
mod ranges;
mod request;
mod turns;

use std::sync::Arc;

use csi_proto::csi::v1 as proto;
use csi_proto::csi::v1::snapshot_metadata_server::SnapshotMetadata;
use futures::{Stream, StreamExt};
use proto::BlockMetadataType::VariableLength;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::csi::call::detached;
use crate::csi::plugin::Answers;
use crate::node::status;
use crate::pool::PoolError;
use crate::pool::owned::{Lease, OwnedPool};
use crate::pool::record::Consumer;
use crate::types::error::chain;
use crate::types::{SnapshotId, VolumeSize};

use super::answer;
use super::error::CallError;
use super::layer::NodeLayer;

use messages::Messages;
use page::Page;
use ranges::Ranges;
use turns::{PATIENCE, Turns};

type Blocks = Vec<proto::BlockMetadata>;

#[tonic::async_trait]
impl SnapshotMetadata for NodeLayer {
    type GetMetadataAllocatedStream = Answers<proto::GetMetadataAllocatedResponse>;

    async fn get_metadata_allocated(
        &self,
        request: Request<proto::GetMetadataAllocatedRequest>,
    ) -> Result<Response<Self::GetMetadataAllocatedStream>, Status> {
        let asked = request::allocated(&request.into_inner()).map_err(|error| status::snapshot_metadata(error.into()))?;
        let (layer, page) = (self.clone(), asked.page);
        let (size, answers) = answers(page, move || ranges::allocated(&layer, asked.of, page.start_bytes)).await?;
        Ok(Response::new(Box::pin(answers.map(move |blocks| {
            Ok(proto::GetMetadataAllocatedResponse {
                block_metadata_type: VariableLength.into(),
                volume_capacity_bytes: answer::size(size),
                block_metadata: blocks?,
            })
        }))))
    }

    type GetMetadataDeltaStream = Answers<proto::GetMetadataDeltaResponse>;

    async fn get_metadata_delta(
        &self,
        request: Request<proto::GetMetadataDeltaRequest>,
    ) -> Result<Response<Self::GetMetadataDeltaStream>, Status> {
        let asked = request::delta(&request.into_inner()).map_err(|error| status::snapshot_metadata(error.into()))?;
        let (layer, page) = (self.clone(), asked.page);
        let (size, answers) = answers(page, move || ranges::delta(&layer, asked.of, page.start_bytes)).await?;
        Ok(Response::new(Box::pin(answers.map(move |blocks| {
            Ok(proto::GetMetadataDeltaResponse {
                block_metadata_type: VariableLength.into(),
                volume_capacity_bytes: answer::size(size),
                block_metadata: blocks?,
            })
        }))))
    }
}

/// The size of the snapshot, and the contents of the messages.
async fn answers(
    page: Page,
    open: impl FnOnce() -> Result<Ranges, CallError> + Send + 'static,
) -> Result<(VolumeSize, impl Stream<Item = Result<Blocks, Status>> + Send), Status> {
    let cancelled = CancellationToken::new();
    let given_up = cancelled.clone().drop_guard();
    let opened = detached::<_, CallError, _>(move || Ok(Listing::new(open()?, page, cancelled)));
    let listing = opened.await.map_err(status::snapshot_metadata)?;
    let size = listing.lease.size();
    let turns = Turns::new(listing, PATIENCE);
    let stream = futures::stream::unfold(Some((turns, given_up)), |state| async move {
        let (turns, given_up) = state?;
        let Some(listing) = turns.take() else {
            return Some((
                Err(Status::deadline_exceeded("the stream was not read for too long; begin again where it ended")),
                None,
            ));
        };
        // A client that goes away drops this future, and with it the guard that stops the listing.
        match detached(move || listing.step()).await {
            Ok(Some((blocks, Some(rest)))) => {
                turns.put(rest);
                Some((Ok(blocks), Some((turns, given_up))))
            }
            Ok(Some((blocks, None))) => Some((Ok(blocks), None)),
            Ok(None) => None,
            Err(error) => Some((Err(status::snapshot_metadata(error)), None)),
        }
    });
    Ok((size, stream))
}

/// A listing that is under way. Dropping it lets the snapshots go.
struct Listing {
    messages: Messages,
    lease: Lease,
    pool: Arc<OwnedPool>,
}

impl Listing {
    fn new(ranges: Ranges, page: Page, cancelled: CancellationToken) -> Self {
        let Ranges { ranges, lease, pool } = ranges;
        Self { messages: Messages::new(ranges, lease.size(), page, cancelled), lease, pool }
    }

    /// The next message, and the listing of the rest unless that was the last; nothing when there is no next one.
    fn step(mut self) -> Result<Option<(Blocks, Option<Self>)>, CallError> {
        match self.messages.next() {
            None => {
                self.record_use();
                Ok(None)
            }
            Some(Ok(blocks)) if self.messages.is_ended() => {
                self.record_use();
                Ok(Some((blocks, None)))
            }
            Some(Ok(blocks)) => Ok(Some((blocks, Some(self)))),
            Some(Err(error)) => Err(failed(self.lease.snapshot().id, error)),
        }
    }

    /// The client has all ranges, and may come back for what changed since.
    fn record_use(self) {
        let Self { messages, lease, pool } = self;
        // Lets the base go, which this may evict.
        drop(messages);
        let snapshot = lease.snapshot().id;
        if let Err(error) = pool.record_use(snapshot, Consumer::MetadataClient) {
            tracing::warn!(%snapshot, error = %chain(&error), "deleted, this snapshot will be no base of a delta");
        }
    }
}

fn failed(snapshot: SnapshotId, error: std::io::Error) -> CallError {
    PoolError::Io { action: format!("list the ranges of snapshot {snapshot}"), source: error }.into()
}
