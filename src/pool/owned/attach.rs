//! Devices of objects.

use super::copies::check_here;
use super::pool::OwnedPool;
use crate::failpoint;
use crate::pool::{Attachment, ObjectUsage, PoolError};
use crate::types::{Access, LogicalBlockSize, Object};

impl OwnedPool {
    /// Makes the device of an object; attached already with at least this access, the same device again. Snapshots are
    /// attached read-only or not at all.
    ///
    /// # Errors
    /// [`PoolError::Missing`], [`PoolError::GivenUp`], [`PoolError::InUse`] (attached with less access), [`PoolError::Unsupported`],
    /// [`PoolError::Busy`], [`PoolError::Io`].
    pub fn attach(&self, object: Object, access: Access) -> Result<Attachment, PoolError> {
        let _locked = self.lock_objects([object])?;
        let blocks = self.block_size_of(object)?;
        self.check_sound(object)?;
        if matches!(object, Object::Snapshot(_)) && access == Access::ReadWrite {
            return Err(PoolError::Unsupported(format!("{object} cannot be written to: make a volume from it").into()));
        }
        let attachment = failpoint::around("pool.attach", || self.pool.attach_in_blocks(object, access, blocks))?;
        tracing::info!(%object, device = %attachment.device.display(), access = ?attachment.access, "attached");
        Ok(attachment)
    }

    /// Removes the device of an object. Not attached, and no such object, is success.
    ///
    /// # Errors
    /// [`PoolError::InUse`] while it is open or mounted; [`PoolError::Busy`], [`PoolError::Io`].
    pub fn detach(&self, object: Object) -> Result<(), PoolError> {
        let _locked = self.lock_objects([object])?;
        if self.attachment(object)?.is_none() {
            return Ok(());
        }
        failpoint::around("pool.detach", || self.pool.detach(object))?;
        tracing::info!(%object, "detached");
        Ok(())
    }

    /// The device of an object, if it has one; found by looking.
    pub fn attachment(&self, object: Object) -> Result<Option<Attachment>, PoolError> {
        match self.pool.attachment(object) {
            Err(PoolError::Missing(_)) => Ok(None),
            result => result,
        }
    }

    /// Space of one object: none, if its local copy was given up.
    pub fn usage_of(&self, object: Object) -> Result<ObjectUsage, PoolError> {
        match self.check_recorded(object) {
            Ok(()) => self.pool.object_usage(object),
            Err(PoolError::GivenUp(_)) => Ok(ObjectUsage { allocated: 0, exclusive: 0, extents: 0 }),
            Err(error) => Err(error),
        }
    }

    fn check_recorded(&self, object: Object) -> Result<(), PoolError> {
        self.block_size_of(object).map(drop)
    }

    /// The logical block size that is recorded for an object.
    fn block_size_of(&self, object: Object) -> Result<LogicalBlockSize, PoolError> {
        let recorded = match object {
            Object::Volume(id) => self.catalogue.volume(id)?.map(|volume| volume.logical_block_size),
            Object::Snapshot(id) => match self.catalogue.snapshot(id)? {
                Some(snapshot) => {
                    check_here(&snapshot)?;
                    Some(snapshot.logical_block_size)
                }
                None => None,
            },
        };
        recorded.ok_or(PoolError::Missing(object))
    }
}
