//! Topology: what a node offers, what a volume needs, and which pools satisfy a requirement.
//!
//! A node offers `topology.windlass.dev/node: NAME` and `topology.windlass.dev/pool-ID: "true"` for each of its open pools. A volume
//! carries its pool's key alone, so that a disk that moves to another node takes its volumes' affinity along. A requirement
//! comes as terms that each describe a node with all of its labels; so one that names several pools of ours is satisfied by each
//! of them.

use csi_proto::csi::v1 as proto;

use crate::types::PoolId;

use super::error::RequestError;

/// Beginning of every topology key.
const PREFIX: &str = "topology.windlass.dev/";
/// Key of the node's name.
const NODE_KEY: &str = "topology.windlass.dev/node";
/// Value of a pool's key.
pub const PRESENT: &str = "true";

/// The key of a pool.
pub fn pool_key(pool: PoolId) -> String {
    format!("{PREFIX}pool-{}", pool.label())
}

/// The name of this node, which is also its id in CSI and the value of its topology key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeName(String);

/// A name that cannot be a topology value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node name `{0}`: must have 1 to 63 letters, digits, `-`, `_` or `.`, and begin and end with a letter or digit")]
pub struct NodeNameError(String);

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeName {
    type Error = NodeNameError;

    fn try_from(name: String) -> Result<Self, NodeNameError> {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let outer = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = name.as_bytes();
        if bytes.len() <= 63 && bytes.iter().copied().all(inner) && outer(bytes.first()) && outer(bytes.last()) {
            Ok(Self(name))
        } else {
            Err(NodeNameError(name))
        }
    }
}

/// What a node with these pools offers.
pub fn of_node(node: &NodeName, pools: impl IntoIterator<Item = PoolId>) -> proto::Topology {
    let mut segments: std::collections::HashMap<_, _> =
        pools.into_iter().map(|pool| (pool_key(pool), PRESENT.to_owned())).collect();
    segments.insert(NODE_KEY.to_owned(), node.as_str().to_owned());
    proto::Topology { segments }
}

/// Where the volumes and snapshots of a pool can be used.
pub fn of_pool(pool: PoolId) -> proto::Topology {
    proto::Topology { segments: [(pool_key(pool), PRESENT.to_owned())].into() }
}

/// Those of the node's `pools` that a term allows: all its segments are the node's, and where it names pools, only those.
pub fn pools_of_term(term: &proto::Topology, node: &NodeName, pools: &[PoolId]) -> Vec<PoolId> {
    let offered = of_node(node, pools.iter().copied());
    if !term.segments.iter().all(|(key, value)| offered.segments.get(key) == Some(value)) {
        return Vec::new();
    }
    let named: Vec<_> = pools.iter().copied().filter(|&pool| term.segments.contains_key(&pool_key(pool))).collect();
    if named.is_empty() { pools.to_vec() } else { named }
}

/// The pools that satisfy a requirement, the preferred ones first; each group may be chosen from freely.
///
/// # Errors
/// Exhausted when none does: the scheduler may try another node.
pub fn candidates(
    requirement: Option<&proto::TopologyRequirement>,
    node: &NodeName,
    pools: &[PoolId],
) -> Result<Vec<Vec<PoolId>>, RequestError> {
    let Some(requirement) = requirement else { return Ok(vec![pools.to_vec()]) };
    let allowed: Vec<PoolId> = if requirement.requisite.is_empty() {
        pools.to_vec()
    } else {
        let satisfying: Vec<PoolId> = requirement.requisite.iter().flat_map(|term| pools_of_term(term, node, pools)).collect();
        pools.iter().copied().filter(|pool| satisfying.contains(pool)).collect()
    };
    if allowed.is_empty() {
        return Err(RequestError::exhausted(
            "accessibility_requirements.requisite",
            format!("no pool of node `{}` satisfies it", node.as_str()),
        ));
    }
    let mut groups: Vec<Vec<PoolId>> = Vec::new();
    for term in &requirement.preferred {
        let group: Vec<_> = pools_of_term(term, node, pools).into_iter().filter(|pool| allowed.contains(pool)).collect();
        if !group.is_empty() {
            groups.push(group);
        }
    }
    groups.push(allowed);
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeName {
        NodeName::try_from("node-1".to_owned()).unwrap()
    }

    fn term(entries: &[(&str, &str)]) -> proto::Topology {
        proto::Topology { segments: entries.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect() }
    }

    #[test]
    fn keys_and_values_are_legal_labels() {
        let pool = PoolId::from_bytes([255; 16]);
        for (key, value) in of_node(&node(), [pool]).segments {
            let (prefix, name) = key.split_once('/').unwrap();
            assert!(prefix.len() <= 63 && name.len() <= 63 && value.len() <= 63);
        }
        for bad in ["", "-a", "a-", "a b", &"a".repeat(64)] {
            assert!(NodeName::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_term_with_all_labels_of_the_node_allows_each_pool_it_names() {
        let (one, two, three) = (PoolId::from_bytes([1; 16]), PoolId::from_bytes([2; 16]), PoolId::from_bytes([3; 16]));
        let pools = [one, two, three];
        assert_eq!(pools_of_term(&of_node(&node(), [one, two]), &node(), &pools), [one, two]);
        assert_eq!(pools_of_term(&of_pool(two), &node(), &pools), [two]);
        assert_eq!(pools_of_term(&term(&[(NODE_KEY, "node-1")]), &node(), &pools), pools);
        assert!(pools_of_term(&term(&[(NODE_KEY, "node-2")]), &node(), &pools).is_empty());
        assert!(pools_of_term(&of_pool(PoolId::from_bytes([9; 16])), &node(), &pools).is_empty());
        assert!(pools_of_term(&term(&[("example.com/zone", "a")]), &node(), &pools).is_empty());
    }

    #[test]
    fn preferred_pools_come_first_and_stay_within_the_requisite_ones() {
        let (one, two) = (PoolId::from_bytes([1; 16]), PoolId::from_bytes([2; 16]));
        let pools = [one, two];
        let requirement = proto::TopologyRequirement {
            requisite: vec![of_pool(one), of_pool(two)],
            preferred: vec![of_pool(two), term(&[(NODE_KEY, "node-2")])],
        };
        assert_eq!(candidates(Some(&requirement), &node(), &pools).unwrap(), [vec![two], vec![one, two]]);
        let elsewhere = proto::TopologyRequirement { requisite: vec![term(&[(NODE_KEY, "node-2")])], preferred: vec![] };
        assert!(candidates(Some(&elsewhere), &node(), &pools).is_err());
        let narrow = proto::TopologyRequirement { requisite: vec![of_pool(one)], preferred: vec![of_pool(two)] };
        assert_eq!(candidates(Some(&narrow), &node(), &pools).unwrap(), [vec![one]]);
    }
}
