//! The Controller service: checks, then one piece of blocking work for each call.

mod capacity;
mod create;
mod delete;
mod expand;
mod lists;
mod snapshots;
mod validate_capabilities;

use csi_proto::csi::v1 as proto;
use csi_proto::csi::v1::controller_server::Controller;
use proto::controller_service_capability::rpc::Type as RpcType;
use proto::controller_service_capability::{Rpc, Type};
use tonic::{Request, Response, Status};

use crate::csi::call::call;
use crate::csi::status::unimplemented;
use crate::node::status;

use super::layer::NodeLayer;

/// What is advertised. Where volumes are published is not, for that is told by drivers that publish in the controller. Volume health is not: sidecars and test suites of CSI 1.12 refuse values they do not know.
const CAPABILITIES: [RpcType; 10] = [
    RpcType::CreateDeleteVolume,
    RpcType::ListVolumes,
    RpcType::GetCapacity,
    RpcType::CreateDeleteSnapshot,
    RpcType::ListSnapshots,
    RpcType::CloneVolume,
    RpcType::ExpandVolume,
    RpcType::GetVolume,
    RpcType::SingleNodeMultiWriter,
    RpcType::GetSnapshot,
];

#[tonic::async_trait]
impl Controller for NodeLayer {
    async fn create_volume(
        &self,
        request: Request<proto::CreateVolumeRequest>,
    ) -> Result<Response<proto::CreateVolumeResponse>, Status> {
        call(self, request, |request| create::check(self, request), create::create, status::create_volume).await
    }

    async fn delete_volume(
        &self,
        request: Request<proto::DeleteVolumeRequest>,
    ) -> Result<Response<proto::DeleteVolumeResponse>, Status> {
        call(self, request, delete::check, delete::delete, status::delete).await
    }

    async fn controller_publish_volume(
        &self,
        _: Request<proto::ControllerPublishVolumeRequest>,
    ) -> Result<Response<proto::ControllerPublishVolumeResponse>, Status> {
        Err(unimplemented("ControllerPublishVolume"))
    }

    async fn controller_unpublish_volume(
        &self,
        _: Request<proto::ControllerUnpublishVolumeRequest>,
    ) -> Result<Response<proto::ControllerUnpublishVolumeResponse>, Status> {
        Err(unimplemented("ControllerUnpublishVolume"))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<proto::ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<proto::ValidateVolumeCapabilitiesResponse>, Status> {
        call(self, request, validate_capabilities::check, validate_capabilities::confirm, status::read).await
    }

    async fn list_volumes(
        &self,
        request: Request<proto::ListVolumesRequest>,
    ) -> Result<Response<proto::ListVolumesResponse>, Status> {
        call(self, request, |request| lists::check_volumes(self, request), lists::volumes, status::read).await
    }

    async fn controller_list_volume_health(
        &self,
        _: Request<proto::ControllerListVolumeHealthRequest>,
    ) -> Result<Response<proto::ControllerListVolumeHealthResponse>, Status> {
        Err(unimplemented("ControllerListVolumeHealth"))
    }

    async fn controller_get_volume_health(
        &self,
        _: Request<proto::ControllerGetVolumeHealthRequest>,
    ) -> Result<Response<proto::ControllerGetVolumeHealthResponse>, Status> {
        Err(unimplemented("ControllerGetVolumeHealth"))
    }

    async fn get_capacity(
        &self,
        request: Request<proto::GetCapacityRequest>,
    ) -> Result<Response<proto::GetCapacityResponse>, Status> {
        call(self, request, capacity::check, capacity::capacity, status::read).await
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<proto::ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<proto::ControllerGetCapabilitiesResponse>, Status> {
        let capability =
            |r#type: RpcType| proto::ControllerServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: r#type.into() })) };
        Ok(Response::new(proto::ControllerGetCapabilitiesResponse { capabilities: CAPABILITIES.map(capability).to_vec() }))
    }

    async fn create_snapshot(
        &self,
        request: Request<proto::CreateSnapshotRequest>,
    ) -> Result<Response<proto::CreateSnapshotResponse>, Status> {
        call(self, request, |request| snapshots::check_create(self, request), snapshots::create, status::create_snapshot).await
    }

    async fn delete_snapshot(
        &self,
        request: Request<proto::DeleteSnapshotRequest>,
    ) -> Result<Response<proto::DeleteSnapshotResponse>, Status> {
        call(self, request, snapshots::check_delete, snapshots::delete, status::delete).await
    }

    async fn list_snapshots(
        &self,
        request: Request<proto::ListSnapshotsRequest>,
    ) -> Result<Response<proto::ListSnapshotsResponse>, Status> {
        let secrets = request.get_ref().secrets.clone();
        let check = |request| lists::check_snapshots(self, request);
        call(self, request, check, lists::snapshots, |error| self.read_by_secret(error, &secrets)).await
    }

    async fn get_snapshot(
        &self,
        request: Request<proto::GetSnapshotRequest>,
    ) -> Result<Response<proto::GetSnapshotResponse>, Status> {
        let secrets = request.get_ref().secrets.clone();
        call(self, request, snapshots::check_get, snapshots::get, |error| self.read_by_secret(error, &secrets)).await
    }

    async fn controller_expand_volume(
        &self,
        request: Request<proto::ControllerExpandVolumeRequest>,
    ) -> Result<Response<proto::ControllerExpandVolumeResponse>, Status> {
        call(self, request, expand::check, expand::expand, status::controller_expand).await
    }

    async fn controller_get_volume(
        &self,
        request: Request<proto::ControllerGetVolumeRequest>,
    ) -> Result<Response<proto::ControllerGetVolumeResponse>, Status> {
        call(self, request, lists::check_get_volume, lists::get_volume, status::read).await
    }

    async fn controller_modify_volume(
        &self,
        _: Request<proto::ControllerModifyVolumeRequest>,
    ) -> Result<Response<proto::ControllerModifyVolumeResponse>, Status> {
        Err(unimplemented("ControllerModifyVolume"))
    }
}

#[cfg(test)]
mod tests;
