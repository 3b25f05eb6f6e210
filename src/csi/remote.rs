//! A layer behind a connection.
//!
//! A call goes on as its message and the deadline that its caller gave, and nothing else that came with it: a token is for the layer that it
//! was shown to. A caller that goes away takes the call beneath along. Codes and texts of the layer are passed on as they are. What the
//! connection says in its place is UNAVAILABLE, since nobody knows what became of the call; a stream that ends without its status is an
//! error like any other (invariant 8).

use std::error::Error;
use std::future::Future;

use csi_proto::csi::v1 as proto;
use csi_proto::csi::v1::controller_client::ControllerClient;
use csi_proto::csi::v1::controller_server::Controller;
use csi_proto::csi::v1::group_controller_client::GroupControllerClient;
use csi_proto::csi::v1::group_controller_server::GroupController;
use csi_proto::csi::v1::identity_client::IdentityClient;
use csi_proto::csi::v1::identity_server::Identity;
use csi_proto::csi::v1::snapshot_metadata_client::SnapshotMetadataClient;
use csi_proto::csi::v1::snapshot_metadata_server::SnapshotMetadata;
use futures::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use super::plugin::Answers;
use super::server::{MAX_RANGES_BYTES, MAX_RESPONSE_BYTES};

/// How gRPC carries a deadline.
pub const DEADLINE: &str = "grpc-timeout";

/// The layer at the other end of a channel. Clones share it.
#[derive(Debug, Clone)]
pub struct RemotePlugin {
    identity: IdentityClient<Channel>,
    controller: ControllerClient<Channel>,
    group: GroupControllerClient<Channel>,
    metadata: SnapshotMetadataClient<Channel>,
}

impl RemotePlugin {
    /// The layer that is served at the other end of `channel`.
    pub fn new(channel: Channel) -> Self {
        Self {
            identity: IdentityClient::new(channel.clone()),
            controller: ControllerClient::new(channel.clone()).max_decoding_message_size(MAX_RESPONSE_BYTES),
            group: GroupControllerClient::new(channel.clone()).max_decoding_message_size(MAX_RESPONSE_BYTES),
            metadata: SnapshotMetadataClient::new(channel).max_decoding_message_size(MAX_RANGES_BYTES),
        }
    }
}

/// Passes a call on to the layer behind `client`.
///
/// # Errors
/// The layer's own; UNAVAILABLE when it gave none.
pub async fn forward<C, Q, A, F>(
    client: &C,
    request: Request<Q>,
    call: impl FnOnce(C, Request<Q>) -> F,
) -> Result<Response<A>, Status>
where
    C: Clone,
    F: Future<Output = Result<Response<A>, Status>>,
{
    let deadline = request.metadata().get(DEADLINE).cloned();
    let mut passed_on = Request::new(request.into_inner());
    if let Some(deadline) = deadline {
        passed_on.metadata_mut().insert(DEADLINE, deadline);
    }
    let answer = call(client.clone(), passed_on).await.map_err(told)?;
    Ok(Response::new(answer.into_inner()))
}

/// What the layer says, or that it says nothing.
fn told(status: Status) -> Status {
    // No layer answers UNKNOWN; a client that finds no answer does.
    let is_the_connections = status.source().is_some() || status.code() == Code::Unknown;
    if is_the_connections {
        Status::unavailable(format!("the layer below gave no answer: {}", status.message()))
    } else {
        Status::new(status.code(), status.message())
    }
}

/// The answers of a stream, each passed on like the answer of a call.
fn answers<T: Send + 'static>(response: Response<Streaming<T>>) -> Response<Answers<T>> {
    response.map(|stream| Box::pin(stream.map(|answer| answer.map_err(told))) as Answers<T>)
}

#[tonic::async_trait]
impl Identity for RemotePlugin {
    async fn get_plugin_info(
        &self,
        request: Request<proto::GetPluginInfoRequest>,
    ) -> Result<Response<proto::GetPluginInfoResponse>, Status> {
        forward(&self.identity, request, |mut client, request| async move { client.get_plugin_info(request).await }).await
    }

