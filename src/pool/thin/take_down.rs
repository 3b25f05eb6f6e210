//! Taking the devices of a pool down when nobody owns it any more: before its disk leaves the machine.
//!
//! A node leaves the devices of attached volumes behind on purpose, and a killed one leaves all. They hold the disk. Here whatever nobody has
//! open is removed, from above downwards; what is in use refuses it, and what is above that stays too. Nothing on the disk changes,
//! and the next owner makes the devices anew.
//!
//! The device of a single volume likewise, when its pool is not on this machine any more ([`remove_device`]).
//!
//! The same for a disk that is to be made into a new pool: the devices of a pool whose making was killed hold it, and so may those of one
//! that is given up.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::devices::{LabelledDevice, PoolDevices};
use super::label::{Label, State};
use super::names::{Names, Part};
use super::open::{device_mapper, lock, nodes};
use super::stack::{Stack, TakenDown};
use crate::dm::{DmError, Removal};
use crate::pool::PoolError;
use crate::types::{Object, PoolId, VolumeHandle};

/// Removes every device-mapper device of the pool on the device at `path`, which may be either of two. None there is success.
///
/// # Errors
/// [`PoolError::Owned`] while a node serves the pool or a volume is open; [`PoolError::Format`] when there is no label that counts;
/// [`PoolError::Unsupported`] without device-mapper; [`PoolError::Io`].
pub fn take_down(path: &Path) -> Result<(), PoolError> {
    let devices = PoolDevices::open(path)?;
    let stack = Stack::new(device_mapper()?, Arc::new(nodes()?), Names::new(devices.pool()));
    // Against a node that is about to take it over; what is made for this goes with the rest.
    let lock = lock(&stack, &devices, path)?;
    let taken_down = stack.take_down_idle();
    drop(lock);
    match taken_down? {
        TakenDown::All => Ok(()),
        TakenDown::InUse => Err(PoolError::Owned(format!("{}: volumes of it are in use", path.display()))),
    }
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
        tracing::warn!(%name, %error, "a device node is left");
    }
    Ok(())
}
