//! The pool of a restored volume. Pure: chosen from what the node says of its pools.

use csi_proto::csi::v1 as proto;
use tonic::Status;

use crate::blocks::{OpenPool, PoolState};
use crate::csi::error::RequestError;
use crate::csi::status;
use crate::csi::topology::{self, NodeName};
use crate::csi::validate::parameters::{PoolSelector, VolumeParameters};
use crate::types::PoolId;

/// Of the pools that the topology allows, the preferred ones first, and that the class names, the one with the most room.
///
/// # Errors
/// RESOURCE_EXHAUSTED when this node has none: another may.
pub(super) fn choose(
    node: &str,
    states: &[PoolState],
    requirement: Option<&proto::TopologyRequirement>,
    parameters: &VolumeParameters,
) -> Result<OpenPool, Status> {
    try_choose(node, states, requirement, parameters).map_err(|error| Status::new(status::request(&error), error.to_string()))
}

fn try_choose(
    node: &str,
    states: &[PoolState],
    requirement: Option<&proto::TopologyRequirement>,
    parameters: &VolumeParameters,
) -> Result<OpenPool, RequestError> {
    const POOL: &str = "parameters.pool";
    let open: Vec<(&OpenPool, u64)> = states
        .iter()
        .filter_map(|state| match state {
            PoolState::Open { pool, space, .. } => Some((pool, space.available)),
            PoolState::Failed { .. } => None,
        })
        .collect();
    let is_named = |pool: &OpenPool| match &parameters.pool {
        None => true,
        Some(PoolSelector::Id(id)) => pool.id == *id,
        Some(PoolSelector::Name(name)) => pool.name == *name,
        // No path crosses from the node to its agent.
        Some(PoolSelector::Path(_)) => false,
    };
    if matches!(parameters.pool, Some(PoolSelector::Path(_))) {
        return Err(RequestError::invalid(POOL, "must be a name or an id for a volume that is restored from a repository"));
    }
    let ids: Vec<PoolId> = open.iter().map(|(pool, _)| pool.id).collect();
    let name = NodeName::try_from(node.to_owned())
        .map_err(|error| RequestError::exhausted("accessibility_requirements.requisite", error.to_string()))?;
    for group in topology::candidates(requirement, &name, &ids)? {
        let allowed = open.iter().filter(|(pool, _)| group.contains(&pool.id) && is_named(pool));
        // The first of equals, so that the choice does not depend on anything else.
        let best = allowed.fold(None, |best: Option<&(&OpenPool, u64)>, pool| match best {
            Some(best) if best.1 >= pool.1 => Some(best),
            _ => Some(pool),
        });
        if let Some((pool, _)) = best {
            return Ok((*pool).clone());
        }
    }
    Err(RequestError::exhausted(POOL, format!("node `{node}` has no open pool that the class and the topology allow")))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic::Code;

    use super::*;
    use crate::blocks::PoolSpace;
    use crate::csi::validate::parameters;
    use crate::types::LogicalBlockSize;

    fn pool(number: u8, name: &str, available: u64) -> PoolState {
        PoolState::Open {
            pool: OpenPool {
                id: PoolId::from_bytes([number; 16]),
                name: name.parse().unwrap(),
                logical_block_size: LogicalBlockSize::B4096,
            },
            space: PoolSpace { total: 100, free: available, available },
            problem: None,
            kept: Vec::new(),
        }
    }

    fn chosen(selector: Option<&str>, requirement: Option<&proto::TopologyRequirement>) -> Result<u8, Code> {
        let failed = PoolState::Failed { id: Some(PoolId::from_bytes([9; 16])), reason: "gone".to_owned() };
        let states = [pool(1, "slow", 50), pool(2, "fast", 10), pool(3, "fast", 20), failed];
        let keys = selector.map(|value| ("pool".to_owned(), value.to_owned()));
        let parameters = parameters::volume(&keys.into_iter().collect::<HashMap<_, _>>()).unwrap();
        let chosen = choose("node-1", &states, requirement, &parameters);
        chosen.map(|pool| pool.id.as_bytes()[0]).map_err(|status| status.code())
    }

    #[test]
    fn the_roomiest_pool_of_those_that_are_meant_is_taken() {
        assert_eq!(chosen(None, None), Ok(1));
        assert_eq!(chosen(Some("fast"), None), Ok(3));
        assert_eq!(chosen(Some(&PoolId::from_bytes([2; 16]).to_string()), None), Ok(2));
        assert_eq!(chosen(Some("none"), None), Err(Code::ResourceExhausted));
        assert_eq!(chosen(Some("/data"), None), Err(Code::InvalidArgument));
        let only = |number| topology::of_pool(PoolId::from_bytes([number; 16]));
        let required = proto::TopologyRequirement { requisite: vec![only(2)], preferred: vec![] };
        assert_eq!(chosen(None, Some(&required)), Ok(2));
        assert_eq!(chosen(Some("slow"), Some(&required)), Err(Code::ResourceExhausted));
        let elsewhere = proto::TopologyRequirement { requisite: vec![only(7)], preferred: vec![] };
        assert_eq!(chosen(None, Some(&elsewhere)), Err(Code::ResourceExhausted));
    }
}
