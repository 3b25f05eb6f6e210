//! The internal Pools service: what the pools of this node hold, and what was chosen for them, for people.
//!
//! Looking at a pool walks its objects' extents, which takes a while on a large one; it runs on a blocking thread and takes no
//! lock, so it holds nothing up. An object that goes while it is looked at is left out. A pool that has failed, or fails while it is looked
//! at, is described by the reason; the others are as they are.

use std::time::SystemTime;

use csi_proto::windlass::v1 as windlass;
use csi_proto::windlass::v1::pools_server::Pools;
use tonic::{Request, Response, Status};

use crate::csi::call::detached;
use crate::csi::error::RequestError;
use crate::pool::owned::{AnchorStatus, OwnedPool, PoolStatus};
use crate::pool::properties::{DeletedSpace, OverprovisionRatio, Reserve};
use crate::pool::set::{FailedPool, Member, PoolSet};
use crate::pool::{Changes, MetadataUsage, ObjectUsage, PoolError, PoolHealth, PoolKind, PoolUsage};
use crate::types::error::chain;
use crate::types::{KubernetesNames, Object, ObjectName, PoolId, PoolName, SnapshotHandle, VolumeHandle, VolumeSize};

use super::error::CallError;
use super::{named_pool, pool_records};

/// The Pools service over the pools of a node.
#[derive(Clone)]
pub struct PoolsService {
    pools: PoolSet,
}

impl PoolsService {
    /// The service over `pools`.
    pub fn new(pools: impl Into<PoolSet>) -> Self {
        Self { pools: pools.into() }
    }
}

#[tonic::async_trait]
impl Pools for PoolsService {
    async fn get_pool_status(
        &self,
        _request: Request<windlass::GetPoolStatusRequest>,
    ) -> Result<Response<windlass::GetPoolStatusResponse>, Status> {
        let pools = self.pools.clone();
        let looked = tokio::task::spawn_blocking(move || pools.members().iter().map(|member| describe(&pools, member)).collect());
        let pools = looked.await.map_err(|error| Status::internal(format!("looking at the pools ended early: {error}")))?;
        Ok(Response::new(windlass::GetPoolStatusResponse { pools }))
    }

    async fn list_records(
        &self,
        _request: Request<windlass::ListRecordsRequest>,
    ) -> Result<Response<windlass::ListRecordsResponse>, Status> {
        let pools = self.pools.clone();
        detached(move || list_records(&pools)).await.map(Response::new).map_err(crate::node::status::read)
    }

    async fn set_pool_properties(
        &self,
        request: Request<windlass::SetPoolPropertiesRequest>,
    ) -> Result<Response<windlass::SetPoolPropertiesResponse>, Status> {
        let (pools, request) = (self.pools.clone(), request.into_inner());
        detached(move || set_properties(&pools, &request))
            .await
            .map(Response::new)
            .map_err(crate::node::status::set_pool_properties)
    }
}

fn list_records(pools: &PoolSet) -> Result<windlass::ListRecordsResponse, CallError> {
    let mut objects = Vec::new();
    for member in pools.members() {
        match member {
            Member::Open(pool) => objects.extend(pool_records::of_pool(&pool)?),
            Member::Failed(failed) => {
                return Err(RequestError::pool_elsewhere("list", format!("would be incomplete: {failed}")).into());
            }
        }
    }
    Ok(windlass::ListRecordsResponse { objects })
}

fn set_properties(
    pools: &PoolSet,
    request: &windlass::SetPoolPropertiesRequest,
) -> Result<windlass::SetPoolPropertiesResponse, CallError> {
    let name = request.name.as_deref().map(str::parse::<PoolName>).transpose();
    let name = name.map_err(|error| RequestError::invalid("name", error.to_string()))?;
    let ratio = request.overprovision_ratio.as_deref().map(str::parse::<OverprovisionRatio>).transpose();
    let ratio = ratio.map_err(|error| RequestError::invalid("overprovision_ratio", error.to_string()))?;
    let deleted_space = request.deleted_space.as_deref().map(str::parse::<DeletedSpace>).transpose();
    let deleted_space = deleted_space.map_err(|error| RequestError::invalid("deleted_space", error.to_string()))?;
    let reserve = request.reserve.as_deref().map(str::parse::<Reserve>).transpose();
    let reserve = reserve.map_err(|error| RequestError::invalid("reserve", error.to_string()))?;
    if name.is_none() && ratio.is_none() && deleted_space.is_none() && reserve.is_none() {
        return Err(RequestError::invalid("name", "or another property must be given").into());
    }
    let pool = named_pool::find(pools, "pool_id", &request.pool_id)?;
    if deleted_space.is_some() && pool.kind() != PoolKind::Thin {
        let text =
            "can be chosen for thin pools only: what is deleted of others is given back by the file system that they lie in";
        return Err(RequestError::precondition("deleted_space", text.to_owned()).into());
    }
    let properties = pool.set_properties(|properties| {
        properties.name = name.unwrap_or_else(|| std::mem::take(&mut properties.name));
        properties.overprovision_ratio = ratio.unwrap_or(properties.overprovision_ratio);
        properties.deleted_space = deleted_space.unwrap_or(properties.deleted_space);
        properties.reserve = reserve.unwrap_or(properties.reserve);
    })?;
    Ok(windlass::SetPoolPropertiesResponse {
        pool_id: pool.id().to_string(),
        name: properties.name.to_string(),
        overprovision_ratio: properties.overprovision_ratio.to_string(),
        deleted_space: properties.deleted_space.to_string(),
        reserve: properties.reserve.to_string(),
    })
}

