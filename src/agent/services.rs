//! The services of the agent layer. What it has nothing to add to is passed on as it is.

use csi_proto::csi::v1 as proto;
use csi_proto::csi::v1::controller_server::Controller;
use csi_proto::csi::v1::group_controller_server::GroupController;
use csi_proto::csi::v1::identity_server::Identity;
use csi_proto::csi::v1::snapshot_metadata_server::SnapshotMetadata;
use tonic::{Code, Request, Response, Status};

use crate::csi::plugin::{Answers, Plugin};

use super::layer::AgentLayer;

#[tonic::async_trait]
impl<P: Plugin> Identity for AgentLayer<P> {
    async fn get_plugin_info(
        &self,
        request: Request<proto::GetPluginInfoRequest>,
    ) -> Result<Response<proto::GetPluginInfoResponse>, Status> {
        self.forward(request, P::get_plugin_info).await
    }

    async fn get_plugin_capabilities(
        &self,
        request: Request<proto::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<proto::GetPluginCapabilitiesResponse>, Status> {
        self.forward(request, P::get_plugin_capabilities).await
    }

    async fn probe(&self, request: Request<proto::ProbeRequest>) -> Result<Response<proto::ProbeResponse>, Status> {
        match self.forward(request, P::probe).await {
            // Nobody is there to be asked, yet or again. The sidecars wait for who is not ready, and end at an error.
            Err(status) if status.code() == Code::Unavailable => Ok(Response::new(proto::ProbeResponse { ready: Some(false) })),
            answer => answer,
        }
    }
}

#[tonic::async_trait]
impl<P: Plugin> Controller for AgentLayer<P> {
    async fn create_volume(
        &self,
        request: Request<proto::CreateVolumeRequest>,
    ) -> Result<Response<proto::CreateVolumeResponse>, Status> {
        self.create_or_restore_volume(request).await
    }

    async fn delete_volume(
        &self,
        request: Request<proto::DeleteVolumeRequest>,
    ) -> Result<Response<proto::DeleteVolumeResponse>, Status> {
        self.delete_volume_and_its_cuts(request).await
    }

    async fn controller_publish_volume(
        &self,
        request: Request<proto::ControllerPublishVolumeRequest>,
    ) -> Result<Response<proto::ControllerPublishVolumeResponse>, Status> {
        self.forward(request, P::controller_publish_volume).await
    }

