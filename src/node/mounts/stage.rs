//! NodeStageVolume: device, file system, mount.
//!
//! Steps, each durable: record - attach - (format: `Formatting`, mkfs, `Content`) or (check; a fresh copy: new identity, `Content`) -
//! mount - grow. A crash after any of them leaves what the repetition finds and goes on from: a record without a mount is void; a
//! device without a mount is used again, or taken away by NodeUnstageVolume or DeleteVolume; a volume in `Formatting` that is
//! mounted nowhere is formatted again. A failure takes back the device and the record, if nothing else uses them.
//!
//! If that cannot be taken back, the answer is never a final one.
//!
//! Mounted is not usable: a file system that gave up after an error (its mount says so) is refused while others use it, and is taken down,
//! checked and mounted anew when nobody does. One that recorded errors is checked before it is mounted.
//!
//! How the volume is given out is this call's to say, and not how it was made: as a file system here, as a raw device there, but never
//! as both at a time. Whether it may be formatted is for `format` to say.
//!
//! A file system is attached for writing also when it is mounted read-only: its journal may have to be replayed. A copy for
//! readers that is larger than its source is mounted for writing once, privately, to grow it. Raw devices are only attached: for reading
//! alone if the access mode does not write. One that is attached for writing can be written to through every publication, also a
//! `readonly` one: a device node has no read-only view. There the orchestrator keeps writers out.

use std::path::{Path, PathBuf};

use csi_proto::csi::v1 as proto;

use crate::csi::error::{RequestError, no_such};
use crate::csi::locks::{Hold, Key};
use crate::csi::validate::capability::{self, AccessType, Capability};
use crate::csi::validate::{self, path};
use crate::mount::path::Confined;
use crate::mount::{MountError, MountRequest, Probe};
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::pool::record::{Publication, PublicationKind};
use crate::types::{Access, FormatState, FsType, Object, VolumeHandle, VolumeMode, mount_options};

use super::format::{self, Preparation};
use super::presence::{fs_type_of, is_node};
use super::situation::{At, Situation};
use super::{CAPABILITY, DEFAULT_FS_TYPE, STAGING_PATH, VOLUME_ID, allowed, confined, expected_access, mounted, occupied, step};

pub(super) struct Checked {
    handle: Option<VolumeHandle>,
    path: PathBuf,
    capability: Capability,
}

pub(super) fn check(request: proto::NodeStageVolumeRequest) -> Result<Checked, RequestError> {
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
    let mode = match known_mode(&situation, &path, &capability.access_type) {
        Some(mode) => mode,
        None => {
            allowed(&situation.volume, &capability)?;
            not_both(&situation, VolumeMode::Filesystem(DEFAULT_FS_TYPE))?;
            let found = held_file_system(layer, &situation);
            VolumeMode::Filesystem(or_take_back(layer, &situation, &path, found)?)
        }
    };
    let wanted = Publication {
        path: path.clone(),
        kind: PublicationKind::Staged,
        mode,
        access_mode: capability.access_mode,
        mount_flags: capability.access_type.flags().to_vec(),
        access: capability::access_of(capability.access_mode),
        boot_id: layer.boot_id.to_string(),
    };
    if let Some(existing) = situation.record(&path, PublicationKind::Staged)
        && *existing != wanted
    {
        let reason = format!("is staged at {} with another capability", path.display());
        return Err(RequestError::already_exists(VOLUME_ID, reason).into());
    }
    allowed(&situation.volume, &capability)?;
    not_both(&situation, mode)?;
    if situation.attachment.is_none() {
        // The record of a raw stage would count again with the device.
        situation.clear_void_records()?;
    }

    let done = Ok(proto::NodeStageVolumeResponse {});
    let fs_type = match mode {
        VolumeMode::Filesystem(fs_type) => fs_type,
        VolumeMode::Block => {
            let access = wanted.access;
            situation.put_record(wanted)?;
            let attached = step!("attach", pool.attach(Object::Volume(handle.volume), access)).map_err(CallError::from);
            or_take_back(layer, &situation, &path, attached)?;
            return done;
        }
    };
    mounted(mount_options::check(&wanted.mount_flags, Some(fs_type)).map_err(MountError::from))?;
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
            situation.put_record(wanted.clone())?;
            let Err(error) = grow_if_writable(layer, &situation, target.real_path(), fs_type, access) else { return done };
            tracing::warn!(volume = %situation.volume.id, %error, "a staged file system does not grow where it is mounted");
            // Whoever uses it goes on using it as it is. If nobody does, it is staged anew, by the ways that it has then.
            let is_used = situation.mounts().count() > 1 || situation.live().any(|record| record.path != path);
            if is_used || situation.unmount(&path).is_err() {
                return done;
            }
            situation = Situation::look(layer, pool, situation.volume)?;
        }
        None => {}
    }
    situation.put_record(wanted.clone())?;
    let result = stage_file_system(layer, &situation, &target, &wanted, fs_type);
    drop(target);
    or_take_back(layer, &situation, &path, result)?;
    done
}

