//! NodeStageVolume: device, file system, mount.
//!
//! Steps, each durable: record - attach - (format: `Formatting`, mkfs, `Content`) or (check; a fresh copy: new identity, `Content`) -
//! mount - grow. A crash after any of them leaves what the repetition finds and goes on from: a record without a mount is void; a
//! device without a mount is used again, or taken away by NodeUnstageVolume or DeleteVolume; a volume in `Formatting` that is
//! mounted nowhere is formatted again. A failure takes back the device and the record, if nothing else uses them.
//!
//! Mounted is not usable: a file system that gave up after an error (its mount says so) is refused while others use it, and is taken down,
//! checked and mounted anew when nobody does. One that recorded errors is checked before it is mounted.
//!
//! A file system is attached for writing also when it is mounted read-only: its journal may have to be replayed. A copy for
//! readers that is larger than its source is mounted for writing once, privately, to grow it. Raw block volumes are only attached.

use std::path::{Path, PathBuf};

use csi_proto::csi::v1 as proto;

use crate::block::Access;
use crate::csi::error::{CallError, RequestError};
use crate::csi::locks::{Hold, Key};
use crate::csi::node_layer::{NodeLayer, no_such};
use crate::csi::validate::capability::{self, Capability};
use crate::csi::validate::{self, path};
use crate::mount::path::Confined;
use crate::mount::{MountError, MountRequest, options};
use crate::pool::record::{FormatState, Publication, PublicationKind, VolumeMode};
use crate::types::{FsType, Object, VolumeHandle};

use super::format::{self, Preparation};
use super::situation::{At, Situation};
use super::{CAPABILITY, STAGING_PATH, VOLUME_ID, allowed, confined, expected_access, mounted, occupied, step};

pub(super) struct Checked {
    handle: Option<VolumeHandle>,
    path: PathBuf,
    capability: Capability,
}

pub(super) fn check(_: &NodeLayer, request: proto::NodeStageVolumeRequest) -> Result<Checked, RequestError> {
    let handle = validate::volume_handle(VOLUME_ID, &request.volume_id)?;
    let path = path::absolute(STAGING_PATH, &request.staging_target_path)?;
    let capability = capability::capability(CAPABILITY, request.volume_capability.as_ref())?;
    validate::map("publish_context", &request.publish_context)?;
    validate::map("volume_context", &request.volume_context)?;
    validate::map("secrets", &request.secrets)?;
    Ok(Checked { handle, path, capability })
}

pub(super) fn stage(layer: &NodeLayer, checked: Checked) -> Result<proto::NodeStageVolumeResponse, CallError> {
    let Checked { handle, path, capability } = checked;
    let handle = handle.ok_or_else(|| no_such(VOLUME_ID))?;
    let target = confined(STAGING_PATH, layer.root.resolve(&path));
    let pool = &layer.pool(VOLUME_ID, handle.pool)?;
    let _lock = layer.locks.take(VOLUME_ID, Key::Volume(handle), Hold::Exclusive)?;
    let (_, volume) = layer.volume(VOLUME_ID, handle)?;
    let target = target?;
    if !target.is_directory()? {
        return Err(RequestError::invalid(STAGING_PATH, "must be a directory").into());
    }

    let mut situation = Situation::look(layer, pool, volume)?;
    let wanted = Publication {
        path: path.clone(),
        kind: PublicationKind::Staged,
        mode: situation.volume.mode,
        access_mode: capability.access_mode,
        mount_flags: capability.access_type.flags().to_vec(),
        access: capability::access_of(capability.access_mode),
        boot_id: layer.boot_id.to_string(),
    };
    if let Some(existing) = situation.record(&path, PublicationKind::Staged)
        && (*existing != wanted || !capability.access_type.fits(situation.volume.mode))
    {
        let reason = format!("is staged at {} with another capability", path.display());
        return Err(RequestError::already_exists(VOLUME_ID, reason).into());
    }
    allowed(&situation.volume, &capability)?;

    let done = Ok(proto::NodeStageVolumeResponse {});
    let fs_type = match situation.volume.mode {
        VolumeMode::Filesystem(fs_type) => fs_type,
        VolumeMode::Block => {
            situation.put_record(wanted)?;
            step!("attach", pool.attach(Object::Volume(handle.volume), situation.volume.access()))?;
            return done;
        }
    };
    mounted(options::check(&wanted.mount_flags, Some(fs_type)))?;
    let found = match situation.at(&path) {
        At::Other(entry) => return Err(occupied(STAGING_PATH, &path, &entry.source)),
        At::Volume(entry) => Some((entry.access(), entry.check_usable(expected_access(&wanted)))),
        At::Nothing => None,
    };
    match found {
        Some((_, Err(fault))) if situation.mounts().count() > 1 => return Err(fault.into()),
        // Nobody uses it: taken down, it is checked and mounted anew.
        Some((_, Err(fault))) => {
            tracing::warn!(volume = %situation.volume.id, %fault, "staged anew");
            situation.unmount(&path)?;
            situation = Situation::look(layer, pool, situation.volume)?;
        }
        // An interrupted attempt was about to grow a copy for readers.
        Some((Access::ReadWrite, Ok(()))) if wanted.access == Access::ReadOnly => {
            situation.unmount(&path)?;
            situation = Situation::look(layer, pool, situation.volume)?;
        }
        Some((access, Ok(()))) => {
            situation.put_record(wanted)?;
            grow_if_writable(layer, &situation, target.real_path(), fs_type, access)?;
            return done;
        }
        None => {}
    }
    situation.put_record(wanted.clone())?;
    let result = stage_file_system(layer, &situation, &target, &wanted, fs_type);
    if result.is_err() {
        drop(target);
        take_back(layer, situation, &path);
    }
    result.and(done)
}

