//! NodePublishVolume: a bind mount of the staged file system, or of the device node.
//!
//! Steps: (a block volume that may be written: `Content`) - record - make the target - bind. The staging path must be this
//! volume's mount, seen in mountinfo: after a reboot an empty directory is there instead, and a pod that got it would write to the
//! node's disk; and it must be usable: one that gave up after an error is refused, by what its mount says. A target that shows the volume already is not mounted on again, so mounts never stack.

use std::path::PathBuf;

use csi_proto::csi::v1 as proto;

use crate::block::Access;
use crate::csi::error::{CallError, RequestError};
use crate::csi::locks::{Hold, Key};
use crate::csi::node_layer::{NodeLayer, no_such};
use crate::csi::validate::capability::{self, AccessType, Capability, is_exclusive};
use crate::csi::validate::{self, path};
use crate::mount::path::NodeKind;
use crate::pool::record::{FormatState, Publication, PublicationKind, VolumeMode};
use crate::types::VolumeHandle;

use super::situation::{At, Situation};
use super::{
    CAPABILITY, STAGING_PATH, TARGET_PATH, VOLUME_ID, allowed, confined, expected_access, mounted, occupied, remove_target, step,
};

pub(super) struct Checked {
    handle: Option<VolumeHandle>,
    staging: PathBuf,
    target: PathBuf,
    capability: Capability,
    access: Access,
}

pub(super) fn check(_: &NodeLayer, request: proto::NodePublishVolumeRequest) -> Result<Checked, RequestError> {
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
        mode: situation.volume.mode,
        access_mode: capability.access_mode,
        mount_flags: capability.access_type.flags().to_vec(),
        access,
        boot_id: layer.boot_id.to_string(),
    };
    let done = Ok(proto::NodePublishVolumeResponse {});

    if let Some(existing) = situation.record(&target, PublicationKind::Published) {
        if *existing == wanted && capability.access_type.fits(situation.volume.mode) {
            if let At::Volume(entry) = situation.at(&target) {
                entry.check_usable(expected_of(&situation, &staging, access))?;
            }
            return done;
        }
        let reason = format!("is published at {} with another capability or access", target.display());
        return Err(RequestError::already_exists(VOLUME_ID, reason).into());
    }
    let is_block = |access_type: &AccessType| *access_type == AccessType::Block;
    if is_block(&capability.access_type) != (situation.volume.mode == VolumeMode::Block) {
        return Err(RequestError::invalid("volume_capability.access_type", "is not how the volume was made").into());
    }
    allowed(&situation.volume, &capability)?;
    only_target(&situation, &wanted)?;
    let source = staged_source(layer, &situation, &staging, access)?;
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

    let kind = match situation.volume.mode {
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
            situation.remove_record(&target)?;
            return Err(error);
        }
    };
    let bound = mounted(step!("mount", layer.mounter.bind(&source.path(), &made.target(), access, &wanted.mount_flags)));
    drop(made);
    if bound.is_err() {
        take_back(layer, &situation, &target);
    }
    bound.and(done)
}

/// After a failure: neither a half-made target nor a record of it stays. A bind that failed after it was made (its flags were
/// refused) is taken off too.
fn take_back(layer: &NodeLayer, situation: &Situation<'_>, target: &std::path::Path) {
    let taken = Situation::look(layer, situation.pool(), situation.volume.clone()).and_then(|now| {
        if let At::Volume(_) = now.at(target) {
            now.unmount(target)?;
        }
        remove_target(layer, target)?;
        now.remove_record(target)
    });
    if let Err(error) = taken {
        tracing::warn!(%error, "what a failed publish left stays until the next attempt");
    }
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
    access: Access,
) -> Result<Source, CallError> {
    let not_staged =
        || RequestError::precondition(STAGING_PATH, format!("the volume is not staged at {}; stage it again", staging.display()));
    let too_little = || RequestError::precondition("readonly", "must be true: the volume is staged for readers only");
    match situation.volume.mode {
        VolumeMode::Filesystem(_) => {
            let confined = confined(STAGING_PATH, layer.root.resolve(staging))?;
            let At::Volume(entry) = situation.at(staging) else { return Err(not_staged().into()) };
            entry.check_usable(expected_of(situation, staging, access))?;
            if access == Access::ReadWrite && entry.access() == Access::ReadOnly && !asked_for_read_only(situation, staging) {
                return Err(too_little().into());
            }
            Ok(Source::Staged(confined))
        }
        VolumeMode::Block => {
            let (Some(_), Some(attachment)) = (situation.record(staging, PublicationKind::Staged), &situation.attachment) else {
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
