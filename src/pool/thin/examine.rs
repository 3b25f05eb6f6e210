//! What a pool on devices is, told from its disks alone: for a disk that came from elsewhere, before anybody serves it.
//!
//! Label, second label, catalogue and superblock are read and compared; nothing is written, no device is made, and no lock is taken. So
//! what a node changes meanwhile may be seen half done: of a pool whose devices are active on this machine the catalogue is not read, since
//! the node that serves it knows better. Each part that cannot be read says why, and the others are told all the same.

use std::fs;
use std::path::{Path, PathBuf};

use crate::block::{AlignedBuffer, BlockSource, device};
use crate::dm::metadata::{BLOCK_BYTES, Superblock};
use crate::dm::units::DataBlockSize;
use crate::pool::PoolError;
use crate::pool::catalogue::{Catalogue, EpochStep};
use crate::pool::record::{Snapshot, Volume};
use crate::types::error::chain;
use crate::types::{Access, PoolId};

use super::devices::{Copies, OpenDevice, PoolDevices};
use super::epoch;
use super::label::{Role, State};
use super::region::Region;

/// A pool as its devices tell of it.
#[derive(Debug)]
pub struct Examined {
    /// Its id.
    pub pool: PoolId,
    /// Whether it was made to the end.
    pub state: State,
    /// Whether device-mapper devices of it are there on this machine.
    pub activity: Activity,
    /// Size of its data blocks.
    pub block_size: DataBlockSize,
    /// Bytes of metadata.
    pub metadata_bytes: u64,
    /// Bytes of data.
    pub data_bytes: u64,
    /// Its devices, the one with the catalogue first.
    pub devices: Vec<ExaminedDevice>,
    /// What its catalogue holds, or why that is not known.
    pub catalogue: Result<ExaminedCatalogue, String>,
    /// What the superblock of its metadata says, or why that is not known.
    pub superblock: Result<Superblock, String>,
}

/// A device of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExaminedDevice {
    /// Its node.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// What part of the pool it is.
    pub role: Role,
    /// The epoch in its label.
    pub epoch: Option<u64>,
    /// Whether both labels are whole.
    pub copies: Copies,
    /// Bytes that it has more than its label says, since it grew.
    pub grown_bytes: u64,
}

/// Whether a pool is active on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Nothing of it is.
    None,
    /// Its devices are: a node serves it, or left them behind.
    Active,
}

/// What a catalogue holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExaminedCatalogue {
    pub volumes: Vec<Volume>,
    pub snapshots: Vec<Snapshot>,
    /// Number of deleted snapshots of which something is kept.
    pub anchors: usize,
    /// Number of changes that were interrupted, and that whoever serves the pool next finishes or undoes.
    pub interrupted: usize,
    /// How often the pool was taken over.
    pub epoch: u64,
    /// How far the last time came.
    pub epoch_step: EpochStep,
}

impl ExaminedCatalogue {
    /// Whether the metadata's transaction id is what this catalogue expects.
    ///
    /// # Errors
    /// A text when one of the two was put back to an earlier state.
    pub fn check_epoch(&self, transaction_id: u64) -> Result<(), String> {
        epoch::check_metadata(self.epoch, self.epoch_step, transaction_id).map(drop)
    }

    /// Whether the label of a device is of the epoch of this catalogue.
    ///
    /// # Errors
    /// A text when that device, or the one with the catalogue, was put back to an earlier state.
    pub fn check_label(&self, device: &ExaminedDevice) -> Result<(), String> {
        epoch::check_label(self.epoch, self.epoch_step, &device.path, device.epoch)
    }
}

/// Looks at the pool whose label is on the device at `path`, which may be either of two.
///
/// # Errors
/// [`PoolError::Format`] when there is no label that counts, or the other device is not there; [`PoolError::Io`].
pub fn examine(path: &Path) -> Result<Examined, PoolError> {
    let devices = PoolDevices::open(path)?;
    let activity = activity(devices.metadata().path());
    Ok(examine_devices(&devices, activity))
}

