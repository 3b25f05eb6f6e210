//! What is to be taken down of one volume on this node, whatever became of its pool.
//!
//! For teardown the node is the owner: NodeUnpublishVolume and NodeUnstageVolume go by what is mounted and by the devices that the
//! kernel has. Neither opens a file of the pool. A pool that is here and answers gives its records (which paths are stages, and which
//! publications) and removes its own devices; one that is absent, failed, or has forgotten the volume, is not asked, or not believed to
//! be all there is.
//!
//! A bind of a device node whose device is gone (a thin device that was removed, a loop device without a file) shows nothing any more, and
//! is taken off a target path like the volume itself: nobody else will do it.
//!
//! A record without a mount is void by design, so one that cannot be removed is a warning. What else could not be undone is told to the
//! caller, who comes again.

use std::path::Path;

use crate::csi::error::RequestError;
use crate::failpoint;
use crate::mount::MountEntry;
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::pool::PoolError;
use crate::pool::kernel_devices::{KernelDevice, is_thin_node_of};
use crate::pool::owned::OwnedPool;
use crate::pool::record::{Publication, PublicationKind};
use crate::types::error::chain;
use crate::types::{Object, VolumeHandle, VolumeMode};

use super::presence::{Device, MountedAt, Presence, is_node};
use super::refusal::occupied;

/// One volume on this node, as far as it can be told without its pool.
pub(super) struct Teardown<'a> {
    layer: &'a NodeLayer,
    volume: VolumeHandle,
    /// The pool, if it is here.
    pool: Option<&'a OwnedPool>,
    /// The records of this boot; `None` when nobody can tell them.
    records: Option<Vec<Publication>>,
    presence: Presence<'a>,
}

impl<'a> Teardown<'a> {
    /// Reads records, devices and mounts. A pool that fails to tell its records fails nothing here.
    pub(super) fn look(layer: &'a NodeLayer, pool: Option<&'a OwnedPool>, volume: VolumeHandle) -> Result<Self, CallError> {
        let records = pool.and_then(|pool| records(layer, pool, volume));
        let listed = layer.devices.of_volume(volume)?.into_iter();
        let mut found: Vec<Device> = listed.map(|KernelDevice { path, number }| Device { path, number }).collect();
        if found.is_empty() {
            // Not every pool's devices are known to the kernel by their volume.
            found.extend(pool.and_then(|pool| attached(layer, pool, volume)));
        }
        let presence = Presence::new(layer, found, layer.mounter.mounts()?);
        Ok(Self { layer, volume, pool, records, presence })
    }

    /// The records that count of stages and of publications: written in this boot, and to be seen.
    pub(super) fn live(&self) -> impl Iterator<Item = &Publication> {
        let has_device = self.presence.has_device();
        self.records.iter().flatten().filter(move |record| match (record.kind, record.mode) {
            (PublicationKind::Staged, VolumeMode::Block) => has_device,
            (PublicationKind::Staged, VolumeMode::Filesystem(_)) | (PublicationKind::Published, _) => {
                matches!(self.presence.at(&record.path), MountedAt::Volume(_))
            }
        })
    }

    /// Unmounts a path.
    ///
    /// # Errors
    /// Refused when something else is mounted there, or beneath the volume.
    pub(super) fn unmount(&self, field: &'static str, path: &Path) -> Result<(), CallError> {
        match self.presence.at(path) {
            MountedAt::Nothing => Ok(()),
            MountedAt::Volume(_) => match self.presence.unmount(path)? {
                Some(entry) => Err(occupied(field, path, &entry.source)),
                None => Ok(()),
            },
            MountedAt::Other(entry) if self.shows_a_device_that_is_gone(path, entry)? => {
                tracing::info!(volume = %self.volume, path = %path.display(), "what is bound there has no device any more");
                self.presence.unmount_topmost(path)
            }
            MountedAt::Other(entry) => Err(occupied(field, path, &entry.source)),
        }
    }

