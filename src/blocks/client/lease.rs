//! A snapshot that is leased from a node.

use std::fs::File;
use std::sync::Mutex;

use csi_proto::windlass::v1 as proto;
use csi_proto::windlass::v1::blocks_client::BlocksClient as Calls;
use tonic::Streaming;
use tonic::transport::Channel;

use super::ranges;
use super::told::told;
use crate::blocks::wire::secret::Secret;
use crate::blocks::{BlocksError, LeasedSnapshot, SnapshotLease};
use crate::types::{RangeStream, SnapshotId};

/// The lease; dropping it closes its descriptor first, then lets the node know by the end of its stream.
pub(super) struct RemoteLease {
    record: LeasedSnapshot,
    file: File,
    id: Secret,
    calls: Calls<Channel>,
    /// Nobody reads it: the lease is shared, a stream is not.
    _stream: Mutex<Streaming<proto::LeaseSnapshotResponse>>,
}

impl RemoteLease {
    pub(super) fn new(
        record: LeasedSnapshot,
        file: File,
        id: Secret,
        (calls, stream): (Calls<Channel>, Streaming<proto::LeaseSnapshotResponse>),
    ) -> Self {
        Self { record, file, id, calls, _stream: Mutex::new(stream) }
    }
}

#[async_trait::async_trait]
impl SnapshotLease for RemoteLease {
    fn snapshot(&self) -> &LeasedSnapshot {
        &self.record
    }

    fn file(&self) -> &File {
        &self.file
    }

    async fn allocated(&self) -> Result<RangeStream, BlocksError> {
        let request = proto::ListAllocatedRequest { lease_id: self.id.to_vec() };
        let stream = self.calls.clone().list_allocated(request).await.map_err(told)?.into_inner();
        Ok(ranges::reader(stream, self.record.size))
    }

    async fn changed_since(&self, base: SnapshotId) -> Result<RangeStream, BlocksError> {
        let request = proto::ListChangedRequest { lease_id: self.id.to_vec(), base_id: base.to_string() };
        let stream = self.calls.clone().list_changed(request).await.map_err(told)?.into_inner();
        Ok(ranges::reader(stream, self.record.size))
    }
}
