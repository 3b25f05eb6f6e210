//! The Identity service.

use csi_proto::csi::v1 as proto;
use csi_proto::csi::v1::identity_server::Identity;
use proto::plugin_capability::service::Type as ServiceType;
use proto::plugin_capability::volume_expansion::Type as ExpansionType;
use proto::plugin_capability::{Service, Type, VolumeExpansion};
use tonic::{Request, Response, Status};

use crate::csi::DRIVER_NAME;
use crate::csi::status::unhealthy;
use crate::types::error::chain;

use super::layer::NodeLayer;

fn service(r#type: ServiceType) -> proto::PluginCapability {
    proto::PluginCapability { r#type: Some(Type::Service(Service { r#type: r#type.into() })) }
}

#[tonic::async_trait]
impl Identity for NodeLayer {
    async fn get_plugin_info(
        &self,
        _: Request<proto::GetPluginInfoRequest>,
    ) -> Result<Response<proto::GetPluginInfoResponse>, Status> {
        Ok(Response::new(proto::GetPluginInfoResponse {
            name: DRIVER_NAME.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: [].into(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<proto::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<proto::GetPluginCapabilitiesResponse>, Status> {
        let expansion = Type::VolumeExpansion(VolumeExpansion { r#type: ExpansionType::Online.into() });
        Ok(Response::new(proto::GetPluginCapabilitiesResponse {
            capabilities: vec![
                service(ServiceType::ControllerService),
                service(ServiceType::VolumeAccessibilityConstraints),
                service(ServiceType::SnapshotMetadataService),
                proto::PluginCapability { r#type: Some(expansion) },
            ],
        }))
    }

    /// A node that was given no pools is well: it has nothing to serve. One of whose pools none is open yet is not ready, which is no
    /// error: they are tried again, and the sidecars wait for it, where an error would end them and have the kubelet start them again
    /// after pauses that grow to five minutes. Why it is not ready [`get_pool_status`] says.
    ///
    /// Cheap on purpose: it waits for no disk while a pool's catalogue took its last change, so that a slow one does not get the process
    /// killed. A pool that has failed is no reason to be unhealthy while another works: a restart would take that one away too, and the
    /// failed one is tried again anyway.
    ///
    /// [`get_pool_status`]: csi_proto::windlass::v1::pools_server::Pools::get_pool_status
    async fn probe(&self, _: Request<proto::ProbeRequest>) -> Result<Response<proto::ProbeResponse>, Status> {
        let pools = self.pools.pools();
        if pools.is_empty() {
            return Ok(Response::new(proto::ProbeResponse { ready: Some(self.pools.failed().is_empty()) }));
        }
        if !pools.iter().any(|pool| pool.catalogue_took_its_last_change()) {
            // One small commit to each, until one works.
            let check = move || {
                let mut failed = Vec::new();
                for pool in &pools {
                    match pool.check_catalogue() {
                        Ok(()) => return Ok(()),
                        Err(error) => failed.push(format!("{}: {}", pool.location(), chain(&error))),
                    }
                }
                Err(failed.join("; "))
            };
            let checked = tokio::task::spawn_blocking(check).await.unwrap_or_else(|error| Err(error.to_string()));
            checked.map_err(|text| unhealthy(format!("no pool of this node can record a change: {text}")))?;
        }
        Ok(Response::new(proto::ProbeResponse { ready: Some(true) }))
    }
}
