//! The verbs of a pool, on files that share extents.

use std::fs::{self, File};
use std::io;
use std::time::Duration;

use nix::libc;
use nix::sys::statvfs::statvfs;

use super::changed;
use super::pool::{ReflinkPool, loop_error};
use super::sharing::Sharing;
use super::{files, subvolumes};
use crate::block::fiemap::{self, FiemapOptions, Unwritten, WriteOut};
use crate::block::file_ops;
use crate::block::loop_device::{self, DirectIo, LoopOptions};
use crate::failpoint;
use crate::pool::{Attachment, Cut, Found, ObjectSpec, ObjectUsage, Pool, PoolError, PoolHealth, PoolKind, PoolUsage};
use crate::types::error::chain;
use crate::types::{Access, DataChecksum, LogicalBlockSize, Object, RangeStream, SnapshotId, VolumeId, VolumeSize, range};

impl Pool for ReflinkPool {
    fn kind(&self) -> PoolKind {
        PoolKind::Reflink
    }

    fn location(&self) -> String {
        self.layout.root().display().to_string()
    }

    fn mechanism(&self) -> &'static str {
        self.mechanism
    }

    fn logical_block_size(&self) -> LogicalBlockSize {
        LogicalBlockSize::B4096
    }

    fn supports(&self, checksum: DataChecksum) -> bool {
        self.sharing == Sharing::Subvolumes || checksum == DataChecksum::Off
    }

    fn offers(&self, _size: LogicalBlockSize) -> bool {
        true
    }

    fn create(&self, volume: VolumeId, spec: ObjectSpec) -> Result<(), PoolError> {
        let object = Object::Volume(volume);
        match fs::metadata(self.data_path(object)) {
            Ok(metadata) if metadata.len() == spec.size.bytes() => return Ok(()),
            Ok(_) => return Err(self.io("make", object, io::ErrorKind::AlreadyExists.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(self.io("look at", object, error)),
        }
        match self.sharing {
            Sharing::Files if spec.checksum == DataChecksum::On => Err(PoolError::Unsupported(
                format!(
                    "{}: {} keeps no checksums of data; leave out the parameter `checksum`, or use a pool on Btrfs",
                    self.location(),
                    self.mechanism
                )
                .into(),
            )),
            Sharing::Files => files::create(&self.layout, object, spec.size),
            Sharing::Subvolumes => subvolumes::create(&self.layout, object, spec),
        }
    }

    fn snapshot(&self, cuts: &[Cut], stall: Duration) -> Result<(), PoolError> {
        let sources: Vec<Object> = cuts.iter().map(|cut| Object::Volume(cut.source)).collect();
        let cut_all = || match self.sharing {
            Sharing::Files => {
                let opened: Result<Vec<_>, PoolError> = cuts
                    .iter()
                    .map(|cut| Ok((self.open_source(Object::Volume(cut.source))?, Object::Snapshot(cut.snapshot))))
                    .collect();
                files::snapshot(&self.layout, &opened?, |elapsed| self.stalls.took(&sources, elapsed, stall))
            }
            Sharing::Subvolumes => subvolumes::snapshot(&self.layout, cuts),
        };
        cut_all().inspect_err(|_| {
            for cut in cuts {
                let object = Object::Snapshot(cut.snapshot);
                if let Err(error) = self.delete(object) {
                    // The caller deletes again, and the next start does.
                    tracing::warn!(%object, error = %chain(&error), "part of a failed set of snapshots is left");
                }
            }
        })
    }

    fn check_stall(&self, sources: &[Object], stall: Duration) -> Result<(), PoolError> {
        if self.sharing == Sharing::Subvolumes {
            return Ok(());
        }
        let mut counts = Vec::new();
        for &object in sources {
            let file = self.open_data(object, Access::ReadOnly)?;
            counts.push((object, fiemap::count(&file).map_err(|error| self.io("count the extents of", object, error))?));
        }
        self.stalls.check(&counts, stall)
    }

    fn copy(&self, source: Object, volume: VolumeId, spec: ObjectSpec, stall: Duration) -> Result<(), PoolError> {
        let file = self.open_source(source)?;
        let target = Object::Volume(volume);
        self.delete(target)?;
        match self.sharing {
            Sharing::Files => {
                files::copy(&self.layout, &file, target, spec.size, |elapsed| self.stalls.took(&[source], elapsed, stall))
            }
            Sharing::Subvolumes => subvolumes::copy(&self.layout, source, target, spec.size),
        }
    }

    fn delete(&self, object: Object) -> Result<(), PoolError> {
        self.require_detached(object)?;
        match self.sharing {
            Sharing::Files => files::delete(&self.layout, object),
            Sharing::Subvolumes => subvolumes::delete(&self.layout, object),
        }?;
        self.stalls.forget(object);
        Ok(())
    }

    fn counted_extents(&self) -> Vec<(Object, u64)> {
        self.stalls.last_counts()
    }

    fn grow(&self, volume: VolumeId, size: VolumeSize) -> Result<(), PoolError> {
        let object = Object::Volume(volume);
        let file = self.open_data(object, Access::ReadWrite)?;
        let current = file.metadata().map_err(|error| self.io("look at", object, error))?.len();
        if current < size.bytes() {
            file_ops::set_len_sync(&file, size.bytes()).map_err(|error| self.io("grow", object, error))?;
        }
        failpoint::hit("reflink.grow_file.after");
        // Also when the file was that large: an earlier attempt may have ended between the two.
        match self.device(object, &file)? {
            Some(device) => loop_device::refresh_capacity(&device).map_err(|error| loop_error(object, error)),
            None => Ok(()),
        }
    }

    fn size(&self, object: Object) -> Result<VolumeSize, PoolError> {
        let file = self.open_data(object, Access::ReadOnly)?;
        let bytes = file.metadata().map_err(|error| self.io("look at", object, error))?.len();
        VolumeSize::new(bytes).map_err(|error| self.io("size of", object, io::Error::other(error)))
    }

    fn attach(&self, object: Object, access: Access) -> Result<Attachment, PoolError> {
        self.attach_in_blocks(object, access, self.logical_block_size())
    }

    fn attach_in_blocks(&self, object: Object, access: Access, size: LogicalBlockSize) -> Result<Attachment, PoolError> {
        let file = self.open_data(object, access)?;
        let direct_io = match (self.direct_io(object, &file)?, size) {
            // Smaller blocks than the disk beneath has are made by the page cache.
            (DirectIo::Required, LogicalBlockSize::B512) => DirectIo::IfPossible,
            (wanted, _) => wanted,
        };
        if let Some(device) = self.device(object, &file)? {
            if device.vanishing {
                // Somebody detached it while it was open; given out again, it would vanish under its next user.
                loop_device::detach(&device).map_err(|error| loop_error(object, error))?;
            } else if device.access == Access::ReadOnly && access == Access::ReadWrite {
                let by = format!("{}, which is attached read-only", device.path.display());
                return Err(PoolError::InUse { object, by });
            } else {
                if device.direct_io && direct_io == DirectIo::Off {
                    // Attached by an earlier version.
                    loop_device::end_direct_io(&device).map_err(|error| loop_error(object, error))?;
                }
                return Ok(Attachment { device: device.path, access: device.access });
            }
        }
        let label = match object {
            Object::Volume(id) => id.to_string(),
            Object::Snapshot(id) => id.to_string(),
        };
        let options = LoopOptions { access, block_size: size, label: &label, direct_io };
        let device = loop_device::attach_named(&file, &self.tail(object), &options).map_err(|error| loop_error(object, error))?;
        Ok(Attachment { device: device.path, access: device.access })
    }

    fn detach(&self, object: Object) -> Result<(), PoolError> {
        let file = match self.open_data(object, Access::ReadOnly) {
            Ok(file) => file,
            Err(PoolError::Missing(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        for device in loop_device::find_named(&file, &self.tail(object)).map_err(|error| loop_error(object, error))? {
            loop_device::detach(&device).map_err(|error| loop_error(object, error))?;
        }
        Ok(())
    }

    fn attachment(&self, object: Object) -> Result<Option<Attachment>, PoolError> {
        let file = self.open_data(object, Access::ReadOnly)?;
        // Asked for each volume each minute, so the device that was found before is looked at first.
        let known = loop_device::recall(&file, &self.tail(object)).map_err(|error| loop_error(object, error))?;
        let device = match known {
            Some(device) => Some(device),
            None => self.device(object, &file)?,
        };
        Ok(device.map(|device| Attachment { device: device.path, access: device.access }))
    }

    fn open(&self, object: Object, access: Access) -> Result<File, PoolError> {
        self.open_data(object, access)
    }

    fn stored(&self, volume: VolumeId) -> Result<RangeStream, PoolError> {
        let object = Object::Volume(volume);
        let file = self.open_data(object, Access::ReadOnly)?;
        let size = file.metadata().map_err(|error| self.io("look at", object, error))?.len();
        let options = FiemapOptions { unwritten: Unwritten::Report, ..FiemapOptions::LIVE };
        let ranges = fiemap::extents(file, options).filter_map(|extent| extent.map(|extent| extent.range()).transpose());
        Ok(Box::new(range::coalesce(changed::up_to(ranges, size))))
    }

    /// More than a block of the file system: each hole is an extent more, which every cut has to share.
    fn granule(&self) -> u64 {
        64 << 10
    }

    fn allocated(&self, snapshot: SnapshotId) -> Result<RangeStream, PoolError> {
        let object = Object::Snapshot(snapshot);
        let file = self.open_data(object, Access::ReadOnly)?;
        let size = file.metadata().map_err(|error| self.io("look at", object, error))?.len();
        let extents = self.extents(object, file)?;
        let ranges = extents.filter_map(|extent| extent.map(|extent| extent.range()).transpose());
        Ok(Box::new(range::coalesce(changed::up_to(ranges, size))))
    }

    fn changed(&self, base: SnapshotId, target: SnapshotId) -> Result<RangeStream, PoolError> {
        let (base, target) = (Object::Snapshot(base), Object::Snapshot(target));
        let before = self.open_data(base, Access::ReadOnly)?;
        let after = self.open_data(target, Access::ReadOnly)?;
        let size = after.metadata().map_err(|error| self.io("look at", target, error))?.len();
        let differing = changed::compare(self.extents(base, before)?, self.extents(target, after)?);
        Ok(Box::new(range::coalesce(changed::up_to(differing, size))))
    }

    /// A file system that shut down answers questions about its space as if nothing had happened; it opens nothing.
    fn health(&self) -> Result<PoolHealth, PoolError> {
        match File::open(self.layout.root()) {
            Ok(_) => Ok(PoolHealth::default()),
            // Of this process or the machine, and no fault of the pool.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => {
                Ok(PoolHealth::default())
            }
            Err(error) => Err(PoolError::io(format!("open {}", self.location()), error)),
        }
    }

    fn usage(&self) -> Result<PoolUsage, PoolError> {
        let stats = statvfs(self.layout.root())
            .map_err(|error| PoolError::io(format!("look at the space of {}", self.location()), error.into()))?;
        let total = stats.blocks().saturating_mul(stats.fragment_size());
        let free = stats.blocks_available().saturating_mul(stats.fragment_size());
        Ok(PoolUsage::new(total, free))
    }

    fn object_usage(&self, object: Object) -> Result<ObjectUsage, PoolError> {
        let file = self.open_data(object, Access::ReadOnly)?;
        let options = FiemapOptions { write_out: WriteOut::First, unwritten: Unwritten::Report, range: None };
        let mut usage = ObjectUsage { allocated: 0, exclusive: 0, extents: 0 };
        for extent in fiemap::extents(&file, options) {
            let extent = extent.map_err(|error| self.io("list the extents of", object, error))?;
            usage.allocated += extent.length;
            usage.exclusive += if extent.flags.is_shared() { 0 } else { extent.length };
            usage.extents += 1;
        }
        Ok(usage)
    }

    fn scan(&self) -> Result<Vec<Found>, PoolError> {
        let mut found: Vec<Found> = self.layout.foreign()?.into_iter().map(Found::Foreign).collect();
        for directory in self.layout.directories() {
            for entry in self.layout.entries(&directory)? {
                found.extend(match self.sharing {
                    Sharing::Files => files::examine(&self.layout, &entry)?,
                    Sharing::Subvolumes => subvolumes::examine(&self.layout, &entry)?,
                });
            }
        }
        Ok(found)
    }
}
