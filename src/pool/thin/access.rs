//! Getting at a pool: device-mapper, device nodes, and the catalogue's device, which is the lock.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use super::devices::PoolDevices;
use super::growth;
use super::stack::Stack;
use crate::dm::node::DIRECTORY;
use crate::dm::{DeviceMapper, DeviceNodes, DmError};
use crate::pool::catalogue::Catalogue;
use crate::pool::{PoolError, Refusal};

pub(super) fn device_mapper() -> Result<Arc<DeviceMapper>, PoolError> {
    DeviceMapper::open().map(Arc::new).map_err(|error| match error {
        error @ DmError::Unavailable { .. } => PoolError::Unsupported(Refusal::because("a thin pool cannot be used here", error)),
        error => PoolError::io("open device-mapper", io::Error::other(error)),
    })
}

pub(super) fn nodes() -> Result<DeviceNodes, PoolError> {
    DeviceNodes::open(Path::new(DIRECTORY)).map_err(|error| PoolError::io("make device nodes", io::Error::other(error)))
}

/// Opens the catalogue on its device, which the owner holds.
pub(super) fn open_catalogue(device: File, path: &Path) -> Result<Catalogue, PoolError> {
    Catalogue::open_device(device, &format!("the catalogue of {}", path.display()))
}

/// Opens the catalogue's device exclusively.
pub(super) fn lock(stack: &Stack, devices: &PoolDevices, path: &Path) -> Result<File, PoolError> {
    let node = stack.activate_catalogue(&growth::places(devices)?)?;
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(&node);
    opened.map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => PoolError::Owned(path.display().to_string()),
        _ => PoolError::io(format!("open {}", node.display()), error),
    })
}
