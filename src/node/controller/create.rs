//! CreateVolume.
//!
//! The name is the key of idempotency, over all pools of the node: a name that a pool knows is answered by that pool, from its
//! record. Otherwise the pool is chosen: of those that the parameter `pool` names (a name may be several pools'), that the topology
//! allows and that can make such a volume, the one with the most room; of a copy, the source's. What no pool here can do, another
//! node's may: RESOURCE_EXHAUSTED. Everything that the pool makes durable is its own business (`pool::owned`); nothing
//! here needs undoing.
//!
//! A pool that has failed takes no part: no volume is placed there. A name that it is known to have is answered by nobody until it is
//! back (UNAVAILABLE, which is asked again); of names that nobody knows, see `pool::set`.

use std::sync::Arc;

use csi_proto::csi::v1 as proto;

use crate::csi::error::{RequestError, no_such};
use crate::csi::locks::{Hold, Key};
use crate::csi::topology;
use crate::csi::validate::capability::{self, AccessType, CapabilitySet};
use crate::csi::validate::parameters::{self, PoolSelector, VolumeParameters};
use crate::csi::validate::source::{self, ContentSource};
use crate::csi::validate::{self, size};
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::node::{answer, named_pool};
use crate::pool::owned::OwnedPool;
use crate::pool::record::Volume;
use crate::types::error::chain;
use crate::types::{
    AccessMode, CapacityRange, FsType, NewVolume, ObjectName, PoolId, ProtectionOrder, RestorePolicy, VolumeMode, VolumeSize,
    mount_options,
};

/// Made where neither the capability nor the parameters nor a source name a file system.
const DEFAULT_FS_TYPE: FsType = FsType::Ext4;

/// A checked request.
pub(super) struct Checked {
    name: ObjectName,
    capacity: CapacityRange,
    capabilities: CapabilitySet,
    parameters: VolumeParameters,
    source: Option<ContentSource>,
    requirement: Option<proto::TopologyRequirement>,
}

pub(super) fn check(layer: &NodeLayer, request: proto::CreateVolumeRequest) -> Result<Checked, RequestError> {
    let name = validate::name("name", &request.name)?;
    let mut capabilities = capability::capabilities(&request.volume_capabilities)?;
    let capacity = size::capacity(request.capacity_range.as_ref())?;
    let parameters = parameters::volume(&request.parameters)?;
    validate::map("mutable_parameters", &request.mutable_parameters)?;
    validate::no_mutable_parameters(&request.mutable_parameters)?;
    validate::map("secrets", &request.secrets)?;
    layer.check_secrets(&request.secrets)?;
    layer.check_protection(&parameters)?;
    let source = source::content_source(request.volume_content_source.as_ref())?;

    if let AccessType::Mount { fs_type, .. } = &mut capabilities.access_type
        && let Some(parameter) = parameters.fs_type
        && *fs_type.get_or_insert(parameter) != parameter
    {
        let field = "parameters.csi.storage.k8s.io/fstype";
        return Err(RequestError::invalid(field, "must not differ from fs_type of volume_capabilities"));
    }
    if source.is_none() && capabilities.access_modes.contains(&AccessMode::MultiNodeReaderOnly) {
        let reason = "MULTI_NODE_READER_ONLY needs a volume_content_source: nothing can ever be written to such a volume";
        return Err(RequestError::unsupported("volume_capabilities.access_mode", reason));
    }
    Ok(Checked { name, capacity, capabilities, parameters, source, requirement: request.accessibility_requirements })
}

