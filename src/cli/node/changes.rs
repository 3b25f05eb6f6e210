//! The end of a node whose pools are no longer those that it told the kubelet of (`pool::set::offer`).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use crate::node::NodeLayer;
use crate::pool::set::PoolSet;
use crate::pool::set::offer::{OfferChange, OfferPace, OfferWatch};

/// Between two looks, each of which reads states in memory.
const LOOK: Duration = Duration::from_secs(1);
/// Longest time that the registration waits for pools that have not been tried yet: their disks hang, or they recover from long ago.
const FIRST_ATTEMPT: Duration = Duration::from_secs(300);

/// Waits until each pool was tried once, so that one that takes long to open is among those that the kubelet is told of.
pub async fn all_tried(pools: &PoolSet) {
    let mut looks = interval(Duration::from_millis(100));
    let tried = async {
        while !pools.is_tried() {
            looks.tick().await;
        }
    };
    if tokio::time::timeout(FIRST_ATTEMPT, tried).await.is_err() {
        tracing::warn!("a pool is still being opened; the node registers without it");
    }
}

/// Waits until the pools differ, for good, from what `layer` has answered.
pub async fn differing(layer: &NodeLayer, pools: &PoolSet, pace: OfferPace) -> OfferChange {
    let start = Instant::now();
    let mut watch: Option<OfferWatch> = None;
    let mut looks = interval(LOOK);
    loop {
        looks.tick().await;
        if watch.is_none() {
            watch = layer.offered().map(|offered| OfferWatch::new(offered, pace));
        }
        let open: BTreeSet<_> = pools.pools().iter().map(|pool| pool.id()).collect();
        if let Some(change) = watch.as_mut().and_then(|watch| watch.look(start.elapsed(), &open)) {
            return change;
        }
    }
}

fn interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