fn describe(pools: &PoolSet, member: &Member) -> windlass::PoolStatus {
    match member {
        Member::Open(pool) => status(pool).unwrap_or_else(|error| {
            tracing::warn!(pool = %pool.id(), error = %chain(&error), "a pool cannot be looked at");
            pools.suspect(pool.id());
            failed(Some(pool.id()), pool.location(), chain(&error), "suspected just now".to_owned())
        }),
        Member::Failed(FailedPool { place, id, reason, since, next_attempt }) => {
            // A clock that was set back since tells nothing.
            let lasted = SystemTime::from(*since).elapsed().map(|lasted| format!("for {} s; ", lasted.as_secs()));
            let next = match next_attempt {
                Some(wait) => format!("tried again in {} s", wait.as_secs()),
                None => "being tried now".to_owned(),
            };
            failed(*id, place.clone(), reason.clone(), format!("{}{next}", lasted.as_deref().unwrap_or("")))
        }
    }
}

/// A pool of which no more is known.
fn failed(id: Option<PoolId>, path: String, problem: String, retry: String) -> windlass::PoolStatus {
    windlass::PoolStatus {
        pool_id: id.map(|id| id.to_string()).unwrap_or_default(),
        path,
        state: "failed".to_owned(),
        problem,
        retry,
        ..Default::default()
    }
}

fn status(pool: &OwnedPool) -> Result<windlass::PoolStatus, PoolError> {
    let status = pool.status()?;
    let mut objects = Vec::new();
    for volume in pool.volumes()? {
        let handle = VolumeHandle { pool: pool.id(), volume: volume.id }.to_string();
        objects.extend(object(
            pool,
            Object::Volume(volume.id),
            handle,
            ObjectLabel::of(&volume.name, volume.size, &volume.kubernetes),
        )?);
    }
    for snapshot in pool.snapshots()? {
        let handle = SnapshotHandle { pool: pool.id(), snapshot: snapshot.id }.to_string();
        objects.extend(object(
            pool,
            Object::Snapshot(snapshot.id),
            handle,
            ObjectLabel::of(&snapshot.name, snapshot.size, &snapshot.kubernetes),
        )?);
    }
    for AnchorStatus { anchor, usage } in pool.anchor_status()? {
        let snapshot = anchor.snapshot;
        let handle = SnapshotHandle { pool: pool.id(), snapshot: snapshot.id }.to_string();
        let described = ObjectLabel::of(&snapshot.name, snapshot.size, &snapshot.kubernetes);
        objects.push(described.with("anchor", handle, usage));
    }
    for (volume, usage) in pool.kept_restores() {
        let handle = VolumeHandle { pool: pool.id(), volume: volume.id }.to_string();
        objects.push(ObjectLabel::of(&volume.name, volume.size, &volume.kubernetes).with("restore", handle, usage));
    }
    let (properties, promises) = (pool.properties()?, pool.promises()?);
    let (thin, state) = (thin(&status), state(&status.usage, &status.health, status.damaged.len()));
    Ok(windlass::PoolStatus {
        pool_id: status.id.to_string(),
        kind: status.kind.to_string(),
        path: status.location,
        filesystem: status.mechanism.to_owned(),
        total_bytes: status.usage.total,
        free_bytes: status.usage.free,
        reserve_bytes: status.usage.reserve,
        volume_count: status.volumes as u64,
        snapshot_count: status.snapshots as u64,
        state: state.to_owned(),
        snapshot_reserve_bytes: status.usage.snapshot_reserve,
        thin,
        name: properties.name.to_string(),
        overprovision_ratio: properties.overprovision_ratio.to_string(),
        reserve: properties.reserve.to_string(),
        deleted_space: properties.deleted_space.to_string(),
        promised_bytes: promises.promised,
        retry: String::new(),
        problem: status.health.problem.or_else(|| status.usage.shortage()).unwrap_or_default(),
        quarantined: status.quarantined.into_iter().chain(status.damaged).collect(),
        objects,
    })
}

