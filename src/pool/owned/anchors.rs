//! Anchors: deleted snapshots that are kept, so that what changed since them can still be told.
//!
//! A snapshot that somebody used (exported it, read its ranges, made a volume from it) is usually the base of that consumer's
//! next increment, and usually deleted by then. Its deletion takes it out of sight as any other does, name and all, but moves
//! its record to the anchors in the same commit, and the object stays what it was. Which ones are kept is decided in
//! `retention`, and so is the order in which the rest goes: what is surplus is *evicted* at once, and those that hold data before
//! a new volume or snapshot is refused for want of space, and while writers have only the reserve left (`watch`).
//!
//! * Deletion into an anchor is one commit: before it the snapshot is there, after it the anchor is.
//! * A pool that need not keep the snapshot itself then reduces it ([`Pool::condense`](crate::pool::Pool::condense)), which is an
//!   act of its own: a crash before it leaves a whole anchor, which the next start reduces.
//! * Eviction is a deletion like any other: a commit that replaces the anchor by an intent, the act, a commit that drops the
//!   intent. A crash between finishes it; a crash before the first leaves one anchor too many, which the next start evicts.
//! * An anchor that a stream reads is pinned and passed over; the next change of its volume, or the next start, evicts it.
//! * An anchor whose object is missing or cut short is worthless, for comparing with it would hide changes: the next start
//!   evicts it. So is one of before a part of the pool was put back to an earlier state
//!   ([`first_delta_base`](crate::pool::catalogue::Catalogue::first_delta_base)).
//!
//! An eviction that fails never fails the request it was a part of.

use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};

use super::pool::OwnedPool;
use super::retention::{Origin, eviction_order, surplus};
use crate::failpoint;
use crate::pool::catalogue::Change;
use crate::pool::intent::Intent;
use crate::pool::locks::Key;
use crate::pool::record::{Anchor, Consumer, Snapshot};
use crate::pool::{Demand, ObjectUsage, PoolError, PoolUsage};
use crate::types::error::chain;
use crate::types::{AnchorLimit, Object, SnapshotId, Timestamp, VolumeId};

impl OwnedPool {
    /// Records that a consumer used a snapshot, and may come back for what changed since: deleted, the snapshot is kept as an
    /// anchor until this consumer uses a newer one of the same volume. Recorded already is success.
    ///
    /// To be called when the use is complete: it gives up the base that this consumer needed until now.
    /// [`OwnedPool::put_export`] and [`OwnedPool::create_volume`] do it for their own.
    ///
    /// # Errors
    /// [`PoolError::Missing`] when there is no such snapshot; [`PoolError::Catalogue`].
    pub fn record_use(&self, id: SnapshotId, consumer: Consumer) -> Result<(), PoolError> {
        let missing = || PoolError::Missing(Object::Snapshot(id));
        let snapshot = self.catalogue.snapshot(id)?.ok_or_else(missing)?;
        if snapshot.anchor_limit == AnchorLimit::NONE || snapshot.used_by.contains(&consumer) {
            return Ok(());
        }
        self.catalogue.commit("record_use", |change| change.add_use(id, &consumer))?;
        self.evict_surplus(snapshot.source);
        Ok(())
    }

    /// All anchors, volume by volume.
    pub fn anchors(&self) -> Result<Vec<Anchor>, PoolError> {
        self.catalogue.anchors()
    }

    /// Evicts what is not to be kept of a volume's anchors. What fails is logged, and done by the next call or start.
    pub(super) fn evict_surplus(&self, volume: VolumeId) {
        if let Err(error) = self.try_evict_surplus(volume) {
            tracing::warn!(%volume, error = %chain(&error), "anchors that are not needed any more are kept for now");
        }
    }

    fn try_evict_surplus(&self, volume: VolumeId) -> Result<(), PoolError> {
        let mut anchors = self.catalogue.anchors_of(volume)?;
        if anchors.is_empty() {
            return Ok(());
        }
        let live = self.catalogue.snapshots_of(volume)?;
        let origin = if self.catalogue.volume(volume)?.is_some() { Origin::Exists } else { Origin::Deleted };
        let surplus = surplus(origin, &live, &anchors);
        anchors.retain(|anchor| surplus.contains(&anchor.snapshot.id));
        anchors.iter().try_for_each(|anchor| self.evict(anchor).map(drop))
    }

