//! A file system in an image file: a pool on machines whose own file system cannot share extents.
//!
//! [`create`] makes the image under a temporary name beside its own and renames it when the file system in it is whole and
//! durable, so an image that exists is complete. A crash leaves `.NAME.creating`, which the next attempt overwrites. The image
//! is sparse: it takes from the file system around it what it holds. Whether that could hold all of it is checked once,
//! at creation and growth; keeping it so is up to whoever shares that file system. [`grow`] enlarges an image, in use or not
//! (`growth`).
//!
//! [`open`] locks the image, attaches it and mounts it at `IMAGE.mount`, each step only if it is not done: the loop device is
//! found by the image's inode, the mount in mountinfo. So it does not matter at which step an earlier process ended. The mount
//! outlives the process on purpose, because volumes in it are in use by pods while the driver restarts;
//! [`ImageFileSystem::close`] is what takes it down, in reverse order, and refuses while anything in it is in use.
//!
//! The lock is a flock on the image: it holds across mount namespaces and ends with the process. It is taken on a
//! description of its own, not on the one that is attached: the kernel keeps that one open, lock included, as long as the
//! device exists.

mod growth;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::statvfs;

use self::growth::Follower;
pub use self::growth::{Grown, grow};
use super::system::SystemMounter;
use super::{Formatting, MountError, MountRequest, Mounter, Probe, mkfs, topmost};
use crate::block::loop_device::{self, BackingFile, DirectIo, LoopDevice, LoopError, LoopOptions};
use crate::block::probe::{self, Finding};
use crate::block::{FileSource, device, file_ops};
use crate::failpoint;
use crate::types::{Access, FsType, LogicalBlockSize};

/// Smallest image in bytes: both file systems accept it and have room left for a volume.
pub const MINIMUM_BYTES: u64 = 512 << 20;

/// Why an image could not be made, opened or closed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Something is there already; it was not touched.
    #[error("{0}: exists already and is not empty")]
    Exists(PathBuf),
    /// The size is too small or no multiple of 4096.
    #[error("an image of {bytes} bytes is not possible: at least {MINIMUM_BYTES}, and a multiple of 4096")]
    Size {
        /// The size asked for.
        bytes: u64,
    },
    /// The file system around the image has less room than the image could take.
    #[error("{path}: {wanted} bytes do not fit into the {available} that are free around it")]
    NoSpace {
        /// The image.
        path: PathBuf,
        /// Its size.
        wanted: u64,
        /// What is free.
        available: u64,
    },
    /// The size asked for is less than it has.
    #[error("{path}: has {current} bytes, more than {bytes}; images do not shrink")]
    Shrinks {
        /// The image.
        path: PathBuf,
        /// Its size.
        current: u64,
        /// The size asked for.
        bytes: u64,
    },
    /// A file system without shared extents was asked for or found.
    #[error("{path}: {found} cannot hold a pool; xfs and btrfs can")]
    Unsuitable {
        /// The image.
        path: PathBuf,
        /// What it is.
        found: String,
    },
    /// Another process has it open.
    #[error("{0}: is in use by another process")]
    Locked(PathBuf),
    /// It is attached in a way this software does not attach it.
    #[error("{path}: {reason}; detach it (losetup -d) and try again")]
    Attached {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Mounting, unmounting or making the file system failed.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Attaching or detaching failed.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// A call of the system failed.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted, with its path.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl ImageError {
    fn io(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let action = format!("{what} {}", path.display());
        move |source| Self::Io { action, source }
    }
}

/// A mounted image. Dropping it leaves it mounted and releases the lock.
#[derive(Debug)]
pub struct ImageFileSystem {
    // Ends before the lock does.
    follower: Option<Follower>,
    image: PathBuf,
    directory: PathBuf,
    device: LoopDevice,
    fs_type: FsType,
    _lock: Flock<File>,
}

/// Makes an image of `bytes` with an empty XFS or Btrfs. A name that is taken by an empty file is used.
///
/// # Errors
/// [`ImageError`]; nothing is left behind but, after a crash, the temporary file.
pub fn create(path: &Path, bytes: u64, fs_type: FsType) -> Result<(), ImageError> {
    if fs_type == FsType::Ext4 {
        return Err(ImageError::Unsuitable { path: path.to_owned(), found: fs_type.to_string() });
    }
    if bytes < MINIMUM_BYTES || !bytes.is_multiple_of(4096) {
        return Err(ImageError::Size { bytes });
    }
    let (parent, name) = split(path)?;
    if is_taken(path)? {
        return Err(ImageError::Exists(path.to_owned()));
    }
    let room = statvfs(&parent).map_err(|error| ImageError::io("free space of", &parent)(error.into()))?;
    let available = room.blocks_available() * room.fragment_size();
    if available < bytes {
        return Err(ImageError::NoSpace { path: path.to_owned(), wanted: bytes, available });
    }
    let temporary = parent.join(with_affixes(".", &name, ".creating"));
    failpoint::hit("image.create.before");
    let result = fill(&temporary, bytes, fs_type).and_then(|lock| {
        failpoint::hit("image.rename.before");
        // Locked, so that of two processes making the same image the second does not get here.
        if is_taken(path)? {
            return Err(ImageError::Exists(path.to_owned()));
        }
        std::fs::rename(&temporary, path).map_err(ImageError::io("rename to", path))?;
        file_ops::sync_dir(&parent).map_err(ImageError::io("sync", &parent))?;
        drop(lock);
        failpoint::hit("image.rename.after");
        Ok(())
    });
    match &result {
        Ok(()) => tracing::info!(image = %path.display(), bytes, %fs_type, "made a pool image"),
        // The other process's file, if it is locked.
        Err(ImageError::Locked(_)) => {}
        Err(_) => {
            // It failed already; what remains is overwritten by the next attempt.
            let _ = std::fs::remove_file(&temporary);
        }
    }
    result
}