/// All that [`state`] says.
pub(super) const STATES: [&str; 5] = ["ready", "impaired", "full", "read-only", "damaged"];

/// In a word, the worst first.
pub(super) fn state(usage: &PoolUsage, health: &PoolHealth, damaged: usize) -> &'static str {
    match (damaged == 0, health.changes, usage.available()) {
        (false, _, _) => "damaged",
        (true, Changes::Refused, _) => "read-only",
        (true, Changes::Taken, 0) => "full",
        (true, Changes::Taken, _) if health.problem.is_some() => "impaired",
        (true, Changes::Taken, _) => "ready",
    }
}

/// What only a thin pool has. One that has failed tells nothing of its metadata.
fn thin(status: &PoolStatus) -> Option<windlass::ThinPoolStatus> {
    if status.kind != PoolKind::Thin {
        return None;
    }
    let metadata = status.usage.metadata.unwrap_or(MetadataUsage { total: 0, free: 0 });
    // Percentages.
    let percent = |percent: u64| u32::try_from(percent).unwrap_or(u32::MAX);
    Some(windlass::ThinPoolStatus {
        metadata_total_bytes: metadata.total,
        metadata_used_bytes: metadata.total.saturating_sub(metadata.free),
        metadata_volume_percent: percent(MetadataUsage::VOLUME_PERCENT),
        metadata_snapshot_percent: percent(MetadataUsage::SNAPSHOT_PERCENT),
        transaction_id: status.health.transaction_id,
    })
}

/// What an object takes; `None` when it went meanwhile.
fn object(
    pool: &OwnedPool,
    object: Object,
    handle: String,
    described: ObjectLabel<'_>,
) -> Result<Option<windlass::ObjectUsage>, PoolError> {
    let kind = match object {
        Object::Volume(_) => "volume",
        Object::Snapshot(_) => "snapshot",
    };
    let usage = match pool.usage_of(object) {
        Ok(usage) => usage,
        Err(PoolError::Missing(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(described.with(kind, handle, usage)))
}

/// What people know an object by: its name, its size, and what Kubernetes calls it.
struct ObjectLabel<'a> {
    name: &'a ObjectName,
    size: VolumeSize,
    kubernetes: &'a KubernetesNames,
}

impl<'a> ObjectLabel<'a> {
    fn of(name: &'a ObjectName, size: VolumeSize, kubernetes: &'a KubernetesNames) -> Self {
        Self { name, size, kubernetes }
    }

    fn with(self, kind: &str, handle: String, usage: ObjectUsage) -> windlass::ObjectUsage {
        let text = |name: Option<String>| name.unwrap_or_default();
        windlass::ObjectUsage {
            handle,
            name: self.name.to_string(),
            kind: kind.to_owned(),
            size_bytes: self.size.bytes(),
            allocated_bytes: usage.allocated,
            exclusive_bytes: usage.exclusive,
            extent_count: usage.extents,
            pvc: text(self.kubernetes.claim.as_ref().map(ToString::to_string)),
            pv: text(self.kubernetes.volume.as_ref().map(ToString::to_string)),
            volume_snapshot: text(self.kubernetes.snapshot.as_ref().map(ToString::to_string)),
            volume_snapshot_content: text(self.kubernetes.snapshot_content.as_ref().map(ToString::to_string)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_a_pool_is_its_state() {
        let usage = |free| PoolUsage::new(100, free);
        let health =
            |changes, problem: Option<&str>| PoolHealth { problem: problem.map(str::to_owned), changes, transaction_id: None };
        let well = health(Changes::Taken, None);
        assert_eq!(state(&usage(50), &well, 0), "ready");
        assert_eq!(state(&usage(10), &well, 0), "full");
        assert_eq!(state(&usage(50), &health(Changes::Taken, Some("slow")), 0), "impaired");
        assert_eq!(state(&usage(10), &health(Changes::Refused, Some("broken")), 0), "read-only");
        assert_eq!(state(&usage(50), &health(Changes::Refused, None), 1), "damaged");
    }
}
