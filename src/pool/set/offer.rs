//! When the pools of a node are no longer those that it said it has.
//!
//! Whoever asks a node what it has (the kubelet, once, when the node registers) makes labels of the answer, and does not ask again. So a node
//! whose pools have changed ends, and is started anew. That costs the calls that run, and a moment in which none are taken: it must not
//! happen for nothing, nor again and again. The rules:
//!
//! | change | counts when |
//! |---|---|
//! | a pool is open that was not offered | it has been open for [`OfferPace::settle`] without a break |
//! | a pool that was offered cannot be used | it could not be used for [`OfferPace::give_up`] without a break |
//!
//! and nothing counts before the process has run for [`OfferPace::between`]. A pool that comes and goes faster than it is given up so causes
//! nothing; one that stays away for longer than that, each time, causes two new starts each time. What a process does not
//! know is how often its predecessors ended: whoever starts it waits longer each time (the kubelet up to five minutes).
//!
//! Pure: it is told the time and what is open.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::types::PoolId;

/// How long a change must last before it counts.
#[derive(Debug, Clone, Copy)]
pub struct OfferPace {
    /// A pool that was not offered must have been open for so long: others of the same disk or controller may follow.
    pub settle: Duration,
    /// A pool that was offered must have been away for so long. It has no room and takes no volumes meanwhile, so there is no hurry: what
    /// stays is a label.
    pub give_up: Duration,
    /// The process must have run for so long.
    pub between: Duration,
}

impl Default for OfferPace {
    fn default() -> Self {
        Self { settle: Duration::from_secs(15), give_up: Duration::from_secs(600), between: Duration::from_secs(120) }
    }
}

/// How the pools differ from those that were offered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OfferChange {
    /// Open, and not offered.
    pub joined: BTreeSet<PoolId>,
    /// Offered, and given up.
    pub gone: BTreeSet<PoolId>,
}

impl fmt::Display for OfferChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = |pools: &BTreeSet<PoolId>| pools.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match (self.joined.is_empty(), self.gone.is_empty()) {
            (false, true) => write!(f, "opened since: {}", labels(&self.joined)),
            (true, false) => write!(f, "given up: {}", labels(&self.gone)),
            _ => write!(f, "opened since: {}; given up: {}", labels(&self.joined), labels(&self.gone)),
        }
    }
}

/// Compares what is open with what was offered, look by look.
#[derive(Debug, Clone)]
pub struct OfferWatch {
    pace: OfferPace,
    offered: BTreeSet<PoolId>,
    /// Pools that differ, since when. Times are those since the start of the process.
    differing: BTreeMap<PoolId, Duration>,
}

impl OfferWatch {
    /// Watches over an offer.
    pub fn new(offered: impl IntoIterator<Item = PoolId>, pace: OfferPace) -> Self {
        Self { pace, offered: offered.into_iter().collect(), differing: BTreeMap::new() }
    }

    /// One look, `now` after the start of the process; the change, if it counts.
    pub fn look(&mut self, now: Duration, open: &BTreeSet<PoolId>) -> Option<OfferChange> {
        let differ: BTreeSet<PoolId> = self.offered.symmetric_difference(open).copied().collect();
        self.differing.retain(|pool, _| differ.contains(pool));
        for pool in differ {
            self.differing.entry(pool).or_insert(now);
        }
        let mut change = OfferChange::default();
        let mut counts = false;
        for (&pool, &since) in &self.differing {
            let lasted = now.saturating_sub(since);
            if self.offered.contains(&pool) {
                if lasted >= self.pace.give_up {
                    change.gone.insert(pool);
                }
            } else {
                // One that has just come is taken along when another has settled.
                change.joined.insert(pool);
                counts |= lasted >= self.pace.settle;
            }
        }
        counts |= !change.gone.is_empty();
        (counts && now >= self.pace.between).then_some(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: OfferPace =
        OfferPace { settle: Duration::from_secs(15), give_up: Duration::from_secs(600), between: Duration::from_secs(120) };

    fn id(number: u8) -> PoolId {
        PoolId::from_bytes([number; 16])
    }

    fn set(numbers: &[u8]) -> BTreeSet<PoolId> {
        numbers.iter().map(|&number| id(number)).collect()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_open_as_it_was_offered_is_no_change() {
        let mut watch = OfferWatch::new([id(1), id(2)], PACE);
        assert!((0..10_000).step_by(7).all(|second| watch.look(at(second), &set(&[1, 2])).is_none()));
        let mut empty = OfferWatch::new([], PACE);
        assert_eq!(empty.look(at(10_000), &set(&[])), None);
    }

    #[test]
    fn a_pool_that_opens_later_counts_when_it_has_settled_and_takes_others_along() {
        let mut watch = OfferWatch::new([id(1)], PACE);
        assert_eq!(watch.look(at(200), &set(&[1, 2])), None);
        assert_eq!(watch.look(at(214), &set(&[1, 2, 3])), None);
        let change = watch.look(at(215), &set(&[1, 2, 3])).unwrap();
        assert_eq!(change, OfferChange { joined: set(&[2, 3]), gone: set(&[]) });
        assert!(change.to_string().starts_with("opened since: "), "{change}");
    }

    #[test]
    fn nothing_counts_before_the_process_has_run_for_a_while() {
        let mut watch = OfferWatch::new([], PACE);
        for second in 0..120 {
            assert_eq!(watch.look(at(second), &set(&[1])), None, "{second}");
        }
        assert!(watch.look(at(120), &set(&[1])).is_some());
    }

    #[test]
    fn a_pool_is_given_up_only_when_it_stays_away() {
        let mut watch = OfferWatch::new([id(1), id(2)], PACE);
        assert_eq!(watch.look(at(1000), &set(&[1])), None);
        assert_eq!(watch.look(at(1599), &set(&[1])), None);
        let change = watch.look(at(1600), &set(&[1])).unwrap();
        assert_eq!(change, OfferChange { joined: set(&[]), gone: set(&[2]) });
        assert!(change.to_string().starts_with("given up: "), "{change}");
    }

    #[test]
    fn a_pool_that_comes_and_goes_causes_nothing() {
        let mut watch = OfferWatch::new([id(1)], PACE);
        // Its own pool flaps within the ten minutes, a foreign one within its time to settle.
        for round in 0..100 {
            let start = 1000 + round * 600;
            assert_eq!(watch.look(at(start), &set(&[2])), None);
            assert_eq!(watch.look(at(start + 14), &set(&[2])), None);
            assert_eq!(watch.look(at(start + 599), &set(&[1])), None);
        }
    }
}
