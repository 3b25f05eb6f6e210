//! Pools of files that share extents, on Btrfs or XFS.
//!
//! One sparse file for each object, in a directory that is the pool's alone:
//!
//! ```text
//! catalogue.redb     the records and the pool's id
//! catalogue.copy     its second copy (`catalogue::copy`), for `adopt`
//! catalogue.replaced a catalogue that an adoption put another in the place of
//! lock               locked (flock) by the process that owns the pool; a lock of the inode, so mount namespaces do not matter
//! volumes/ID         a volume        XFS: the file itself
//! snapshots/ID       a snapshot      Btrfs: a subvolume (a snapshot's is read-only) that holds the file `data`
//! */.tmp-ID          unfinished; swept by [`Pool::scan`]
//! ```
//!
//! *XFS* shares by FICLONE: into a temporary name, sync, rename, sync the directory, for a clone that was not synced may be
//! lost or partial after a power cut. It costs some 20 us for each extent and stops the source's writers meanwhile, so extents are
//! counted before and a cut that would exceed the deadline is refused (`stall`). *Btrfs* snapshots a subvolume in some milliseconds, whatever
//! is in it; that ioctl commits its transaction, so a snapshot is there whole and durable or not at all, under its final name. A
//! copy that must also grow is made under a temporary name like a file. Volumes there are NODATACOW unless checksums are asked for.
//!
//! *Attachment* is a loop device with direct I/O, except of volumes with checksums. Btrfs checksums what it writes, and a guest may
//! change a page while it is written (ext4 and raw block users do), which leaves data that does not read: before Linux 6.15 direct I/O
//! wrote the page as it became, not as it was summed; since then it copies, as the page cache does, and is no longer direct. So those
//! are attached through the page cache, whatever the kernel. Nothing acknowledged as durable is lost by that: the device says
//! that it has a write cache, and a flush or a write with FUA is an fsync of the file beneath; a snapshot writes out what is dirty
//! before it is cut, and reads of the file see the same cache.
//!
//! A device is found by the file's inode whenever it is asked for, and never remembered: devices outlive this process. There is one
//! for a file, or none. Only devices whose file is called like the object are opened.
//!
//! *Changed ranges* come from comparing the physical places of two snapshots' extents: what both share at the same offset is
//! the same, everything else is reported. Both files exist while they are compared, so no place was given to other data
//! meanwhile. Defragmentation or balancing over-reports, never under-reports. Unwritten extents are holes. On XFS the extents
//! come from FIEMAP, on Btrfs from the snapshot's tree (`extents`).
//!
//! *A full pool* opens, is recovered and emptied: [`ReflinkPool::open`] writes nothing, and deletions take only what file systems keep
//! back for them.
//!
//! A crash between any two steps leaves a temporary name (swept), or an object that the catalogue has an intent for. This
//! module never copies data to share it, and never touches a name that it did not give.

mod adopt;
pub mod changed;
mod extents;
mod files;
mod layout;
mod stall;
mod subvolumes;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::sys::statfs::{XFS_SUPER_MAGIC, statfs};
use nix::sys::statvfs::statvfs;

pub use self::adopt::adopt;
use self::extents::SnapshotExtents;
use self::layout::Layout;
use self::stall::Stalls;
use super::catalogue::{Catalogue, copy};
use super::owned::OwnedPool;
use super::properties::PoolProperties;
use super::record::{Snapshot, Volume};
use super::{Attachment, Cut, Found, ObjectSpec, ObjectUsage, Pool, PoolError, PoolHealth, PoolKind, PoolUsage, Quiesce};
use crate::block::fiemap::{self, FiemapOptions, Unwritten, WriteOut};
use crate::block::loop_device::{self, DirectIo, LoopDevice, LoopError, LoopOptions};
use crate::block::{btrfs, file_ops, reflink};
use crate::failpoint;
use crate::types::{
    Access, DataChecksum, LogicalBlockSize, Object, PoolId, RangeStream, SnapshotId, VolumeId, VolumeSize, range,
};

/// How the directory's file system shares extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// FICLONE of files.
    Files,
    /// Snapshots of subvolumes.
    Subvolumes,
}

/// A directory as a pool, locked by this process.
pub struct ReflinkPool {
    layout: Layout,
    sharing: Sharing,
    mechanism: &'static str,
    stalls: Stalls,
    _lock: Flock<File>,
}

