//! Holding volumes still over the mount table: write out, freeze, thaw (invariant 4).
//!
//! A device that carries a mounted file system is written out (`syncfs`, the long part, before anything stands still), then its file
//! system is frozen, each once however often it is mounted. A device without one is flushed; nothing can stop its writers, and
//! its snapshot is what a power cut would leave.
//!
//! Every freeze ends:
//! * [`Held::release`] thaws, and dropping the hold does too, so a panic between the two is no exception;
//! * a watchdog, started before the first freeze, thaws at the deadline and marks the hold expired. It holds the mutex that
//!   [`Held::release`] needs while it thaws, so whoever reads "in time" knows that nothing was thawed before;
//! * a freeze that takes hold only after the deadline is thawed by whoever made it;
//! * a process that dies leaves its intent in the pool's catalogue; [`Quiesce::release_leftovers`] thaws at the next start.
//!
//! A file system that somebody else froze (EBUSY) stands still already: it is cut, and left to them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::mount::{Freeze, MountEntry, MountError, Mounter};
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
}

/// Where a hold stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Holding,
    Released,
    Expired,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// What we froze and have not thawed.
    frozen: Vec<PathBuf>,
}

struct Shared {
    mounter: Arc<dyn Mounter>,
    state: Mutex<State>,
    ended: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the hold with `phase`, unless it has ended; thaws; says how it ended.
    fn end(&self, phase: Phase) -> Phase {
        let mut state = self.state();
        if state.phase == Phase::Holding {
            state.phase = phase;
        }
        for mount_point in std::mem::take(&mut state.frozen) {
            thaw(&*self.mounter, &mount_point);
        }
        self.ended.notify_all();
        state.phase
    }

    /// Thaws at the deadline, unless the hold ends before.
    fn watch(&self, deadline: Instant) {
        let mut state = self.state();
        while state.phase == Phase::Holding {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                tracing::error!("a cut took longer than the deadline; thawing");
                self.end(Phase::Expired);
                return;
            }
            state = self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A thaw that fails leaves somebody's writers blocked: it is tried again at once, and then said loudly.
fn thaw(mounter: &dyn Mounter, mount_point: &std::path::Path) {
    let result = mounter.thaw(mount_point).or_else(|_| mounter.thaw(mount_point));
    match result {
        Ok(()) => tracing::debug!(mount_point = %mount_point.display(), "thawed"),
        Err(error) => {
            tracing::error!(mount_point = %mount_point.display(), %error, "could not be thawed; run `fsfreeze --unfreeze`")
        }
    }
}

/// A hold in effect.
struct Hold {
    shared: Arc<Shared>,
}

impl Held for Hold {
    fn release(self: Box<Self>) -> Release {
        match self.shared.end(Phase::Released) {
            Phase::Expired => Release::Expired,
            Phase::Holding | Phase::Released => Release::InTime,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.end(Phase::Released);
    }
}

impl Quiesce for MountQuiesce {
    fn hold(&self, devices: &[PathBuf], deadline: Duration) -> Result<Box<dyn Held>, QuiesceError> {
        let found = self.look(devices)?;
        for mount_point in &found.file_systems {
            self.mounter.sync(mount_point)?;
        }
        let shared = Arc::new(Shared {
            mounter: Arc::clone(&self.mounter),
            state: Mutex::new(State { phase: Phase::Holding, frozen: Vec::new() }),
            ended: Condvar::new(),
        });
        // From here on every way out ends the hold.
        let hold = Box::new(Hold { shared: Arc::clone(&shared) });
        if !found.file_systems.is_empty() {
            let watched = Arc::clone(&shared);
            let until = Instant::now() + deadline;
            thread::Builder::new()
                .name("freeze-watchdog".to_owned())
                .spawn(move || watched.watch(until))
                .map_err(|error| QuiesceError(format!("no watchdog could be started: {error}")))?;
        }
        for mount_point in &found.file_systems {
            freeze(&shared, mount_point)?;
        }
        // Last, so that as little as possible is written between the flush and the cut.
        for device in &found.raw {
            self.mounter.flush_device(device)?;
        }
        Ok(hold)
    }

    fn release_leftovers(&self, devices: &[PathBuf]) -> Result<(), QuiesceError> {
        for mount_point in self.look(devices)?.file_systems {
            self.mounter.thaw(&mount_point)?;
            tracing::info!(mount_point = %mount_point.display(), "thawed what an earlier process may have left frozen");
        }
        Ok(())
    }
}

/// Freezes one file system. The mutex is not held meanwhile: the watchdog must be able to thaw the others.
fn freeze(shared: &Shared, mount_point: &std::path::Path) -> Result<(), QuiesceError> {
    let outcome = shared.mounter.freeze(mount_point)?;
    let mut state = shared.state();
    match outcome {
        Freeze::Foreign => {
            tracing::info!(mount_point = %mount_point.display(), "frozen by someone else; cut as it is, and left frozen")
        }
        Freeze::Ours => state.frozen.push(mount_point.to_owned()),
    }
    if state.phase == Phase::Holding {
        return Ok(());
    }
    // The deadline passed while this one was being frozen.
    for late in std::mem::take(&mut state.frozen) {
        thaw(&*shared.mounter, &late);
    }
    Err(QuiesceError(format!("{}: freezing took longer than the deadline", mount_point.display())))
}

#[cfg(test)]
mod tests;
