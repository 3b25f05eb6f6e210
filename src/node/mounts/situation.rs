//! What is true of one volume on this node, looked at anew for each call.
//!
//! Three witnesses: the pool says whether the volume has a device, mountinfo says where that device is mounted, the catalogue
//! says how it was asked for. Mountinfo is the truth for mounts; a record counts only in the boot it was written in, and only
//! while what it says is to be seen. Records are written *before* the mount they describe and removed *after* it is gone, so a
//! crash between the two leaves a record that is void, never a mount that nobody knows.

use std::path::{Path, PathBuf};

use crate::mount::MountEntry;
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::pool::Attachment;
use crate::pool::owned::OwnedPool;
use crate::pool::record::{Publication, PublicationKind, Volume};
use crate::types::{Object, VolumeMode};

use super::presence::{Device, Presence};
use super::step;

pub(super) use super::presence::At;

/// One volume on this node.
pub(crate) struct Situation<'a> {
    layer: &'a NodeLayer,
    pool: &'a OwnedPool,
    /// The record.
    pub(crate) volume: Volume,
    /// Its device, if it has one.
    pub(crate) attachment: Option<Attachment>,
    presence: Presence<'a>,
    records: Vec<Publication>,
}

impl<'a> Situation<'a> {
    /// Looks.
    ///
    /// # Errors
    /// Whatever the pool and the mount table report.
    pub(crate) fn look(layer: &'a NodeLayer, pool: &'a OwnedPool, volume: Volume) -> Result<Self, CallError> {
        let attachment = pool.attachment(Object::Volume(volume.id))?;
        let device = match &attachment {
            Some(Attachment { device, .. }) => {
                Some(Device { path: device.clone(), number: layer.mounter.device_number(device)? })
            }
            None => None,
        };
        let presence = Presence::new(layer, device.into_iter().collect(), layer.mounter.mounts()?);
        let records = pool.publications(volume.id)?;
        Ok(Self { layer, pool, volume, attachment, presence, records })
    }

    /// What is mounted at a path, topmost.
    pub(crate) fn at(&self, path: &Path) -> At<'_> {
        self.presence.at(path)
    }

    /// All mounts of this volume.
    pub(crate) fn mounts(&self) -> impl Iterator<Item = &MountEntry> {
        self.presence.mounts()
    }

    /// The record of a path that counts.
    pub(crate) fn record(&self, path: &Path, kind: PublicationKind) -> Option<&Publication> {
        self.live().find(|record| record.path == path && record.kind == kind)
    }

    /// The records that count: of this boot, and to be seen.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Publication> {
        self.records.iter().filter(|record| self.is_live(record))
    }

    fn is_live(&self, record: &Publication) -> bool {
        record.boot_id == *self.layer.boot_id
            && match (record.kind, record.mode) {
                // A staged block volume is a device, nothing is mounted.
                (PublicationKind::Staged, VolumeMode::Block) => self.attachment.is_some(),
                (PublicationKind::Staged, VolumeMode::Filesystem(_)) | (PublicationKind::Published, _) => {
                    matches!(self.at(&record.path), At::Volume(_))
                }
            }
    }

    /// Where the volume is in use, if anywhere.
    pub(crate) fn first_use(&self) -> Option<PathBuf> {
        let recorded = self.live().map(|record| record.path.clone()).next();
        recorded.or_else(|| self.mounts().map(|entry| entry.mount_point.clone()).next())
    }

    /// Where the volume is in use, if anywhere but by a record of `path`.
    pub(crate) fn first_use_beside(&self, path: &Path) -> Option<PathBuf> {
        let recorded = self.live().map(|record| record.path.clone()).find(|used| used != path);
        recorded.or_else(|| self.mounts().map(|entry| entry.mount_point.clone()).next())
    }

    /// Removes the records that do not count.
    ///
    /// # Errors
    /// Whatever the catalogue reports.
    pub(crate) fn clear_void_records(&self) -> Result<(), CallError> {
        for record in self.records.iter().filter(|record| !self.is_live(record)) {
            step!("record", self.pool.remove_publication(self.volume.id, &record.path))?;
        }
        Ok(())
    }

    /// Writes a record.
    ///
    /// # Errors
    /// Whatever the catalogue reports.
    pub(crate) fn put_record(&self, record: Publication) -> Result<(), CallError> {
        Ok(step!("record", self.pool.put_publication(self.volume.id, record))?)
    }

    fn remove_record(&self, path: &Path) -> Result<(), CallError> {
        Ok(step!("record", self.pool.remove_publication(self.volume.id, path))?)
    }

    /// Removes the record of a path at which nothing is mounted: it is void, so one that stays is no failure.
    pub(crate) fn forget(&self, path: &Path) {
        if let Err(error) = self.remove_record(path) {
            tracing::warn!(volume = %self.volume.id, path = %path.display(), %error, "a record stays, void, of what is not mounted");
        }
    }

    /// Removes the device. None is success.
    ///
    /// # Errors
    /// In use; whatever the pool reports.
    pub(crate) fn detach(&self) -> Result<(), CallError> {
        if self.attachment.is_some() {
            step!("detach", self.pool.detach(Object::Volume(self.volume.id)))?;
        }
        Ok(())
    }

    /// Takes everything of this volume off a path; see [`Presence::unmount`].
    ///
    /// # Errors
    /// Busy, above all.
    pub(crate) fn unmount(&self, path: &Path) -> Result<(), CallError> {
        self.presence.unmount(path).map(drop)
    }

    /// The pool.
    pub(crate) fn pool(&self) -> &'a OwnedPool {
        self.pool
    }
}
