//! What the double keeps: devices, mounts, injected failures, calls.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use crate::mount::path::through_descriptor;
use crate::mount::{MountEntry, MountError, Probe, topmost};
use crate::types::Access;

/// The verbs of [`Mounter`], for [`MemoryMounter::fail_next`] and [`MemoryMounter::calls`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "named like the methods")]
pub enum Verb {
    Mounts,
    DeviceNumber,
    Probe,
    MakeFileSystem,
    Check,
    Mount,
    Bind,
    Unmount,
    Grow,
    GrowUnmounted,
    RenewIdentity,
    Stats,
    OpenMounted,
    Sync,
    FlushDevice,
    Freeze,
    Thaw,
}

/// How an injected failure looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// [`MountError::Busy`]
    Busy,
    /// [`MountError::NotFound`]
    NotFound,
    /// [`MountError::Program`]
    Program,
    /// [`MountError::Unsound`]
    Unsound,
    /// [`MountError::Io`] of this kind.
    Io(io::ErrorKind),
}

/// One call that was made: the verb and the device or path it was about.
pub type Call = (Verb, PathBuf);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) devices: BTreeMap<PathBuf, Device>,
    pub(super) mounts: Vec<MountEntry>,
    pub(super) last_id: u64,
    pub(super) failures: Vec<(Verb, Failure)>,
    pub(super) calls: Vec<Call>,
}

#[derive(Debug, Clone)]
pub(super) struct Device {
    pub(super) content: Probe,
    pub(super) device_bytes: u64,
    pub(super) file_system_bytes: u64,
    pub(super) identity: u64,
    pub(super) frozen: bool,
}

impl Default for Device {
    fn default() -> Self {
        Self { content: Probe::Blank, device_bytes: 1 << 30, file_system_bytes: 1 << 30, identity: 0, frozen: false }
    }
}

impl State {
    pub(super) fn device(&mut self, path: &Path) -> &mut Device {
        self.devices.entry(through_descriptor(path)).or_default()
    }

    pub(super) fn top(&self, target: &Path) -> Option<&MountEntry> {
        topmost(&self.mounts).get(target).copied()
    }

    /// The mount that a path lies in or is.
    pub(super) fn containing(&self, path: &Path) -> Result<&MountEntry, MountError> {
        let path = through_descriptor(path);
        path.ancestors()
            .find_map(|ancestor| self.top(ancestor))
            .ok_or_else(|| MountError::io(format!("{}: nothing is mounted", path.display()))(io::ErrorKind::InvalidInput.into()))
    }

    pub(super) fn push(&mut self, entry: MountEntry) {
        self.last_id += 1;
        self.mounts.push(MountEntry { id: self.last_id, ..entry });
    }
}

pub(super) fn number_of(device: &Path) -> (u32, u32) {
    let mut hasher = DefaultHasher::new();
    through_descriptor(device).hash(&mut hasher);
    // Minor numbers have 20 bits.
    (7, (hasher.finish() & 0xf_ffff) as u32)
}

pub(super) fn words(access: Access, flags: MsFlags) -> Vec<String> {
    let mut words = vec![if access == Access::ReadOnly { "ro" } else { "rw" }];
    let known = [
        (MsFlags::MS_NOSUID, "nosuid"),
        (MsFlags::MS_NODEV, "nodev"),
        (MsFlags::MS_NOEXEC, "noexec"),
        (MsFlags::MS_NOATIME, "noatime"),
    ];
    words.extend(known.into_iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, word)| word));
    words.into_iter().map(str::to_owned).collect()
}