pub(super) fn create(layer: &NodeLayer, checked: Checked) -> Result<proto::CreateVolumeResponse, CallError> {
    let _name = layer.locks.take("name", Key::VolumeName(checked.name.clone()), Hold::Exclusive)?;
    let _source = match checked.source {
        // Frozen for the cut: a second freeze would find it frozen by someone else.
        Some(ContentSource::Volume(handle)) => Some(layer.locks.take(VOLUME, Key::Volume(handle), Hold::Exclusive)?),
        Some(ContentSource::Snapshot(handle)) => Some(layer.locks.take(SNAPSHOT, Key::Snapshot(handle), Hold::Shared)?),
        None => None,
    };
    let (pool, new) = match existing(layer, &checked.name)? {
        Some((pool, volume)) => {
            let new = repeated(layer, &pool, &volume, checked)?;
            (pool, new)
        }
        None => first(layer, checked)?,
    };
    let volume = pool.create_volume(&new).inspect_err(|_| layer.pools.suspect(pool.id()))?.into_inner();
    layer.pools.made(pool.id(), &volume.name);
    Ok(proto::CreateVolumeResponse { volume: Some(answer::volume(pool.id(), &volume)) })
}

const VOLUME: &str = "volume_content_source.volume.volume_id";
const SNAPSHOT: &str = "volume_content_source.snapshot.snapshot_id";
const REQUISITE: &str = "accessibility_requirements.requisite";

/// The volume of this name and its pool.
///
/// # Errors
/// [`Fault::PoolElsewhere`](crate::csi::error::Fault::PoolElsewhere) when a pool that cannot be asked has it.
fn existing(layer: &NodeLayer, name: &ObjectName) -> Result<Option<(Arc<OwnedPool>, Volume)>, CallError> {
    let mut unread = None;
    for pool in layer.pools() {
        match pool.volume_by_name(name) {
            Ok(Some(volume)) => return Ok(Some((pool, volume))),
            Ok(None) => {}
            // It is failing, and not known to have failed yet. A moment later it will be, and the repetition goes on without it.
            Err(error) => {
                layer.pools.suspect(pool.id());
                unread = Some(error);
            }
        }
    }
    if let Some(failed) = layer.pools.failed_owner(name) {
        return Err(RequestError::pool_elsewhere(
            "name",
            format!("a volume `{name}` is in a pool that cannot be asked: {failed}"),
        )
        .into());
    }
    unread.map_or(Ok(None), |error| Err(error.into()))
}

/// The request as its volume's pool is to compare it with the record. What the pool does not know is compared here.
fn repeated(layer: &NodeLayer, pool: &OwnedPool, volume: &Volume, checked: Checked) -> Result<NewVolume, CallError> {
    let conflict = |field, what: &str| {
        RequestError::already_exists(field, format!("the volume `{}` exists already with {what}", volume.name))
    };
    let within = topology::candidates(checked.requirement.as_ref(), &layer.node, &layer.pool_ids())
        .is_ok_and(|groups| groups.iter().flatten().any(|&id| id == pool.id()));
    if !within {
        return Err(conflict(REQUISITE, "another topology").into());
    }
    // Restored from a snapshot of another pool, or from a repository.
    let foreign = checked.source.map(|source| source.handle()).filter(|handle| volume.foreign_source.as_ref() == Some(handle));
    if foreign.is_none() && checked.source.is_some_and(|source| source.pool() != pool.id()) {
        return Err(conflict("volume_content_source", "another content source").into());
    }
    // What a protected class has it begin with is the agent's to choose, once, and no part of the request.
    let chosen = volume.foreign_source.clone().filter(|_| {
        let restores = |order: &ProtectionOrder| order.restore != RestorePolicy::Never;
        checked.source.is_none() && checked.parameters.protection.as_ref().is_some_and(restores)
    });
    let foreign = foreign.or(chosen);
    // The record answers for what the request leaves open, also when the source is gone by now.
    let recorded = match volume.mode {
        VolumeMode::Filesystem(fs_type) => Some(fs_type),
        VolumeMode::Block => None,
    };
    let mode = mode_of(&checked.capabilities.access_type, recorded);
    let new = new_volume(checked, mode);
    Ok(match foreign {
        Some(handle) => NewVolume { source: None, foreign_source: Some(handle), ..new },
        None => new,
    })
}