    async fn controller_unpublish_volume(
        &self,
        request: Request<proto::ControllerUnpublishVolumeRequest>,
    ) -> Result<Response<proto::ControllerUnpublishVolumeResponse>, Status> {
        self.forward(request, P::controller_unpublish_volume).await
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<proto::ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<proto::ValidateVolumeCapabilitiesResponse>, Status> {
        self.forward(request, P::validate_volume_capabilities).await
    }

    async fn list_volumes(
        &self,
        request: Request<proto::ListVolumesRequest>,
    ) -> Result<Response<proto::ListVolumesResponse>, Status> {
        self.forward(request, P::list_volumes).await
    }

    async fn controller_list_volume_health(
        &self,
        request: Request<proto::ControllerListVolumeHealthRequest>,
    ) -> Result<Response<proto::ControllerListVolumeHealthResponse>, Status> {
        self.forward(request, P::controller_list_volume_health).await
    }

    async fn controller_get_volume_health(
        &self,
        request: Request<proto::ControllerGetVolumeHealthRequest>,
    ) -> Result<Response<proto::ControllerGetVolumeHealthResponse>, Status> {
        self.forward(request, P::controller_get_volume_health).await
    }

    async fn get_capacity(
        &self,
        request: Request<proto::GetCapacityRequest>,
    ) -> Result<Response<proto::GetCapacityResponse>, Status> {
        self.forward(request, P::get_capacity).await
    }

    async fn controller_get_capabilities(
        &self,
        request: Request<proto::ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<proto::ControllerGetCapabilitiesResponse>, Status> {
        self.forward(request, P::controller_get_capabilities).await
    }

    async fn create_snapshot(
        &self,
        request: Request<proto::CreateSnapshotRequest>,
    ) -> Result<Response<proto::CreateSnapshotResponse>, Status> {
        self.create_and_export_snapshot(request).await
    }

    async fn delete_snapshot(
        &self,
        request: Request<proto::DeleteSnapshotRequest>,
    ) -> Result<Response<proto::DeleteSnapshotResponse>, Status> {
        self.withdraw_and_delete_snapshot(request).await
    }

    async fn list_snapshots(
        &self,
        request: Request<proto::ListSnapshotsRequest>,
    ) -> Result<Response<proto::ListSnapshotsResponse>, Status> {
        self.list_snapshots_or_ask_a_witness(request).await
    }

    async fn get_snapshot(
        &self,
        request: Request<proto::GetSnapshotRequest>,
    ) -> Result<Response<proto::GetSnapshotResponse>, Status> {
        self.get_snapshot_or_ask_a_witness(request).await
    }

    async fn controller_expand_volume(
        &self,
        request: Request<proto::ControllerExpandVolumeRequest>,
    ) -> Result<Response<proto::ControllerExpandVolumeResponse>, Status> {
        self.forward(request, P::controller_expand_volume).await
    }

    async fn controller_get_volume(
        &self,
        request: Request<proto::ControllerGetVolumeRequest>,
    ) -> Result<Response<proto::ControllerGetVolumeResponse>, Status> {
        self.forward(request, P::controller_get_volume).await
    }

    async fn controller_modify_volume(
        &self,
        request: Request<proto::ControllerModifyVolumeRequest>,
    ) -> Result<Response<proto::ControllerModifyVolumeResponse>, Status> {
        self.forward(request, P::controller_modify_volume).await
    }
}

#[tonic::async_trait]
impl<P: Plugin> GroupController for AgentLayer<P> {
    async fn group_controller_get_capabilities(
        &self,
        request: Request<proto::GroupControllerGetCapabilitiesRequest>,
    ) -> Result<Response<proto::GroupControllerGetCapabilitiesResponse>, Status> {
        self.forward(request, P::group_controller_get_capabilities).await
    }

    async fn create_volume_group_snapshot(
        &self,
        request: Request<proto::CreateVolumeGroupSnapshotRequest>,
    ) -> Result<Response<proto::CreateVolumeGroupSnapshotResponse>, Status> {
        self.forward(request, P::create_volume_group_snapshot).await
    }

    async fn delete_volume_group_snapshot(
        &self,
        request: Request<proto::DeleteVolumeGroupSnapshotRequest>,
    ) -> Result<Response<proto::DeleteVolumeGroupSnapshotResponse>, Status> {
        self.forward(request, P::delete_volume_group_snapshot).await
    }

    async fn get_volume_group_snapshot(
        &self,
        request: Request<proto::GetVolumeGroupSnapshotRequest>,
    ) -> Result<Response<proto::GetVolumeGroupSnapshotResponse>, Status> {
        self.forward(request, P::get_volume_group_snapshot).await
    }
}

#[tonic::async_trait]
impl<P: Plugin> SnapshotMetadata for AgentLayer<P> {
    type GetMetadataAllocatedStream = Answers<proto::GetMetadataAllocatedResponse>;

    async fn get_metadata_allocated(
        &self,
        request: Request<proto::GetMetadataAllocatedRequest>,
    ) -> Result<Response<Self::GetMetadataAllocatedStream>, Status> {
        self.forward(request, P::get_metadata_allocated).await
    }

    type GetMetadataDeltaStream = Answers<proto::GetMetadataDeltaResponse>;

    async fn get_metadata_delta(
        &self,
        request: Request<proto::GetMetadataDeltaRequest>,
    ) -> Result<Response<Self::GetMetadataDeltaStream>, Status> {
        self.forward(request, P::get_metadata_delta).await
    }
}
