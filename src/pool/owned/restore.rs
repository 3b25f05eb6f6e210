//! Hidden restore targets: a volume that nobody sees until it is whole.
//!
//! Begin makes the object under an intent and keeps the name claimed. The caller writes to the descriptor, and closes it. Commit makes
//! sure that nobody can write by it any more (it may have been handed to another process, which is trusted with nothing after this),
//! checks what is there, makes it durable, and records the volume in one step, formatted for good: whatever a restore wrote is
//! content. Only a target of which the caller says that its image was never formatted, and to which nothing was written, is a volume
//! that was never formatted: the pool looks itself, so a false word makes no volume that is formatted over its content. It may give the volume
//! another name, for one that turned out not to be what the first name promises.
//!
//! Abort deletes it. One that nobody goes on with ([`OwnedPool::let_go_restore`], or the end of the process) is deleted too, or kept for the next equal
//! restore (`kept`), as its beginner said.

use std::fs::File;

use super::kept::TakenOver;
use super::pool::OwnedPool;
use super::restoring::Restoring;
use crate::block::device;
use crate::failpoint;
use crate::pool::intent::Intent;
use crate::pool::locks::{Key, Locked};
use crate::pool::record::Volume;
use crate::pool::{ObjectSpec, PoolError, idempotent};
use crate::types::{Access, FormatState, NewVolume, Object, ObjectName, OnLoss, TargetContent, Timestamp, VolumeId, VolumeSize};

/// Answer to [`OwnedPool::begin_restore`].
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "made once for each restore, and taken apart at once")]
pub enum RestoreStart {
    /// Write to this, then commit or abort it.
    Target(RestoreTarget),
    /// An equal earlier request was restored and committed (or made); nothing is to be done.
    Existing(Volume),
}

/// A hidden volume to write to. Dropping it does not abort: commit or abort does, by its id.
#[derive(Debug)]
pub struct RestoreTarget {
    volume: VolumeId,
    size: VolumeSize,
    file: File,
    content: TargetContent,
}

impl RestoreTarget {
    /// The id the volume will have.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// Its size.
    pub fn size(&self) -> VolumeSize {
        self.size
    }

    /// What it holds at first.
    pub fn content(&self) -> TargetContent {
        self.content
    }

    /// A descriptor for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The descriptor alone.
    pub fn into_file(self) -> File {
        self.file
    }

    /// Closes the descriptor, without which there is no commit. Returns the id to commit.
    pub fn close(self) -> VolumeId {
        self.volume
    }
}

impl OwnedPool {
    /// Begins to restore into a new volume, or goes on with a kept one of an equal request. Until its commit the volume is not listed, its id is
    /// not known, and its name is claimed: other requests for the name get [`PoolError::Busy`].
    ///
    /// # Errors
    /// As for [`OwnedPool::create_volume`]; [`PoolError::Unsupported`] when the request names a content source
    /// in this pool. A foreign one is recorded.
    pub fn begin_restore(&self, request: &NewVolume, on_loss: OnLoss) -> Result<RestoreStart, PoolError> {
        self.settle();
        if request.source.is_some() {
            return Err(PoolError::Unsupported("a volume is either restored or copied from another object".into()));
        }
        let name = self.locks.lock([Key::VolumeName(request.name.clone())])?;
        // Before the plan, for a volume that exists is an answer also in a full pool.
        if let Some(existing) = self.catalogue.volume_by_name(&request.name)? {
            idempotent::check_volume(&existing, request)?;
            return Ok(RestoreStart::Existing(existing));
        }
        if let Some(TakenOver { intent, volume, file, locked }) = self.take_over(request, on_loss)? {
            let (id, size) = (volume.id, volume.size);
            tracing::info!(volume = %id, name = %volume.name, size = size.bytes(), "restore goes on with what an earlier one has written");
            self.restoring().insert(id, Restoring { intent, volume, on_loss, _locked: [name, locked], renamed: None });
            return Ok(RestoreStart::Target(RestoreTarget { volume: id, size, file, content: TargetContent::Partial }));
        }
        let volume = Volume { format: FormatState::Copied, ..self.plan_volume(request, "restore")? };
        let (id, size) = (volume.id, volume.size);
        let object = self.lock_objects([Object::Volume(id)])?;
        let intent = Intent::Restore { volume: volume.clone(), on_loss };
        let total = self.pool.usage()?.total;
        let intent = self.catalogue.commit("begin_restore.intent", |change| {
            self.check_promise(change, total, size.bytes())?;
            self.pool.register(change, &[(Object::Volume(id), size)])?;
            change.add_intent(&intent)
        })?;
        let spec = ObjectSpec { size, checksum: volume.checksum };
        let made = failpoint::around("pool.create", || self.pool.create(id, spec))
            .and_then(|()| self.pool.open(Object::Volume(id), Access::ReadWrite));
        let file = match made {
            Ok(file) => file,
            Err(error) => {
                return Err(self.undo_creation(intent, &[Object::Volume(id)], error));
            }
        };
        tracing::info!(volume = %id, name = %volume.name, size = size.bytes(), "restore begun");
        self.restoring().insert(id, Restoring { intent, volume, on_loss, _locked: [name, object], renamed: None });
        Ok(RestoreStart::Target(RestoreTarget { volume: id, size, file, content: TargetContent::Zeros }))
    }

