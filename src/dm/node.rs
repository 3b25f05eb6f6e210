//! Device nodes of our own, in `/dev/windlass`.
//!
//! udev's nodes and links come when they come, and in a container perhaps never. These are made when the device is, from the
//! number that the kernel gave, with mode 0600. They lie in `/dev` because `/run` is mounted without devices on the usual
//! hosts, where a node could be made but not opened.
//!
//! * A node is made under a name that begins with a dot and renamed: whoever opens the final name gets this device or,
//!   before, what was there. A stale node of an earlier device is replaced that way; its number may be another device's by
//!   now.
//! * A node is not durable and need not be: /dev is empty after a boot. What a crash leaves behind, [`DeviceNodes::sweep`]
//!   takes away.
//! * All is done relative to the open directory, by names without a slash, and never through a symbolic link. What is not a
//!   block device node is neither replaced nor removed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{AtFlags, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmodat, fstatat, mknodat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::name::{DeviceNumber, DmName};
use super::reply::ListedDevice;

/// Where the nodes are.
pub const DIRECTORY: &str = "/dev/windlass";

/// Why a device node could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Something is there that is no node of a block device.
    #[error("{} must be a device node, and is something else", .0.display())]
    Foreign(PathBuf),
    /// The directory is none, or one that others may write to.
    #[error("{} must be a directory that is owned by this user and writable by nobody else", .0.display())]
    Directory(PathBuf),
    /// A call of the system failed.
    #[error("{action}")]
    Io {
        /// What was attempted, with its path.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// The open directory of the nodes.
#[derive(Debug)]
pub struct DeviceNodes {
    directory: File,
    path: PathBuf,
}

impl DeviceNodes {
    /// Opens the directory at `path` ([`DIRECTORY`], except in tests), made with mode 0755 if it is not there.
    ///
    /// # Errors
    /// [`NodeError::Directory`] when it is a link, no directory, another user's, or others may write to it; [`NodeError::Io`].
    pub fn open(path: &Path) -> Result<Self, NodeError> {
        let io = |what: &str, source| NodeError::Io { action: format!("{what} {}", path.display()), source };
        match DirBuilder::new().mode(0o755).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io("make", error)),
            _ => {}
        }
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let directory = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => {
                return Err(NodeError::Directory(path.to_owned()));
            }
            other => other.map_err(|error| io("open", error))?,
        };
        let metadata = directory.metadata().map_err(|error| io("look at", error))?;
        if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(NodeError::Directory(path.to_owned()));
        }
        Ok(Self { directory, path: path.to_owned() })
    }

    /// Where the node of a device of this name is or would be.
    pub fn path(&self, name: &DmName) -> PathBuf {
        self.path.join(name.as_str())
    }

    /// Makes the node of the device `name`, which has this number, unless it is there. Returns its path.
    ///
    /// # Errors
    /// [`NodeError::Foreign`] when something else is there; [`NodeError::Io`].
    pub fn make(&self, name: &DmName, number: DeviceNumber) -> Result<PathBuf, NodeError> {
        static NAMES: AtomicU64 = AtomicU64::new(0);
        if let Some(found) = self.look(name.as_str())?
            && found == number
        {
            return Ok(self.path(name));
        }
        // Short, whatever the name, and this call's alone.
        let unfinished = format!(".{}-{}", std::process::id(), NAMES.fetch_add(1, Ordering::Relaxed));
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let made = self.unlink(&unfinished).and_then(|()| {
            mknodat(&self.directory, unfinished.as_str(), SFlag::S_IFBLK, mode, number.rdev())
                // The umask may have taken bits away, and gives none.
                .and_then(|()| fchmodat(&self.directory, unfinished.as_str(), mode, nix::sys::stat::FchmodatFlags::FollowSymlink))
                .and_then(|()| renameat(&self.directory, unfinished.as_str(), &self.directory, name.as_str()))
                .map_err(|error| self.io("make", name.as_str(), error))
        });
        if let Err(error) = made {
            // What is left otherwise the next sweep takes away.
            let _ = self.unlink(&unfinished);
            return Err(error);
        }
        Ok(self.path(name))
    }

    /// Removes the node of a device of this name. None there is success.
    ///
    /// # Errors
    /// [`NodeError::Foreign`] when something else is there; [`NodeError::Io`].
    pub fn remove(&self, name: &DmName) -> Result<(), NodeError> {
        match self.look(name.as_str())? {
            Some(_) => self.unlink(name.as_str()),
            None => Ok(()),
        }
    }

    /// Removes the nodes whose names begin with `prefix` and whose device is not among `devices` by name and number. Returns the names
    /// removed. Nothing else may be making such nodes meanwhile. What making of nodes left unfinished begins with a dot.
    ///
    /// # Errors
    /// [`NodeError::Io`]. What is no block device node is left alone.
    pub fn sweep(&self, prefix: &str, devices: &[ListedDevice]) -> Result<Vec<String>, NodeError> {
        let mut removed = Vec::new();
        let list = |source| NodeError::Io { action: format!("list {}", self.path.display()), source };
        for entry in fs::read_dir(&self.path).map_err(list)? {
            let name = entry.map_err(list)?.file_name();
            // Ours are text.
            let Some(name) = name.to_str().filter(|name| name.starts_with(prefix)) else { continue };
            let found = match self.look(name) {
                Ok(Some(found)) => found,
                Ok(None) | Err(NodeError::Foreign(_)) => continue,
                Err(error) => return Err(error),
            };
            if !devices.iter().any(|device| device.name == name && device.number == found) {
                self.unlink(name)?;
                removed.push(name.to_owned());
            }
        }
        removed.sort_unstable();
        Ok(removed)
    }

    /// The number of the node of this name; `None` when nothing is there.
    fn look(&self, name: &str) -> Result<Option<DeviceNumber>, NodeError> {
        let stat: FileStat = match fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(nix::Error::ENOENT) => return Ok(None),
            Err(error) => return Err(self.io("look at", name, error)),
        };
        let is_block = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFBLK;
        match DeviceNumber::from_rdev(stat.st_rdev).filter(|_| is_block) {
            Some(number) => Ok(Some(number)),
            None => Err(NodeError::Foreign(self.path.join(name))),
        }
    }

    fn unlink(&self, name: &str) -> Result<(), NodeError> {
        match unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
            Err(error) => Err(self.io("remove", name, error)),
        }
    }

    fn io(&self, what: &str, name: &str, error: nix::Error) -> NodeError {
        NodeError::Io { action: format!("{what} {}", self.path.join(name).display()), source: error.into() }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn name(text: &str) -> DmName {
        DmName::new(text).unwrap()
    }

    #[test]
    fn a_directory_that_others_could_write_to_or_that_is_a_link_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let real = scratch.path().join("real");
        DeviceNodes::open(&real).unwrap();
        symlink(&real, scratch.path().join("link")).unwrap();
        assert!(matches!(DeviceNodes::open(&scratch.path().join("link")), Err(NodeError::Directory(_))));
        fs::write(scratch.path().join("file"), "").unwrap();
        assert!(matches!(DeviceNodes::open(&scratch.path().join("file")), Err(NodeError::Directory(_))));
        fs::set_permissions(&real, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(DeviceNodes::open(&real), Err(NodeError::Directory(_))));
    }

    #[test]
    fn what_is_no_block_device_is_neither_replaced_nor_removed_nor_swept() {
        let scratch = tempfile::tempdir().unwrap();
        let nodes = DeviceNodes::open(&scratch.path().join("nodes")).unwrap();
        let number = DeviceNumber::new(254, 3).unwrap();
        let target = scratch.path().join("target");
        fs::write(&target, "kept").unwrap();
        symlink(&target, nodes.path(&name("link"))).unwrap();
        fs::write(nodes.path(&name("file")), "kept").unwrap();
        for there in ["link", "file"] {
            assert!(matches!(nodes.make(&name(there), number), Err(NodeError::Foreign(_))), "{there}");
            assert!(matches!(nodes.remove(&name(there)), Err(NodeError::Foreign(_))), "{there}");
        }
        assert_eq!(nodes.sweep("", &[]).unwrap(), Vec::<String>::new());
        assert_eq!(fs::read_to_string(&target).unwrap(), "kept");
        assert_eq!(fs::read_to_string(nodes.path(&name("file"))).unwrap(), "kept");
        nodes.remove(&name("nothing")).unwrap();
    }
}