    async fn get_plugin_capabilities(
        &self,
        request: Request<proto::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<proto::GetPluginCapabilitiesResponse>, Status> {
        forward(&self.identity, request, |mut client, request| async move { client.get_plugin_capabilities(request).await }).await
    }

    async fn probe(&self, request: Request<proto::ProbeRequest>) -> Result<Response<proto::ProbeResponse>, Status> {
        forward(&self.identity, request, |mut client, request| async move { client.probe(request).await }).await
    }
}

#[tonic::async_trait]
impl Controller for RemotePlugin {
    async fn create_volume(
        &self,
        request: Request<proto::CreateVolumeRequest>,
    ) -> Result<Response<proto::CreateVolumeResponse>, Status> {
        forward(&self.controller, request, |mut client, request| async move { client.create_volume(request).await }).await
    }

    async fn delete_volume(
        &self,
        request: Request<proto::DeleteVolumeRequest>,
    ) -> Result<Response<proto::DeleteVolumeResponse>, Status> {
        forward(&self.controller, request, |mut client, request| async move { client.delete_volume(request).await }).await
    }

    async fn controller_publish_volume(
        &self,
        request: Request<proto::ControllerPublishVolumeRequest>,
    ) -> Result<Response<proto::ControllerPublishVolumeResponse>, Status> {
        forward(&self.controller, request, |mut client, request| async move { client.controller_publish_volume(request).await })
            .await
    }

