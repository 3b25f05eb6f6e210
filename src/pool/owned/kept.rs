//! Restore targets that are kept: what an interrupted restore has written, for the next one that is equal.
//!
//! A restore whose beginner said [`OnLoss::Keep`] survives those who hold it: its object stays as it is, hidden, beside the intent that made it,
//! and whoever begins an equal restore *takes it over*. Nothing that is in it is trusted: what it holds is told as
//! [`TargetContent::Partial`](crate::types::TargetContent), and the restore looks at all of it. So no progress is recorded, and it does not
//! matter what a crash has left, or what a hostile writer has put there before.
//!
//! * *Held or kept.* A target is in one of two tables of this process. A held one has the locks of its name and object until it is settled; a
//!   kept one has none, and whatever is done with it locks both first. The catalogue knows no difference: an intent [`Intent::Restore`] with
//!   `Keep` that is found at the start is of a kept one, whatever it was before.
//! * *Nobody can write to a kept target.* It becomes kept only when the pool has sealed it ([`OwnedPool::let_go_restore`]), and one that was found
//!   at the start, whose writer may have outlived this process, is sealed before it is taken over; else it is deleted. So whoever writes
//!   to a target is the one who holds it now, and the commit makes sure of that one as ever.
//! * *Equal* is what a repeated creation must be (`idempotent`): the content that it is restored from, size, mode, parameters and the rest.
//!   Another request for the name deletes the kept target and goes on; so does a creation, and a commit under that name.
//!   A kept target refuses nothing.
//! * *The name is claimed in this pool only.* Another pool that is asked for the same restore makes a target of its own; one of both becomes
//!   the volume, and the other one goes with its time. Callers prefer the pool that keeps one ([`OwnedPool::kept_names`]).
//!
//! # Bounds
//!
//! * *Time*: [`OnLoss::KEPT_FOR`], by this process's monotonic clock, from when nobody held it any more, or from this process's start: a clock that was
//!   set, or a node that was off for a night, takes nothing from the next attempt. It is twelve times what a provisioner or a container that fails
//!   waits at most before it tries again (five minutes).
//! * *Number*: [`OnLoss::MOST_KEPT`], as many as one agent may hold, so that an agent's restart loses none; beyond, the one goes that has been kept for longest.
//!   So an agent that begins and drops targets without end keeps so many, and takes the place of other kept ones and of nothing else.
//! * *Room*: they go first, before anchors and local copies, when a new volume or snapshot would be refused for want of space or of what the pool
//!   may promise, and while writers have only the reserve left (`watch`).
//!
//! The deletion is that of any volume: a commit that replaces the intent by one to delete, from which on the name is free; the act; a commit.
//! What fails of it is finished by `settle`, or by the next start.

use std::fs::File;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::pool::OwnedPool;
use super::recovery;
use super::restoring::{Kept, KeptTargets, Restoring};
use crate::block::{device, file_ops};
use crate::failpoint;
use crate::pool::intent::{Intent, IntentId};
use crate::pool::locks::{Key, Locked};
use crate::pool::record::Volume;
use crate::pool::{ObjectUsage, PoolError, PoolUsage, idempotent};
use crate::types::error::chain;
use crate::types::{Access, NewVolume, Object, ObjectName, OnLoss, VolumeId};

/// When a deletion is tried again that failed.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// A target that was taken over, with the lock of its object.
pub(super) struct TakenOver {
    pub(super) intent: IntentId,
    pub(super) volume: Volume,
    pub(super) file: File,
    pub(super) locked: Locked,
}

impl OwnedPool {
    /// Lets go of a restore that nobody goes on with now: it is deleted, or kept for a while for the next one that is equal, as its beginner
    /// said. No such restore is success.
    ///
    /// # Errors
    /// [`PoolError::InUse`] while anybody can write to it, and [`PoolError::Catalogue`]: it is held as before; repeat, or abort. For one that is deleted as
    /// [`OwnedPool::abort_restore`].
    pub fn let_go_restore(&self, id: VolumeId) -> Result<(), PoolError> {
        let Some(restoring) = self.restoring().remove(&id) else { return Ok(()) };
        if restoring.on_loss == OnLoss::Delete {
            self.restoring().insert(id, restoring);
            return self.abort_restore(id);
        }
        match self.check_unfinished(&restoring) {
            Ok(true) => {
                // Before its locks are free, so that nobody takes its intent for what a failed call left.
                self.kept().insert(id, Kept::new(restoring.intent, restoring.volume.clone()));
                tracing::info!(volume = %id, name = %restoring.volume.name, "nobody holds this restore any more: it is kept for the next equal one");
                drop(restoring);
                self.keep_no_more_than(OnLoss::MOST_KEPT);
                Ok(())
            }
            Ok(false) => {
                tracing::info!(volume = %id, name = %restoring.volume.name, "a restore that nobody holds any more is committed, or gone");
                Ok(())
            }
            Err(error) => {
                self.restoring().insert(id, restoring);
                Err(error)
            }
        }
    }

