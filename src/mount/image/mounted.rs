//! A mounted image: locked, attached and mounted, each step only if it is not done.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;

use super::error::ImageError;
use super::follower::Follower;
use super::names::{lock, split, with_affixes};
use crate::block::loop_device::{self, DirectIo, LoopDevice, LoopOptions};
use crate::block::probe::{self, Finding};
use crate::block::{FileSource, device};
use crate::failpoint;
use crate::mount::system::SystemMounter;
use crate::mount::{MountError, MountRequest, Mounter, Probe, topmost};
use crate::types::{Access, FsType, LogicalBlockSize};

/// A mounted image. Dropping it leaves it mounted and releases the lock.
#[derive(Debug)]
pub struct ImageFileSystem {
    // Ends before the lock does.
    pub(super) follower: Option<Follower>,
    pub(super) image: PathBuf,
    pub(super) directory: PathBuf,
    pub(super) device: LoopDevice,
    pub(super) fs_type: FsType,
    _lock: Flock<File>,
}

pub(super) fn open_as_it_is(path: &Path) -> Result<ImageFileSystem, ImageError> {
    // mountinfo and the name of the mount point go by the real name, however the image is reached.
    let image = path.canonicalize().map_err(ImageError::io("open", path))?;
    let io = |what| ImageError::io(what, &image);
    let lock_file = lock(File::open(&image).map_err(io("open"))?, &image)?;
    let file = OpenOptions::new().read(true).write(true).open(&image).map_err(io("open"))?;
    if !file.metadata().map_err(io("look at"))?.is_file() {
        return Err(ImageError::Unsuitable { path: image, found: "something that is not a regular file".to_owned() });
    }
    let fs_type = fs_type_of(&image)?;
    let device = attach(&image, &file)?;
    let (parent, name) = split(&image)?;
    let directory = parent.join(with_affixes("", &name, ".mount"));
    mount(&device, &directory, fs_type)?;
    Ok(ImageFileSystem { follower: None, image, directory, device, fs_type, _lock: lock_file })
}

/// Where [`open`] mounts an image. The image itself must exist.
pub fn mount_point(path: &Path) -> Result<PathBuf, ImageError> {
    let image = path.canonicalize().map_err(ImageError::io("open", path))?;
    let (parent, name) = split(&image)?;
    Ok(parent.join(with_affixes("", &name, ".mount")))
}

impl ImageFileSystem {
    /// The mounted directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The image, by its real name.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// The loop device it is attached to.
    pub fn device(&self) -> &LoopDevice {
        &self.device
    }

    /// Its file system.
    pub fn fs_type(&self) -> FsType {
        self.fs_type
    }

    /// Unmounts and detaches it, and removes the mount point.
    ///
    /// # Errors
    /// [`MountError::Busy`] or [`LoopError::Busy`] while something in it is in use; it can be closed again later.
    pub fn close(&self) -> Result<(), ImageError> {
        failpoint::around("image.close", || self.take_down())?;
        tracing::info!(image = %self.image.display(), "closed a pool image");
        Ok(())
    }

    fn take_down(&self) -> Result<(), ImageError> {
        SystemMounter::new().unmount(&self.directory)?;
        loop_device::detach(&self.device)?;
        match std::fs::remove_dir(&self.directory) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // Somebody put something into the empty mount point; it is theirs.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            Err(error) => Err(ImageError::io("remove", &self.directory)(error)),
        }
    }
}

pub(super) fn fs_type_of(image: &Path) -> Result<FsType, ImageError> {
    // A description of its own: reading sets flags on it.
    let file = File::open(image).map_err(ImageError::io("open", image))?;
    let size = device::size(&file).map_err(ImageError::io("look at", image))?;
    let source = FileSource::new(file, size, LogicalBlockSize::B4096).map_err(ImageError::io("look at", image))?;
    let found = match probe::examine(&source).map_err(ImageError::io("look at", image))? {
        Finding::FileSystem(fs_type @ (FsType::Xfs | FsType::Btrfs)) => return Ok(fs_type),
        other => match Probe::from(other) {
            Probe::Blank => "an empty file".to_owned(),
            Probe::FileSystem(fs_type) => fs_type.to_string(),
            Probe::Other(name) => name,
        },
    };
    Err(ImageError::Unsuitable { path: image.to_owned(), found })
}

fn attach(image: &Path, file: &File) -> Result<LoopDevice, ImageError> {
    let attached = |reason: &str| ImageError::Attached { path: image.to_owned(), reason: reason.to_owned() };
    let mut devices = loop_device::find(file)?;
    match (devices.pop(), devices.is_empty()) {
        (Some(_), false) => Err(attached("it is attached to several loop devices at once")),
        (Some(device), true) if device.access == Access::ReadOnly => Err(attached("it is attached read-only")),
        (Some(device), true) if device.vanishing => Err(attached("its loop device was detached and will vanish")),
        (Some(device), true) => Ok(device),
        (None, _) => {
            let name = image.file_name().unwrap_or_default().to_string_lossy();
            let options = LoopOptions {
                access: Access::ReadWrite,
                block_size: LogicalBlockSize::B4096,
                label: &format!("windlass-image {name}"),
                direct_io: DirectIo::IfPossible,
            };
            let device = loop_device::attach(file, &options)?;
            if !device.direct_io {
                tracing::warn!(image = %image.display(), "no direct I/O beneath the pool image: its data is cached twice");
            }
            Ok(device)
        }
    }
}

fn mount(device: &LoopDevice, directory: &Path, fs_type: FsType) -> Result<(), ImageError> {
    match std::fs::DirBuilder::new().create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(ImageError::io("create", directory)(error)),
    }
    let mounter = SystemMounter::new();
    let options = match fs_type {
        FsType::Btrfs => "noatime,max_inline=0",
        FsType::Ext4 | FsType::Xfs => "noatime",
    };
    mounter.mount(&MountRequest {
        device: device.path.clone(),
        target: directory.to_owned(),
        fs_type,
        options: vec![options.to_owned()],
        access: Access::ReadWrite,
    })?;
    let entries = mounter.mounts()?;
    let number = mounter.device_number(&device.path)?;
    match topmost(&entries).get(directory) {
        Some(entry) if entry.shows(&device.path, number) => Ok(()),
        _ => Err(MountError::Busy(directory.to_owned()).into()),
    }
}