/// The mode that is asked for, as far as the request, the volume's record, or what is mounted says it.
fn known_mode(situation: &Situation<'_>, path: &Path, access_type: &AccessType) -> Option<VolumeMode> {
    let AccessType::Mount { fs_type, .. } = access_type else { return Some(VolumeMode::Block) };
    let made_for = match situation.volume.mode {
        VolumeMode::Filesystem(fs_type) => Some(fs_type),
        VolumeMode::Block => None,
    };
    let mounted = || situation.mounts().find_map(fs_type_of);
    // At the path of another capability, that one's refusal is to be given.
    let staged = || situation.record(path, PublicationKind::Staged).map(|_| DEFAULT_FS_TYPE);
    fs_type.or(made_for).or_else(mounted).or_else(staged).map(VolumeMode::Filesystem)
}

/// The file system that a volume made for none holds, or would get.
fn held_file_system(layer: &NodeLayer, situation: &Situation<'_>) -> Result<FsType, CallError> {
    let volume = Object::Volume(situation.volume.id);
    let attachment = step!("attach", situation.pool().attach(volume, Access::ReadWrite))?;
    Ok(match layer.mounter.probe(&attachment.device)? {
        Probe::FileSystem(found) => found,
        // Refused later, if it is more than nothing.
        Probe::Blank | Probe::Other(_) => DEFAULT_FS_TYPE,
    })
}

/// Refuses to give a volume out as a file system and as a raw device at a time: what is written by one way would be damage to the other.
fn not_both(situation: &Situation<'_>, wanted: VolumeMode) -> Result<(), RequestError> {
    let is_raw = |mode| mode == VolumeMode::Block;
    let recorded = situation.live().find(|record| is_raw(record.mode) != is_raw(wanted)).map(|record| record.path.as_path());
    let mounted = || situation.mounts().find(|entry| is_node(entry) != is_raw(wanted)).map(|entry| entry.mount_point.as_path());
    let Some(path) = recorded.or_else(mounted) else { return Ok(()) };
    let (given, asked) = if is_raw(wanted) { ("a file system", "a raw device") } else { ("a raw device", "a file system") };
    let reason = format!("the volume is given out as {given} at {}; take it down there before it is {asked}", path.display());
    Err(RequestError::precondition("volume_capability.access_type", reason))
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

/// A failure, after which what this call made and nothing else uses goes away again. If it does not, it is found by the repetition, and by
/// NodeUnstageVolume; a final code would be the end of both.
fn or_take_back<T>(
    layer: &NodeLayer,
    situation: &Situation<'_>,
    path: &Path,
    result: Result<T, CallError>,
) -> Result<T, CallError> {
    let error = match result {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let pool = situation.pool();
    let taken = Situation::look(layer, pool, situation.volume.clone()).and_then(|now| {
        if let At::Volume(_) = now.at(path) {
            now.unmount(path)?;
        }
        now.forget(path);
        let now = Situation::look(layer, pool, now.volume)?;
        if now.first_use_beside(path).is_none() { now.detach() } else { Ok(()) }
    });
    Err(match taken {
        Ok(()) => error,
        Err(left) => {
            tracing::warn!(error = %left, "what a failed stage left stays until the next attempt");
            CallError::unfinished(error, "what it mounted or attached stays")
        }
    })
}
