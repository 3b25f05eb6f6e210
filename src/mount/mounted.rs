//! A mounted file system, held by a descriptor.
//!
//! What is mounted at a path may be gone the next moment (an unmount, a lazy one above all), and the same path then leads to the file
//! system beneath it: a freeze by path could stop the node's own disk, and a thaw by path could miss the volume. So a mount is opened
//! once, the descriptor is checked to be of a mount of the device, and sync, freeze and thaw go through it. The mount id is what is
//! compared: the kernel gives it to nobody else while a descriptor is open. The descriptor keeps the file system mounted: it is held for no
//! longer than a cut.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Freeze, MountEntry, MountError, MountedFileSystem, mountinfo, topmost};
use crate::block::freeze;
use crate::failpoint;

/// How often the mount table is read anew because what it says changed before it was opened. Each time somebody unmounted or
/// covered a mount in those microseconds; a table that changes faster than that is none that a cut can wait for.
const LOOKS: usize = 3;

/// [`MountedFileSystem`] of the kernel.
#[derive(Debug)]
pub(super) struct Mounted {
    file: File,
    mount_point: PathBuf,
}

/// Opens the file system that is mounted from a device; none where no mount of it is to be seen.
pub(super) fn open(device: &Path, number: (u32, u32)) -> Result<Option<Mounted>, MountError> {
    let of_device = |entry: &&MountEntry| entry.is_of(device, number);
    for _ in 0..LOOKS {
        let entries = mountinfo::read()?;
        if !entries.iter().any(|entry| of_device(&entry)) {
            return Ok(None);
        }
        let visible = topmost(&entries);
        let mut candidates: Vec<_> = visible.into_values().filter(of_device).collect();
        // The whole file system before binds of parts of it.
        candidates.sort_by_key(|entry| entry.root != Path::new("/"));
        for entry in candidates {
            let Some(file) = open_visible(&entry.mount_point)? else { continue };
            let id = mount_id(&file).map_err(MountError::io(format!("look at {}", entry.mount_point.display())))?;
            if mountinfo::read()?.iter().any(|now| now.id == id && now.is_of(device, number)) {
                return Ok(Some(Mounted { file, mount_point: entry.mount_point.clone() }));
            }
        }
    }
    let reason = "is mounted, but nowhere that can be opened: other mounts cover it".to_owned();
    Err(MountError::Unsound { place: device.to_owned(), reason })
}

/// Opens a directory or regular file; none for what is gone, and for anything else: opening a device node does more than to look.
fn open_visible(path: &Path) -> Result<Option<File>, MountError> {
    let attempt = || {
        let metadata = std::fs::symlink_metadata(path)?;
        if !metadata.is_dir() && !metadata.is_file() {
            return Ok(None);
        }
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).map(Some)
    };
    match attempt() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map_err(MountError::io(format!("open {}", path.display()))),
    }
}

/// The id of the mount that an open file was opened through, as mountinfo has it.
fn mount_id(file: &File) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "fdinfo has no mount id"))
}

impl Mounted {
    fn failed(&self, action: &str) -> impl FnOnce(io::Error) -> MountError {
        MountError::io(format!("{action} {}", self.mount_point.display()))
    }
}

impl MountedFileSystem for Mounted {
    fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    fn sync(&self) -> Result<(), MountError> {
        freeze::sync_file_system(&self.file).map_err(self.failed("sync"))
    }

    fn freeze(&self) -> Result<Freeze, MountError> {
        let frozen = failpoint::around("mount.freeze", || freeze::freeze(&self.file)).map_err(self.failed("freeze"))?;
        Ok(match frozen {
            freeze::Frozen::Now => Freeze::Ours,
            freeze::Frozen::Already => Freeze::Foreign,
        })
    }

    fn thaw(&self) -> Result<(), MountError> {
        failpoint::around("mount.thaw", || freeze::thaw(&self.file)).map_err(self.failed("thaw"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_says_which_mount_it_was_opened_through() {
        let id = mount_id(&File::open("/proc").unwrap()).unwrap();
        let entry = mountinfo::read().unwrap().into_iter().find(|entry| entry.id == id).unwrap();
        assert_eq!(entry.mount_point, Path::new("/proc"));
    }

    #[test]
    fn only_directories_and_regular_files_are_opened() {
        assert!(open_visible(Path::new("/dev/null")).unwrap().is_none());
        assert!(open_visible(Path::new("/no/such/path")).unwrap().is_none());
        assert!(open_visible(Path::new("/")).unwrap().is_some());
    }
}
