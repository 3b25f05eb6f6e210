//! Which loop device a file is attached to, found without a touch of anybody else's.
//!
//! A device tells its file's inode only by LOOP_GET_STATUS64, for which the kernel asks the file system of the file. That
//! hangs or fails when the file system does (a FUSE file whose daemon was stopped, NFS without a server), and other people's
//! loop devices have such files. So a device is opened only if the path that sysfs has for it, which the kernel keeps without
//! asking anybody, ends in the name of the wanted file; and only the inode then says that it is that file.
//!
//! The path's beginning means nothing: it is as the mount namespace of the attachment sees it. Its end follows renames, and
//! is the same for everybody unless the file has several names (hard links); for such a file every device is looked at.
//!
//! [`recall`] asks one device only, the one that a search found last. What is remembered is a hint: the device is looked
//! at each time.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use super::model::{BackingFile, LoopDevice, LoopError};
use super::node::look;
use crate::block::sysfs::{self, DELETED};
use crate::types::error::chain;

/// Hints kept at most: a kernel's minor numbers are 2^20, a node's volumes some thousands. At this number all are forgotten,
/// which costs one search each.
const HINTS: usize = 1 << 16;

static FOUND_LAST: LazyLock<Mutex<HashMap<BackingFile, u32>>> = LazyLock::new(Mutex::default);

/// The devices attached to the open file, which is known by its own name alone: none, or one if everybody attaches by
/// [`super::attach()`].
pub fn find(file: &File) -> Result<Vec<LoopDevice>, LoopError> {
    find_named(file, &name_of(file)?)
}

/// Like [`find`], of a file whose path ends in `tail` for whoever looks at it. The more it says, the fewer devices of others
/// have files called the same.
pub fn find_named(file: &File, tail: &Path) -> Result<Vec<LoopDevice>, LoopError> {
    let metadata = file.metadata().map_err(LoopError::io("state of the backing file"))?;
    let backing = BackingFile { device: metadata.dev(), inode: metadata.ino() };
    let mut devices = Vec::new();
    for number in numbers()? {
        let Some(path) = backing_path(number) else { continue };
        if metadata.nlink() <= 1 && !ends_in(&path, tail) {
            continue;
        }
        match look(number) {
            Ok(Some(device)) if device.backing == backing => devices.push(device),
            Ok(_) => {}
            Err(LoopError::Silent { device, source }) if is_another(file, &source) => {
                tracing::debug!(device = %device.display(), error = %chain(&source), "a loop device of another file is passed over");
            }
            Err(error) => return Err(error),
        }
    }
    match devices.first() {
        Some(device) => remember(backing, device.number),
        None => forget(backing),
    }
    Ok(devices)
}

/// The device that a search found last for the file, if it still is attached there; `None` means that a search must say.
///
/// # Errors
/// [`LoopError::Io`] when the file has no state.
pub fn recall(file: &File, tail: &Path) -> Result<Option<LoopDevice>, LoopError> {
    let backing = BackingFile::of(file).map_err(LoopError::io("state of the backing file"))?;
    let Some(number) = hints().get(&backing).copied() else { return Ok(None) };
    // The number may be somebody else's by now.
    if !backing_path(number).is_some_and(|path| ends_in(&path, tail)) {
        return Ok(None);
    }
    Ok(look(number).ok().flatten().filter(|device| device.backing == backing))
}

/// The devices attached to files beneath a folder, by the paths that the kernel has for them, in the order of their numbers.
pub fn beneath(folder: &Path) -> Result<Vec<LoopDevice>, LoopError> {
    let mut devices = Vec::new();
    for number in numbers()? {
        if backing_path(number).is_some_and(|path| path.starts_with(folder)) {
            devices.extend(look(number)?);
        }
    }
    Ok(devices)
}

/// The numbers of the devices that have no file, as far as sysfs says.
pub(super) fn unattached() -> Result<Vec<u32>, LoopError> {
    Ok(numbers()?.into_iter().filter(|&number| backing_path(number).is_none()).collect())
}

/// The file's own name, as this process sees it.
pub(super) fn name_of(file: &File) -> Result<PathBuf, LoopError> {
    let path =
        std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(LoopError::io("name of the backing file"))?;
    let path = without_mark(path.as_os_str());
    Ok(PathBuf::from(path.file_name().unwrap_or(path.as_os_str())))
}

pub(super) fn remember(backing: BackingFile, number: u32) {
    let mut hints = hints();
    if hints.len() >= HINTS {
        hints.clear();
    }
    hints.insert(backing, number);
}

pub(super) fn forget(backing: BackingFile) {
    hints().remove(&backing);
}

fn hints() -> MutexGuard<'static, HashMap<BackingFile, u32>> {
    FOUND_LAST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a device whose file gives no state has another file than this one, which gives its own: it is one inode for both.
/// Being forbidden to ask says nothing.
fn is_another(file: &File, error: &io::Error) -> bool {
    error.kind() != io::ErrorKind::PermissionDenied && file.metadata().is_ok()
}

/// The numbers of all loop devices. One that comes or goes meanwhile may be missed or not, as in any list.
fn numbers() -> Result<Vec<u32>, LoopError> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir("/sys/block").map_err(LoopError::io("read /sys/block"))? {
        let name = entry.map_err(LoopError::io("read /sys/block"))?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.strip_prefix("loop")).and_then(|number| number.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The path of the file behind a device, as the kernel has it; `None` when there is none.
fn backing_path(number: u32) -> Option<PathBuf> {
    // What cannot be read is somebody else's, or gone.
    sysfs::file_of_loop(number).ok().flatten()
}

/// Whether the path of a device's file can be that of a file whose path ends in `tail`.
fn ends_in(path: &Path, tail: &Path) -> bool {
    path.ends_with(tail) || without_mark(path.as_os_str()).ends_with(tail)
}

fn without_mark(path: &OsStr) -> &Path {
    let bytes = path.as_bytes();
    Path::new(OsStr::from_bytes(bytes.strip_suffix(DELETED).unwrap_or(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(path: &str, tail: &str) -> bool {
        ends_in(Path::new(path), Path::new(tail))
    }

    #[test]
    fn a_file_is_known_by_the_end_of_its_path() {
        assert!(matches("/var/lib/windlass/volumes/ab12", "ab12"));
        // In another mount namespace, in one that is gone, and below the root of a file system.
        assert!(matches("/host/pools/a/volumes/ab12/data", "ab12/data"));
        assert!(matches("/volumes/ab12/data", "ab12/data"));
        assert!(matches("ab12/data", "ab12/data"));
        assert!(matches("/volumes/ab12 (deleted)", "ab12"));
        assert!(matches("/odd (deleted)", "odd (deleted)"));
        assert!(matches("/odd (deleted) (deleted)", "odd (deleted)"));
    }

    #[test]
    fn a_file_called_alike_is_another() {
        assert!(!matches("/srv/xab12", "ab12"));
        assert!(!matches("/srv/ab12/data", "ab12"));
        assert!(!matches("/srv/other/data", "ab12/data"));
        assert!(!matches("/srv/data", "ab12/data"));
        assert!(!matches("/srv/ab12/data/more", "ab12/data"));
        assert!(!matches("", "ab12"));
    }

    #[test]
    fn an_open_file_says_its_name_also_when_it_has_none_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("name\nof two lines");
        let file = File::create(&path).unwrap();
        assert_eq!(name_of(&file).unwrap(), Path::new("name\nof two lines"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(name_of(&file).unwrap(), Path::new("name\nof two lines"));
    }
}