impl std::fmt::Debug for ReflinkPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReflinkPool")
            .field("root", &self.layout.root())
            .field("mechanism", &self.mechanism)
            .finish_non_exhaustive()
    }
}

/// Whether a pool lies in `directory`, which need not be there; if not, one can be made in it. Changes nothing.
///
/// # Errors
/// [`PoolError::CatalogueLost`] for the remains of one; [`PoolError::Format`] when something else lies there; [`PoolError::Io`].
pub fn holds_pool(directory: &Path) -> Result<bool, PoolError> {
    match fs::symlink_metadata(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(PoolError::io(format!("look at {}", directory.display()), error)),
        Ok(_) => {}
    }
    let layout = Layout::new(absolute(directory)?);
    if fs::symlink_metadata(layout.catalogue()).is_ok() {
        return layout.check_used().map(|()| true);
    }
    layout.check_unused().map(|()| false)
}

/// What is recorded in the pool in `directory`, which nobody may be serving: its id, volumes and snapshots. Changes nothing.
///
/// # Errors
/// [`PoolError::Owned`] while it is served; [`PoolError::Format`] when there is none; [`PoolError::CatalogueLost`], [`PoolError::Io`].
pub fn read_records(directory: &Path) -> Result<(PoolId, Vec<Volume>, Vec<Snapshot>), PoolError> {
    let layout = Layout::new(absolute(directory)?);
    layout.check_used()?;
    // Only kept while the catalogue is read, and not made if it is not there: nobody serves it then.
    let _lock = match File::open(layout.lock()) {
        Ok(file) => Some(exclusive(file, &layout)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(PoolError::io(format!("open {}", layout.lock().display()), error)),
    };
    let catalogue = Catalogue::read(&layout.catalogue())?;
    Ok((catalogue.id(), catalogue.volumes()?, catalogue.snapshots()?))
}

/// Makes a new pool in a directory, which is made if only it is missing. Interrupted, it may be called again.
///
/// # Errors
/// [`PoolError::Format`] when the directory holds a pool or anything else; [`PoolError::Unsupported`] when its file system
/// cannot share extents; [`PoolError::Owned`], [`PoolError::NoSpace`], [`PoolError::Io`].
pub fn create_pool(directory: &Path) -> Result<PoolId, PoolError> {
    create_pool_with(directory, &PoolProperties::default())
}

/// Makes a new pool with these properties, as for [`create_pool`].
///
/// # Errors
/// As for [`create_pool`].
pub fn create_pool_with(directory: &Path, properties: &PoolProperties) -> Result<PoolId, PoolError> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(PoolError::io(format!("make the directory {}", directory.display()), error));
        }
        _ => {}
    }
    let layout = Layout::new(absolute(directory)?);
    layout.check_unused()?;
    try_sharing(layout.root())?;
    let _lock = lock(&layout)?;
    // Again, now that nobody else can be at it.
    layout.check_unused()?;
    layout.make_directories()?;
    let id = PoolId::random();
    Catalogue::create(&layout.catalogue(), id)?.set_properties(properties)?;
    tracing::info!(pool = %id, directory = %layout.root().display(), "pool made");
    Ok(id)
}

/// Opens the pool in a directory and recovers it.
///
/// # Errors
/// [`PoolError::Owned`] when another process has it; [`PoolError::Format`] when there is none or it is of a newer format;
/// [`PoolError::CatalogueLost`] when its catalogue is missing, damaged or of an earlier moment: see [`adopt`];
/// [`PoolError::Unsupported`], [`PoolError::Io`], [`PoolError::Catalogue`].
pub fn open_pool(directory: &Path, quiesce: Arc<dyn Quiesce>) -> Result<OwnedPool, PoolError> {
    let pool = ReflinkPool::open(directory)?;
    let copy = pool.layout.copy();
    let opened = Catalogue::open(&pool.layout.catalogue());
    // Before anything is recovered by it.
    let checked = opened.and_then(|catalogue| copy::check_not_behind(&catalogue, &copy).map(|()| catalogue));
    let catalogue = checked.map_err(|error| match error {
        PoolError::CatalogueLost(text) => PoolError::CatalogueLost(format!("{text}; {}", layout::ADOPT)),
        error => error,
    })?;
    OwnedPool::open(Arc::new(pool), catalogue, quiesce)?.watched()?.copied_to(copy)
}