    /// Evicts what an earlier process left to be evicted: surplus of any volume, and anchors that cannot answer exactly.
    pub(super) fn evict_leftovers(&self) -> Result<(), PoolError> {
        let mut volumes = BTreeSet::new();
        let first = self.catalogue.first_delta_base()?;
        for anchor in self.catalogue.anchors()? {
            volumes.insert(anchor.snapshot.source);
            let is_useless = anchor.snapshot.serial < first || self.check_sound(Object::Snapshot(anchor.snapshot.id)).is_err();
            if is_useless && let Err(error) = self.evict(&anchor) {
                tracing::warn!(anchor = %anchor.snapshot.id, error = %chain(&error), "an anchor that tells nothing any more is kept for now, and not used");
            }
        }
        volumes.into_iter().for_each(|volume| self.evict_surplus(volume));
        // Those that an earlier process did not get to. Most pools have nothing to reduce, and say so at once.
        self.catalogue.anchors()?.iter().for_each(|anchor| self.condense(anchor.snapshot.id));
        Ok(())
    }

    /// Reduces an anchor to what is needed of it, so that it holds no data. If that fails it stays whole, which costs space and
    /// nothing else; it is tried again with the next change of the pool ([`OwnedPool::condense_left`]), and by the next start.
    pub(super) fn condense(&self, anchor: SnapshotId) {
        if let Err(error) = failpoint::around("pool.condense", || self.pool.condense(anchor)) {
            tracing::warn!(%anchor, error = %chain(&error), "an anchor keeps its data for now");
            self.unreduced().insert(anchor);
        }
    }

    /// Goes on with anchors that could not be reduced earlier in this process. The pool took changes a moment ago.
    pub(super) fn condense_left(&self) {
        // What fails again is there again for the next time.
        let left = std::mem::take(&mut *self.unreduced());
        left.into_iter().for_each(|anchor| self.condense(anchor));
    }

