//! The GroupController service, which this driver does not offer yet.

use csi_proto::csi::v1 as proto;
use csi_proto::csi::v1::group_controller_server::GroupController;
use tonic::{Request, Response, Status};

use crate::csi::status::unimplemented;

use super::layer::NodeLayer;

#[tonic::async_trait]
impl GroupController for NodeLayer {
    async fn group_controller_get_capabilities(
        &self,
        _: Request<proto::GroupControllerGetCapabilitiesRequest>,
    ) -> Result<Response<proto::GroupControllerGetCapabilitiesResponse>, Status> {
        Err(unimplemented("GroupControllerGetCapabilities"))
    }

    async fn create_volume_group_snapshot(
        &self,
        _: Request<proto::CreateVolumeGroupSnapshotRequest>,
    ) -> Result<Response<proto::CreateVolumeGroupSnapshotResponse>, Status> {
        Err(unimplemented("CreateVolumeGroupSnapshot"))
    }

    async fn delete_volume_group_snapshot(
        &self,
        _: Request<proto::DeleteVolumeGroupSnapshotRequest>,
    ) -> Result<Response<proto::DeleteVolumeGroupSnapshotResponse>, Status> {
        Err(unimplemented("DeleteVolumeGroupSnapshot"))
    }

    async fn get_volume_group_snapshot(
        &self,
        _: Request<proto::GetVolumeGroupSnapshotRequest>,
    ) -> Result<Response<proto::GetVolumeGroupSnapshotResponse>, Status> {
        Err(unimplemented("GetVolumeGroupSnapshot"))
    }
}
