//! The node of a loop device, made where it is missing, and what is attached as it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::model::{LoopDevice, LoopError};
use super::raw::{self, LoopInfo};

/// What is attached as the loop device with this number; `None` when nothing is.
pub(super) fn look(number: u32) -> Result<Option<LoopDevice>, LoopError> {
    let path = match node_path(number) {
        Ok(path) => path,
        // Removed since it was listed.
        Err(LoopError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let node = match File::open(&path) {
        Ok(node) => node,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(LoopError::io(format!("open {}", path.display()))(error)),
    };
    match raw::status(node.as_fd()) {
        Ok(info) => Ok(Some(describe(number, path, &info))),
        Err(error) if is_gone(&error) => Ok(None),
        Err(source) => Err(LoopError::Silent { device: path, source }),
    }
}

/// The device that the kernel describes so.
pub(super) fn describe(number: u32, path: PathBuf, info: &LoopInfo) -> LoopDevice {
    LoopDevice {
        path,
        number,
        backing: info.backing(),
        access: info.access(),
        direct_io: info.direct_io(),
        vanishing: info.vanishing(),
        label: info.label(),
    }
}

/// Path of the device node, made if it is not there.
pub(super) fn node_path(number: u32) -> Result<PathBuf, LoopError> {
    let path = PathBuf::from(format!("/dev/loop{number}"));
    let action = || format!("device node {}", path.display());
    let wanted = expected_number(number).map_err(LoopError::io(action()))?;
    match rdev(&path) {
        Ok(Some(found)) if found == wanted => return Ok(path),
        Ok(_) => return Err(LoopError::WrongNode(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(LoopError::io(action())(error)),
    }
    use nix::sys::stat::{Mode, SFlag, mknod};
    match mknod(&path, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, wanted) {
        // udev may have been faster.
        Ok(()) | Err(nix::Error::EEXIST) => {}
        Err(error) => return Err(LoopError::io(action())(error.into())),
    }
    match rdev(&path) {
        Ok(Some(found)) if found == wanted => Ok(path),
        Ok(_) => Err(LoopError::WrongNode(path)),
        Err(error) => Err(LoopError::io(action())(error)),
    }
}

/// The number of the block device whose node this is; `None` when it is anything else.
fn rdev(path: &Path) -> io::Result<Option<u64>> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok(metadata.file_type().is_block_device().then(|| metadata.rdev()))
}

/// The device number that sysfs gives; partitions of loop devices shift the minors, so it is not always 7:N.
fn expected_number(number: u32) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/sys/block/loop{number}/dev"))?;
    let parsed = text.trim().split_once(':').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let (major, minor) = parsed.ok_or(io::ErrorKind::InvalidData)?;
    Ok(nix::sys::stat::makedev(major, minor))
}

/// Whether a device has no file, or is not there any more.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV))
}
