//! Where one volume is mounted on this node: its devices, and the mount table.
//!
//! A pure view, made once for each call. Whose a mount is, is told by its device and by nothing else: not by its path, and not by how
//! the volume was once made, since one volume may be given out as a file system here and as a raw device there.

use std::path::{Path, PathBuf};

use crate::failpoint;
use crate::mount::{MountEntry, MountError};
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::types::FsType;

/// A device of the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) path: PathBuf,
    pub(super) number: (u32, u32),
}

/// Where one volume is mounted: its devices, beside all mounts of this node.
pub(super) struct Presence<'a> {
    layer: &'a NodeLayer,
    devices: Vec<Device>,
    mounts: Vec<MountEntry>,
}

/// What is mounted at a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MountedAt<'a> {
    Nothing,
    Volume(&'a MountEntry),
    /// Something else.
    Other(&'a MountEntry),
}

/// The file system of a volume that was made for none, when it is asked for without one and holds none.
pub(super) const DEFAULT_FS_TYPE: FsType = FsType::Ext4;

/// Whether a mount is a device node bound somewhere: nodes lie in the file system of /dev.
pub(super) fn is_node(entry: &MountEntry) -> bool {
    matches!(entry.fs_type.as_str(), "devtmpfs" | "tmpfs") && entry.root != Path::new("/")
}

/// The file system that a mount shows; `None` for a device node.
pub(super) fn fs_type_of(entry: &MountEntry) -> Option<FsType> {
    entry.fs_type.parse().ok()
}

impl<'a> Presence<'a> {
    pub(super) fn new(layer: &'a NodeLayer, devices: Vec<Device>, mounts: Vec<MountEntry>) -> Self {
        Self { layer, devices, mounts }
    }

    /// Whether the volume has a device.
    pub(super) fn has_device(&self) -> bool {
        !self.devices.is_empty()
    }

    /// What is mounted at a path, topmost.
    pub(super) fn at(&self, path: &Path) -> MountedAt<'_> {
        match self.stack(path).next() {
            None => MountedAt::Nothing,
            Some(entry) if self.is_ours(entry) => MountedAt::Volume(entry),
            Some(entry) => MountedAt::Other(entry),
        }
    }

    /// Everything that is mounted at a path, from above downwards.
    fn stack(&self, path: &Path) -> impl Iterator<Item = &MountEntry> {
        let real = real(self.layer, path);
        self.mounts.iter().rev().filter(move |entry| entry.mount_point == real)
    }

    /// All mounts of this volume.
    pub(super) fn mounts(&self) -> impl Iterator<Item = &MountEntry> {
        self.mounts.iter().filter(|entry| self.is_ours(entry))
    }

    /// Whether a mount shows this volume: its file system, or a node of its device bound somewhere.
    fn is_ours(&self, entry: &MountEntry) -> bool {
        let number_of = |path: &Path| self.layer.mounter.device_number(path).ok();
        self.devices.iter().any(|device| {
            if is_node(entry) {
                // Nothing else is looked at: it might hang.
                number_of(&entry.mount_point) == Some(device.number)
            } else if fs_type_of(entry) == Some(FsType::Btrfs) {
                // Shows a number of its own, but names a device: by any of its paths.
                entry.source == device.path || number_of(&entry.source) == Some(device.number)
            } else {
                entry.device == device.number
            }
        })
    }

    /// Takes everything of this volume off a path, from above downwards until the first mount that is not its own: that one, and what
    /// lies beneath it, stays, and is returned. Each is looked at when it is topmost, since only then a bound node can be.
    pub(super) fn unmount(&self, path: &Path) -> Result<Option<MountEntry>, CallError> {
        // Nobody else mounts there meanwhile; if somebody does, what is too much stays.
        for _ in 0..self.stack(path).count() {
            let now = Self::new(self.layer, self.devices.clone(), self.layer.mounter.mounts()?);
            match now.at(path) {
                MountedAt::Nothing => return Ok(None),
                MountedAt::Other(entry) => return Ok(Some(entry.clone())),
                MountedAt::Volume(_) => self.unmount_topmost(path)?,
            }
        }
        Ok(None)
    }

    /// Takes the topmost mount off a path.
    pub(super) fn unmount_topmost(&self, path: &Path) -> Result<(), CallError> {
        match self.layer.root.resolve(path) {
            Ok(confined) => {
                Ok(failpoint::around("node.unmount", || self.layer.mounter.unmount(&confined.into_unmount_target().path()))?)
            }
            Err(MountError::NotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The path as mountinfo shows it. What cannot be resolved has nothing mounted on it that could be found by it.
fn real(layer: &NodeLayer, path: &Path) -> PathBuf {
    layer.root.resolve(path).map_or_else(|_| path.to_owned(), |confined| confined.real_path().to_owned())
}