/// A request whose name no pool knows: the pool is chosen, and the source looked at.
fn first(layer: &NodeLayer, checked: Checked) -> Result<(Arc<OwnedPool>, NewVolume), CallError> {
    let source = checked.source.map(|source| look_at(layer, source)).transpose()?;
    let pool = choose(layer, &checked)?;
    let mode = mode_of(&checked.capabilities.access_type, source.and_then(|source| source.fs_type));
    if let VolumeMode::Filesystem(fs_type) = mode {
        // Checked before against the options of all file systems, where the request names none.
        mount_options::check(checked.capabilities.access_type.flags(), Some(fs_type))
            .map_err(|error| RequestError::invalid("volume_capabilities.mount.mount_flags", error.to_string()))?;
    }
    if let (Some(named), Some(source)) = (checked.source, source) {
        fits_source(&checked, named, source, mode)?;
    }
    Ok((pool, new_volume(checked, mode)))
}

/// What matters of a content source.
#[derive(Clone, Copy)]
struct Source {
    size: VolumeSize,
    fs_type: Option<FsType>,
}

fn look_at(layer: &NodeLayer, source: ContentSource) -> Result<Source, CallError> {
    let pool = layer.pool(source.field(), source.pool())?;
    let (size, mode) = match source {
        ContentSource::Snapshot(handle) => {
            let snapshot = pool.snapshot(handle.snapshot)?.ok_or_else(|| no_such(source.field()))?;
            (snapshot.size, snapshot.mode)
        }
        ContentSource::Volume(handle) => {
            let volume = pool.volume(handle.volume)?.ok_or_else(|| no_such(source.field()))?;
            (volume.size, volume.mode)
        }
    };
    let fs_type = match mode {
        VolumeMode::Filesystem(fs_type) => Some(fs_type),
        VolumeMode::Block => None,
    };
    Ok(Source { size, fs_type })
}

fn fits_source(checked: &Checked, named: ContentSource, source: Source, mode: VolumeMode) -> Result<(), RequestError> {
    // Another mode is allowed: what the device holds is found out when it is staged, and never formatted.
    if let (VolumeMode::Filesystem(wanted), Some(has)) = (mode, source.fs_type)
        && wanted != has
    {
        let reason = format!("asks for {wanted}, but {} holds {has}", named.field());
        return Err(RequestError::invalid("volume_capabilities.mount.fs_type", reason));
    }
    let too_small = |bytes: u64| VolumeSize::at_least(bytes).is_ok_and(|size| size < source.size);
    let reason = || format!("must be at least {}, the size of {}", source.size.bytes(), named.field());
    if checked.capacity.required().is_some_and(too_small) {
        return Err(RequestError::out_of_range("capacity_range.required_bytes", reason()));
    }
    if checked.capacity.limit().is_some_and(|limit| limit < source.size.bytes()) {
        return Err(RequestError::out_of_range("capacity_range.limit_bytes", reason()));
    }
    Ok(())
}

fn mode_of(access_type: &AccessType, otherwise: Option<FsType>) -> VolumeMode {
    match access_type {
        AccessType::Block => VolumeMode::Block,
        AccessType::Mount { fs_type, .. } => VolumeMode::Filesystem(fs_type.or(otherwise).unwrap_or(DEFAULT_FS_TYPE)),
    }
}

fn new_volume(checked: Checked, mode: VolumeMode) -> NewVolume {
    // A copied file system is as large as it is; only one that is to be made has a smallest size.
    let minimum = if checked.source.is_some() { VolumeMode::Block } else { mode };
    NewVolume {
        name: checked.name,
        capacity: checked.capacity,
        minimum: size::minimum(minimum),
        mode,
        access_modes: checked.capabilities.access_modes,
        mount_flags: checked.capabilities.access_type.flags().to_vec(),
        parameters: checked.parameters.recorded,
        checksum: checked.parameters.checksum,
        source: checked.source.map(ContentSource::object),
        foreign_source: None,
        kubernetes: checked.parameters.kubernetes,
    }
}