fn stage_file_system(
    layer: &NodeLayer,
    situation: &Situation<'_>,
    target: &Confined,
    wanted: &Publication,
    fs_type: FsType,
) -> Result<(), CallError> {
    let volume = &situation.volume;
    let attachment = step!("attach", situation.pool().attach(Object::Volume(volume.id), Access::ReadWrite))?;
    let device = attachment.device.as_path();
    let request = |access| MountRequest {
        device: device.to_owned(),
        target: target.target(),
        fs_type,
        options: wanted.mount_flags.clone(),
        access,
    };
    let mount = |access| mounted(step!("mount", layer.mounter.mount(&request(access))));
    let grow = |access| grow_if_writable(layer, situation, target.real_path(), fs_type, access);
    let unmount = || {
        let mounted = layer.root.resolve(&wanted.path)?.into_unmount_target();
        Ok::<_, CallError>(step!("unmount", layer.mounter.unmount(&mounted.path()))?)
    };
    // Where it is mounted already, all that follows was done.
    if let Some(entry) = situation.mounts().next() {
        entry.check_usable(expected_access(wanted))?;
        mount(wanted.access)?;
        return grow(wanted.access);
    }
    prepare(layer, situation, device, fs_type)?;
    if wanted.access == Access::ReadOnly && !may_be_smaller_than_its_device(situation)? {
        return mount(Access::ReadOnly);
    }
    mount(Access::ReadWrite)?;
    let grown = grow(Access::ReadWrite);
    if grown.is_ok() && wanted.access == Access::ReadWrite {
        return Ok(());
    }
    unmount()?;
    match grown {
        // The kernel does not let everybody grow a mounted ext4. Nobody uses it yet, so it can be done without.
        Err(CallError::Mount(MountError::Program { .. })) if fs_type == FsType::Ext4 => {
            step!("grow", layer.mounter.grow_unmounted(device, fs_type))?;
        }
        grown => grown?,
    }
    mount(wanted.access)
}

/// Formats, or renews the identity of a fresh copy, or refuses.
fn prepare(layer: &NodeLayer, situation: &Situation<'_>, device: &Path, fs_type: FsType) -> Result<(), CallError> {
    let volume = &situation.volume;
    let probe = layer.mounter.probe(device)?;
    let set = |state| step!("format", situation.pool().set_format(volume.id, state));
    match format::decide(volume, &probe, fs_type).map_err(|reason| RequestError::precondition(VOLUME_ID, reason))? {
        Preparation::Format(over) => {
            set(FormatState::Formatting)?;
            step!("mkfs", layer.mounter.make_file_system(device, fs_type, over))?;
            set(FormatState::Content)?;
        }
        Preparation::RenewIdentity => {
            step!("check", layer.mounter.check(device, fs_type))?;
            step!("identity", layer.mounter.renew_identity(device, fs_type))?;
            set(FormatState::Content)?;
        }
        Preparation::None => step!("check", layer.mounter.check(device, fs_type))?,
    }
    Ok(())
}

/// Whether a copy may hold a file system of its smaller source.
fn may_be_smaller_than_its_device(situation: &Situation<'_>) -> Result<bool, CallError> {
    let source_size = match situation.volume.source {
        None => return Ok(false),
        Some(Object::Snapshot(id)) => situation.pool().snapshot(id)?.map(|snapshot| snapshot.size),
        Some(Object::Volume(_)) => None,
    };
    Ok(source_size.is_none_or(|size| size < situation.volume.size))
}

/// Grows a file system to its device. Nothing happens when it is that large.
fn grow_if_writable(
    layer: &NodeLayer,
    situation: &Situation<'_>,
    mount_point: &Path,
    fs_type: FsType,
    access: Access,
) -> Result<(), CallError> {
    let attachment = situation.pool().attachment(Object::Volume(situation.volume.id))?;
    let Some(attachment) = attachment else { return Ok(()) };
    match access {
        Access::ReadOnly => Ok(()),
        Access::ReadWrite => Ok(step!("grow", layer.mounter.grow(&attachment.device, mount_point, fs_type))?),
    }
}

/// After a failure: what this call made and nothing else uses goes away again. What stays is found by the repetition, and by
/// NodeUnstageVolume, which the kubelet calls when it gives up.
fn take_back(layer: &NodeLayer, situation: Situation<'_>, path: &Path) {
    let pool = situation.pool();
    let taken = Situation::look(layer, pool, situation.volume).and_then(|now| {
        if let At::Volume(_) = now.at(path) {
            now.unmount(path)?;
        }
        now.remove_record(path)?;
        let now = Situation::look(layer, pool, now.volume)?;
        if now.first_use().is_none() { now.detach() } else { Ok(()) }
    });
    if let Err(error) = taken {
        tracing::warn!(%error, "what a failed stage left stays until the next attempt");
    }
}
