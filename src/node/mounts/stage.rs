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
//! Raw devices are only attached: for reading alone if the access mode does not write. One that is attached for writing can be written to through every publication, also a
//! `readonly` one: a device node has no read-only view. There the orchestrator keeps writers out.

use std::path::{Path, PathBuf};

use csi_proto::csi::v1 as proto;

use crate::csi::error::{RequestError, no_such};
use crate::csi::validate::capability::{self, AccessType, Capability};
use crate::csi::validate::{self, path};
use crate::mount::path::Confined;
use crate::mount::{MountError, Probe};
use crate::node::error::CallError;
use crate::node::layer::NodeLayer;
use crate::pool::record::{Publication, PublicationKind};
use crate::types::error::chain;
use crate::types::{Access, FsType, VolumeHandle, VolumeMode, mount_options};

use super::fields::{ACCESS_TYPE, CAPABILITY, STAGING_PATH, VOLUME_ID};
use super::file_system::FileSystem;
use super::presence::{DEFAULT_FS_TYPE, MountedAt, fs_type_of, is_node};
use super::refusal::{at_field, at_mount_flags, check_capability, occupied};
use super::volume_on_node::{VolumeOnNode, expected_access};

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
    let locked = layer.lock_volume(VOLUME_ID, handle.ok_or_else(|| no_such(VOLUME_ID))?)?;
    let target = at_field(STAGING_PATH, layer.root.resolve(&path))?;
    if !target.is_directory()? {
        return Err(RequestError::invalid(STAGING_PATH, "must be a directory").into());
    }
    let volume = VolumeOnNode::look(layer, &locked.pool, locked.recorded)?;
    let wanted = Publication {
        mode: mode(&volume, &path, &capability)?,
        path,
        kind: PublicationKind::Staged,
        access_mode: capability.access_mode,
        mount_flags: capability.access_type.flags().to_vec(),
        access: capability::access_of(capability.access_mode),
        boot_id: layer.boot_id.to_string(),
    };
    check_not_staged_otherwise(&volume, &wanted)?;
    check_capability(&volume.recorded, &capability)?;
    check_not_both(&volume, wanted.mode)?;
    if volume.attachment.is_none() {
        // The record of a raw stage would count again with the device.
        volume.clear_void_records()?;
    }
    match wanted.mode {
        VolumeMode::Block => stage_device(&volume, wanted)?,
        VolumeMode::Filesystem(fs_type) => stage_file_system(volume, target, &wanted, fs_type)?,
    }
    Ok(proto::NodeStageVolumeResponse {})
}

fn stage_device(volume: &VolumeOnNode<'_>, wanted: Publication) -> Result<(), CallError> {
    let (path, access) = (wanted.path.clone(), wanted.access);
    volume.put_record(wanted)?;
    let attached = volume.attach(access);
    or_take_back(volume, &path, attached).map(drop)
}

fn stage_file_system(volume: VolumeOnNode<'_>, target: Confined, wanted: &Publication, fs_type: FsType) -> Result<(), CallError> {
    at_mount_flags(mount_options::check(&wanted.mount_flags, Some(fs_type)).map_err(MountError::from))?;
    let Some(volume) = unless_mounted(volume, &target, wanted, fs_type)? else { return Ok(()) };
    volume.put_record(wanted.clone())?;
    let staged = FileSystem { volume: &volume, fs_type, target: &target, wanted }.stage();
    // It keeps the path busy.
    drop(target);
    or_take_back(&volume, &wanted.path, staged)
}

/// Nothing if the volume is mounted at its path as it is wanted; else the volume, which is not mounted there (any more).
fn unless_mounted<'a>(
    volume: VolumeOnNode<'a>,
    target: &Confined,
    wanted: &Publication,
    fs_type: FsType,
) -> Result<Option<VolumeOnNode<'a>>, CallError> {
    let path = &wanted.path;
    let (access, usable) = match volume.at(path) {
        MountedAt::Nothing => return Ok(Some(volume)),
        MountedAt::Other(entry) => return Err(occupied(STAGING_PATH, path, &entry.source)),
        MountedAt::Volume(entry) => (entry.access(), entry.check_usable(expected_access(wanted))),
    };
    match (access, usable) {
        (_, Err(fault)) if volume.mounts().count() > 1 => return Err(fault.into()),
        // Nobody uses it: taken down, it is checked and mounted anew.
        (_, Err(fault)) => {
            tracing::warn!(volume = %volume.recorded.id, %fault, "staged anew");
            volume.unmount(path)?;
        }
        // An interrupted attempt was about to grow a copy for readers.
        (Access::ReadWrite, Ok(())) if wanted.access == Access::ReadOnly => volume.unmount(path)?,
        (access, Ok(())) => {
            volume.put_record(wanted.clone())?;
            let grown = FileSystem { volume: &volume, fs_type, target, wanted }.grow(access);
            let Err(error) = grown else { return Ok(None) };
            tracing::warn!(volume = %volume.recorded.id, error = %chain(&error), "a staged file system does not grow where it is mounted");
            // Whoever uses it goes on using it as it is. If nobody does, it is staged anew, by the ways that it has then.
            let is_used = volume.mounts().count() > 1 || volume.live().any(|record| record.path != *path);
            if is_used || volume.unmount(path).is_err() {
                return Ok(None);
            }
        }
    }
    volume.again().map(Some)
}