/// The pool of a new volume.
fn choose(layer: &NodeLayer, checked: &Checked) -> Result<Arc<OwnedPool>, CallError> {
    let pools = layer.pools();
    if pools.is_empty() {
        return Err(RequestError::exhausted(REQUISITE, format!("node `{}` has no open pool", layer.node.as_str())).into());
    }
    let ids: Vec<PoolId> = pools.iter().map(|pool| pool.id()).collect();
    let groups = topology::candidates(checked.requirement.as_ref(), &layer.node, &ids)?;
    let selected = checked.parameters.pool.as_ref().map(|selector| selected(layer, &pools, selector));
    if selected.as_ref().is_some_and(Vec::is_empty) {
        let reason = format!("node `{}` has no open pool of this name, id or path", layer.node.as_str());
        return Err(RequestError::exhausted("parameters.pool", reason).into());
    }
    // A copy is made where its source is: that pool itself says whether the parameters fit.
    let suits = |pool: &OwnedPool| checked.source.is_some() || suits_parameters(pool, &checked.parameters);
    if !pools.iter().any(|pool| suits(pool) && selected.as_ref().is_none_or(|selected| selected.contains(&pool.id()))) {
        let reason = format!("no pool of node `{}` that the request allows keeps checksums of data", layer.node.as_str());
        return Err(RequestError::exhausted("parameters.checksum", reason).into());
    }
    for group in groups {
        let allowed = |id: PoolId| {
            group.contains(&id)
                && selected.as_ref().is_none_or(|selected| selected.contains(&id))
                && checked.source.is_none_or(|source| source.pool() == id)
        };
        if let Some(pool) = roomiest(layer, pools.iter().filter(|pool| allowed(pool.id()) && suits(pool))) {
            return Ok(Arc::clone(pool));
        }
    }
    let (field, reason) = match checked.source {
        Some(source) => (source.field(), "is in a pool that the request does not allow; it cannot be copied to another one"),
        None => ("parameters.pool", "is not a pool that accessibility_requirements and the other parameters allow"),
    };
    Err(RequestError::exhausted(field, reason).into())
}

/// Which of the open `pools` a selector names: none when only another node may have one.
pub(super) fn selected(layer: &NodeLayer, pools: &[Arc<OwnedPool>], selector: &PoolSelector) -> Vec<PoolId> {
    let found = pools.iter().filter(|pool| match selector {
        PoolSelector::Id(id) => pool.id() == *id,
        PoolSelector::Path(path) => std::path::Path::new(&pool.location()) == path,
        PoolSelector::Name(name) => named_pool::has_name(&layer.pools, pool, name),
    });
    found.map(|pool| pool.id()).collect()
}

/// The pool with the most room; none of those that do not say what they have.
fn roomiest<'a>(layer: &NodeLayer, pools: impl Iterator<Item = &'a Arc<OwnedPool>>) -> Option<&'a Arc<OwnedPool>> {
    let mut best: Option<(u64, &Arc<OwnedPool>)> = None;
    for pool in pools {
        let Some(available) = available(layer, pool) else { continue };
        // The first of equals, so that the choice does not depend on anything else.
        if best.is_none_or(|(most, _)| available > most) {
            best = Some((available, pool));
        }
    }
    best.map(|(_, pool)| pool)
}

/// Whether a pool can make a volume with these parameters.
pub(super) fn suits_parameters(pool: &OwnedPool, parameters: &VolumeParameters) -> bool {
    pool.supports(parameters.checksum) && parameters.logical_block_size.is_none_or(|size| pool.offers(size))
}

/// What new volumes may take of a pool, in bytes; `None` when it does not answer, or cannot record a change.
pub(super) fn available(layer: &NodeLayer, pool: &OwnedPool) -> Option<u64> {
    // One that did not record the last may by now: a small commit tells.
    let works = if pool.catalogue_took_its_last_change() { Ok(()) } else { pool.check_catalogue() };
    match works.and_then(|()| pool.room_for_volumes()) {
        Ok(available) => Some(available),
        Err(error) => {
            tracing::warn!(pool = %pool.id(), error = %chain(&error), "a pool does not say what room it has");
            layer.pools.suspect(pool.id());
            None
        }
    }
}
