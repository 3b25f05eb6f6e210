//! Making an image: under a temporary name, which it loses when the file system in it is whole and durable.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::Flock;
use nix::sys::statvfs::statvfs;

use super::error::{ImageError, MINIMUM_BYTES};
use super::names::{lock, split, with_affixes};
use crate::block::file_ops;
use crate::block::loop_device::BackingFile;
use crate::failpoint;
use crate::mount::{Formatting, mkfs};
use crate::types::FsType;

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
    let publish = |lock| {
        // Locked, so that of two processes making the same image the second does not get here.
        if is_taken(path)? {
            return Err(ImageError::Exists(path.to_owned()));
        }
        std::fs::rename(&temporary, path).map_err(ImageError::io("rename to", path))?;
        file_ops::sync_dir(&parent).map_err(ImageError::io("sync", &parent))?;
        drop::<Flock<File>>(lock);
        Ok(())
    };
    let filled = fill(&temporary, bytes, fs_type);
    let result = filled.and_then(|lock| failpoint::around("image.rename", || publish(lock)));
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

/// Whether something other than an empty regular file has the name.
fn is_taken(path: &Path) -> Result<bool, ImageError> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(!metadata.is_file() || metadata.len() != 0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ImageError::io("look at", path)(error)),
    }
}