    /// Whether a restore is still what its intent says, and nobody can write to it. A commit that failed may have reached the disk.
    fn check_unfinished(&self, restoring: &Restoring) -> Result<bool, PoolError> {
        self.catalogue.check_works()?;
        if !self.catalogue.intents()?.iter().any(|(id, _)| *id == restoring.intent) {
            return Ok(false);
        }
        self.pool.seal(Object::Volume(restoring.volume.id))?;
        Ok(true)
    }

    /// The kept target of a request's name, if it is what the request would make, for whoever has locked the name. Any other of that name is
    /// deleted, or out of the way.
    pub(super) fn take_over(&self, request: &NewVolume, on_loss: OnLoss) -> Result<Option<TakenOver>, PoolError> {
        let Some(Kept { intent, volume, .. }) = self.kept_named(&request.name) else { return Ok(None) };
        let locked = self.lock_objects([Object::Volume(volume.id)])?;
        // A commit to delete it that failed may have reached the disk: what it names is never given to anybody.
        self.catalogue.check_works()?;
        let is_there = self.catalogue.intents()?.iter().any(|(id, _)| *id == intent);
        let is_equal = idempotent::check_volume(&volume, request).is_ok() && request.minimum <= volume.size;
        if on_loss == OnLoss::Keep && is_there && is_equal {
            self.check_working()?;
            match self.reopen(&volume) {
                Ok(file) => {
                    self.kept().remove(&volume.id);
                    // What Kubernetes calls it may have changed with who asks for it.
                    let volume = Volume { kubernetes: request.kubernetes.clone(), ..volume };
                    return Ok(Some(TakenOver { intent, volume, file, locked }));
                }
                Err(error) => {
                    tracing::warn!(volume = %volume.id, name = %volume.name, error = %chain(&error), "a kept restore cannot be gone on with: it begins anew")
                }
            }
        }
        self.discard_locked(volume.id)?;
        Ok(None)
    }

    /// A descriptor of a kept target, to which nobody else can write, and which has its size. What is read by it is what the disk holds: a page
    /// that could not be written back stays in memory and is not written again, and whoever wrote it may have been told and be gone.
    fn reopen(&self, volume: &Volume) -> Result<File, PoolError> {
        let object = Object::Volume(volume.id);
        self.pool.seal(object)?;
        let file = failpoint::around("pool.reopen", || self.pool.open(object, Access::ReadWrite))?;
        let bytes = device::size(&file).map_err(|error| PoolError::io(format!("look at {object}"), error))?;
        if bytes != volume.size.bytes() {
            return Err(PoolError::Size(format!("it has {bytes} bytes instead of {}", volume.size.bytes())));
        }
        file.sync_all()
            .and_then(|()| file_ops::drop_cache(&file))
            .map_err(|error| PoolError::io(format!("sync {object}"), error))?;
        Ok(file)
    }

    /// Frees a name that the caller has locked from a kept target.
    pub(super) fn free_name(&self, name: &ObjectName) -> Result<(), PoolError> {
        let Some(kept) = self.kept_named(name) else { return Ok(()) };
        let _locked = self.lock_objects([Object::Volume(kept.volume.id)])?;
        self.discard_locked(kept.volume.id)
    }

    /// Deletes what has been kept for long enough by `now`. What cannot be deleted now is tried again later.
    pub fn delete_overdue_restores(&self, now: Instant) {
        let is_overdue = |kept: &Kept| now.saturating_duration_since(kept.since) >= OnLoss::KEPT_FOR;
        let overdue: Vec<VolumeId> = self.by_age().into_iter().filter(is_overdue).map(|kept| kept.volume.id).collect();
        for id in overdue {
            if self.discard(id) == Discarded::Failed
                && let Some(kept) = self.kept().get_mut(&id)
            {
                kept.since = now.checked_sub(OnLoss::KEPT_FOR.saturating_sub(AGAIN_AFTER)).unwrap_or(kept.since);
            }
        }
    }

    /// Deletes the kept target that frees space and has been kept for longest; what that frees at least. `None` when there is none.
    pub(super) fn discard_for_space(&self) -> Option<u64> {
        for kept in self.by_age() {
            let held = self.held_by_kept(&kept).filter(|held| held.allocated > 0);
            if let Some(held) = held
                && self.discard(kept.volume.id) == Discarded::Done
            {
                tracing::warn!(volume = %kept.volume.id, name = %kept.volume.name, freed = held.exclusive, "a kept restore was deleted to make room: it begins anew");
                return Some(held.exclusive);
            }
        }
        None
    }

