//! What a layer serves: every CSI service but Node, which belongs to the machine that mounts.
//!
//! A layer implements the services, owns the layer below it as a `Plugin`, and so stands on one in the same process or, by
//! [`RemotePlugin`](super::remote::RemotePlugin), on one behind a connection, without knowing which.

use std::pin::Pin;

use csi_proto::csi::v1::controller_server::Controller;
use csi_proto::csi::v1::group_controller_server::GroupController;
use csi_proto::csi::v1::identity_server::Identity;
use csi_proto::csi::v1::snapshot_metadata_server::SnapshotMetadata;
use csi_proto::csi::v1::{GetMetadataAllocatedResponse, GetMetadataDeltaResponse};
use futures::Stream;
use tonic::Status;

/// Answers one after the other. A clean end means that everything was said.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A layer: implemented by whatever implements its services with streams of [`Answers`].
pub trait Plugin:
    Identity
    + Controller
    + GroupController
    + SnapshotMetadata<
        GetMetadataAllocatedStream = Answers<GetMetadataAllocatedResponse>,
        GetMetadataDeltaStream = Answers<GetMetadataDeltaResponse>,
    >
{
}

impl<T> Plugin for T where
    T: Identity
        + Controller
        + GroupController
        + SnapshotMetadata<
            GetMetadataAllocatedStream = Answers<GetMetadataAllocatedResponse>,
            GetMetadataDeltaStream = Answers<GetMetadataDeltaResponse>,
        >
{
}
