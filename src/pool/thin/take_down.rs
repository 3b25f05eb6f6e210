//! Taking the devices of a pool down when nobody owns it any more: before its disk leaves the machine.
//!
//! A node leaves the devices of attached volumes behind on purpose, and a killed one leaves all. They hold the disk. Here they are removed,
//! from above downwards, when nobody uses any of them: nothing is removed before that is known of all, so that what is refused
//! changes nothing. Nothing on the disk changes, and the next owner makes the devices anew.
//!
//! In use is what is open or mounted, as the kernel counts it; what is bound somewhere, which the kernel does not count (a raw volume
//! that a pod has and has not opened yet); and, of a pool that is to be served again, what was staged or published in this boot by
//! its catalogue ([`Records`]). A catalogue that cannot be read tells of no stages, which is said.
//!
//! The device of a single volume likewise, when its pool is not on this machine any more ([`remove_device`]).
//!
//! The same for a disk that is to be made into a new pool: the devices of a pool whose making was killed hold it, and so may those of one
//! that is given up.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::access::{device_mapper, lock, nodes};
use super::devices::{LabelledDevice, PoolDevices};
use super::label::{Label, State};
use super::names::{Names, Part, is_node_of};
use super::region::Region;
use super::stack::{ObjectDevice, Stack, TakenDown};
use crate::dm::{DmError, Removal};
use crate::pool::PoolError;
use crate::pool::catalogue::Catalogue;
use crate::pool::owned::boot_id;
use crate::pool::record::{Publication, PublicationKind};
use crate::types::error::chain;
use crate::types::{Object, PoolId, VolumeHandle};

/// Removes every device-mapper device of the pool on the device at `path`, which may be either of two. None there is success.
///
/// # Errors
/// [`PoolError::Owned`] while a node serves the pool; [`PoolError::InUse`] while a volume is open, mounted or bound: nothing is removed
/// then; [`PoolError::Format`] when there is no label that counts; [`PoolError::Unsupported`] without device-mapper; [`PoolError::Io`].
pub fn take_down(path: &Path) -> Result<(), PoolError> {
    let devices = PoolDevices::open(path)?;
    let stack = Stack::new(device_mapper()?, Arc::new(nodes()?), Names::new(devices.pool()));
    // Against a node that is about to take it over; what is made for this goes with the rest.
    let lock = lock(&stack, &devices, path)?;
    take_down_idle(&stack, &lock, Records::Void)
}

/// What the catalogue's records of stages and publications mean to whoever takes a pool down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Records {
    /// Those of this boot count: the pool is to be served again, and what it gave out is to work then.
    Count,
    /// Nothing: the pool leaves this machine, or is given up.
    Void,
}

/// Takes down a pool whose catalogue's device is `lock`, held by the caller.
///
/// # Errors
/// [`PoolError::InUse`] while anybody uses a volume or snapshot: nothing was removed then. [`PoolError::Io`].
pub(super) fn take_down_idle(stack: &Stack, lock: &File, records: Records) -> Result<(), PoolError> {
    let devices = stack.objects()?;
    if !devices.is_empty() {
        let boot = boot_id()?;
        let binds = bind_mounts()?;
        let catalogue = match records {
            Records::Count => read(lock),
            Records::Void => None,
        };
        for device in &devices {
            let publications = match (device.object, &catalogue) {
                (Object::Volume(id), Some(catalogue)) => catalogue.publications(id)?,
                (Object::Snapshot(_), _) | (_, None) => Vec::new(),
            };
            if let Some(by) = user(device, &publications, &boot, &binds) {
                return Err(PoolError::InUse { object: device.object, by });
            }
        }
        devices.iter().try_for_each(|device| stack.remove_object(device))?;
    }
    match stack.take_down()? {
        TakenDown::All => Ok(()),
        TakenDown::InUse => Err(PoolError::Busy("the pool, of which somebody attached a volume just now".to_owned())),
    }
}

/// The catalogue as it is on the disk, if it can be read.
fn read(device: &File) -> Option<Catalogue> {
    let region = device.try_clone().and_then(Region::open);
    let catalogue = region
        .map_err(|error| PoolError::io("read the catalogue", error))
        .and_then(|region| Catalogue::read_only(&region, "the catalogue"));
    catalogue
        .inspect_err(
            |error| tracing::warn!(error = %chain(&error), "what is staged is not known; what is open, mounted or bound is seen all the same"),
        )
        .ok()
}