fn absolute(directory: &Path) -> Result<PathBuf, PoolError> {
    fs::canonicalize(directory).map_err(|error| PoolError::io(format!("find the directory {}", directory.display()), error))
}

/// Tries it, which takes a block of the file system: for a new pool.
fn try_sharing(directory: &Path) -> Result<(), PoolError> {
    check_sharing(directory, reflink::supports_reflink(directory))
}

fn check_sharing(directory: &Path, supported: io::Result<bool>) -> Result<(), PoolError> {
    if supported.map_err(|error| PoolError::io(format!("try to share extents in {}", directory.display()), error))? {
        return Ok(());
    }
    Err(PoolError::Unsupported(format!(
        "{}: its file system cannot share extents between files, so it cannot hold snapshots; use a directory on XFS or Btrfs, or \
         make an image file that can: windlass pool create --image PATH --size SIZE",
        directory.display()
    )))
}

fn lock(layout: &Layout) -> Result<Flock<File>, PoolError> {
    let path = layout.lock();
    let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    exclusive(file.map_err(|error| PoolError::io(format!("open {}", path.display()), error))?, layout)
}

fn exclusive(file: File, layout: &Layout) -> Result<Flock<File>, PoolError> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::Error::EWOULDBLOCK => PoolError::Owned(layout.root().display().to_string()),
        error => PoolError::io(format!("lock {}", layout.lock().display()), error.into()),
    })
}

impl ReflinkPool {
    /// Opens and locks the pool in a directory, which `create_pool` has made.
    ///
    /// # Errors
    /// [`PoolError::Owned`], [`PoolError::Format`] when there is no pool, [`PoolError::CatalogueLost`], [`PoolError::Unsupported`],
    /// [`PoolError::Io`].
    pub fn open(directory: &Path) -> Result<Self, PoolError> {
        let layout = Layout::new(absolute(directory)?);
        layout.check_used()?;
        Self::lock(layout)
    }

    /// Locks the objects of a pool, whatever its catalogue is.
    fn open_objects(directory: &Path) -> Result<Self, PoolError> {
        let layout = Layout::new(absolute(directory)?);
        layout.check_objects()?;
        Self::lock(layout)
    }

    fn lock(layout: Layout) -> Result<Self, PoolError> {
        let lock = lock(&layout)?;
        // The pool was made where sharing had been tried. Whether it still lies on such a file system is asked without writing:
        // a pool without a free byte must open, for whoever makes room in it needs it open.
        check_sharing(layout.root(), reflink::has_reflink(&lock))?;
        let look = |error| PoolError::io(format!("look at the file system of {}", layout.root().display()), error);
        let (sharing, mechanism) = if btrfs::is_btrfs(layout.root()).map_err(look)? {
            (Sharing::Subvolumes, "btrfs")
        } else if statfs(layout.root()).map_err(|error| look(error.into()))?.filesystem_type() == XFS_SUPER_MAGIC {
            (Sharing::Files, "xfs")
        } else {
            (Sharing::Files, "files that share extents")
        };
        Ok(Self { layout, sharing, mechanism, stalls: Stalls::new(), _lock: lock })
    }

    /// The file that holds an object's bytes.
    fn data_path(&self, object: Object) -> PathBuf {
        match self.sharing {
            Sharing::Files => self.layout.object(object),
            Sharing::Subvolumes => self.layout.object(object).join(layout::DATA),
        }
    }

    /// The end of that file's path, by which its loop device is found: the object's id, whatever mount namespace looks.
    fn tail(&self, object: Object) -> PathBuf {
        let path = self.data_path(object);
        path.strip_prefix(self.layout.parent(object)).map_or_else(|_| path.clone(), Path::to_path_buf)
    }

