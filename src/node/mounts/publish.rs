//! NodePublishVolume: a bind mount of the staged file system, or of the device node.
//!
//! Steps: (a block volume that may be written: `Content`) - record - make the target - bind. The staging path must be this
//! volume's mount, seen in mountinfo: after a reboot an empty directory is there instead, and a pod that got it would write to the
//! node's disk; and it must be usable: one that gave up after an error is refused, by what its mount says. It is published as it was staged,
//! as a file system or as a raw device, whatever it was made for. A target that shows the volume already is not mounted on again, so
//! mounts never stack.

use std::path::{Path, PathBuf};

use csi_proto::csi::v1 as proto;

use crate::csi::error::{RequestError, no_such};
use crate::csi::validate::capability::{self, AccessType, Capability, is_exclusive};
use crate::csi::validate::{self, path};
use crate::failpoint;
use crate::mount::path::{Confined, NodeKind};
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::pool::record::{Publication, PublicationKind};
use crate::types::error::chain;
use crate::types::{Access, FormatState, FsType, VolumeHandle, VolumeMode};

use super::fields::{ACCESS_MODE, CAPABILITY, STAGING_PATH, TARGET_PATH, VOLUME_ID};
use super::presence::{DEFAULT_FS_TYPE, MountedAt, fs_type_of};
use super::refusal::{at_field, at_mount_flags, check_capability, occupied};
use super::target;
use super::volume_on_node::{VolumeOnNode, expected_access};

pub(super) struct Checked {
    handle: Option<VolumeHandle>,
    staging: PathBuf,
    target: PathBuf,
    capability: Capability,
    access: Access,
}

pub(super) fn check(request: proto::NodePublishVolumeRequest) -> Result<Checked, RequestError> {
    let handle = validate::volume_handle(VOLUME_ID, &request.volume_id)?;
    let target = path::absolute(TARGET_PATH, &request.target_path)?;
    let capability = capability::capability(CAPABILITY, request.volume_capability.as_ref())?;
    validate::map("publish_context", &request.publish_context)?;
    validate::map("volume_context", &request.volume_context)?;
    validate::map("secrets", &request.secrets)?;
    if request.staging_target_path.is_empty() {
        return Err(RequestError::precondition(STAGING_PATH, "must be set: the volume is staged before it is published"));
    }
    let staging = path::absolute(STAGING_PATH, &request.staging_target_path)?;
    let access = if request.readonly { Access::ReadOnly } else { capability::access_of(capability.access_mode) };
    Ok(Checked { handle, staging, target, capability, access })
}

pub(super) fn publish(layer: &NodeLayer, checked: Checked) -> Result<proto::NodePublishVolumeResponse, CallError> {
    let Checked { handle, staging, target, capability, access } = checked;
    let locked = layer.lock_volume(VOLUME_ID, handle.ok_or_else(|| no_such(VOLUME_ID))?)?;
    let volume = VolumeOnNode::look(layer, &locked.pool, locked.recorded)?;
    let wanted = Publication {
        path: target,
        kind: PublicationKind::Published,
        mode: mode(&volume, &staging, &capability.access_type),
        access_mode: capability.access_mode,
        mount_flags: capability.access_type.flags().to_vec(),
        access,
        boot_id: layer.boot_id.to_string(),
    };
    let publishing = Publishing { volume: &volume, staging: &staging, wanted: &wanted };
    let done = Ok(proto::NodePublishVolumeResponse {});
    if publishing.was_done()? {
        return done;
    }
    check_capability(&volume.recorded, &capability)?;
    publishing.check_only_target()?;
    let source = publishing.source()?;
    if publishing.is_mounted()? {
        // Not as recorded: the record is lost. What is to be seen is taken for what was asked for.
        volume.put_record(wanted)?;
        return done;
    }
    if wanted.mode == VolumeMode::Block && access == Access::ReadWrite && volume.recorded.format != FormatState::Content {
        volume.set_format(FormatState::Content)?;
    }
    volume.put_record(wanted.clone())?;
    publishing.bind(&source)?;
    done
}

/// The mode that is asked for; where the request leaves the file system open, the one that is staged.
fn mode(volume: &VolumeOnNode<'_>, staging: &Path, access_type: &AccessType) -> VolumeMode {
    let AccessType::Mount { fs_type, .. } = access_type else { return VolumeMode::Block };
    let staged = || match volume.at(staging) {
        MountedAt::Volume(entry) => fs_type_of(entry),
        MountedAt::Nothing | MountedAt::Other(_) => None,
    };
    // What is not staged at all is refused for that.
    VolumeMode::Filesystem(fs_type.or_else(staged).unwrap_or(DEFAULT_FS_TYPE))
}

/// What is bound on the target, held open where it is a path of a request.
enum Source {
    Staged(Confined),
    Device(PathBuf),
}

impl Source {
    fn path(&self) -> PathBuf {
        match self {
            Self::Staged(confined) => confined.target(),
            Self::Device(device) => device.clone(),
        }
    }
}

/// A publication of a volume that is staged at a path.
struct Publishing<'a> {
    volume: &'a VolumeOnNode<'a>,
    staging: &'a Path,
    wanted: &'a Publication,
}