    fn unreduced(&self) -> MutexGuard<'_, BTreeSet<SnapshotId>> {
        self.unreduced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Space of the pool after as many kept restores were deleted, then anchors evicted, in their order, and then local copies of exported
    /// snapshots given up, as it takes to make room for new volumes and snapshots. What is certain to become free counts as free: some file
    /// systems take a moment to free what was deleted.
    pub(super) fn make_room(&self, demand: Demand) -> Result<PoolUsage, PoolError> {
        let usage = self.usage()?;
        if usage.available_to(demand) > 0 {
            return Ok(usage);
        }
        self.finish_evictions()?;
        let usage = self.usage_after_commit()?;
        let mut usage = self.make_room_of_kept(usage, |usage| usage.available_to(demand) > 0)?;
        if usage.available_to(demand) > 0 {
            return Ok(usage);
        }
        let mut freed = 0_u64;
        for anchor in self.anchors_to_evict()? {
            let held = self.held_by(&anchor);
            if held.is_some_and(|held| held.allocated == 0) {
                // Reduced to what is needed of it as a base: its eviction would free nothing.
                continue;
            }
            let exclusive = held.map_or(0, |held| held.exclusive);
            match self.evict(&anchor) {
                Ok(Eviction::Done) => {}
                Ok(Eviction::Postponed) => continue,
                Err(error) => {
                    tracing::warn!(anchor = %anchor.snapshot.id, error = %chain(&error), "an anchor could not be evicted");
                    continue;
                }
            }
            freed = freed.saturating_add(exclusive);
            let now = self.usage_after_commit()?;
            let free = now.free.max(usage.free.saturating_add(exclusive)).min(now.total);
            usage = PoolUsage { free, ..now };
            if usage.available_to(demand) > 0 {
                tracing::warn!(pool = %self.id(), freed, "anchors were evicted to make room");
                return Ok(usage);
            }
        }
        for snapshot in self.copies_to_give_up()? {
            let given_up = match self.give_up_for_space(&snapshot) {
                Ok(Some(given_up)) => given_up,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(snapshot = %snapshot.id, error = %chain(&error), "a local copy could not be given up");
                    continue;
                }
            };
            let now = self.usage_after_commit()?;
            let free = now.free.max(usage.free.saturating_add(given_up)).min(now.total);
            usage = PoolUsage { free, ..now };
            if usage.available_to(demand) > 0 {
                tracing::warn!(pool = %self.id(), "local copies of exported snapshots were given up to make room");
                break;
            }
        }
        Ok(usage)
    }

    /// Goes on with deletions of snapshots, evictions among them, whose act failed earlier in this process.
    pub(super) fn finish_evictions(&self) -> Result<(), PoolError> {
        for (_, intent) in self.catalogue.intents()? {
            if let Intent::DeleteSnapshot { snapshot } = intent
                && let Err(error) = self.finish_deletion(Object::Snapshot(snapshot.id))
            {
                tracing::debug!(snapshot = %snapshot.id, error = %chain(&error), "a deletion is still not finished");
            }
        }
        Ok(())
    }

    /// What new volumes and snapshots may still take, in bytes, when all kept restores are deleted, all anchors evicted, and all local copies given up, that it takes.
    pub fn available_bytes(&self) -> Result<u64, PoolError> {
        let mut usage = self.usage()?;
        if usage.available() == 0 {
            usage.free = usage
                .free
                .saturating_add(self.held_by_all_kept())
                .saturating_add(self.held_by_anchors()?)
                .saturating_add(self.held_by_copies()?);
        }
        Ok(usage.available())
    }

    /// What the eviction of an anchor frees at least.
    fn exclusive_bytes(&self, anchor: &Anchor) -> u64 {
        self.held_by(anchor).map_or(0, |held| held.exclusive)
    }

    /// The space that an anchor refers to, if that can be told.
    pub(super) fn held_by(&self, anchor: &Anchor) -> Option<ObjectUsage> {
        self.pool.object_usage(Object::Snapshot(anchor.snapshot.id)).ok()
    }

    /// What all anchors together hold at least that nothing else does, in bytes: what is shared by two of them only is left out.
    pub(super) fn held_by_anchors(&self) -> Result<u64, PoolError> {
        Ok(self.catalogue.anchors()?.iter().map(|anchor| self.exclusive_bytes(anchor)).sum())
    }

    /// All anchors, in the order in which they are given up for space.
    pub(super) fn anchors_to_evict(&self) -> Result<Vec<Anchor>, PoolError> {
        let mut anchors = self.catalogue.anchors()?;
        eviction_order(&mut anchors);
        Ok(anchors)
    }

    pub(super) fn evict(&self, anchor: &Anchor) -> Result<Eviction, PoolError> {
        let snapshot = &anchor.snapshot;
        let object = Object::Snapshot(snapshot.id);
        // Where nothing can be deleted, an anchor is worth more than an intent to be rid of it.
        self.check_working()?;
        let _locked = match self.locks.lock([Key::Object(object)]) {
            Ok(locked) => locked,
            Err(PoolError::Busy(_)) => return Ok(Eviction::Postponed),
            Err(error) => return Err(error),
        };
        if self.locks.is_pinned(snapshot.id) || self.catalogue.anchor(snapshot.source, snapshot.id)?.is_none() {
            return Ok(Eviction::Postponed);
        }
        let intent = self.catalogue.commit("evict_anchor.intent", |change| {
            change.remove_anchor(anchor)?;
            change.add_intent(&Intent::DeleteSnapshot { snapshot: snapshot.clone() })
        })?;
        self.delete_object(object, intent, |pool| {
            pool.catalogue.commit("evict_anchor.reinstate", |change| {
                change.put_anchor(anchor)?;
                change.drop_intent(intent)
            })
        })?;
        self.unreduced().remove(&snapshot.id);
        self.forget_snapshot(snapshot, intent)?;
        tracing::info!(anchor = %snapshot.id, volume = %snapshot.source, "anchor evicted");
        Ok(Eviction::Done)
    }
}

/// What became of an eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eviction {
    /// The anchor is gone.
    Done,
    /// Somebody reads it, or evicts it just now.
    Postponed,
}

/// What is to become of a snapshot that is deleted, as a change sees it.
pub(super) fn fate(change: &mut Change<'_>, snapshot: &Snapshot) -> Result<Fate, PoolError> {
    let volume = snapshot.source;
    let anchor = Anchor { snapshot: snapshot.clone(), deleted: Timestamp::now() };
    let mut live = change.snapshots_of(volume)?;
    live.retain(|other| other.id != snapshot.id);
    let mut anchors = change.anchors_of(volume)?;
    anchors.push(anchor.clone());
    let origin = if change.volume(volume)?.is_some() { Origin::Exists } else { Origin::Deleted };
    let is_surplus = surplus(origin, &live, &anchors).contains(&snapshot.id);
    Ok(if is_surplus { Fate::Gone } else { Fate::Kept(anchor) })
}

/// See [`fate`].
#[allow(clippy::large_enum_variant, reason = "made once for each deletion, and taken apart at once")]
pub(super) enum Fate {
    /// Deleted.
    Gone,
    /// Kept as an anchor.
    Kept(Anchor),
}