/// How the volume is to be given out. Where the request leaves the file system open and nothing else says it, what the volume holds does.
fn mode(volume: &VolumeOnNode<'_>, path: &Path, capability: &Capability) -> Result<VolumeMode, CallError> {
    if let Some(mode) = known_mode(volume, path, &capability.access_type) {
        return Ok(mode);
    }
    check_capability(&volume.recorded, capability)?;
    check_not_both(volume, VolumeMode::Filesystem(DEFAULT_FS_TYPE))?;
    let held = held_file_system(volume);
    or_take_back(volume, path, held).map(VolumeMode::Filesystem)
}

/// The mode that is asked for, as far as the request, the volume's record, or what is mounted says it.
fn known_mode(volume: &VolumeOnNode<'_>, path: &Path, access_type: &AccessType) -> Option<VolumeMode> {
    let AccessType::Mount { fs_type, .. } = access_type else { return Some(VolumeMode::Block) };
    let made_for = match volume.recorded.mode {
        VolumeMode::Filesystem(fs_type) => Some(fs_type),
        VolumeMode::Block => None,
    };
    let mounted = || volume.mounts().find_map(fs_type_of);
    // At the path of another capability, that one's refusal is to be given.
    let staged = || volume.record(path, PublicationKind::Staged).map(|_| DEFAULT_FS_TYPE);
    fs_type.or(made_for).or_else(mounted).or_else(staged).map(VolumeMode::Filesystem)
}

/// The file system that a volume made for none holds, or would get.
fn held_file_system(volume: &VolumeOnNode<'_>) -> Result<FsType, CallError> {
    let attachment = volume.attach(Access::ReadWrite)?;
    Ok(match volume.layer().mounter.probe(&attachment.device)? {
        Probe::FileSystem(found) => found,
        // Refused later, if it is more than nothing.
        Probe::Blank | Probe::Other(_) => DEFAULT_FS_TYPE,
    })
}

/// Refuses a path at which the volume is staged with another capability.
fn check_not_staged_otherwise(volume: &VolumeOnNode<'_>, wanted: &Publication) -> Result<(), RequestError> {
    match volume.record(&wanted.path, PublicationKind::Staged) {
        Some(existing) if existing != wanted => {
            let reason = format!("is staged at {} with another capability", wanted.path.display());
            Err(RequestError::already_exists(VOLUME_ID, reason))
        }
        Some(_) | None => Ok(()),
    }
}

/// Refuses to give a volume out as a file system and as a raw device at a time: what is written by one way would be damage to the other.
fn check_not_both(volume: &VolumeOnNode<'_>, wanted: VolumeMode) -> Result<(), RequestError> {
    let is_raw = |mode| mode == VolumeMode::Block;
    let recorded = volume.live().find(|record| is_raw(record.mode) != is_raw(wanted)).map(|record| record.path.as_path());
    let mounted = || volume.mounts().find(|entry| is_node(entry) != is_raw(wanted)).map(|entry| entry.mount_point.as_path());
    let Some(path) = recorded.or_else(mounted) else { return Ok(()) };
    let (given, asked) = if is_raw(wanted) { ("a file system", "a raw device") } else { ("a raw device", "a file system") };
    let reason = format!("the volume is given out as {given} at {}; take it down there before it is {asked}", path.display());
    Err(RequestError::precondition(ACCESS_TYPE, reason))
}

/// After a failure, what this call made and nothing else uses is taken away again. What resists is found by the repetition, and by
/// NodeUnstageVolume; a final code would be the end of both.
fn or_take_back<T>(volume: &VolumeOnNode<'_>, path: &Path, result: Result<T, CallError>) -> Result<T, CallError> {
    let error = match result {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let taken_back = volume.again().and_then(|now| {
        if let MountedAt::Volume(_) = now.at(path) {
            now.unmount(path)?;
        }
        now.forget(path);
        let now = now.again()?;
        if now.first_use_beside(path).is_none() { now.detach() } else { Ok(()) }
    });
    Err(match taken_back {
        Ok(()) => error,
        Err(left) => {
            tracing::warn!(error = %chain(&left), "what a failed stage left stays until the next attempt");
            CallError::unfinished(error, "what it mounted or attached stays")
        }
    })
}
