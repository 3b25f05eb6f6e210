//! An image that is enlarged, and the file system in it that follows.
//!
//! Three sizes follow one another: the file's, its loop device's, the file system's. [`grow`] raises the first, durably;
//! [`ImageFileSystem::follow`] brings the others along, and whoever opens an image does that first. So a crash between any two leaves a
//! file system that is smaller than it may be, until the next opening. While a process serves an image it follows by itself
//! ([`ImageFileSystem::follow_growth`]): a thread looks at the file's size every two seconds, so that room can be made beneath a pool in
//! use, however the file was enlarged. Both file systems grow mounted and full, for what they need they keep back.
//!
//! Nothing here ever makes an image smaller: two callers of [`grow`] exclude each other by a lock of the file that is not the
//! owner's (a lock of the open description, beside the flock), so that the second sees what the first has done.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::statvfs::statvfs;

use super::error::ImageError;
use super::follower::{Followed, Follower};
use super::mounted::{ImageFileSystem, fs_type_of, open_as_it_is};
use super::names::split;
use crate::block::loop_device::{self, LoopDevice};
use crate::block::{device, file_ops};
use crate::mount::Mounter;
use crate::mount::system::SystemMounter;
use crate::types::FsType;
use crate::types::error::chain;

/// Unit of `st_blocks`, in bytes.
const STAT_BLOCK: u64 = 512;

/// What became of a growth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grown {
    /// The file system has the new size.
    Done,
    /// The process that serves the image brings the file system along, within some seconds.
    LeftToItsOwner,
}

/// Locks, attaches and mounts an image, as far as that is not done, and lets its file system grow to it. A file system that does
/// not grow is used as it is.
///
/// # Errors
/// [`ImageError::Locked`] while another process has it open; [`ImageError::Unsuitable`], [`ImageError::Attached`], ...
pub fn open(path: &Path) -> Result<ImageFileSystem, ImageError> {
    let opened = open_as_it_is(path)?;
    if let Err(error) = opened.follow() {
        tracing::warn!(image = %opened.image.display(), error = %chain(&error), "the file system of a pool image may be smaller than it");
    }
    Ok(opened)
}

/// Enlarges an image to `bytes`, and the file system in it unless another process serves it. As large already: only the file system
/// follows.
///
/// # Errors
/// [`ImageError::Shrinks`], [`ImageError::Size`], [`ImageError::NoSpace`] when what is around it could not hold all of it: nothing was
/// changed. [`ImageError::Locked`] while another process enlarges it; [`ImageError::Unsuitable`], ...: to be repeated.
pub fn grow(path: &Path, bytes: u64) -> Result<Grown, ImageError> {
    let image = path.canonicalize().map_err(ImageError::io("open", path))?;
    let io = |what| ImageError::io(what, &image);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&image).map_err(io("open"))?;
    let metadata = file.metadata().map_err(io("look at"))?;
    if !metadata.is_file() {
        return Err(ImageError::Unsuitable { path: image, found: "something that is not a regular file".to_owned() });
    }
    fs_type_of(&image)?;
    claim(&file, &image)?;
    let metadata = file.metadata().map_err(io("look at"))?;
    let current = metadata.len();
    if bytes < current {
        return Err(ImageError::Shrinks { path: image, current, bytes });
    }
    if !bytes.is_multiple_of(4096) {
        return Err(ImageError::Size { bytes });
    }
    if bytes > current {
        let (parent, _) = split(&image)?;
        let room = statvfs(&parent).map_err(|error| ImageError::io("free space of", &parent)(error.into()))?;
        let available = room.blocks_available().saturating_mul(room.fragment_size());
        let wanted = bytes.saturating_sub(metadata.blocks().saturating_mul(STAT_BLOCK));
        if available < wanted {
            return Err(ImageError::NoSpace { path: image, wanted, available });
        }
        file_ops::set_len_sync(&file, bytes).map_err(io("set the size of"))?;
        tracing::info!(image = %image.display(), from = current, to = bytes, "enlarged a pool image");
    }
    let was_open = !loop_device::find(&file)?.is_empty();
    let opened = match open_as_it_is(&image) {
        Ok(opened) => opened,
        Err(ImageError::Locked(_)) => return Ok(Grown::LeftToItsOwner),
        Err(error) => return Err(error),
    };
    opened.follow()?;
    if !was_open {
        opened.close()?;
    }
    Ok(Grown::Done)
}

/// A lock of the open description, which ends with it.
fn claim(file: &File, image: &Path) -> Result<(), ImageError> {
    // From the start to the end, wherever that will be.
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => Ok(()),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Err(ImageError::Locked(image.to_owned())),
        Err(error) => Err(ImageError::io("lock", image)(error.into())),
    }
}

impl ImageFileSystem {
    /// Brings the device and the file system to the size of the image. As large already is success.
    ///
    /// # Errors
    /// [`ImageError::Loop`], [`ImageError::Mount`], [`ImageError::Io`]: to be repeated.
    pub fn follow(&self) -> Result<(), ImageError> {
        follow(&self.image, &self.device, &self.directory, self.fs_type)
    }

    /// Lets device and file system follow the image by themselves from now on, until this is dropped.
    ///
    /// # Errors
    /// [`ImageError::Io`] when no thread can be started.
    pub fn follow_growth(&mut self) -> Result<(), ImageError> {
        let io = |what| ImageError::io(what, &self.image);
        let file = File::open(&self.image).map_err(io("open"))?;
        let known = file.metadata().map_err(io("look at"))?.len();
        let (image, device, directory, fs_type) = (self.image.clone(), self.device.clone(), self.directory.clone(), self.fs_type);
        let mut failed = None;
        let follow = move |bytes: u64| match follow(&image, &device, &directory, fs_type) {
            Ok(()) => {
                tracing::info!(image = %image.display(), bytes, "the file system of a pool image has grown with it");
                Followed::Yes
            }
            Err(error) => {
                // Once for each size: it is tried every period.
                if failed.replace(bytes) != Some(bytes) {
                    tracing::warn!(image = %image.display(), bytes, error = %chain(&error), "the file system of a pool image has not grown with it yet");
                }
                Followed::NotYet
            }
        };
        self.follower = Some(Follower::start(file, known, follow).map_err(io("follow the size of"))?);
        Ok(())
    }
}

fn follow(image: &Path, device: &LoopDevice, directory: &Path, fs_type: FsType) -> Result<(), ImageError> {
    let bytes = std::fs::metadata(image).map_err(ImageError::io("look at", image))?.len();
    let node = File::open(&device.path).map_err(ImageError::io("open", &device.path))?;
    if device::size(&node).map_err(ImageError::io("size of", &device.path))? < bytes {
        loop_device::refresh_capacity(device)?;
    }
    drop(node);
    Ok(SystemMounter::new().grow(&device.path, directory, fs_type)?)
}
