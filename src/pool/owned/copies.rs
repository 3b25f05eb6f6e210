//! Where the bytes of a snapshot are: what is recorded of exports under way, and giving the local copy up.
//!
//! A snapshot that a repository holds needs no bytes here. To give them up is a deletion of the object that leaves the record:
//!
//! 1. *Intent*: one commit records that there is no local copy any more, and either an anchor (the snapshot was somebody's base, and
//!    an export always makes it one) or an intent to delete the object. From here on nobody reads it.
//! 2. *Act*: the anchor is reduced to what is needed of it as a base, or the object is deleted.
//! 3. *Commit*: after a deletion, the intent is dropped.
//!
//! A crash between 1 and 2 leaves a whole anchor, which the next start reduces, or the intent of a deletion, which it finishes; between 2
//! and 3, an intent whose object is gone, likewise. Before 1 nothing has happened: the call is repeated, and of a class that says `drop`,
//! the next start does it by itself. It is never cancelled half way, like all that is done here.
//!
//! **Never**: a local copy that no repository is recorded to hold is not given up (invariant 2), nor is one that somebody reads.
//!
//! Under pressure (`make_room`, `watch`) copies whose class lets them go follow the anchors, the one that was cut longest ago first. A
//! pool of files frees nothing while the snapshot is kept as an anchor, so that goes too then.

use super::anchors::{Eviction, Fate, fate};
use super::pool::OwnedPool;
use super::retention::age;
use crate::pool::PoolError;
use crate::pool::intent::Intent;
use crate::pool::locks::Key;
use crate::pool::record::Snapshot;
use crate::types::error::chain;
use crate::types::{ExportTask, LocalCopy, LocalCopyPolicy, Object, SnapshotId};

impl OwnedPool {
    /// Records how far the export of a snapshot has come, in place of what was recorded before.
    ///
    /// # Errors
    /// [`PoolError::Missing`]; [`PoolError::NoSpace`] when the catalogue has no room; [`PoolError::Catalogue`].
    pub fn put_task(&self, id: SnapshotId, task: &ExportTask) -> Result<(), PoolError> {
        let missing = || PoolError::Missing(Object::Snapshot(id));
        let recorded = self.catalogue.snapshot(id)?.ok_or_else(missing)?;
        if recorded.copies.task.as_ref() == Some(task) {
            return Ok(());
        }
        self.catalogue.commit("put_task", |change| {
            let mut snapshot = change.snapshot(id)?.ok_or_else(missing)?;
            snapshot.copies.task = Some(task.clone());
            change.note_of_snapshot(&snapshot)
        })
    }

