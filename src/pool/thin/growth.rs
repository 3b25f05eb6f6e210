//! Growth of a pool with its device.
//!
//! Order: the new layout into the labels (second copy first, each durable), then the tables in the kernel. Before the labels nothing
//! refers to the new space; after them, whoever activates the pool gives it the new space, so a crash between costs nothing, and so
//! does an error: the next call goes on. Devices never shrink; one that did is an error, and nothing is changed.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::devices::PoolDevices;
use super::label::{Label, usable_bytes};
use super::layout::{self, MetadataNeed};
use super::stack::{Place, Places, Stack};
use crate::block::device;
use crate::dm::DeviceNumber;
use crate::pool::{PoolError, Refusal};

/// What lies where, over the devices of a pool.
///
/// # Errors
/// [`PoolError::Format`] when the labels lack a part; [`PoolError::Io`].
pub(super) fn places(devices: &PoolDevices) -> Result<Places, PoolError> {
    let (metadata, data) = (devices.metadata(), devices.data());
    let (on_metadata, on_data) = (number(metadata.path())?, number(data.path())?);
    let catalogue = metadata.label().segments.catalogue;
    let lacking = || PoolError::Format(format!("{}: its label names no catalogue", metadata.path().display()).into());
    Ok(Places {
        catalogue: Place { device: on_metadata, segment: catalogue.ok_or_else(lacking)? },
        metadata: metadata.label().segments.metadata.iter().map(|&segment| Place { device: on_metadata, segment }).collect(),
        data: data.label().segments.data.iter().map(|&segment| Place { device: on_data, segment }).collect(),
        block_size: metadata.label().block_size,
    })
}

fn number(path: &Path) -> Result<DeviceNumber, PoolError> {
    let io = |error| PoolError::io(format!("look at {}", path.display()), error);
    let (major, minor) = device::number(path).map_err(io)?;
    DeviceNumber::new(major, minor)
        .ok_or_else(|| PoolError::Format(format!("{}: {major}:{minor} is not the number of a device", path.display()).into()))
}

/// Whether a pool was given more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grown {
    /// It was.
    Yes,
    /// There is nothing more.
    No,
}

/// The devices of an owned pool, and the tables over them.
pub(super) struct Growth {
    devices: PoolDevices,
    stack: Arc<Stack>,
    /// The labels are ahead of the tables.
    is_pending: bool,
}

impl Growth {
    /// Of a pool that this process owns, whose tables are those of the labels.
    pub(super) fn new(devices: PoolDevices, stack: Arc<Stack>) -> Self {
        Self { devices, stack, is_pending: false }
    }

    /// Gives the pool whatever its devices have more than before.
    ///
    /// # Errors
    /// [`PoolError::Format`] when a device is smaller than what is on it, or was enlarged too often; [`PoolError::Io`].
    pub(super) fn grow(&mut self, need: MetadataNeed) -> Result<Grown, PoolError> {
        self.is_pending |= lay_out(&mut self.devices, need)?;
        if !self.is_pending {
            return Ok(Grown::No);
        }
        let places = places(&self.devices)?;
        self.stack.activate_metadata(&places)?;
        self.stack.activate_pool(&places)?;
        self.stack.notice_growth()?;
        self.is_pending = false;
        tracing::info!(pool = %self.devices.pool(), data_bytes = places.data_bytes(), "pool grown");
        Ok(Grown::Yes)
    }
}

/// Lays out the new space of devices that grew, in their labels; whether any did.
pub(super) fn lay_out(devices: &mut PoolDevices, need: MetadataNeed) -> Result<bool, PoolError> {
    let mut has_grown = false;
    for one in devices.all_mut() {
        let path = one.path().to_owned();
        let io = |error| PoolError::io(format!("look at {}", path.display()), error);
        let bytes = File::open(&path).and_then(|file| device::size(&file)).map_err(io)?;
        let label = one.label();
        if usable_bytes(bytes) == label.device_bytes {
            continue;
        }
        let refuse = |error| PoolError::Format(Refusal::because(format!("{} was not changed", path.display()), error));
        let grown = layout::grow(label.role, &label.segments, label.block_size, bytes, need).map_err(refuse)?;
        let Some(segments) = grown else { continue };
        let label = Label { segments, device_bytes: usable_bytes(bytes), ..label.clone() };
        one.write(label)?;
        tracing::info!(device = %path.display(), bytes, "the device grew, and its label with it");
        has_grown = true;
    }
    Ok(has_grown)
}