fn fill(temporary: &Path, bytes: u64, fs_type: FsType) -> Result<Flock<File>, ImageError> {
    let mut open = OpenOptions::new();
    open.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = lock(open.open(temporary).map_err(ImageError::io("create", temporary))?, temporary)?;
    let io = |what| ImageError::io(what, temporary);
    // Between opening and locking it, another process may have finished it and given it its name: it is no longer ours.
    let (ours, named) = (BackingFile::of(&file).map_err(io("look at"))?, File::open(temporary));
    if named.and_then(|named| BackingFile::of(&named)).map_err(io("look at"))? != ours {
        return Err(ImageError::Locked(temporary.to_owned()));
    }
    file.set_len(0).map_err(io("empty"))?;
    match file_ops::set_no_cow(&file) {
        Ok(()) => {}
        // Only Btrfs has it and needs it.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL)) => {}
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        Err(error) => return Err(io("set the flags of")(error)),
    }
    file.set_len(bytes).map_err(io("set the size of"))?;
    mkfs::make(temporary, fs_type, Formatting::Blank)?;
    file.sync_all().map_err(io("sync"))?;
    Ok(file)
}

/// Locks, attaches and mounts an image, as far as that is not done, and lets its file system grow to it. A file system that does
/// not grow is used as it is.
///
/// # Errors
/// [`ImageError::Locked`] while another process has it open; [`ImageError::Unsuitable`], [`ImageError::Attached`], ...
pub fn open(path: &Path) -> Result<ImageFileSystem, ImageError> {
    let opened = open_as_it_is(path)?;
    if let Err(error) = opened.follow() {
        tracing::warn!(image = %opened.image.display(), %error, "the file system of a pool image may be smaller than it");
    }
    Ok(opened)
}

fn open_as_it_is(path: &Path) -> Result<ImageFileSystem, ImageError> {
    // mountinfo and the name of the mount point go by the real name, however the image is reached.
    let image = path.canonicalize().map_err(ImageError::io("open", path))?;
    let io = |what| ImageError::io(what, &image);
    let lock_file = lock(File::open(&image).map_err(io("open"))?, &image)?;
    let file = OpenOptions::new().read(true).write(true).open(&image).map_err(io("open"))?;
    if !file.metadata().map_err(io("look at"))?.is_file() {
        return Err(ImageError::Unsuitable { path: image, found: "what is no regular file".to_owned() });
    }
    let fs_type = fs_type_of(&image)?;
    let device = attach(&image, &file)?;
    let (parent, name) = split(&image)?;
    let directory = parent.join(with_affixes("", &name, ".mount"));
    mount(&device, &directory, fs_type)?;
    Ok(ImageFileSystem { follower: None, image, directory, device, fs_type, _lock: lock_file })
}

/// Where [`open`] mounts an image. The image itself must exist.
///
/// # Errors
/// [`ImageError::Io`].
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
        failpoint::hit("image.close.before");
        SystemMounter::new().unmount(&self.directory)?;
        loop_device::detach(&self.device)?;
        match std::fs::remove_dir(&self.directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Somebody put something into the empty mount point; it is theirs.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(error) => return Err(ImageError::io("remove", &self.directory)(error)),
        }
        failpoint::hit("image.close.after");
        tracing::info!(image = %self.image.display(), "closed a pool image");
        Ok(())
    }
}

fn fs_type_of(image: &Path) -> Result<FsType, ImageError> {
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

fn lock(file: File, path: &Path) -> Result<Flock<File>, ImageError> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::Error::EWOULDBLOCK => ImageError::Locked(path.to_owned()),
        error => ImageError::io("lock", path)(error.into()),
    })
}

/// Whether something other than an empty regular file has the name.
fn is_taken(path: &Path) -> Result<bool, ImageError> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(!metadata.is_file() || metadata.len() != 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ImageError::io("look at", path)(error)),
    }
}

fn split(path: &Path) -> Result<(PathBuf, OsString), ImageError> {
    let name = path.file_name().ok_or_else(|| ImageError::io("use", path)(io::ErrorKind::InvalidInput.into()))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok((parent.to_owned(), name.to_owned()))
}

fn with_affixes(before: &str, name: &OsString, after: &str) -> OsString {
    let mut affixed = OsString::from(before);
    affixed.push(name);
    affixed.push(after);
    affixed
}
