//! The Node service: each call is a check of the request, then one piece of blocking work.

use csi_proto::csi::v1 as proto;
use csi_proto::csi::v1::node_server::Node;
use proto::node_service_capability::rpc::Type as RpcType;
use proto::node_service_capability::{Rpc, Type};
use tonic::{Request, Response, Status};

use crate::csi::call::call;
use crate::csi::status::unimplemented;
use crate::csi::topology;
use crate::node::layer::NodeLayer;
use crate::node::status;

use super::{expand, publish, stage, stats, unpublish, unstage};

/// What is advertised. Health is not: sidecars and test suites of CSI 1.12 refuse values they do not know.
const CAPABILITIES: [RpcType; 4] =
    [RpcType::StageUnstageVolume, RpcType::GetVolumeStats, RpcType::ExpandVolume, RpcType::SingleNodeMultiWriter];

#[tonic::async_trait]
impl Node for NodeLayer {
    async fn node_stage_volume(
        &self,
        request: Request<proto::NodeStageVolumeRequest>,
    ) -> Result<Response<proto::NodeStageVolumeResponse>, Status> {
        call(self, request, stage::check, stage::stage, status::node_stage).await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<proto::NodeUnstageVolumeRequest>,
    ) -> Result<Response<proto::NodeUnstageVolumeResponse>, Status> {
        call(self, request, unstage::check, unstage::unstage, status::node_undo).await
    }

    async fn node_publish_volume(
        &self,
        request: Request<proto::NodePublishVolumeRequest>,
    ) -> Result<Response<proto::NodePublishVolumeResponse>, Status> {
        call(self, request, publish::check, publish::publish, status::node_publish).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<proto::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<proto::NodeUnpublishVolumeResponse>, Status> {
        call(self, request, unpublish::check, unpublish::unpublish, status::node_undo).await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<proto::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<proto::NodeGetVolumeStatsResponse>, Status> {
        let checked = stats::check(request.into_inner()).map_err(|error| status::node_stats(error.into()))?;
        stats::stats(self, checked).await.map(Response::new).map_err(status::node_stats)
    }

    async fn node_get_volume_health(
        &self,
        _: Request<proto::NodeGetVolumeHealthRequest>,
    ) -> Result<Response<proto::NodeGetVolumeHealthResponse>, Status> {
        Err(unimplemented("NodeGetVolumeHealth"))
    }

    async fn node_get_storage_health(
        &self,
        _: Request<proto::NodeGetStorageHealthRequest>,
    ) -> Result<Response<proto::NodeGetStorageHealthResponse>, Status> {
        Err(unimplemented("NodeGetStorageHealth"))
    }

    async fn node_expand_volume(
        &self,
        request: Request<proto::NodeExpandVolumeRequest>,
    ) -> Result<Response<proto::NodeExpandVolumeResponse>, Status> {
        call(self, request, expand::check, expand::expand, status::node_expand).await
    }

    async fn node_get_capabilities(
        &self,
        _: Request<proto::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<proto::NodeGetCapabilitiesResponse>, Status> {
        let capability =
            |r#type: RpcType| proto::NodeServiceCapability { r#type: Some(Type::Rpc(Rpc { r#type: r#type.into() })) };
        Ok(Response::new(proto::NodeGetCapabilitiesResponse { capabilities: CAPABILITIES.map(capability).to_vec() }))
    }

    async fn node_get_info(&self, _: Request<proto::NodeGetInfoRequest>) -> Result<Response<proto::NodeGetInfoResponse>, Status> {
        Ok(Response::new(proto::NodeGetInfoResponse {
            node_id: self.node.as_str().to_owned(),
            max_volumes_per_node: 0,
            accessible_topology: Some(topology::of_node(&self.node, self.offer())),
        }))
    }
}
