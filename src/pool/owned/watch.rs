//! Watching a pool that is written to: anchors give way to writers.
//!
//! Volumes are sparse and snapshots share, so the writers of existing volumes take space without asking anybody. They do not ask for
//! anchors to be evicted either: a request does ([`OwnedPool::make_room`]), a write cannot. So a thread of the pool looks at its
//! space, and while no more is free than the reserve, it deletes one restore that is kept after the other, then evicts one anchor after the other, those first that are missed least
//! (`retention`), then local copies of exported snapshots (`copies`), until more is free or none is left that holds anything. Then it says once that writers live on the reserve alone,
//! and how much anchors still hold that could not be given up; and once that there is room again.
//!
//! It also deletes what has been kept of restores for long enough (`kept`).
//!
//! * *How often it looks* ([`pause`]) follows from how soon the reserve could be reached: as long as a writer at [`FASTEST_WRITER`]
//!   takes for what is free above it, within [`SHORTEST_PAUSE`] and [`LONGEST_PAUSE`]. A look is one `statfs`; anchors are looked at
//!   only when space is short.
//! * *What the reserve is for* meanwhile: an eviction takes some tenths of a second, of two commits and of a deletion. The smallest
//!   reserve (a tenth of a small pool) is 50 MiB, the usual one 1 GiB and more. A writer that outruns it all the same meets
//!   the full pool that it would have met without anchors.
//! * Btrfs frees what was deleted in the background. An eviction is given [`SETTLING`] to show before the next anchor goes, unless the
//!   reserve itself runs short.
//! * It holds no lock while it waits. An anchor that somebody reads is passed over, as everywhere; so is one that another request
//!   evicts just then.
//! * It ends when the pool is dropped, at once or with the look that runs; an eviction that was begun is finished, as any other is.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::anchors::Eviction;
use super::background::Repeating;
use super::pool::OwnedPool;
use crate::pool::{PoolError, PoolKind, PoolUsage};
use crate::types::SnapshotId;
use crate::types::error::chain;

/// More than a disk under a pool of files takes, in bytes a second.
const FASTEST_WRITER: u64 = 1 << 30;
/// Ten looks a second cost nothing that can be measured; an eviction takes longer than this.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// With this much time nothing happens that a look could miss: [`FASTEST_WRITER`] needs more than it for what is free.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Between two looks when there is nothing to give up: new anchors come by requests, at the pace of backups. Also of a thin pool,
/// whose status the kernel answers with a commit.
const PATIENT_PAUSE: Duration = Duration::from_secs(1);
/// How long an eviction may take to show in what is free.
const SETTLING: Duration = Duration::from_secs(1);

/// What the watch knows from its looks before.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// What was said last.
    said: Said,
    /// The last eviction, until it shows.
    settling: Option<Settling>,
    /// Anchors and local copies whose eviction failed, each told of once: they are tried at every look.
    failed: BTreeSet<SnapshotId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Said {
    /// There is room; the state that needs no words.
    #[default]
    Room,
    /// Only the reserve is left.
    Reserve,
    /// The pool cannot be looked at.
    Unseen,
}

/// Space that an eviction is about to free.
#[derive(Debug, Clone, Copy)]
struct Settling {
    /// What will be free then, if nobody writes.
    free: u64,
    until: Instant,
}

impl OwnedPool {
    /// Starts the watch, which holds a reference to the pool that has no threads of its own.
    pub(super) fn start_watch(&self) -> Result<Repeating, PoolError> {
        let (pool, mut seen) = (self.shared(), Seen::default());
        let watch = Repeating::start("pool-watch", move || pool.look(&mut seen));
        watch.map_err(|error| PoolError::io("start to watch the pool", error))
    }

    /// One look, with what is to be done about it; how long to wait until the next.
    pub(super) fn look(&self, seen: &mut Seen) -> Duration {
        match self.try_look(seen) {
            Ok(pause) if self.kind() == PoolKind::Thin => pause.max(PATIENT_PAUSE),
            Ok(pause) => pause,
            Err(error) => {
                if seen.said != Said::Unseen {
                    tracing::warn!(pool = %self.id(), error = %chain(&error), "the pool could not be looked at");
                    seen.said = Said::Unseen;
                }
                LONGEST_PAUSE
            }
        }
    }

