//! CreateSnapshot, DeleteSnapshot and GetSnapshot.

use csi_proto::csi::v1 as proto;

use crate::csi::call::Lost;
use crate::csi::error::{RequestError, no_such};
use crate::csi::locks::{Hold, Key};
use crate::csi::topology;
use crate::csi::validate;
use crate::csi::validate::parameters::{self, SnapshotParameters};
use crate::node::answer;
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::pool::record::{NewSnapshot, Outcome};
use crate::types::error::chain;
use crate::types::{ObjectName, SnapshotHandle, VolumeHandle};

const SOURCE_ID: &str = "source_volume_id";
const SNAPSHOT_ID: &str = "snapshot_id";

pub(super) struct CheckedCreate {
    name: ObjectName,
    source: Option<VolumeHandle>,
    parameters: SnapshotParameters,
    requirement: Option<proto::TopologyRequirement>,
}

pub(super) fn check_create(layer: &NodeLayer, request: proto::CreateSnapshotRequest) -> Result<CheckedCreate, RequestError> {
    let name = validate::name("name", &request.name)?;
    let source = validate::volume_handle(SOURCE_ID, &request.source_volume_id)?;
    let parameters = parameters::snapshot(&request.parameters)?;
    validate::map("secrets", &request.secrets)?;
    layer.check_secrets(&request.secrets)?;
    layer.check_order(&parameters.recorded)?;
    Ok(CheckedCreate { name, source, parameters, requirement: request.accessibility_requirements })
}

pub(super) fn create(layer: &NodeLayer, checked: CheckedCreate) -> Result<proto::CreateSnapshotResponse, CallError> {
    let CheckedCreate { name, source, parameters, requirement } = checked;
    let source = source.ok_or_else(|| no_such(SOURCE_ID))?;
    let pool = layer.pool(SOURCE_ID, source.pool)?;
    let _name = layer.locks.take("name", Key::SnapshotName(name.clone()), Hold::Exclusive)?;
    // Beside no other operation on the volume: a file system that is being made or grown is no content, and a second freeze
    // would take the first for a stranger's.
    let _source = layer.locks.take(SOURCE_ID, Key::Volume(source), Hold::Exclusive)?;
    // A snapshot name is one name on the node, whichever pool has it. A repeated request names the same source and so the same pool: the
    // other pools are asked about mistakes only, and one that cannot be asked is no reason to have no snapshots of this one.
    for other in layer.pools().iter().filter(|other| other.id() != pool.id()) {
        match other.snapshot_by_name(&name) {
            Ok(None) => {}
            Ok(Some(_)) => {
                let reason = format!("the snapshot `{name}` exists already with another source volume");
                return Err(RequestError::already_exists("name", reason).into());
            }
            Err(error) => {
                tracing::warn!(pool = %other.id(), error = %chain(&error), "a pool does not say whether it has a snapshot");
                layer.pools.suspect(other.id());
            }
        }
    }
    let groups = topology::candidates(requirement.as_ref(), &layer.node, &layer.pool_ids())?;
    if !groups.iter().flatten().any(|&id| id == pool.id()) {
        let reason = "a snapshot lies in its volume's pool, which does not satisfy them";
        return Err(RequestError::exhausted("accessibility_requirements.requisite", reason).into());
    }
    let SnapshotParameters { recorded, kubernetes } = parameters;
    let new = NewSnapshot { name, source: source.volume, parameters: recorded, kubernetes };
    let snapshot = pool.create_snapshots(std::slice::from_ref(&new))?.into_iter().next().map(Outcome::into_inner);
    let snapshot = snapshot.ok_or(Lost)?;
    Ok(proto::CreateSnapshotResponse { snapshot: Some(answer::snapshot(pool.id(), &snapshot)) })
}

pub(super) fn check_delete(request: proto::DeleteSnapshotRequest) -> Result<Option<SnapshotHandle>, RequestError> {
    validate::map("secrets", &request.secrets)?;
    validate::snapshot_handle(SNAPSHOT_ID, &request.snapshot_id)
}

pub(super) fn delete(layer: &NodeLayer, handle: Option<SnapshotHandle>) -> Result<proto::DeleteSnapshotResponse, CallError> {
    // An id that this driver did not issue names nothing: deleting it succeeds.
    if let Some(handle) = handle {
        let pool = layer.pool(SNAPSHOT_ID, handle.pool)?;
        let _lock = layer.locks.take(SNAPSHOT_ID, Key::Snapshot(handle), Hold::Exclusive)?;
        pool.delete_snapshot(handle.snapshot)?;
    }
    Ok(proto::DeleteSnapshotResponse {})
}

pub(super) fn check_get(request: proto::GetSnapshotRequest) -> Result<Option<SnapshotHandle>, RequestError> {
    validate::map("secrets", &request.secrets)?;
    validate::snapshot_handle(SNAPSHOT_ID, &request.snapshot_id)
}

pub(super) fn get(layer: &NodeLayer, handle: Option<SnapshotHandle>) -> Result<proto::GetSnapshotResponse, CallError> {
    let handle = handle.ok_or_else(|| no_such(SNAPSHOT_ID))?;
    let (pool, snapshot) = layer.snapshot(SNAPSHOT_ID, handle)?;
    Ok(proto::GetSnapshotResponse { snapshot: Some(answer::snapshot(pool.id(), &snapshot)) })
}
