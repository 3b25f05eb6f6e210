//! The double as a test sees it: what it sets up, breaks and counts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::mount::MsFlags;

use super::state::{Call, Failure, State, Verb, number_of, words};
use crate::mount::path::through_descriptor;
use crate::mount::{MountEntry, MountError, Probe};
use crate::types::{Access, FsType};

/// A [`Mounter`] in memory. Clones are of the same one.
#[derive(Debug, Clone, Default)]
pub struct MemoryMounter {
    state: Arc<Mutex<State>>,
}

impl MemoryMounter {
    /// No mounts, every device blank and 1 GiB large.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the next call of a verb fail. Several failures of one verb are used up in order.
    pub fn fail_next(&self, verb: Verb, failure: Failure) {
        self.state().failures.push((verb, failure));
    }

    /// What was called, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// How often a verb was called.
    pub fn count(&self, verb: Verb) -> usize {
        self.state().calls.iter().filter(|(called, _)| *called == verb).count()
    }

    /// Puts content on a device.
    pub fn set_content(&self, device: &Path, content: Probe) {
        self.state().device(device).content = content;
    }

    /// Copies one device's content to another, its identity included, as a snapshot does.
    pub fn copy_content(&self, from: &Path, to: &Path) {
        let mut state = self.state();
        let mut copy = state.device(from).clone();
        copy.frozen = false;
        copy.device_bytes = state.device(to).device_bytes;
        *state.device(to) = copy;
    }

    /// Sets the size of a device; a file system on it keeps its own until it is grown.
    pub fn set_device_size(&self, device: &Path, bytes: u64) {
        let mut state = self.state();
        let device = state.device(device);
        device.device_bytes = bytes;
        if device.content == Probe::Blank {
            device.file_system_bytes = bytes;
        }
    }

    /// Size of the file system on a device.
    pub fn file_system_size(&self, device: &Path) -> u64 {
        self.state().device(device).file_system_bytes
    }

    /// Adds a word to the options of a device's mounted file system, as the kernel does when the file system gives up.
    pub fn add_super_option(&self, device: &Path, word: &str) {
        let number = number_of(device);
        for entry in self.state().mounts.iter_mut().filter(|entry| entry.is_of(device, number)) {
            entry.super_options.push(word.to_owned());
        }
    }

    /// Freezes the file system of a device as somebody else would.
    pub fn freeze_by_others(&self, device: &Path) {
        self.state().device(device).frozen = true;
    }

    /// Whether the file system of a device is frozen.
    pub fn is_frozen(&self, device: &Path) -> bool {
        self.state().device(device).frozen
    }

    /// Mounts a device above whatever is at `target`, as somebody else may.
    pub fn mount_by_others(&self, device: &Path, target: &Path, fs_type: FsType) {
        self.state().push(MountEntry {
            id: 0,
            device: number_of(device),
            root: PathBuf::from("/"),
            peer_group: None,
            mount_point: target.to_owned(),
            options: words(Access::ReadWrite, MsFlags::empty()),
            fs_type: fs_type.name().to_owned(),
            source: device.to_owned(),
            super_options: Vec::new(),
        });
    }

    /// Forgets mounts and freezes, as a new boot of the machine does.
    pub fn reboot(&self) {
        let mut state = self.state();
        state.mounts.clear();
        state.devices.values_mut().for_each(|device| device.frozen = false);
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A test that panics in one thread shall see what the others did.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, verb: Verb, subject: &Path) -> Result<MutexGuard<'_, State>, MountError> {
        let subject = through_descriptor(subject);
        let mut state = self.state();
        state.calls.push((verb, subject.clone()));
        match state.failures.iter().position(|(failing, _)| *failing == verb) {
            None => Ok(state),
            Some(at) => Err(match state.failures.remove(at).1 {
                Failure::Busy => MountError::Busy(subject),
                Failure::NotFound => MountError::NotFound(subject),
                Failure::Unsound => MountError::Unsound { place: subject, reason: "injected".to_owned() },
                Failure::Program => MountError::Program { program: "test", output: "injected".to_owned() },
                Failure::Io(kind) => MountError::io(format!("{verb:?} {}", subject.display()))(kind.into()),
            }),
        }
    }
}
