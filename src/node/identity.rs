//! The Identity service.

use csi_proto::csi::v1 as proto;
use csi_proto::csi::v1::identity_server::Identity;
use proto::plugin_capability::service::Type as ServiceType;
use proto::plugin_capability::volume_expansion::Type as ExpansionType;
use proto::plugin_capability::{Service, Type, VolumeExpansion};
use tonic::{Request, Response, Status};

use crate::csi::DRIVER_NAME;
use crate::csi::status::unhealthy;

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

    /// A node that was given no pools is well: it has nothing to serve. Cheap on purpose: it waits for no disk while a pool's catalogue took its last change, so that a slow one does not get the process
    /// killed. A pool that has failed is no reason to be unhealthy while another works: a restart would take that one away too, and the
    /// failed one is tried again anyway.
    async fn probe(&self, _: Request<proto::ProbeRequest>) -> Result<Response<proto::ProbeResponse>, Status> {
        let pools = self.pools.pools();
        if pools.is_empty() {
            let failed: Vec<_> = self.pools.failed().iter().map(ToString::to_string).collect();
            return match failed.is_empty() {
                true => Ok(Response::new(proto::ProbeResponse { ready: Some(true) })),
                false => Err(unhealthy(format!("no pool of this node is open: {}", failed.join("; ")))),
            };
        }
        if !pools.iter().any(|pool| pool.catalogue_took_its_last_change()) {
            // One small commit to each, until one works.
            let check = move || {
                let mut failed = Vec::new();
                for pool in &pools {
                    match pool.check_catalogue() {
                        Ok(()) => return Ok(()),
                        Err(error) => failed.push(format!("{}: {error}", pool.location())),
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