/// The roots of what is mounted in this mount namespace, as mountinfo has them: of a node that is bound, its path within its file system.
fn bind_mounts() -> Result<Vec<String>, PoolError> {
    const PATH: &str = "/proc/self/mountinfo";
    let text = fs::read_to_string(PATH).map_err(|error| PoolError::io(format!("read {PATH}"), error))?;
    Ok(text.lines().filter_map(|line| line.split(' ').nth(3)).map(str::to_owned).collect())
}

/// Who uses a device, if anybody does.
fn user(device: &ObjectDevice, publications: &[Publication], boot: &str, roots: &[String]) -> Option<String> {
    if device.open_count > 0 {
        return Some(format!("{}, which is open or mounted", device.name));
    }
    if roots.iter().any(|root| is_node_of(root, &device.name)) {
        return Some(format!("{}, which is bound to a path of a pod or container", device.name));
    }
    publications.iter().find(|publication| publication.boot_id == boot).map(|publication| {
        let how = match publication.kind {
            PublicationKind::Staged => "staged",
            PublicationKind::Published => "published",
        };
        format!("it is {how} at {}", publication.path.display())
    })
}

/// Takes down what pools that were never finished, and the pool `given_up`, have on these devices. Others are left alone.
///
/// # Errors
/// As for [`take_down`]: [`PoolError::Owned`] when the making is not interrupted but under way, or the pool is served.
pub(super) fn take_down_given_up(paths: &[&Path], given_up: Option<PoolId>) -> Result<(), PoolError> {
    for path in paths {
        let is_given_up = |label: &Label| label.state == State::Making || Some(label.pool) == given_up;
        if !LabelledDevice::read(path).is_ok_and(|device| is_given_up(device.label())) {
            continue;
        }
        match take_down(path) {
            // Its other device is not there any more: then it has no devices either, or the disk is refused as being in use.
            Ok(()) | Err(PoolError::Format(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Removes the device of one volume, whatever became of its pool. None there is success.
///
/// # Errors
/// [`PoolError::InUse`] while it is open or mounted; [`PoolError::Unsupported`] without device-mapper; [`PoolError::Io`].
pub(in crate::pool) fn remove_device(volume: VolumeHandle) -> Result<(), PoolError> {
    let object = Object::Volume(volume.volume);
    let name = Names::new(volume.pool).name(Part::Object(object))?;
    match device_mapper()?.remove(&name, Removal::Now) {
        Ok(()) | Err(DmError::Missing(_)) => {}
        Err(DmError::Busy(_)) => return Err(PoolError::InUse { object, by: format!("{name}, which is open or mounted") }),
        Err(error) => return Err(PoolError::io(format!("remove the device of {object}"), io::Error::other(error))),
    }
    let node_removed = nodes()?.remove(&name);
    if let Err(error) = node_removed {
        tracing::warn!(%name, error = %chain(&error), "a device node is left");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Access, AccessMode, VolumeId, VolumeMode};

    #[test]
    fn in_use_is_what_is_open_or_bound_or_was_staged_in_this_boot() {
        let names = Names::new(PoolId::random());
        let device = |open_count| {
            let object = Object::Volume(VolumeId::from_bytes([7; 16]));
            ObjectDevice { object, name: names.name(Part::Object(object)).unwrap(), open_count }
        };
        let publication = |kind, boot: &str| Publication {
            path: "/pods/one".into(),
            kind,
            mode: VolumeMode::Block,
            access_mode: AccessMode::SingleNodeWriter,
            mount_flags: Vec::new(),
            access: Access::ReadWrite,
            boot_id: boot.to_owned(),
        };
        let by =
            |open_count, publications: &[Publication], roots: &[String]| user(&device(open_count), publications, "now", roots);
        assert_eq!(by(0, &[], &[]), None);
        assert_eq!(by(0, &[publication(PublicationKind::Published, "before")], &["/".to_owned()]), None);
        assert!(by(1, &[], &[]).unwrap().contains("open or mounted"));
        assert!(by(0, &[], &[format!("/windlass/{}", device(0).name)]).unwrap().contains("bound"));
        assert!(by(0, &[publication(PublicationKind::Published, "now")], &[]).unwrap().contains("published at /pods/one"));
        assert!(by(0, &[publication(PublicationKind::Staged, "now")], &[]).unwrap().contains("staged at /pods/one"));
    }
}