    /// Whether a mount at `path` is the bind of a node that this volume had, or that nobody has.
    fn shows_a_device_that_is_gone(&self, path: &Path, entry: &MountEntry) -> Result<bool, CallError> {
        if !is_node(entry) {
            return Ok(false);
        }
        let is_recorded = |record: &Publication| {
            record.kind == PublicationKind::Published && record.mode == VolumeMode::Block && record.path == path
        };
        // The number may be another device's by now, but it was this driver that bound the node there.
        if is_thin_node_of(&entry.root, self.volume) || self.records.iter().flatten().any(is_recorded) {
            return Ok(true);
        }
        let node = crate::block::sysfs::without_deletion_mark(&entry.root).unwrap_or_else(|| entry.root.clone());
        match (node.file_name().and_then(|name| name.to_str()), self.layer.mounter.device_number(&entry.mount_point)) {
            (Some(name), Ok(number)) => Ok(self.layer.devices.is_void(name, number)?),
            _ => Ok(false),
        }
    }

    /// Removes the volume's device, on which nothing is mounted any more.
    ///
    /// # Errors
    /// Still mounted somewhere; [`CallError::Unfinished`] when it is open, or cannot be removed.
    pub(super) fn detach(&self, field: &'static str) -> Result<(), CallError> {
        // What was unmounted since is no use any more.
        let now = Self::look(self.layer, self.pool, self.volume)?;
        if let Some(entry) = now.presence.mounts().next() {
            return Err(RequestError::precondition(field, format!("is still mounted at {}", entry.mount_point.display())).into());
        }
        if !now.presence.has_device() {
            return Ok(());
        }
        let object = Object::Volume(self.volume.volume);
        match now.pool.map(|pool| failpoint::around("node.detach", || pool.detach(object))) {
            Some(Err(error @ PoolError::Busy(_))) => return Err(error.into()),
            Some(Err(error @ PoolError::InUse { .. })) => return Err(unfinished(error)),
            Some(Err(error)) => {
                tracing::warn!(%object, error = %chain(&error), "its pool cannot remove the device; it goes without it")
            }
            Some(Ok(())) | None => {}
        }
        failpoint::around("node.detach", || self.layer.devices.detach(self.volume)).map_err(unfinished)?;
        if now.pool.is_none() {
            // It may have been all that kept a pool that failed from being opened anew.
            self.layer.pools.suspect(self.volume.pool);
        }
        Ok(())
    }

    /// Forgets the record of a path.
    pub(super) fn forget(&self, path: &Path) {
        let removed =
            self.pool.map(|pool| failpoint::around("node.record", || pool.remove_publication(self.volume.volume, path)));
        if let Some(Err(error)) = removed {
            tracing::warn!(volume = %self.volume, path = %path.display(), error = %chain(&error), "a record stays, void, of what is not mounted any more");
        }
    }
}

fn unfinished(error: PoolError) -> CallError {
    CallError::unfinished(error, "its device stays")
}

/// The records of this boot, if the pool's catalogue answers and knows the volume.
fn records(layer: &NodeLayer, pool: &OwnedPool, volume: VolumeHandle) -> Option<Vec<Publication>> {
    let known = pool.volume(volume.volume).and_then(|known| match known {
        Some(_) => pool.publications(volume.volume).map(Some),
        None => Ok(None),
    });
    match known {
        Ok(records) => Some(records?.into_iter().filter(|record| record.boot_id == *layer.boot_id).collect()),
        Err(error) => {
            tracing::warn!(%volume, error = %chain(&error), "its pool cannot say where it was published; what is mounted counts");
            None
        }
    }
}

/// The device of the volume by its pool.
fn attached(layer: &NodeLayer, pool: &OwnedPool, volume: VolumeHandle) -> Option<Device> {
    let path = pool.attachment(Object::Volume(volume.volume)).ok()??.device;
    let number = layer.mounter.device_number(&path).ok()?;
    Some(Device { path, number })
}