    /// Space of the pool after as many kept targets were deleted as it takes.
    pub(super) fn make_room_of_kept(
        &self,
        mut usage: PoolUsage,
        is_enough: impl Fn(&PoolUsage) -> bool,
    ) -> Result<PoolUsage, PoolError> {
        while !is_enough(&usage) {
            let Some(freed) = self.discard_for_space() else { break };
            let now = self.usage_after_commit()?;
            usage = PoolUsage { free: now.free.max(usage.free.saturating_add(freed)).min(now.total), ..now };
        }
        Ok(usage)
    }

    /// Deletes kept targets until `added` bytes more may be promised, as far as that goes.
    pub(super) fn make_promises_of_kept(&self, added: u64) -> Result<(), PoolError> {
        for kept in self.by_age() {
            if added <= self.promises()?.left() {
                break;
            }
            self.discard(kept.volume.id);
        }
        Ok(())
    }

    /// What is promised to kept targets, in bytes.
    pub(super) fn promised_to_kept(&self) -> u64 {
        self.kept().values().fold(0, |sum, kept| sum.saturating_add(kept.volume.size.bytes()))
    }

    /// What kept targets hold, in bytes.
    pub(super) fn held_by_all_kept(&self) -> u64 {
        self.by_age().iter().filter_map(|kept| self.held_by_kept(kept)).map(|held| held.exclusive).sum()
    }

    /// The kept targets as they would be recorded, with the space that each takes.
    pub fn kept_restores(&self) -> Vec<(Volume, ObjectUsage)> {
        let usage = |kept: Kept| self.held_by_kept(&kept).map(|held| (kept.volume, held));
        self.by_age().into_iter().filter_map(usage).collect()
    }

    /// The names of the kept targets.
    pub fn kept_names(&self) -> Vec<ObjectName> {
        self.kept().values().map(|kept| kept.volume.name.clone()).collect()
    }

    /// Deletes what is kept beyond `most`, those first that have been kept for longest.
    pub(super) fn keep_no_more_than(&self, most: usize) {
        let by_age = self.by_age();
        let surplus = by_age.len().saturating_sub(most);
        for kept in by_age.iter().take(surplus) {
            self.discard(kept.volume.id);
        }
    }

    pub(super) fn is_kept(&self, id: VolumeId) -> bool {
        self.kept().contains_key(&id)
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, KeptTargets> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept_named(&self, name: &ObjectName) -> Option<Kept> {
        self.kept().values().find(|kept| kept.volume.name == *name).cloned()
    }

    /// All of them, those first that have been kept for longest.
    fn by_age(&self) -> Vec<Kept> {
        let mut kept: Vec<Kept> = self.kept().values().cloned().collect();
        kept.sort_by_key(|kept| (kept.since, kept.intent));
        kept
    }

    fn held_by_kept(&self, kept: &Kept) -> Option<ObjectUsage> {
        self.pool.object_usage(Object::Volume(kept.volume.id)).ok()
    }

    /// Deletes a kept target, unless somebody works on it or its name.
    fn discard(&self, id: VolumeId) -> Discarded {
        let Some(name) = self.kept().get(&id).map(|kept| kept.volume.name.clone()) else { return Discarded::Gone };
        let Ok(_locked) = self.locks.lock([Key::VolumeName(name), Key::Object(Object::Volume(id))]) else {
            return Discarded::Gone;
        };
        match self.discard_locked(id) {
            Ok(()) => Discarded::Done,
            Err(error) => {
                tracing::warn!(volume = %id, error = %chain(&error), "a kept restore cannot be deleted yet");
                Discarded::Failed
            }
        }
    }

    /// Deletes a kept target whose locks are held. Its name is free when this succeeds, and its space unless its data resists, which is tried
    /// again before the next change.
    fn discard_locked(&self, id: VolumeId) -> Result<(), PoolError> {
        let Some(kept) = self.kept().remove(&id) else { return Ok(()) };
        let volume = &kept.volume;
        let intent = self.catalogue.commit("discard_restore.intent", |change| {
            change.drop_intent(kept.intent)?;
            change.add_intent(&Intent::DeleteVolume { volume: volume.clone() })
        });
        let intent = match intent {
            Ok(intent) => intent,
            Err(error) => {
                self.kept().insert(id, kept);
                return Err(error);
            }
        };
        tracing::info!(volume = %id, name = %volume.name, "a kept restore is deleted");
        let deleted =
            failpoint::around("pool.delete", || recovery::remove(self.pool.as_ref(), Object::Volume(id))).and_then(|()| {
                self.catalogue.commit("discard_restore.commit", |change| {
                    self.pool.unregister(change, Object::Volume(id))?;
                    change.drop_intent(intent)
                })
            });
        if let Err(error) = deleted {
            tracing::warn!(volume = %id, error = %chain(&error), "the data of a restore that was kept cannot be deleted yet");
            self.note_unsettled();
        }
        Ok(())
    }
}

/// What became of the deletion of a kept target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Discarded {
    /// Its name is free.
    Done,
    /// It is none any more, or somebody works on it.
    Gone,
    /// It is still kept.
    Failed,
}
