//! Holding volumes still over the mount table: write out, freeze, thaw (invariant 4).
//!
//! A device that carries a mounted file system is written out (`syncfs`, the long part, before anything stands still), then its file
//! system is frozen, each once however often it is mounted. A device without one is flushed; nothing can stop its writers, and
//! its snapshot is what a power cut would leave.
//!
//! Every freeze ends: by [`Held::release`], by dropping the hold, or by a watchdog at the deadline ([`Stopped`]). A process that dies
//! leaves its intent in the pool's catalogue; [`Quiesce::release_leftovers`] thaws at the next start.
//!
//! A file system that somebody else froze (EBUSY) stands still already: it is cut, and left to them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::mount::{Freeze, MountEntry, MountError, Mounter};
use crate::pool::stopped::{Late, Stopped};
use crate::pool::{Held, Quiesce, QuiesceError, Release};

impl From<MountError> for QuiesceError {
    fn from(error: MountError) -> Self {
        Self(error.to_string())
    }
}

/// [`Quiesce`] over a mount table.
#[derive(Clone)]
pub struct MountQuiesce {
    mounter: Arc<dyn Mounter>,
}

/// What the devices of a hold carry.
#[derive(Debug, Default)]
struct Devices {
    /// One mount point of each file system.
    file_systems: Vec<PathBuf>,
    /// Devices without a mounted file system.
    raw: Vec<PathBuf>,
}

impl MountQuiesce {
    /// Holds still what `mounter` mounts.
    pub fn new(mounter: Arc<dyn Mounter>) -> Self {
        Self { mounter }
    }

    fn look(&self, devices: &[PathBuf]) -> Result<Devices, MountError> {
        let mounts = self.mounter.mounts()?;
        let mut found = Devices::default();
        let mut numbers = BTreeSet::new();
        for device in devices {
            let number = self.mounter.device_number(device)?;
            if !numbers.insert(number) {
                continue;
            }
            let shows = |entry: &&MountEntry| entry.device == number || entry.source == *device;
            match mounts.iter().find(shows) {
                Some(entry) => found.file_systems.push(entry.mount_point.clone()),
                None => found.raw.push(device.clone()),
            }
        }
        Ok(found)
    }

    fn freeze_all(&self, mount_points: &[PathBuf], deadline: Duration) -> Result<Stopped<PathBuf>, QuiesceError> {
        let mounter = Arc::clone(&self.mounter);
        let frozen = Stopped::until(deadline, move |mount_point: &PathBuf| thaw(&*mounter, mount_point))
            .map_err(|error| QuiesceError(format!("no watchdog could be started: {error}")))?;
        for mount_point in mount_points {
            let late = || QuiesceError(format!("{}: freezing took longer than the deadline", mount_point.display()));
            match self.mounter.freeze(mount_point)? {
                Freeze::Foreign => {
                    tracing::info!(mount_point = %mount_point.display(), "frozen by someone else; cut as it is, and left frozen")
                }
                Freeze::Ours => frozen.add(mount_point.clone()).map_err(|Late| late())?,
            }
        }
        Ok(frozen)
    }
}

/// A hold in effect: the file systems that are frozen, if there are any. Devices alone are only flushed, which takes as long as it
/// takes.
struct Hold {
    frozen: Option<Stopped<PathBuf>>,
}

impl Held for Hold {
    fn release(self: Box<Self>) -> Release {
        self.frozen.map_or(Release::InTime, Stopped::release)
    }
}

/// A thaw that fails leaves somebody's writers blocked: it is tried again at once, and then said loudly.
fn thaw(mounter: &dyn Mounter, mount_point: &Path) {
    let result = mounter.thaw(mount_point).or_else(|_| mounter.thaw(mount_point));
    match result {
        Ok(()) => tracing::debug!(mount_point = %mount_point.display(), "thawed"),
        Err(error) => {
            tracing::error!(mount_point = %mount_point.display(), %error, "could not be thawed; run `fsfreeze --unfreeze`")
        }
    }
}

impl Quiesce for MountQuiesce {
    fn hold(&self, devices: &[PathBuf], deadline: Duration) -> Result<Box<dyn Held>, QuiesceError> {
        let found = self.look(devices)?;
        for mount_point in &found.file_systems {
            self.mounter.sync(mount_point)?;
        }
        // From here on every way out ends the hold.
        let frozen = if found.file_systems.is_empty() { None } else { Some(self.freeze_all(&found.file_systems, deadline)?) };
        // Last, so that as little as possible is written between the flush and the cut.
        for device in &found.raw {
            self.mounter.flush_device(device)?;
        }
        Ok(Box::new(Hold { frozen }))
    }

    fn release_leftovers(&self, devices: &[PathBuf]) -> Result<(), QuiesceError> {
        for mount_point in self.look(devices)?.file_systems {
            self.mounter.thaw(&mount_point)?;
            tracing::info!(mount_point = %mount_point.display(), "thawed what an earlier process may have left frozen");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
