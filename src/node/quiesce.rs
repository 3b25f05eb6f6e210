//! Holding volumes still over the mount table: write out, freeze, thaw (invariant 4).
//!
//! A device that carries a mounted file system is written out (`syncfs`, the long part, before anything stands still), then its file
//! system is frozen, each once however often it is mounted. A device without one is flushed; nothing can stop its writers, and
//! its snapshot is what a power cut would leave.
//!
//! Every freeze ends: by [`Held::release`], by dropping the hold, or by a watchdog at the deadline ([`Stopped`]). A process that dies
//! leaves its intent in the pool's catalogue; [`Quiesce::release_leftovers`] thaws at the next start.
//!
//! A file system that somebody else froze (EBUSY) stands still already: it is cut, left to them, and said ([`Held::foreign`]), so that no
//! later start takes it for a freeze of ours.
//!
//! Each file system is opened once, and the descriptor is checked to be of the device ([`MountedFileSystem`]): write-out, freeze and thaw
//! are of the volume, whatever others mount or unmount meanwhile.
//!
//! A fault that ends by itself (something is just being unmounted) is told from one that does not (a file system that shut down, or that
//! cannot be frozen): only the former is worth another attempt.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::mount::{Freeze, MountError, MountedFileSystem, Mounter};
use crate::pool::stopped::{Late, Stopped};
use crate::pool::{Held, Quiesce, QuiesceError, Refusal, Release};
use crate::types::error::chain;

impl From<MountError> for QuiesceError {
    fn from(error: MountError) -> Self {
        match &error {
            // Being mounted or unmounted at this moment.
            MountError::NotFound(_) | MountError::Busy(_) => Self::Transient(error.into()),
            MountError::Io { source, .. } => match source.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => {
                    Self::Transient(error.into())
                }
                _ => Self::Lasting(error.into()),
            },
            MountError::Path { .. }
            | MountError::Option(_)
            | MountError::OptionRefused { .. }
            | MountError::NotBlank { .. }
            | MountError::Unsound { .. }
            | MountError::Program { .. } => Self::Lasting(error.into()),
        }
    }
}

/// [`Quiesce`] over a mount table.
#[derive(Clone)]
pub struct MountQuiesce {
    mounter: Arc<dyn Mounter>,
}

type FileSystem = Arc<dyn MountedFileSystem>;

/// What the devices of a hold carry.
#[derive(Default)]
struct Devices {
    /// Devices with a mounted file system.
    file_systems: Vec<(PathBuf, FileSystem)>,
    /// Devices without one.
    raw: Vec<PathBuf>,
}

impl MountQuiesce {
    /// Holds still what `mounter` mounts.
    pub fn new(mounter: Arc<dyn Mounter>) -> Self {
        Self { mounter }
    }

    fn look(&self, devices: &[PathBuf]) -> Result<Devices, MountError> {
        let mut found = Devices::default();
        let mut numbers = BTreeSet::new();
        for device in devices {
            if !numbers.insert(self.mounter.device_number(device)?) {
                continue;
            }
            match self.mounter.open_mounted(device)? {
                Some(file_system) => found.file_systems.push((device.clone(), file_system)),
                None => found.raw.push(device.clone()),
            }
        }
        Ok(found)
    }
}

/// Freezes them all. From the first freeze on every way out ends the hold.
fn freeze_all(file_systems: Vec<(PathBuf, FileSystem)>, deadline: Duration) -> Result<Hold, QuiesceError> {
    let frozen = Stopped::until(deadline, thaw)
        .map_err(|error| QuiesceError::Transient(Refusal::because("no watchdog could be started", error).into()))?;
    let mut foreign = Vec::new();
    for (device, file_system) in file_systems {
        let mount_point = file_system.mount_point().to_owned();
        let late =
            || QuiesceError::Transient(format!("{}: freezing took longer than the deadline", mount_point.display()).into());
        match file_system.freeze()? {
            Freeze::Foreign => {
                tracing::info!(mount_point = %mount_point.display(), "frozen by someone else; cut as it is, and left frozen");
                foreign.push(device);
            }
            Freeze::Ours => frozen.add(file_system).map_err(|Late| late())?,
        }
    }
    Ok(Hold { frozen: Some(frozen), foreign })
}

/// A hold in effect: the file systems that are frozen, if there are any. Devices alone are only flushed, which takes as long as it
/// takes.
#[derive(Default)]
struct Hold {
    frozen: Option<Stopped<FileSystem>>,
    foreign: Vec<PathBuf>,
}

impl Held for Hold {
    fn foreign(&self) -> &[PathBuf] {
        &self.foreign
    }

    fn release(self: Box<Self>) -> Release {
        self.frozen.map_or(Release::InTime, Stopped::release)
    }
}

/// A thaw that fails leaves somebody's writers blocked: it is tried again at once, and then said loudly.
fn thaw(file_system: &FileSystem) {
    let mount_point = file_system.mount_point().display();
    match file_system.thaw().or_else(|_| file_system.thaw()) {
        Ok(()) => tracing::debug!(%mount_point, "thawed"),
        Err(error) => tracing::error!(%mount_point, error = %chain(&error), "could not be thawed; run `fsfreeze --unfreeze`"),
    }
}

impl Quiesce for MountQuiesce {
    fn hold(&self, devices: &[PathBuf], deadline: Duration) -> Result<Box<dyn Held>, QuiesceError> {
        let found = self.look(devices)?;
        for (_, file_system) in &found.file_systems {
            file_system.sync()?;
        }
        let hold = if found.file_systems.is_empty() { Hold::default() } else { freeze_all(found.file_systems, deadline)? };
        // Last, so that as little as possible is written between the flush and the cut.
        for device in &found.raw {
            self.mounter.flush_device(device)?;
        }
        Ok(Box::new(hold))
    }

    fn release_leftovers(&self, devices: &[PathBuf]) -> Result<(), QuiesceError> {
        for (_, file_system) in self.look(devices)?.file_systems {
            file_system.thaw()?;
            tracing::info!(mount_point = %file_system.mount_point().display(), "thawed what an earlier process may have left frozen");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