    /// Gives the local copy of an exported snapshot up. Given up already is success.
    ///
    /// # Errors
    /// [`PoolError::Missing`]; [`PoolError::Unsupported`] when no export of it is recorded; [`PoolError::InUse`] while it is leased, copied or
    /// attached; [`PoolError::Busy`]; [`PoolError::Io`], [`PoolError::Catalogue`]: to be repeated.
    pub fn give_up_local_copy(&self, id: SnapshotId) -> Result<(), PoolError> {
        self.settle();
        let object = Object::Snapshot(id);
        let missing = || PoolError::Missing(object);
        if !self.catalogue.snapshot(id)?.ok_or_else(missing)?.is_here() {
            return self.finish_deletion(object);
        }
        let _locked = self.locks.lock([Key::Object(object)])?;
        let snapshot = self.catalogue.snapshot(id)?.ok_or_else(missing)?;
        if !snapshot.is_here() {
            return Ok(());
        }
        if self.locks.is_pinned(id) {
            return Err(PoolError::InUse { object, by: "an export or a copy that reads it".to_owned() });
        }
        self.check_working()?;
        self.detach_remnant(object)?;
        let is_base = self.check_sound(object).is_ok() && snapshot.serial >= self.catalogue.first_delta_base()?;
        let intent = self.catalogue.commit("give_up_local_copy.intent", |change| {
            // Uses are recorded without this lock: one that came since the look above is decided on here.
            let mut snapshot = change.snapshot(id)?.ok_or_else(missing)?;
            if snapshot.copies.exports.is_empty() {
                return Err(PoolError::Unsupported(
                    format!("{object} is in no repository: its local copy is the only one").into(),
                ));
            }
            let whole = snapshot.clone();
            snapshot.copies.local = LocalCopy::GivenUp;
            change.put_snapshot(&snapshot)?;
            match fate(change, &whole)? {
                Fate::Kept(anchor) if is_base => change.put_anchor(&anchor).map(|()| None),
                _ => change.add_intent(&Intent::DeleteSnapshot { snapshot: whole }).map(Some),
            }
        })?;
        match intent {
            None => {
                self.condense_left();
                self.condense(id);
            }
            Some(intent) => {
                self.delete_object(object, intent, |pool| {
                    pool.catalogue.commit("give_up_local_copy.reinstate", |change| {
                        if let Some(mut snapshot) = change.snapshot(id)? {
                            snapshot.copies.local = LocalCopy::Kept;
                            change.put_snapshot(&snapshot)?;
                        }
                        change.drop_intent(intent)
                    })
                })?;
                self.forget_snapshot(&snapshot, intent)?;
            }
        }
        tracing::info!(snapshot = %id, name = %snapshot.name, "local copy given up");
        self.evict_surplus(snapshot.source);
        Ok(())
    }

    /// Gives up the local copies of these, which nobody came to give up before. What fails is logged, and done by the next start.
    pub(super) fn drop_copies(&self, snapshots: &[SnapshotId]) {
        for &snapshot in snapshots {
            if let Err(error) = self.give_up_local_copy(snapshot) {
                tracing::warn!(%snapshot, error = %chain(&error), "a local copy is kept for now");
            }
        }
    }

    /// The local copies that may be given up for space, in the order in which they go.
    pub(super) fn copies_to_give_up(&self) -> Result<Vec<Snapshot>, PoolError> {
        let mut snapshots = self.catalogue.snapshots()?;
        snapshots.retain(|snapshot| snapshot.is_here() && snapshot.policy() != LocalCopyPolicy::Keep);
        snapshots.sort_unstable_by_key(age);
        Ok(snapshots)
    }

    /// Gives a local copy up for its space, and the anchor that it leaves, if that still holds any; what that frees at least. `None` when
    /// somebody uses it.
    ///
    /// # Errors
    /// As for [`OwnedPool::give_up_local_copy`].
    pub(super) fn give_up_for_space(&self, snapshot: &Snapshot) -> Result<Option<u64>, PoolError> {
        let freed = self.pool.object_usage(Object::Snapshot(snapshot.id)).map_or(0, |usage| usage.exclusive);
        match self.give_up_local_copy(snapshot.id) {
            Ok(()) => {}
            Err(PoolError::InUse { .. } | PoolError::Busy(_) | PoolError::Missing(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
        let Some(anchor) = self.catalogue.anchor(snapshot.source, snapshot.id)? else { return Ok(Some(freed)) };
        match self.held_by(&anchor) {
            Some(held) if held.allocated > 0 => Ok(if self.evict(&anchor)? == Eviction::Done { Some(freed) } else { None }),
            _ => Ok(Some(freed)),
        }
    }

    /// What local copies that may be given up hold at least that nothing else does, in bytes.
    pub(super) fn held_by_copies(&self) -> Result<u64, PoolError> {
        let held = |snapshot: &Snapshot| self.pool.object_usage(Object::Snapshot(snapshot.id)).map_or(0, |usage| usage.exclusive);
        Ok(self.copies_to_give_up()?.iter().map(held).sum())
    }
}

/// Refuses to read a snapshot whose bytes are elsewhere.
pub(super) fn check_here(snapshot: &Snapshot) -> Result<(), PoolError> {
    if snapshot.is_here() { Ok(()) } else { Err(PoolError::GivenUp(Object::Snapshot(snapshot.id))) }
}