    fn try_look(&self, seen: &mut Seen) -> Result<Duration, PoolError> {
        self.delete_overdue_restores(Instant::now());
        let usage = self.usage()?;
        if has_room(&usage, seen.said) {
            if seen.said == Said::Reserve && self.kind() != PoolKind::Thin {
                tracing::info!(pool = %self.id(), free = usage.free, "the pool has room again");
            }
            *seen = Seen::default();
            return Ok(pause(&usage));
        }
        if seen.settling.is_some_and(|settling| !is_over(&settling, &usage, Instant::now())) {
            return Ok(SHORTEST_PAUSE);
        }
        if let Some(freed) = self.give_up_an_anchor(seen)? {
            let free = usage.free.saturating_add(freed);
            tracing::warn!(pool = %self.id(), free = usage.free, freed, "a kept restore, an anchor or a local copy was given up to the writers of the pool's volumes");
            seen.settling = Some(Settling { free, until: Instant::now() + SETTLING });
            return Ok(SHORTEST_PAUSE);
        }
        if seen.said != Said::Reserve {
            seen.said = Said::Reserve;
            // A thin pool's own monitor says so, which the kernel wakes.
            if self.kind() != PoolKind::Thin {
                let held = self.held_by_anchors()?;
                tracing::warn!(pool = %self.id(), free = usage.free, reserve = usage.reserve, held_by_anchors = held,
                    "the pool is nearly full: new volumes and snapshots are refused, and writers live on the reserve; \
                     delete volumes or snapshots, or grow what the pool lies on");
            }
        }
        Ok(PATIENT_PAUSE)
    }

    /// Deletes the first kept restore, or evicts the first anchor that holds data and that nobody uses, or gives up the first local copy that may go; what that frees at least.
    /// `None` when there is none.
    fn give_up_an_anchor(&self, seen: &mut Seen) -> Result<Option<u64>, PoolError> {
        if let Some(freed) = self.discard_for_space() {
            return Ok(Some(freed));
        }
        self.finish_evictions()?;
        for anchor in self.anchors_to_evict()? {
            let id = anchor.snapshot.id;
            // Its extents need not be listed at every look.
            if self.locks.is_pinned(id) {
                continue;
            }
            let Some(held) = self.held_by(&anchor).filter(|held| held.allocated > 0) else { continue };
            match self.evict(&anchor) {
                Ok(Eviction::Done) => return Ok(Some(held.exclusive)),
                Ok(Eviction::Postponed) => {}
                Err(error) if seen.failed.insert(id) => {
                    tracing::warn!(anchor = %id, error = %chain(&error), "an anchor could not be evicted yet")
                }
                Err(_) => {}
            }
        }
        for snapshot in self.copies_to_give_up()?.into_iter().filter(|snapshot| !self.locks.is_pinned(snapshot.id)) {
            match self.give_up_for_space(&snapshot) {
                Ok(Some(freed)) => return Ok(Some(freed)),
                Ok(None) => {}
                Err(error) if seen.failed.insert(snapshot.id) => {
                    tracing::warn!(snapshot = %snapshot.id, error = %chain(&error), "a local copy could not be given up yet")
                }
                Err(_) => {}
            }
        }
        Ok(None)
    }
}

/// Whether more is free than the reserve; an eighth more where it was not, so that a pool at the border is not told of each write.
fn has_room(usage: &PoolUsage, said: Said) -> bool {
    let border = match said {
        Said::Room | Said::Unseen => usage.reserve,
        Said::Reserve => usage.reserve.saturating_add(usage.reserve / 8),
    };
    usage.free > border
}

/// Whether an eviction has shown, has had its time, or cannot be waited for any longer.
fn is_over(settling: &Settling, usage: &PoolUsage, now: Instant) -> bool {
    usage.free >= settling.free || now >= settling.until || usage.free < usage.reserve / 2
}

/// How long a pool with room may be left alone.
fn pause(usage: &PoolUsage) -> Duration {
    let above = usage.free.saturating_sub(usage.reserve);
    let reached = Duration::from_millis(above.saturating_mul(1000) / FASTEST_WRITER);
    reached.clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_the_reserve_the_sooner_the_next_look() {
        const GIB: u64 = 1 << 30;
        let pause_at = |free| pause(&PoolUsage::new(100 * GIB, free));
        assert_eq!(pause_at(100 * GIB), LONGEST_PAUSE);
        assert_eq!(pause_at(4 * GIB), Duration::from_secs(2));
        assert_eq!(pause_at(2 * GIB + 1), SHORTEST_PAUSE);
        assert_eq!(pause_at(0), SHORTEST_PAUSE);
    }

    #[test]
    fn room_is_told_of_only_when_there_is_some_more_of_it() {
        let usage = |free| PoolUsage::new(1000, free);
        assert!(has_room(&usage(101), Said::Room) && !has_room(&usage(100), Said::Room));
        assert!(!has_room(&usage(112), Said::Reserve) && has_room(&usage(113), Said::Reserve));
    }

    #[test]
    fn an_eviction_is_waited_for_until_it_shows_or_the_reserve_runs_short() {
        let now = Instant::now();
        let settling = Settling { free: 300, until: now + SETTLING };
        let usage = |free| PoolUsage::new(1000, free);
        assert!(!is_over(&settling, &usage(90), now));
        assert!(is_over(&settling, &usage(300), now) && is_over(&settling, &usage(49), now));
        assert!(is_over(&settling, &usage(90), now + SETTLING));
    }
}
