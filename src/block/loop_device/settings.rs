//! Changing what is attached, in use or not.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use super::model::{LoopDevice, LoopError};
use super::raw;

/// Lets the device take the size its file has now.
///
/// # Errors
/// [`LoopError::Io`], also when the device does not have the size afterwards.
pub fn refresh_capacity(device: &LoopDevice) -> Result<(), LoopError> {
    let action = || format!("new size of {}", device.path.display());
    let node = File::open(&device.path).map_err(LoopError::io(action()))?;
    let info = raw::status(node.as_fd()).map_err(LoopError::io(action()))?;
    if info.backing() != device.backing {
        return Err(LoopError::io(action())(io::Error::other("another file is behind it")));
    }
    raw::refresh_capacity(node.as_fd()).map_err(LoopError::io(action()))
}

/// Lets the device go through the page cache of the file system beneath from now on. It may be in use.
pub fn end_direct_io(device: &LoopDevice) -> Result<(), LoopError> {
    let action = || format!("end direct I/O of {}", device.path.display());
    let node = File::open(&device.path).map_err(LoopError::io(action()))?;
    let info = raw::status(node.as_fd()).map_err(LoopError::io(action()))?;
    if info.backing() != device.backing {
        return Err(LoopError::io(action())(io::Error::other("another file is behind it")));
    }
    raw::end_direct_io(node.as_fd()).map_err(LoopError::io(action()))
}
