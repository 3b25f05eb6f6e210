//! The pool of a restored volume. Pure: chosen from what the node says of its pools.

use csi_proto::csi::v1 as proto;
use tonic::Status;

use crate::blocks::{OpenPool, PoolState};
use crate::csi::error::RequestError;
use crate::csi::status;
use crate::csi::topology::{self, NodeName};
use crate::csi::validate::parameters::{PoolSelector, VolumeParameters};
use crate::types::{ObjectName, PoolId};

/// Of the pools that the topology allows, the preferred ones first, and that the class names, the one with the most room; before all others one
/// that keeps the target of an interrupted restore of this name, which has taken room from it.
///
/// # Errors
/// RESOURCE_EXHAUSTED when this node has none: another may.
pub(super) fn choose(
    node: &str,
    states: &[PoolState],
    requirement: Option<&proto::TopologyRequirement>,
    wanted: (&VolumeParameters, &ObjectName),
) -> Result<OpenPool, Status> {
    try_choose(node, states, requirement, wanted).map_err(|error| Status::new(status::request(&error), error.to_string()))
}

fn try_choose(
    node: &str,
    states: &[PoolState],
    requirement: Option<&proto::TopologyRequirement>,
    (parameters, volume): (&VolumeParameters, &ObjectName),
) -> Result<OpenPool, RequestError> {
    const POOL: &str = "parameters.pool";
    let open: Vec<(&OpenPool, u64, bool)> = states
        .iter()
        .filter_map(|state| match state {
            PoolState::Open { pool, space, kept, .. } => Some((pool, space.available, kept.contains(volume))),
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
    let ids: Vec<PoolId> = open.iter().map(|(pool, ..)| pool.id).collect();
    let name = NodeName::try_from(node.to_owned())
        .map_err(|error| RequestError::exhausted("accessibility_requirements.requisite", error.to_string()))?;
    let groups = topology::candidates(requirement, &name, &ids)?;
    let is_allowed = |pool: &OpenPool| groups.iter().any(|group| group.contains(&pool.id)) && is_named(pool);
    if let Some((pool, ..)) = open.iter().find(|(pool, _, keeps)| *keeps && is_allowed(pool)) {
        return Ok((*pool).clone());
    }
    for group in &groups {
        let allowed = open.iter().filter(|(pool, ..)| group.contains(&pool.id) && is_named(pool));
        // The first of equals, so that the choice does not depend on anything else.
        let best = allowed.fold(None, |best: Option<&(&OpenPool, u64, bool)>, pool| match best {
            Some(best) if best.1 >= pool.1 => Some(best),
            _ => Some(pool),
        });
        if let Some((pool, ..)) = best {
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
            kept: if number == 2 { vec![name_of("kept")] } else { vec![name_of("other")] },
        }
    }

    fn name_of(text: &str) -> ObjectName {
        text.to_owned().try_into().unwrap()
    }

    fn chosen(selector: Option<&str>, requirement: Option<&proto::TopologyRequirement>) -> Result<u8, Code> {
        chosen_for("new", selector, requirement)
    }

    fn chosen_for(name: &str, selector: Option<&str>, requirement: Option<&proto::TopologyRequirement>) -> Result<u8, Code> {
        let failed = PoolState::Failed { id: Some(PoolId::from_bytes([9; 16])), reason: "gone".to_owned() };
        let states = [pool(1, "slow", 50), pool(2, "fast", 10), pool(3, "fast", 20), failed];
        let keys = selector.map(|value| ("pool".to_owned(), value.to_owned()));
        let parameters = parameters::volume(&keys.into_iter().collect::<HashMap<_, _>>()).unwrap();
        let chosen = choose("node-1", &states, requirement, (&parameters, &name_of(name)));
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

    #[test]
    fn a_pool_that_keeps_what_was_restored_comes_before_all_others_that_are_allowed() {
        let only = |numbers: &[u8]| proto::TopologyRequirement {
            requisite: numbers.iter().map(|number| topology::of_pool(PoolId::from_bytes([*number; 16]))).collect(),
            preferred: vec![topology::of_pool(PoolId::from_bytes([numbers[0]; 16]))],
        };
        assert_eq!(chosen_for("kept", None, None), Ok(2));
        assert_eq!(chosen_for("kept", Some("fast"), None), Ok(2));
        assert_eq!(chosen_for("kept", None, Some(&only(&[1, 2]))), Ok(2));
        assert_eq!(chosen_for("kept", Some("slow"), None), Ok(1));
        assert_eq!(chosen_for("kept", None, Some(&only(&[3]))), Ok(3));
    }
}