    fn open_data(&self, object: Object, access: Access) -> Result<File, PoolError> {
        let path = self.data_path(object);
        let mut options = File::options();
        options.read(true).write(access == Access::ReadWrite).custom_flags(nix::libc::O_NOFOLLOW);
        options.open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => PoolError::Missing(object),
            _ => PoolError::io(format!("open {}", path.display()), error),
        })
    }

    fn open_source(&self, object: Object) -> Result<File, PoolError> {
        self.open_data(object, Access::ReadOnly).map_err(|error| match error {
            PoolError::Missing(object) => PoolError::SourceMissing(object),
            other => other,
        })
    }

    /// How an object is attached: see above.
    fn direct_io(&self, object: Object, file: &File) -> Result<DirectIo, PoolError> {
        let has_checksums = match self.sharing {
            Sharing::Files => false,
            Sharing::Subvolumes => !file_ops::is_no_cow(file).map_err(|error| self.io("look at the flags of", object, error))?,
        };
        Ok(if has_checksums { DirectIo::Off } else { DirectIo::Required })
    }

    /// The loop device of an object's file.
    fn device(&self, object: Object, file: &File) -> Result<Option<LoopDevice>, PoolError> {
        let mut devices = loop_device::find_named(file, &self.tail(object)).map_err(|error| loop_error(object, error))?;
        let device = devices.pop();
        if let (Some(one), Some(other)) = (&device, devices.first()) {
            let by =
                format!("two loop devices, {} and {}, which were not both made here", other.path.display(), one.path.display());
            return Err(PoolError::InUse { object, by });
        }
        Ok(device)
    }

    fn require_detached(&self, object: Object) -> Result<(), PoolError> {
        let file = match self.open_data(object, Access::ReadOnly) {
            Ok(file) => file,
            Err(PoolError::Missing(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        match self.device(object, &file)? {
            Some(device) => Err(PoolError::InUse { object, by: device.path.display().to_string() }),
            None => Ok(()),
        }
    }

    /// The extents of a snapshot, whose open file this is.
    fn extents(&self, object: Object, file: File) -> Result<SnapshotExtents, PoolError> {
        extents::of_snapshot(file, self.sharing).map_err(|error| self.io("list the extents of", object, error))
    }

    fn io(&self, what: &str, object: Object, error: io::Error) -> PoolError {
        PoolError::io(format!("{what} {}", self.data_path(object).display()), error)
    }
}

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
            Sharing::Files if spec.checksum == DataChecksum::On => Err(PoolError::Unsupported(format!(
                "{}: {} keeps no checksums of data; leave out the parameter `checksum`, or use a pool on Btrfs",
                self.location(),
                self.mechanism
            ))),
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
                    tracing::warn!(%object, %error, "part of a failed set of snapshots is left");
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
        }
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

/// Whether a path, however the directory of its pool was reached, is that of the file of a volume.
pub(super) fn is_file_of(path: &Path, volume: VolumeId) -> bool {
    Layout::is_file_of(path, volume)
}

fn loop_error(object: Object, error: LoopError) -> PoolError {
    match error {
        LoopError::Attached(device) => PoolError::InUse { object, by: device.path.display().to_string() },
        LoopError::Attaching => PoolError::InUse { object, by: "another call, which is attaching it".to_owned() },
        LoopError::Busy(path) => PoolError::InUse { object, by: format!("{}, which is open or mounted", path.display()) },
        error @ LoopError::NoDirectIo { .. } => PoolError::Unsupported(error.to_string()),
        error @ LoopError::Size { .. } => {
            PoolError::io(format!("attach {object}"), io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))
        }
        error @ LoopError::WrongNode(_) => PoolError::io(format!("attach {object}"), io::Error::other(error)),
        LoopError::Silent { device, source } => PoolError::io(format!("{object}: state of {}", device.display()), source),
        LoopError::Io { action, source } => PoolError::io(format!("{object}: {action}"), source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_volume_is_known_however_its_pool_was_reached() {
        let (volume, other) = (VolumeId::random(), VolumeId::random());
        for pool in ["/", "/var/lib/pool", "/somewhere/else"] {
            let file = Layout::new(pool.into()).object(Object::Volume(volume));
            for path in [file.clone(), file.join("data")] {
                assert!(is_file_of(&path, volume) && !is_file_of(&path, other), "{}", path.display());
            }
            assert!(!is_file_of(&file.join("data/more"), volume));
            assert!(!is_file_of(&Layout::new(pool.into()).temporary(Object::Volume(volume)), volume));
        }
        assert!(!is_file_of(Path::new(&format!("/home/{volume}")), volume));
    }

    #[test]
    fn a_directory_without_a_pool_says_how_to_make_one() {
        let directory = tempfile::tempdir().unwrap();
        match ReflinkPool::open(directory.path()) {
            Err(PoolError::Format(text)) => assert!(text.contains("windlass pool create"), "{text}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_in_use_for_something_else_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("notes.txt"), "mine").unwrap();
        assert!(matches!(create_pool(directory.path()), Err(PoolError::Format(_))));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