fn examine_devices(devices: &PoolDevices, activity: Activity) -> Examined {
    let (metadata, data) = (devices.metadata().label(), devices.data().label());
    let catalogue = match (devices.state(), activity) {
        (State::Making, _) => Err("the making of the pool was interrupted: there is nothing in it".to_owned()),
        (_, Activity::Active) => {
            Err("the pool is active on this machine; `windlass pool status` of its node shows it".to_owned())
        }
        (State::Ready, Activity::None) => catalogue(devices),
    };
    let superblock = match devices.state() {
        State::Making => Err("the making of the pool was interrupted".to_owned()),
        State::Ready => superblock(devices),
    };
    let device = |device: &&super::devices::LabelledDevice| ExaminedDevice {
        path: device.path().to_owned(),
        bytes: device.bytes(),
        role: device.label().role,
        epoch: device.label().epoch,
        copies: device.judgement().copies,
        grown_bytes: device.judgement().grown_bytes,
    };
    Examined {
        pool: devices.pool(),
        state: devices.state(),
        activity,
        block_size: metadata.block_size,
        metadata_bytes: metadata.segments.metadata_bytes(),
        data_bytes: data.segments.data_bytes(),
        devices: devices.all().iter().map(device).collect(),
        catalogue,
        superblock,
    }
}

fn catalogue(devices: &PoolDevices) -> Result<ExaminedCatalogue, String> {
    let device = devices.metadata();
    let segment = device.label().segments.catalogue.ok_or("its label names no catalogue")?;
    let open = OpenDevice::open(device.path(), Access::ReadOnly).map_err(|error| chain(&error))?;
    let region = Region::open_for_reading(Box::new(open.into_source()), segment.range());
    let region = region.map_err(|error| format!("the catalogue's region: {}", chain(&error)))?;
    let catalogue = Catalogue::read_only(&region, &device.path().display().to_string()).map_err(|error| chain(&error))?;
    if catalogue.id() != devices.pool() {
        return Err(format!("it is the catalogue of another pool, {}", catalogue.id()));
    }
    let read = || -> Result<ExaminedCatalogue, PoolError> {
        Ok(ExaminedCatalogue {
            volumes: catalogue.volumes()?,
            snapshots: catalogue.snapshots()?,
            anchors: catalogue.anchors()?.len(),
            interrupted: catalogue.intents()?.len(),
            epoch: catalogue.epoch()?,
            epoch_step: catalogue.epoch_step()?,
        })
    };
    read().map_err(|error| chain(&error))
}

fn superblock(devices: &PoolDevices) -> Result<Superblock, String> {
    let device = devices.metadata();
    let first = device.label().segments.metadata.first().ok_or("its label names no metadata")?;
    let open = OpenDevice::open(device.path(), Access::ReadOnly).map_err(|error| chain(&error))?;
    let mut aligned = AlignedBuffer::zeroed(BLOCK_BYTES);
    open.source().read_at(first.range().offset(), &mut aligned).map_err(|error| format!("it cannot be read: {error}"))?;
    let mut bytes = [0; BLOCK_BYTES];
    bytes.copy_from_slice(&aligned);
    let superblock = Superblock::examine(&bytes).map_err(|error| chain(&error))?;
    let labelled = device.label().block_size;
    if superblock.data_block_size != labelled {
        return Err(format!(
            "it is of a pool with data blocks of {} bytes, and the label of one with {}",
            superblock.data_block_size.bytes(),
            labelled.bytes()
        ));
    }
    Ok(superblock)
}

/// Whether anything stands on the device. What is not ours was refused before, by the kernel or by the label.
fn activity(path: &Path) -> Activity {
    // No block device: an image of one, which nothing stands on.
    let Ok((major, minor)) = device::number(path) else { return Activity::None };
    let holders = fs::read_dir(format!("/sys/dev/block/{major}:{minor}/holders"));
    if holders.into_iter().flatten().flatten().next().is_some() { Activity::Active } else { Activity::None }
}

#[cfg(test)]
mod tests;
