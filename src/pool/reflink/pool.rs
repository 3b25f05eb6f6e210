//! A directory as a pool: locked, with the files of its objects and their loop devices.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use nix::libc;
use nix::sys::statfs::{XFS_SUPER_MAGIC, statfs};

use super::extents::{self, SnapshotExtents};
use super::layout::{self, Layout};
use super::lock::{absolute, lock};
use super::sharing::{Sharing, check_sharing};
use super::stall::Stalls;
use crate::block::loop_device::{self, DirectIo, LoopDevice, LoopError};
use crate::block::{btrfs, file_ops, reflink};
use crate::pool::{PoolError, Refusal};
use crate::types::{Access, Object};

/// A directory as a pool, locked by this process.
pub struct ReflinkPool {
    pub(super) layout: Layout,
    pub(super) sharing: Sharing,
    pub(super) mechanism: &'static str,
    pub(super) stalls: Stalls,
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
    pub(super) fn open_objects(directory: &Path) -> Result<Self, PoolError> {
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
    pub(super) fn data_path(&self, object: Object) -> PathBuf {
        match self.sharing {
            Sharing::Files => self.layout.object(object),
            Sharing::Subvolumes => self.layout.object(object).join(layout::DATA),
        }
    }

    /// The end of that file's path, by which its loop device is found: the object's id, whatever mount namespace looks.
    pub(super) fn tail(&self, object: Object) -> PathBuf {
        let path = self.data_path(object);
        path.strip_prefix(self.layout.parent(object)).map_or_else(|_| path.clone(), Path::to_path_buf)
    }

    pub(super) fn open_data(&self, object: Object, access: Access) -> Result<File, PoolError> {
        let path = self.data_path(object);
        let mut options = File::options();
        options.read(true).write(access == Access::ReadWrite).custom_flags(libc::O_NOFOLLOW);
        options.open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => PoolError::Missing(object),
            _ => PoolError::io(format!("open {}", path.display()), error),
        })
    }

    pub(super) fn open_source(&self, object: Object) -> Result<File, PoolError> {
        self.open_data(object, Access::ReadOnly).map_err(|error| match error {
            PoolError::Missing(object) => PoolError::SourceMissing(object),
            other => other,
        })
    }

    /// How an object is attached: see above.
    pub(super) fn direct_io(&self, object: Object, file: &File) -> Result<DirectIo, PoolError> {
        let has_checksums = match self.sharing {
            Sharing::Files => false,
            Sharing::Subvolumes => !file_ops::is_no_cow(file).map_err(|error| self.io("look at the flags of", object, error))?,
        };
        Ok(if has_checksums { DirectIo::Off } else { DirectIo::Required })
    }

    /// The loop device of an object's file.
    pub(super) fn device(&self, object: Object, file: &File) -> Result<Option<LoopDevice>, PoolError> {
        let mut devices = loop_device::find_named(file, &self.tail(object)).map_err(|error| loop_error(object, error))?;
        let device = devices.pop();
        if let (Some(one), Some(other)) = (&device, devices.first()) {
            let by =
                format!("two loop devices, {} and {}, which were not both made here", other.path.display(), one.path.display());
            return Err(PoolError::InUse { object, by });
        }
        Ok(device)
    }

    pub(super) fn require_detached(&self, object: Object) -> Result<(), PoolError> {
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
    pub(super) fn extents(&self, object: Object, file: File) -> Result<SnapshotExtents, PoolError> {
        extents::of_snapshot(file, self.sharing).map_err(|error| self.io("list the extents of", object, error))
    }

    pub(super) fn io(&self, what: &str, object: Object, error: io::Error) -> PoolError {
        PoolError::io(format!("{what} {}", self.data_path(object).display()), error)
    }
}

/// What a failure of an object's loop device means to the pool's callers.
pub(super) fn loop_error(object: Object, error: LoopError) -> PoolError {
    match error {
        LoopError::Attached(device) => PoolError::InUse { object, by: device.path.display().to_string() },
        LoopError::Attaching => PoolError::InUse { object, by: "another call, which is attaching it".to_owned() },
        LoopError::Busy(path) => PoolError::InUse { object, by: format!("{}, which is open or mounted", path.display()) },
        error @ LoopError::NoDirectIo { .. } => PoolError::Unsupported(Refusal::because(format!("attach {object}"), error)),
        error @ LoopError::Size { .. } => {
            PoolError::io(format!("attach {object}"), io::Error::new(io::ErrorKind::InvalidInput, error))
        }
        error @ LoopError::WrongNode(_) => PoolError::io(format!("attach {object}"), io::Error::other(error)),
        LoopError::Silent { device, source } => PoolError::io(format!("{object}: state of {}", device.display()), source),
        LoopError::Io { action, source } => PoolError::io(format!("{object}: {action}"), source),
    }
}
