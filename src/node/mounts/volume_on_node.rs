//! One volume as it is on this node, looked at anew for each call.
//!
//! Three witnesses tell: the pool says whether the volume has a device, mountinfo says where that device is mounted, the catalogue
//! says how it was asked for. Mountinfo is the truth for mounts; a record counts only in the boot it was written in, and only
//! while what it says is to be seen. Records are written *before* the mount they describe and removed *after* it is gone, so a
//! crash between the two leaves a record that is void, never a mount that nobody knows.

use std::path::{Path, PathBuf};

use crate::failpoint;
use crate::mount::MountEntry;
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::pool::Attachment;
use crate::pool::owned::OwnedPool;
use crate::pool::record::{Publication, PublicationKind, Volume};
use crate::types::error::chain;
use crate::types::{Access, FormatState, Object, VolumeMode};

use super::presence::{Device, MountedAt, Presence};

/// One volume on this node.
pub(crate) struct VolumeOnNode<'a> {
    layer: &'a NodeLayer,
    pool: &'a OwnedPool,
    /// The volume as the catalogue has it.
    pub(crate) recorded: Volume,
    /// Its device, if it has one.
    pub(crate) attachment: Option<Attachment>,
    presence: Presence<'a>,
    records: Vec<Publication>,
}

impl<'a> VolumeOnNode<'a> {
    /// Reads attachment, mounts and records.
    pub(crate) fn look(layer: &'a NodeLayer, pool: &'a OwnedPool, recorded: Volume) -> Result<Self, CallError> {
        let attachment = pool.attachment(Object::Volume(recorded.id))?;
        let device = match &attachment {
            Some(Attachment { device, .. }) => {
                Some(Device { path: device.clone(), number: layer.mounter.device_number(device)? })
            }
            None => None,
        };
        let presence = Presence::new(layer, device.into_iter().collect(), layer.mounter.mounts()?);
        let records = pool.publications(recorded.id)?;
        Ok(Self { layer, pool, recorded, attachment, presence, records })
    }

    /// The same volume, looked at anew: after something was mounted or unmounted.
    pub(crate) fn again(&self) -> Result<Self, CallError> {
        Self::look(self.layer, self.pool, self.recorded.clone())
    }

    /// What is mounted at a path, topmost.
    pub(crate) fn at(&self, path: &Path) -> MountedAt<'_> {
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
                    matches!(self.at(&record.path), MountedAt::Volume(_))
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
    pub(crate) fn clear_void_records(&self) -> Result<(), CallError> {
        for record in self.records.iter().filter(|record| !self.is_live(record)) {
            failpoint::around("node.record", || self.pool.remove_publication(self.recorded.id, &record.path))?;
        }
        Ok(())
    }

    pub(crate) fn put_record(&self, record: Publication) -> Result<(), CallError> {
        Ok(failpoint::around("node.record", || self.pool.put_publication(self.recorded.id, record))?)
    }

    fn remove_record(&self, path: &Path) -> Result<(), CallError> {
        Ok(failpoint::around("node.record", || self.pool.remove_publication(self.recorded.id, path))?)
    }

    /// Removes the record of a path at which nothing is mounted: it is void, so one that stays is no failure.
    pub(crate) fn forget(&self, path: &Path) {
        if let Err(error) = self.remove_record(path) {
            tracing::warn!(volume = %self.recorded.id, path = %path.display(), error = %chain(&error), "a record stays, void, of what is not mounted");
        }
    }

    /// Makes the device, or finds the one that is there.
    pub(super) fn attach(&self, access: Access) -> Result<Attachment, CallError> {
        Ok(failpoint::around("node.attach", || self.pool.attach(Object::Volume(self.recorded.id), access))?)
    }

    /// Records whether the volume may still be formatted.
    pub(super) fn set_format(&self, state: FormatState) -> Result<(), CallError> {
        Ok(failpoint::around("node.format", || self.pool.set_format(self.recorded.id, state))?)
    }

    /// Removes the device. None is success.
    pub(crate) fn detach(&self) -> Result<(), CallError> {
        if self.attachment.is_some() {
            failpoint::around("node.detach", || self.pool.detach(Object::Volume(self.recorded.id)))?;
        }
        Ok(())
    }

    /// Takes everything of this volume off a path; see [`Presence::unmount`].
    pub(crate) fn unmount(&self, path: &Path) -> Result<(), CallError> {
        self.presence.unmount(path).map(drop)
    }

    /// The layer that the volume is looked at for.
    pub(super) fn layer(&self) -> &'a NodeLayer {
        self.layer
    }

    /// The pool that holds it.
    pub(super) fn pool(&self) -> &'a OwnedPool {
        self.pool
    }
}

/// What a publication was to be able to do: mount flags may ask for less than its access mode does.
pub(super) fn expected_access(record: &Publication) -> Access {
    let asks_to_read = record.mount_flags.iter().flat_map(|flags| flags.split(',')).any(|flag| flag == "ro");
    if asks_to_read { Access::ReadOnly } else { record.access }
}
