//! The Node service: checks, then one piece of blocking work for each call.

mod expand;
mod format;
mod presence;
mod publish;
pub(crate) mod situation;
mod stage;
mod stats;
mod teardown;
mod unpublish;
mod unstage;

use std::path::Path;

use csi_proto::csi::v1 as proto;
use csi_proto::csi::v1::node_server::Node;
use proto::node_service_capability::rpc::Type as RpcType;
use proto::node_service_capability::{Rpc, Type};
use tonic::{Request, Response, Status};

use crate::csi::call::call;
use crate::csi::error::RequestError;
use crate::csi::status::unimplemented;
use crate::csi::topology;
use crate::csi::validate::capability::{Capability, serves};
use crate::mount::MountError;
use crate::node::status;
use crate::pool::record::{Publication, Volume};
use crate::types::{Access, FsType, VolumeMode};

use super::error::CallError;
use super::layer::NodeLayer;

const VOLUME_ID: &str = "volume_id";
const STAGING_PATH: &str = "staging_target_path";
const TARGET_PATH: &str = "target_path";
const VOLUME_PATH: &str = "volume_path";
/// The file system of a volume that was made for none, when it is asked for without one and holds none.
const DEFAULT_FS_TYPE: FsType = FsType::Ext4;
const CAPABILITY: &str = "volume_capability";

/// What is advertised. Health is not: sidecars and test suites of CSI 1.12 refuse values they do not know.
const CAPABILITIES: [RpcType; 4] =
    [RpcType::StageUnstageVolume, RpcType::GetVolumeStats, RpcType::ExpandVolume, RpcType::SingleNodeMultiWriter];

/// A durable step: the crash-point suite cuts the process before and after it.
macro_rules! step {
    ($name:literal, $work:expr) => {{
        crate::failpoint::hit(concat!("node.", $name, ".before"));
        let result = $work;
        crate::failpoint::hit(concat!("node.", $name, ".after"));
        result
    }};
}
pub(crate) use step;

/// The result of resolving the path of `field`.
fn confined<T>(field: &'static str, result: Result<T, MountError>) -> Result<T, CallError> {
    result.map_err(|error| match error {
        MountError::Path { reason, .. } => RequestError::invalid(field, reason).into(),
        MountError::NotFound(path) => RequestError::precondition(field, format!("{} does not exist", path.display())).into(),
        error => error.into(),
    })
}

/// Removes a target on which nothing is mounted: an empty directory or file, and nothing else. Absent is success.
fn remove_target(layer: &NodeLayer, path: &Path) -> Result<(), CallError> {
    let found = match layer.root.resolve(path) {
        Err(MountError::NotFound(_)) => return Ok(()),
        found => confined(TARGET_PATH, found)?,
    };
    let metadata = found.file().metadata().map_err(MountError::io(format!("look at {}", path.display())))?;
    if !(metadata.is_dir() || metadata.is_file() && metadata.len() == 0) {
        let reason = format!("{} is neither a directory nor an empty file; it is left as it is", path.display());
        return Err(RequestError::precondition(TARGET_PATH, reason).into());
    }
    drop(found);
    confined(TARGET_PATH, step!("rmdir", layer.root.remove(path)))
}

/// The refusal of mount flags, by their field.
fn mounted(result: Result<(), MountError>) -> Result<(), CallError> {
    result.map_err(|error| match error {
        MountError::Option(_) | MountError::OptionRefused { .. } => {
            RequestError::invalid("volume_capability.mount.mount_flags", error.to_string()).into()
        }
        error => error.into(),
    })
}

/// What a publication was to be able to do: mount flags may ask for less than its access mode does.
fn expected_access(record: &Publication) -> Access {
    let asks_to_read = record.mount_flags.iter().flat_map(|flags| flags.split(',')).any(|flag| flag == "ro");
    if asks_to_read { Access::ReadOnly } else { record.access }
}

/// The refusal of a path where something else is mounted.
fn occupied(field: &'static str, path: &Path, by: &Path) -> CallError {
    RequestError::precondition(
        field,
        format!("{} is where {} is mounted, which is not this volume", path.display(), by.display()),
    )
    .into()
}

/// Whether the volume may be used as asked for.
fn allowed(volume: &Volume, capability: &Capability) -> Result<(), RequestError> {
    if !serves(&volume.access_modes, capability.access_mode) {
        return Err(RequestError::precondition("volume_capability.access_mode", "needs more than the volume was made for"));
    }
    if !capability.access_type.fits(volume.mode) {
        let made = described(volume.mode);
        return Err(RequestError::precondition("volume_capability.access_type", format!("does not fit: the volume is {made}")));
    }
    Ok(())
}

fn described(mode: VolumeMode) -> String {
    match mode {
        VolumeMode::Block => "a raw block device".to_owned(),
        VolumeMode::Filesystem(fs_type) => format!("a file system of type {fs_type}"),
    }
}

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