    async fn controller_unpublish_volume(
        &self,
        request: Request<proto::ControllerUnpublishVolumeRequest>,
    ) -> Result<Response<proto::ControllerUnpublishVolumeResponse>, Status> {
        forward(&self.controller, request, |mut client, request| async move { client.controller_unpublish_volume(request).await })
            .await
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<proto::ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<proto::ValidateVolumeCapabilitiesResponse>, Status> {
        forward(
            &self.controller,
            request,
            |mut client, request| async move { client.validate_volume_capabilities(request).await },
        )
        .await
    }

    async fn list_volumes(
        &self,
        request: Request<proto::ListVolumesRequest>,
    ) -> Result<Response<proto::ListVolumesResponse>, Status> {
        forward(&self.controller, request, |mut client, request| async move { client.list_volumes(request).await }).await
    }

    async fn controller_list_volume_health(
        &self,
        request: Request<proto::ControllerListVolumeHealthRequest>,
    ) -> Result<Response<proto::ControllerListVolumeHealthResponse>, Status> {
        forward(
            &self.controller,
            request,
            |mut client, request| async move { client.controller_list_volume_health(request).await },
        )
        .await
    }

    async fn controller_get_volume_health(
        &self,
        request: Request<proto::ControllerGetVolumeHealthRequest>,
    ) -> Result<Response<proto::ControllerGetVolumeHealthResponse>, Status> {
        forward(
            &self.controller,
            request,
            |mut client, request| async move { client.controller_get_volume_health(request).await },
        )
        .await
    }

    async fn get_capacity(
        &self,
        request: Request<proto::GetCapacityRequest>,
    ) -> Result<Response<proto::GetCapacityResponse>, Status> {
        forward(&self.controller, request, |mut client, request| async move { client.get_capacity(request).await }).await
    }

    async fn controller_get_capabilities(
        &self,
        request: Request<proto::ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<proto::ControllerGetCapabilitiesResponse>, Status> {
        forward(&self.controller, request, |mut client, request| async move { client.controller_get_capabilities(request).await })
            .await
    }

    async fn create_snapshot(
        &self,
        request: Request<proto::CreateSnapshotRequest>,
    ) -> Result<Response<proto::CreateSnapshotResponse>, Status> {
        forward(&self.controller, request, |mut client, request| async move { client.create_snapshot(request).await }).await
    }

    async fn delete_snapshot(
        &self,
        request: Request<proto::DeleteSnapshotRequest>,
    ) -> Result<Response<proto::DeleteSnapshotResponse>, Status> {
        forward(&self.controller, request, |mut client, request| async move { client.delete_snapshot(request).await }).await
    }

    async fn list_snapshots(
        &self,
        request: Request<proto::ListSnapshotsRequest>,
    ) -> Result<Response<proto::ListSnapshotsResponse>, Status> {
        forward(&self.controller, request, |mut client, request| async move { client.list_snapshots(request).await }).await
    }

    async fn get_snapshot(
        &self,
        request: Request<proto::GetSnapshotRequest>,
    ) -> Result<Response<proto::GetSnapshotResponse>, Status> {
        forward(&self.controller, request, |mut client, request| async move { client.get_snapshot(request).await }).await
    }

    async fn controller_expand_volume(
        &self,
        request: Request<proto::ControllerExpandVolumeRequest>,
    ) -> Result<Response<proto::ControllerExpandVolumeResponse>, Status> {
        forward(&self.controller, request, |mut client, request| async move { client.controller_expand_volume(request).await })
            .await
    }

    async fn controller_get_volume(
        &self,
        request: Request<proto::ControllerGetVolumeRequest>,
    ) -> Result<Response<proto::ControllerGetVolumeResponse>, Status> {
        forward(&self.controller, request, |mut client, request| async move { client.controller_get_volume(request).await }).await
    }

    async fn controller_modify_volume(
        &self,
        request: Request<proto::ControllerModifyVolumeRequest>,
    ) -> Result<Response<proto::ControllerModifyVolumeResponse>, Status> {
        forward(&self.controller, request, |mut client, request| async move { client.controller_modify_volume(request).await })
            .await
    }
}

#[tonic::async_trait]
impl GroupController for RemotePlugin {
    async fn group_controller_get_capabilities(
        &self,
        request: Request<proto::GroupControllerGetCapabilitiesRequest>,
    ) -> Result<Response<proto::GroupControllerGetCapabilitiesResponse>, Status> {
        forward(
            &self.group,
            request,
            |mut client, request| async move { client.group_controller_get_capabilities(request).await },
        )
        .await
    }

    async fn create_volume_group_snapshot(
        &self,
        request: Request<proto::CreateVolumeGroupSnapshotRequest>,
    ) -> Result<Response<proto::CreateVolumeGroupSnapshotResponse>, Status> {
        forward(&self.group, request, |mut client, request| async move { client.create_volume_group_snapshot(request).await })
            .await
    }

    async fn delete_volume_group_snapshot(
        &self,
        request: Request<proto::DeleteVolumeGroupSnapshotRequest>,
    ) -> Result<Response<proto::DeleteVolumeGroupSnapshotResponse>, Status> {
        forward(&self.group, request, |mut client, request| async move { client.delete_volume_group_snapshot(request).await })
            .await
    }

    async fn get_volume_group_snapshot(
        &self,
        request: Request<proto::GetVolumeGroupSnapshotRequest>,
    ) -> Result<Response<proto::GetVolumeGroupSnapshotResponse>, Status> {
        forward(&self.group, request, |mut client, request| async move { client.get_volume_group_snapshot(request).await }).await
    }
}

#[tonic::async_trait]
impl SnapshotMetadata for RemotePlugin {
    type GetMetadataAllocatedStream = Answers<proto::GetMetadataAllocatedResponse>;

    async fn get_metadata_allocated(
        &self,
        request: Request<proto::GetMetadataAllocatedRequest>,
    ) -> Result<Response<Self::GetMetadataAllocatedStream>, Status> {
        forward(&self.metadata, request, |mut client, request| async move { client.get_metadata_allocated(request).await })
            .await
            .map(answers)
    }

    type GetMetadataDeltaStream = Answers<proto::GetMetadataDeltaResponse>;

    async fn get_metadata_delta(
        &self,
        request: Request<proto::GetMetadataDeltaRequest>,
    ) -> Result<Response<Self::GetMetadataDeltaStream>, Status> {
        forward(&self.metadata, request, |mut client, request| async move { client.get_metadata_delta(request).await })
            .await
            .map(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_layer_says_is_passed_on_and_what_a_connection_says_is_no_answer() {
        let said = told(Status::new(Code::ResourceExhausted, "the pool is full"));
        assert_eq!((said.code(), said.message()), (Code::ResourceExhausted, "the pool is full"));
        let broken = Status::from_error(Box::new(std::io::Error::other("connection reset")));
        assert_eq!(told(broken).code(), Code::Unavailable);
        assert_eq!(told(Status::unknown("no status")).code(), Code::Unavailable);
    }
}