    /// Makes a restored volume durable and visible.
    ///
    /// # Errors
    /// [`PoolError::Missing`] when no such restore was begun in this process; [`PoolError::InUse`] while anybody can write to the target;
    /// [`PoolError::Size`] when it no longer has its size; [`PoolError::Io`], [`PoolError::Catalogue`]. After an error the target is
    /// still hidden: repeat or abort.
    pub fn commit_restore(&self, id: VolumeId) -> Result<Volume, PoolError> {
        self.commit_named(id, None, FormatState::Copied)
    }

    /// The same for the image of a volume that was never formatted: so is this one, if nothing was written to it.
    ///
    /// # Errors
    /// As for [`OwnedPool::commit_restore`].
    pub fn commit_restore_unformatted(&self, id: VolumeId) -> Result<Volume, PoolError> {
        self.commit_named(id, None, FormatState::Never)
    }

    /// The same, under another name than the one that it was begun with, which is free from then on.
    ///
    /// # Errors
    /// As for [`OwnedPool::commit_restore`]; [`PoolError::NameTaken`] and [`PoolError::Busy`] when another volume has that name, or may get it.
    pub fn commit_restore_as(&self, id: VolumeId, name: ObjectName) -> Result<Volume, PoolError> {
        let locked = self.locks.lock([Key::VolumeName(name.clone())])?;
        if self.catalogue.volume_by_name(&name)?.is_some() {
            return Err(PoolError::NameTaken { name: name.to_string(), difference: "content" });
        }
        self.free_name(&name)?;
        self.commit_named(id, Some((name, locked)), FormatState::Copied)
    }

    /// `said` is what the caller says of the image.
    fn commit_named(&self, id: VolumeId, name: Option<(ObjectName, Locked)>, said: FormatState) -> Result<Volume, PoolError> {
        let object = Object::Volume(id);
        let mut restoring = self.restoring().remove(&id).ok_or(PoolError::Missing(object))?;
        restoring.renamed = name;
        match self.finish_restore(&restoring, said) {
            Ok(volume) => {
                tracing::info!(volume = %id, name = %volume.name, "restore committed");
                Ok(volume)
            }
            Err(error) => {
                self.restoring().insert(id, restoring);
                Err(error)
            }
        }
    }

    fn finish_restore(&self, restoring: &Restoring, said: FormatState) -> Result<Volume, PoolError> {
        let mut volume = restoring.volume.clone();
        if let Some((name, _)) = &restoring.renamed {
            volume.name = name.clone();
        }
        self.pool.seal(Object::Volume(volume.id))?;
        let file = self.pool.open(Object::Volume(volume.id), Access::ReadOnly)?;
        let io = |what: &str, source| PoolError::io(format!("{what} the restored volume {}", restoring.volume.id), source);
        let stored = device::size(&file).map_err(|source| io("look at", source))?;
        if stored != volume.size.bytes() {
            return Err(PoolError::Size(format!("the restored volume has {stored} bytes instead of {}", volume.size.bytes())));
        }
        failpoint::around("pool.restore_sync", || file.sync_all()).map_err(|source| io("sync", source))?;
        if said == FormatState::Never && self.holds_nothing(volume.id) {
            volume.format = FormatState::Never;
        }
        volume.created = Timestamp::now();
        self.catalogue.commit("commit_restore", |change| {
            change.put_volume(&volume)?;
            change.drop_intent(restoring.intent)
        })?;
        Ok(volume)
    }

    /// Whether nothing was written to a target that is sealed and durable. Any doubt is a no.
    fn holds_nothing(&self, id: VolumeId) -> bool {
        self.pool.stored(id).is_ok_and(|mut ranges| ranges.next().is_none())
    }

    /// Gives up a restore and deletes what was written. No such restore is success.
    ///
    /// # Errors
    /// [`PoolError::Io`], [`PoolError::Catalogue`]: repeat, or leave it to the next start.
    pub fn abort_restore(&self, id: VolumeId) -> Result<(), PoolError> {
        let Some(mut restoring) = self.restoring().remove(&id) else { return Ok(()) };
        let aborted = self.discard_restore(&mut restoring);
        match aborted {
            Ok(()) => tracing::info!(volume = %id, name = %restoring.volume.name, "restore aborted"),
            Err(_) => drop(self.restoring().insert(id, restoring)),
        }
        aborted
    }

    fn discard_restore(&self, restoring: &mut Restoring) -> Result<(), PoolError> {
        let volume = &restoring.volume;
        restoring.intent = self.catalogue.commit("abort_restore.intent", |change| {
            // A commit that failed may have reached the disk all the same. Its name is locked, so nobody was told of the volume.
            if let Some(recorded) = change.volume(volume.id)? {
                change.remove_volume(&recorded)?;
            }
            change.drop_intent(restoring.intent)?;
            change.add_intent(&Intent::DeleteVolume { volume: volume.clone() })
        })?;
        failpoint::around("pool.delete", || self.pool.delete(Object::Volume(volume.id)))?;
        self.catalogue.commit("abort_restore.commit", |change| {
            self.pool.unregister(change, Object::Volume(volume.id))?;
            change.drop_intent(restoring.intent)
        })
    }
}
