//! GetCapacity: what new volumes may take. A place or a pool that is not here, or has failed, has none, which is no error: the sidecar asks
//! for every class and every node. What is left to be promised counts as much as what is free, whichever is less.

use csi_proto::csi::v1 as proto;

use crate::csi::error::{Fault, RequestError};
use crate::csi::topology;
use crate::csi::validate::capability::{self, AccessType, CapabilitySet};
use crate::csi::validate::parameters::{self, VolumeParameters};
use crate::csi::validate::size;
use crate::node::answer;
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::pool::owned::OwnedPool;
use crate::types::{FsType, VolumeMode, VolumeSize};

use super::create;

/// What is asked about; `None` when no volume can ever be like that.
pub(super) type Checked = Option<Question>;

pub(super) struct Question {
    parameters: VolumeParameters,
    mode: VolumeMode,
    place: Option<proto::Topology>,
}

pub(super) fn check(request: proto::GetCapacityRequest) -> Result<Checked, RequestError> {
    let parameters = parameters::class(&request.parameters)?;
    let mode = match request.volume_capabilities.as_slice() {
        [] => VolumeMode::Block,
        entries => match capability::capabilities(entries) {
            Ok(CapabilitySet { access_type: AccessType::Block, .. }) => VolumeMode::Block,
            Ok(CapabilitySet { access_type: AccessType::Mount { fs_type, .. }, .. }) => {
                VolumeMode::Filesystem(fs_type.or(parameters.fs_type).unwrap_or(FsType::Ext4))
            }
            Err(error) if error.fault == Fault::Unsupported => return Ok(None),
            Err(error) => return Err(error),
        },
    };
    Ok(Some(Question { parameters, mode, place: request.accessible_topology }))
}

pub(super) fn capacity(layer: &NodeLayer, checked: Checked) -> Result<proto::GetCapacityResponse, CallError> {
    let nothing = proto::GetCapacityResponse { available_capacity: 0, maximum_volume_size: None, minimum_volume_size: None };
    let Some(Question { parameters, mode, place }) = checked else { return Ok(nothing) };
    let pools = layer.pools();
    let ids: Vec<_> = pools.iter().map(|pool| pool.id()).collect();
    let mut allowed = match &place {
        Some(place) => topology::pools_of_term(place, &layer.node, &ids),
        None => ids,
    };
    if let Some(selector) = &parameters.pool {
        let selected = create::selected(layer, &pools, selector);
        allowed.retain(|id| selected.contains(id));
    }
    if allowed.is_empty() {
        return Ok(nothing);
    }
    let (mut total, mut largest) = (0_u64, 0_u64);
    let suits = |pool: &OwnedPool| allowed.contains(&pool.id()) && create::suits_parameters(pool, &parameters);
    for pool in pools.iter().filter(|pool| suits(pool)) {
        let Some(available) = create::available(layer, pool) else { continue };
        total = total.saturating_add(available);
        largest = largest.max(available);
    }
    // Volumes are sparse, so a larger one could be made; one that could never be filled is not what anybody asks for.
    let largest = largest.min(VolumeSize::MAX.bytes()) / VolumeSize::GRANULARITY * VolumeSize::GRANULARITY;
    Ok(proto::GetCapacityResponse {
        available_capacity: answer::bytes(total),
        maximum_volume_size: Some(answer::bytes(largest)),
        minimum_volume_size: Some(answer::size(size::minimum(mode))),
    })
}
