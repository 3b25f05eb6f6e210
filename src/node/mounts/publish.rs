//! NodePublishVolume: a bind mount of the staged file system, or of the device node.
//!
//! Steps: (a block volume that may be written: `Content`) - record - make the target - bind. The staging path must be this
//! volume's mount, seen in mountinfo: after a reboot an empty directory is there instead, and a pod that got it would write to the
//! node's disk; and it must be usable: one that gave up after an error is refused, by what its mount says. It is published as it was staged,
//! as a file system or as a raw device, whatever it was made for. A target that shows the volume already is not mounted on again, so
//! mounts never stack.

use std::path::PathBuf;

use csi_proto::csi::v1 as proto;

use crate::csi::error::{RequestError, no_such};
use crate::csi::locks::{Hold, Key};
use crate::csi::validate::capability::{self, AccessType, Capability, is_exclusive};
use crate::csi::validate::{self, path};
use crate::mount::path::NodeKind;
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::pool::record::{Publication, PublicationKind};
use crate::types::{Access, FormatState, VolumeHandle, VolumeMode};

use super::presence::fs_type_of;
use super::situation::{At, Situation};
use super::{
    CAPABILITY, DEFAULT_FS_TYPE, STAGING_PATH, TARGET_PATH, VOLUME_ID, allowed, confined, expected_access, mounted, occupied,
    remove_target, step,
};

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
    let handle = checked.handle.ok_or_else(|| no_such(VOLUME_ID))?;
    let pool = &layer.pool(VOLUME_ID, handle.pool)?;
    let _lock = layer.locks.take(VOLUME_ID, Key::Volume(handle), Hold::Exclusive)?;
    let (_, volume) = layer.volume(VOLUME_ID, handle)?;
    let situation = Situation::look(layer, pool, volume)?;
    let Checked { staging, target, capability, access, .. } = checked;
    let wanted = Publication {
        path: target.clone(),
        kind: PublicationKind::Published,
        mode: mode(&situation, &staging, &capability.access_type),
        access_mode: capability.access_mode,
        mount_flags: capability.access_type.flags().to_vec(),
        access,
        boot_id: layer.boot_id.to_string(),
    };
    let done = Ok(proto::NodePublishVolumeResponse {});

    if let Some(existing) = situation.record(&target, PublicationKind::Published) {
        if *existing == wanted {
            if let At::Volume(entry) = situation.at(&target) {
                entry.check_usable(expected_of(&situation, &staging, access))?;
            }
            return done;
        }
        let reason = format!("is published at {} with another capability or access", target.display());
        return Err(RequestError::already_exists(VOLUME_ID, reason).into());
    }
    allowed(&situation.volume, &capability)?;
    only_target(&situation, &wanted)?;
    let source = staged_source(layer, &situation, &staging, &wanted)?;
    match situation.at(&target) {
        At::Other(entry) => return Err(occupied(TARGET_PATH, &target, &entry.source)),
        // Shown, but not as recorded: the record is lost. What is to be seen is taken for what was asked for.
        At::Volume(entry) if entry.access() == access => {
            situation.put_record(wanted)?;
            return done;
        }
        At::Volume(_) => {
            let reason = format!("is mounted at {} with another access", target.display());
            return Err(RequestError::already_exists(VOLUME_ID, reason).into());
        }
        At::Nothing => {}
    }

    let kind = match wanted.mode {
        VolumeMode::Filesystem(_) => NodeKind::Directory,
        VolumeMode::Block => {
            if access == Access::ReadWrite && situation.volume.format != FormatState::Content {
                step!("format", pool.set_format(handle.volume, FormatState::Content))?;
            }
            NodeKind::File
        }
    };
    situation.put_record(wanted.clone())?;
    let made = match confined(TARGET_PATH, step!("mkdir", layer.root.create(&target, kind))) {
        Ok(made) => made,
        Err(error) => {
            // What is there is not of our making.
            situation.forget(&target);
            return Err(error);
        }
    };
    let bound = mounted(step!("mount", layer.mounter.bind(&source.path(), &made.target(), access, &wanted.mount_flags)));
    drop(made);
    match bound {
        Ok(()) => done,
        Err(error) => Err(take_back(layer, &situation, &target, error)),
    }
}

