//! The folder in which everything of the demo lies, and how it is emptied again.
//!
//! Whatever the demo makes is beneath this folder: images, mounts, sockets, the repository. So emptying needs no list of what
//! was made: it takes off every mount beneath it, takes down the thin pool on every loop device whose file is beneath it, detaches
//! those, and removes the folder. That
//! works the same after success, failure and interruption, and whatever state the node process was in.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::block::loop_device;
use crate::mount::Mounter;
use crate::pool::{PoolError, thin};
use crate::types::error::chain;

use crate::cli::exit::{CliError, Exit};

/// A mount may hide another and a loop device carry a third: image, pool, volume and publication make four layers, and a thin pool
/// goes with its loop device.
const MAX_LAYERS: usize = 8;

/// The demo's folder.
#[derive(Debug, Clone)]
pub struct Place {
    folder: PathBuf,
}

impl Place {
    /// Makes a private folder in `parent`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(parent: &Path) -> Result<Self, CliError> {
        let failed = |error: io::Error| {
            CliError::because(Exit::Failed, format!("cannot make a folder in {}", parent.display()), error)
                .advise("name another place by --directory")
        };
        let folder = tempfile::Builder::new()
            .prefix("windlass-demo-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(parent)
            .map_err(failed)?;
        // Its own path as the kernel spells it, to be found again in the mount table.
        let place = Self { folder: folder.path().canonicalize().map_err(failed)? };
        for path in [place.staging(), place.targets()] {
            fs::create_dir_all(path).map_err(failed)?;
        }
        // From here on `clear` removes it, mounts and all.
        let _ = folder.keep();
        Ok(place)
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Image of the pool with this number.
    pub fn image(&self, number: u32) -> PathBuf {
        self.folder.join(format!("pool-{number}.img"))
    }

    /// The node's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("csi.sock")
    }

    /// The node's log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("node.log")
    }

    /// What requests' paths lie beneath.
    pub fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// Where volumes are staged.
    pub fn staging(&self) -> PathBuf {
        self.root().join("staging")
    }

    /// Where volumes are published.
    pub fn targets(&self) -> PathBuf {
        self.root().join("targets")
    }

    /// The repository: beside the pools, in none of them.
    pub fn repository(&self) -> PathBuf {
        self.folder.join("repository")
    }

    /// The repository's password, when it is kept.
    pub fn password_file(&self) -> PathBuf {
        self.folder.join("password")
    }

    /// Removes a pool's image with everything that is mounted of it. The node must have ended.
    ///
    /// # Errors
    /// A text for what could not be removed.
    pub fn remove_pool(&self, number: u32, mounter: &dyn Mounter) -> Result<(), CliError> {
        release(&self.folder, mounter)?;
        let image = self.image(number);
        let beside = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        // The image, its mount point, and what else was made beside it.
        let mut of_pool = beside.filter(|path| path.to_string_lossy().starts_with(&*image.to_string_lossy()));
        of_pool.try_for_each(|path| remove(&path))
    }

    /// Takes off all mounts, detaches all loop devices, and removes everything; the repository and its password stay if
    /// they are to be kept. The node must have ended.
    ///
    /// # Errors
    /// What is left, with how to remove it by hand.
    pub fn clear(&self, keep: Keep, mounter: &dyn Mounter) -> Result<(), CliError> {
        release(&self.folder, mounter)?;
        match keep {
            Keep::Nothing => remove(&self.folder),
            Keep::Repository => {
                let kept = [self.repository(), self.password_file()];
                let mut found = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
                found.try_for_each(|path| if kept.contains(&path) { Ok(()) } else { remove(&path) })
            }
        }
    }
}

/// What stays of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    Nothing,
    /// The repository and a file with its password.
    Repository,
}

fn remove(path: &Path) -> Result<(), CliError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CliError::because(Exit::Failed, format!("cannot remove {}", path.display()), error)
                .advise(format!("remove it by hand: rm -r {}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Takes off the mounts beneath `folder` and detaches the loop devices of files beneath it, layer by layer.
fn release(folder: &Path, mounter: &dyn Mounter) -> Result<(), CliError> {
    let mut last_failure = None;
    for _ in 0..MAX_LAYERS {
        let mounts = mounts_beneath(folder, mounter)?;
        let loops = loops_beneath(folder)?;
        if mounts.is_empty() && loops.is_empty() {
            return Ok(());
        }
        // Later entries lie above earlier ones.
        for mount_point in mounts.iter().rev() {
            if let Err(error) = mounter.unmount(mount_point) {
                last_failure = Some(chain(&error));
            }
        }
        for device in &loops {
            if let Err(error) = take_down_pool(&device.path) {
                last_failure = Some(chain(&error));
            }
            if let Err(error) = loop_device::detach(device) {
                last_failure = Some(chain(&error));
            }
        }
    }
    let reason = last_failure.unwrap_or_else(|| "it comes back again and again".to_owned());
    Err(CliError::because(Exit::Failed, format!("cannot empty {}", folder.display()), reason).advise(format!(
        "see what uses it (`findmnt`, `losetup --list`, `fuser -vm {0}/*.mount`), take that off, then: rm -r {0}",
        folder.display()
    )))
}

/// Removes the devices of the thin pool on a device, if there is one.
fn take_down_pool(device: &Path) -> Result<(), PoolError> {
    match thin::take_down(device) {
        // No pool, or nothing that could have devices.
        Err(PoolError::Format(_) | PoolError::Unsupported(_)) => Ok(()),
        result => result,
    }
}

fn mounts_beneath(folder: &Path, mounter: &dyn Mounter) -> Result<Vec<PathBuf>, CliError> {
    let entries = mounter.mounts().map_err(|error| CliError::because(Exit::Failed, "cannot read the mount table", error))?;
    Ok(entries.into_iter().map(|entry| entry.mount_point).filter(|path| path.starts_with(folder)).collect())
}

fn loops_beneath(folder: &Path) -> Result<Vec<loop_device::LoopDevice>, CliError> {
    loop_device::beneath(folder).map_err(|error| CliError::because(Exit::Failed, "cannot list the loop devices", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_private_and_goes_whole() {
        let parent = tempfile::tempdir().unwrap();
        let place = Place::create(parent.path()).unwrap();
        assert_eq!(fs::metadata(place.folder()).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(place.image(1), "x").unwrap();
        remove(place.folder()).unwrap();
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
        // Again is no error: the demo clears after every end.
        remove(place.folder()).unwrap();
    }
}
