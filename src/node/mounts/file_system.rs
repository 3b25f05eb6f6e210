//! The file system of a volume at its staging path: attached, made or checked, mounted, grown.
//!
//! It is attached for writing also when it is mounted read-only: its journal may have to be replayed. A copy for readers that is larger than
//! its source is mounted for writing once, privately, to grow it.

use std::path::Path;

use crate::csi::error::RequestError;
use crate::failpoint;
use crate::mount::path::Confined;
use crate::mount::{MountError, MountRequest};
use crate::node::error::CallError;
use crate::pool::record::Publication;
use crate::types::{Access, FormatState, FsType, Object};

use super::fields::VOLUME_ID;
use super::format::{self, Preparation};
use super::refusal::at_mount_flags;
use super::volume_on_node::{VolumeOnNode, expected_access};

/// The file system of a volume, and how it is to be mounted.
pub(super) struct FileSystem<'a> {
    pub(super) volume: &'a VolumeOnNode<'a>,
    pub(super) fs_type: FsType,
    pub(super) target: &'a Confined,
    pub(super) wanted: &'a Publication,
}

impl FileSystem<'_> {
    /// Attaches the volume and mounts it, formatted or checked before.
    pub(super) fn stage(&self) -> Result<(), CallError> {
        let device = &self.volume.attach(Access::ReadWrite)?.device;
        // Where it is mounted already, all that follows was done.
        if let Some(entry) = self.volume.mounts().next() {
            entry.check_usable(expected_access(self.wanted))?;
            self.mount(device, self.wanted.access)?;
            return self.grow(self.wanted.access);
        }
        self.prepare(device)?;
        if self.wanted.access == Access::ReadOnly && !self.may_be_smaller_than_its_device()? {
            return self.mount(device, Access::ReadOnly);
        }
        self.mount(device, Access::ReadWrite)?;
        let grown = self.grow(Access::ReadWrite);
        if grown.is_ok() && self.wanted.access == Access::ReadWrite {
            return Ok(());
        }
        self.unmount()?;
        match grown {
            // The kernel does not let everybody grow a mounted ext4. Nobody uses it yet, so it can be done without.
            Err(CallError::Mount(MountError::Program { .. })) if self.fs_type == FsType::Ext4 => {
                failpoint::around("node.grow", || self.volume.layer().mounter.grow_unmounted(device, self.fs_type))?;
            }
            grown => grown?,
        }
        self.mount(device, self.wanted.access)
    }

    /// Formats, or renews the identity of a fresh copy, or refuses.
    fn prepare(&self, device: &Path) -> Result<(), CallError> {
        let (volume, mounter) = (self.volume, &self.volume.layer().mounter);
        let probe = mounter.probe(device)?;
        let decision = format::decide(&volume.recorded, &probe, self.fs_type);
        match decision.map_err(|reason| RequestError::precondition(VOLUME_ID, reason))? {
            Preparation::Format(over) => {
                volume.set_format(FormatState::Formatting)?;
                failpoint::around("node.mkfs", || mounter.make_file_system(device, self.fs_type, over))?;
                volume.set_format(FormatState::Content)
            }
            Preparation::RenewIdentity => {
                failpoint::around("node.check", || mounter.check(device, self.fs_type))?;
                failpoint::around("node.identity", || mounter.renew_identity(device, self.fs_type))?;
                volume.set_format(FormatState::Content)
            }
            Preparation::None => Ok(failpoint::around("node.check", || mounter.check(device, self.fs_type))?),
        }
    }

    fn mount(&self, device: &Path, access: Access) -> Result<(), CallError> {
        let request = MountRequest {
            device: device.to_owned(),
            target: self.target.target(),
            fs_type: self.fs_type,
            options: self.wanted.mount_flags.clone(),
            access,
        };
        at_mount_flags(failpoint::around("node.mount", || self.volume.layer().mounter.mount(&request)))
    }

    fn unmount(&self) -> Result<(), CallError> {
        let layer = self.volume.layer();
        let mounted = layer.root.resolve(&self.wanted.path)?.into_unmount_target();
        Ok(failpoint::around("node.unmount", || layer.mounter.unmount(&mounted.path()))?)
    }

    /// Grows it to its device, if it may be written to. Nothing happens when it is that large.
    pub(super) fn grow(&self, access: Access) -> Result<(), CallError> {
        let attachment = self.volume.pool().attachment(Object::Volume(self.volume.recorded.id))?;
        let Some(attachment) = attachment else { return Ok(()) };
        let mounter = &self.volume.layer().mounter;
        match access {
            Access::ReadOnly => Ok(()),
            Access::ReadWrite => {
                Ok(failpoint::around("node.grow", || mounter.grow(&attachment.device, self.target.real_path(), self.fs_type))?)
            }
        }
    }

    /// Whether the volume is a copy that may hold a file system of its smaller source.
    fn may_be_smaller_than_its_device(&self) -> Result<bool, CallError> {
        let recorded = &self.volume.recorded;
        let source_size = match recorded.source {
            None => return Ok(false),
            Some(Object::Snapshot(id)) => self.volume.pool().snapshot(id)?.map(|snapshot| snapshot.size),
            Some(Object::Volume(_)) => None,
        };
        Ok(source_size.is_none_or(|size| size < recorded.size))
    }
}