/// After a failure: neither a half-made target nor a record of it stays. A bind that failed after it was made (its flags were
/// refused) is taken off too. If it cannot be, the answer is no final one.
fn take_back(layer: &NodeLayer, situation: &Situation<'_>, target: &std::path::Path, error: CallError) -> CallError {
    let taken = Situation::look(layer, situation.pool(), situation.volume.clone()).and_then(|now| {
        if let At::Volume(_) = now.at(target) {
            now.unmount(target)?;
        }
        remove_target(layer, target)?;
        now.forget(target);
        Ok(())
    });
    match taken {
        Ok(()) => error,
        Err(left) => {
            tracing::warn!(error = %left, "what a failed publish left stays until the next attempt");
            CallError::unfinished(error, "what it bound stays")
        }
    }
}

/// The mode that is asked for; where the request leaves the file system open, the one that is staged.
fn mode(situation: &Situation<'_>, staging: &std::path::Path, access_type: &AccessType) -> VolumeMode {
    let AccessType::Mount { fs_type, .. } = access_type else { return VolumeMode::Block };
    let staged = || match situation.at(staging) {
        At::Volume(entry) => fs_type_of(entry),
        At::Nothing | At::Other(_) => None,
    };
    // What is not staged at all is refused for that.
    VolumeMode::Filesystem(fs_type.or_else(staged).unwrap_or(DEFAULT_FS_TYPE))
}

/// Refuses a second target where one of the two allows only itself.
fn only_target(situation: &Situation<'_>, wanted: &Publication) -> Result<(), RequestError> {
    let mut published = situation.live().filter(|record| record.kind == PublicationKind::Published);
    let conflict = published.find(|other| is_exclusive(wanted.access_mode) || is_exclusive(other.access_mode));
    match conflict {
        None => Ok(()),
        Some(other) => {
            let reason = format!("allows one target path, and the volume is published at {}", other.path.display());
            Err(RequestError::precondition("volume_capability.access_mode", reason))
        }
    }
}

/// What is bound on the target, held open where it is a path of a request.
enum Source {
    Staged(crate::mount::path::Confined),
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

fn staged_source(
    layer: &NodeLayer,
    situation: &Situation<'_>,
    staging: &std::path::Path,
    wanted: &Publication,
) -> Result<Source, CallError> {
    let access = wanted.access;
    let not_staged =
        || RequestError::precondition(STAGING_PATH, format!("the volume is not staged at {}; stage it again", staging.display()));
    let too_little = || RequestError::precondition("readonly", "must be true: the volume is staged for readers only");
    match wanted.mode {
        VolumeMode::Filesystem(fs_type) => {
            let confined = confined(STAGING_PATH, layer.root.resolve(staging))?;
            let At::Volume(entry) = situation.at(staging) else { return Err(not_staged().into()) };
            entry.check_usable(expected_of(situation, staging, access))?;
            if fs_type_of(entry) != Some(fs_type) {
                let reason = format!("is not what is staged: {}", entry.fs_type);
                return Err(RequestError::precondition("volume_capability.mount.fs_type", reason).into());
            }
            if access == Access::ReadWrite && entry.access() == Access::ReadOnly && !asked_for_read_only(situation, staging) {
                return Err(too_little().into());
            }
            Ok(Source::Staged(confined))
        }
        VolumeMode::Block => {
            let staged = situation.record(staging, PublicationKind::Staged).filter(|record| record.mode == VolumeMode::Block);
            let (Some(_), Some(attachment)) = (staged, &situation.attachment) else {
                return Err(not_staged().into());
            };
            if access == Access::ReadWrite && attachment.access == Access::ReadOnly {
                return Err(too_little().into());
            }
            Ok(Source::Device(attachment.device.clone()))
        }
    }
}

/// Whether the mount flags of the stage asked for what the access mode does not: then nobody is surprised.
fn asked_for_read_only(situation: &Situation<'_>, staging: &std::path::Path) -> bool {
    let staged = situation.record(staging, PublicationKind::Staged);
    staged.is_some_and(|record| record.access == Access::ReadWrite && expected_access(record) == Access::ReadOnly)
}

/// What the staged file system must be able to do for this publication.
fn expected_of(situation: &Situation<'_>, staging: &std::path::Path, access: Access) -> Access {
    if asked_for_read_only(situation, staging) { Access::ReadOnly } else { access }
}
