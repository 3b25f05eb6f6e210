//! The pools of a node as metrics.
//!
//! What is told is what the set of pools saw when it last looked, at most some seconds ago: no disk is asked, so a scrape is answered while
//! one hangs. A pool that cannot be used has `windlass_pool_up` 0 and, since no more is known of it, nothing else. Those of claims
//! are told only if that was asked for ([`ClaimSeries`]), and [`MOST_CLAIMS`] at most.

use std::fmt;
use std::sync::Arc;

use super::pools_service::{STATES, state};
use crate::pool::owned::PoolFigures;
use crate::pool::set::{MemberFigures, PoolSet};
use crate::telemetry::metrics::{Collector, Description, DescriptorEncoder, FamilyEncoder, families};
use crate::types::Timestamp;

/// Series of claims in each family: far above what a node has pods for.
pub const MOST_CLAIMS: usize = 10_000;

/// Whether claims have series of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClaimSeries {
    /// They have none: as many as there are volumes would be much for some.
    #[default]
    None,
    /// Each has some.
    Each,
}

/// Tells of the pools of a node.
#[derive(Debug)]
pub struct PoolMetrics {
    pools: PoolSet,
    claims: ClaimSeries,
}

impl PoolMetrics {
    /// Tells of `pools`.
    pub fn new(pools: PoolSet, claims: ClaimSeries) -> Self {
        Self { pools, claims }
    }
}

/// An open pool: its labels, and what was seen of it.
struct Seen {
    id: String,
    name: String,
    figures: Arc<PoolFigures>,
}

type Value = fn(&PoolFigures) -> Option<f64>;

/// The families that have one value for each pool.
const OF_POOLS: &[(Description, Value)] = &[
    (families::POOL_SIZE, |pool| Some(pool.usage.total as f64)),
    (families::POOL_FREE, |pool| Some(pool.usage.free as f64)),
    (families::POOL_RESERVE, |pool| Some(pool.usage.reserve as f64)),
    (families::POOL_AVAILABLE, |pool| Some(pool.usage.available() as f64)),
    (families::POOL_PROMISED, |pool| Some(pool.promises.promised as f64)),
    (families::POOL_PROMISE_LIMIT, |pool| Some(pool.promises.limit as f64)),
    (families::POOL_METADATA_SIZE, |pool| Some(pool.usage.metadata?.total as f64)),
    (families::POOL_METADATA_FREE, |pool| Some(pool.usage.metadata?.free as f64)),
    (families::POOL_VOLUMES, |pool| Some(pool.volumes as f64)),
    (families::POOL_SNAPSHOTS, |pool| Some(pool.snapshots as f64)),
    (families::POOL_ANCHORS, |pool| Some(pool.anchors as f64)),
    (families::POOL_RESTORES, |pool| Some(pool.restores as f64)),
    (families::POOL_KEPT_RESTORES, |pool| Some(pool.kept_restores as f64)),
    (families::POOL_QUARANTINED, |pool| Some(pool.quarantined as f64)),
    (families::POOL_DAMAGED, |pool| Some(pool.damaged as f64)),
    (families::POOL_MOST_EXTENTS, |pool| Some(pool.most_extents? as f64)),
    (families::POOL_EXPORTS_PENDING, |pool| Some(pool.exports.pending as f64)),
    (families::POOL_EXPORTS_FAILED, |pool| Some(pool.exports.failed as f64)),
    (families::POOL_EXPORTS_OLDEST, |pool| pool.exports.oldest.map(seconds)),
];

fn seconds(time: Timestamp) -> f64 {
    time.seconds as f64
}

impl Collector for PoolMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let members = self.pools.figures();
        up(&mut encoder, &members)?;
        let seen: Vec<Seen> = members.into_iter().filter_map(Seen::of).collect();
        if seen.is_empty() {
            return Ok(());
        }
        for (description, value) in OF_POOLS {
            let values: Vec<(&Seen, f64)> = seen.iter().filter_map(|pool| Some((pool, value(&pool.figures)?))).collect();
            if values.is_empty() {
                continue;
            }
            let mut family = FamilyEncoder::begin(&mut encoder, description)?;
            for (pool, value) in values {
                family.gauge(&[&pool.id, &pool.name], value)?;
            }
        }
        states(&mut encoder, &seen)?;
        match self.claims {
            ClaimSeries::None => Ok(()),
            ClaimSeries::Each => claims(&mut encoder, &seen),
        }
    }
}

impl Seen {
    fn of(member: MemberFigures) -> Option<Self> {
        match member {
            MemberFigures { is_open: true, id: Some(id), figures: Some(figures), .. } => {
                Some(Self { id: id.to_string(), name: figures.name.to_string(), figures })
            }
            _ => None,
        }
    }
}

fn up(encoder: &mut DescriptorEncoder<'_>, members: &[MemberFigures]) -> fmt::Result {
    if members.is_empty() {
        return Ok(());
    }
    let mut family = FamilyEncoder::begin(encoder, &families::POOL_UP)?;
    for MemberFigures { place, id, is_open, figures } in members {
        let id = id.map(|id| id.to_string()).unwrap_or_default();
        let name = figures.as_ref().map(|figures| figures.name.to_string()).unwrap_or_default();
        family.gauge(&[place, &id, &name], if *is_open { 1.0 } else { 0.0 })?;
    }
    Ok(())
}

fn states(encoder: &mut DescriptorEncoder<'_>, seen: &[Seen]) -> fmt::Result {
    let mut family = FamilyEncoder::begin(encoder, &families::POOL_STATE)?;
    for pool in seen {
        let now = state(&pool.figures.usage, &pool.figures.health, pool.figures.damaged);
        for of_all in STATES {
            family.gauge(&[&pool.id, &pool.name, of_all], if now == of_all { 1.0 } else { 0.0 })?;
        }
    }
    Ok(())
}

fn claims(encoder: &mut DescriptorEncoder<'_>, seen: &[Seen]) -> fmt::Result {
    let of_all = || seen.iter().flat_map(|pool| pool.figures.claims.iter().map(move |claim| (pool, claim))).take(MOST_CLAIMS);
    let exported = of_all().filter_map(|(pool, claim)| Some((pool, claim, seconds(claim.last_export?))));
    let counted = of_all().filter_map(|(pool, claim)| Some((pool, claim, claim.extents? as f64)));
    for (description, series) in
        [(&families::CLAIM_LAST_EXPORT, exported.collect::<Vec<_>>()), (&families::CLAIM_EXTENTS, counted.collect::<Vec<_>>())]
    {
        if series.is_empty() {
            continue;
        }
        let mut family = FamilyEncoder::begin(encoder, description)?;
        // Two volumes may name one claim, which was deleted and made anew: the newer figure is the one that matters.
        let mut last: Option<(String, String, String, f64)> = None;
        for (pool, claim, value) in series {
            let (namespace, name) = (claim.claim.namespace.to_string(), claim.claim.name.to_string());
            match &mut last {
                Some((id, of_namespace, of_name, known)) if *id == pool.id && *of_namespace == namespace && *of_name == name => {
                    *known = known.max(value);
                }
                _ => {
                    if let Some((id, namespace, name, value)) = last.replace((pool.id.clone(), namespace, name, value)) {
                        family.gauge(&[&id, &namespace, &name], value)?;
                    }
                }
            }
        }
        if let Some((id, namespace, name, value)) = last {
            family.gauge(&[&id, &namespace, &name], value)?;
        }
    }
    Ok(())
}