impl Publishing<'_> {
    /// Whether an equal call was answered before, and what it mounted is usable still.
    fn was_done(&self) -> Result<bool, CallError> {
        let target = &self.wanted.path;
        let Some(existing) = self.volume.record(target, PublicationKind::Published) else { return Ok(false) };
        if existing != self.wanted {
            let reason = format!("is published at {} with another capability or access", target.display());
            return Err(RequestError::already_exists(VOLUME_ID, reason).into());
        }
        if let MountedAt::Volume(entry) = self.volume.at(target) {
            entry.check_usable(self.expected_access())?;
        }
        Ok(true)
    }

    /// Refuses a second target where one of the two allows only itself.
    fn check_only_target(&self) -> Result<(), RequestError> {
        let mut published = self.volume.live().filter(|record| record.kind == PublicationKind::Published);
        let conflict = published.find(|other| is_exclusive(self.wanted.access_mode) || is_exclusive(other.access_mode));
        match conflict {
            None => Ok(()),
            Some(other) => {
                let reason = format!("allows one target path, and the volume is published at {}", other.path.display());
                Err(RequestError::precondition(ACCESS_MODE, reason))
            }
        }
    }

    /// What is staged, if it is what is asked for.
    fn source(&self) -> Result<Source, CallError> {
        match self.wanted.mode {
            VolumeMode::Filesystem(fs_type) => self.staged_file_system(fs_type).map(Source::Staged),
            VolumeMode::Block => Ok(self.staged_device().map(Source::Device)?),
        }
    }

    fn staged_file_system(&self, fs_type: FsType) -> Result<Confined, CallError> {
        let confined = at_field(STAGING_PATH, self.volume.layer().root.resolve(self.staging))?;
        let MountedAt::Volume(entry) = self.volume.at(self.staging) else { return Err(self.not_staged().into()) };
        entry.check_usable(self.expected_access())?;
        if fs_type_of(entry) != Some(fs_type) {
            let reason = format!("does not match what is staged: {}", entry.fs_type);
            return Err(RequestError::precondition("volume_capability.mount.fs_type", reason).into());
        }
        let is_for_readers = entry.access() == Access::ReadOnly && !self.stage_asked_to_read();
        if self.wanted.access == Access::ReadWrite && is_for_readers {
            return Err(staged_for_readers().into());
        }
        Ok(confined)
    }

    fn staged_device(&self) -> Result<PathBuf, RequestError> {
        let staged = self.volume.record(self.staging, PublicationKind::Staged);
        let is_raw = staged.is_some_and(|record| record.mode == VolumeMode::Block);
        let (true, Some(attachment)) = (is_raw, &self.volume.attachment) else { return Err(self.not_staged()) };
        if self.wanted.access == Access::ReadWrite && attachment.access == Access::ReadOnly {
            return Err(staged_for_readers());
        }
        Ok(attachment.device.clone())
    }

    fn not_staged(&self) -> RequestError {
        let reason = format!("the volume is not staged at {}; stage it again", self.staging.display());
        RequestError::precondition(STAGING_PATH, reason)
    }

    /// Whether the mount flags of the stage asked for less than its access mode: then nobody is surprised.
    fn stage_asked_to_read(&self) -> bool {
        let staged = self.volume.record(self.staging, PublicationKind::Staged);
        staged.is_some_and(|record| record.access == Access::ReadWrite && expected_access(record) == Access::ReadOnly)
    }

    /// What the staged file system must be able to do for this publication.
    fn expected_access(&self) -> Access {
        if self.stage_asked_to_read() { Access::ReadOnly } else { self.wanted.access }
    }

    /// Whether the target shows the volume as it is wanted.
    fn is_mounted(&self) -> Result<bool, CallError> {
        let target = &self.wanted.path;
        match self.volume.at(target) {
            MountedAt::Nothing => Ok(false),
            MountedAt::Other(entry) => Err(occupied(TARGET_PATH, target, &entry.source)),
            MountedAt::Volume(entry) if entry.access() == self.wanted.access => Ok(true),
            MountedAt::Volume(_) => {
                let reason = format!("is mounted at {} with another access", target.display());
                Err(RequestError::already_exists(VOLUME_ID, reason).into())
            }
        }
    }

    /// Makes the target and binds the source on it.
    fn bind(&self, source: &Source) -> Result<(), CallError> {
        let (layer, target) = (self.volume.layer(), &self.wanted.path);
        let kind = match self.wanted.mode {
            VolumeMode::Filesystem(_) => NodeKind::Directory,
            VolumeMode::Block => NodeKind::File,
        };
        let made = at_field(TARGET_PATH, failpoint::around("node.mkdir", || layer.root.create(target, kind)))
            // What is there is not of our making.
            .inspect_err(|_| self.volume.forget(target))?;
        let Publication { access, mount_flags, .. } = self.wanted;
        let bound = failpoint::around("node.mount", || layer.mounter.bind(&source.path(), &made.target(), *access, mount_flags));
        let bound = at_mount_flags(bound);
        drop(made);
        bound.map_err(|error| self.take_back(error))
    }

    /// After a failure neither a half-made target nor a record of it stays. A bind that failed after it was made (its flags were refused) is
    /// taken off too. If it cannot be, the answer is no final one.
    fn take_back(&self, error: CallError) -> CallError {
        let path = &self.wanted.path;
        let taken_back = self.volume.again().and_then(|now| {
            if let MountedAt::Volume(_) = now.at(path) {
                now.unmount(path)?;
            }
            target::remove(self.volume.layer(), path)?;
            now.forget(path);
            Ok(())
        });
        match taken_back {
            Ok(()) => error,
            Err(left) => {
                tracing::warn!(error = %chain(&left), "what a failed publish left stays until the next attempt");
                CallError::unfinished(error, "what it bound stays")
            }
        }
    }
}

fn staged_for_readers() -> RequestError {
    RequestError::precondition("readonly", "must be true: the volume is staged for readers only")
}
