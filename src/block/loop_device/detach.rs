//! Detaching, confirmed by looking; what is in use stays exactly as it was.

use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use super::model::{LoopDevice, LoopError};
use super::node::{is_gone, look, node_path};
use super::{raw, search};
use crate::block::sysfs::{self, Beneath};
use crate::failpoint;
use crate::types::poll::{self, Patience};

/// How long [`detach`] waits for those who have the device open: udev and blkid look at devices for some milliseconds when
/// they change. What lasts longer than this is use. The kernel offers no event for it.
const OPENERS: Patience = Patience { limit: Duration::from_millis(800), every: Duration::from_millis(10) };

/// Detaches a device, confirmed by looking. Nothing or another file attached there by now is success.
///
/// # Errors
/// [`LoopError::Busy`] when it is mounted, claimed or open, after a wait of at most 800 ms for short visitors; it is left as it
/// was. [`LoopError::Io`].
pub fn detach(device: &LoopDevice) -> Result<(), LoopError> {
    failpoint::around("block.detach", || {
        let gone = poll::until(OPENERS, || Ok((detach_once(device)? == Detached::Gone).then_some(())))?;
        gone.ok_or_else(|| LoopError::Busy(device.path.clone()))?;
        search::forget(device.backing);
        Ok(())
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detached {
    Gone,
    InUse,
}

fn detach_once(device: &LoopDevice) -> Result<Detached, LoopError> {
    let io = |what: &str| LoopError::io(format!("{what} {}", device.path.display()));
    // A claim: mounts, other exclusive openers and device-mapper refuse it, and are refused while it is held.
    let node = match OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC).open(&device.path) {
        Ok(node) => node,
        Err(error) if is_gone(&error) => return Ok(Detached::Gone),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            return Ok(if is_attached(device)? { Detached::InUse } else { Detached::Gone });
        }
        Err(error) => return Err(io("open")(error)),
    };
    match raw::status(node.as_fd()) {
        Ok(info) if info.backing() == device.backing => {}
        Ok(_) => return Ok(Detached::Gone),
        Err(error) if is_gone(&error) => return Ok(Detached::Gone),
        Err(error) => return Err(io("state of")(error)),
    }
    match raw::clear(node.as_fd()) {
        Ok(()) => {}
        Err(error) if is_gone(&error) => return Ok(Detached::Gone),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(Detached::InUse),
        Err(error) => return Err(io("detach")(error)),
    }
    match raw::status(node.as_fd()) {
        // Others have it open: it is marked to vanish at its last close, which may be days from now. Take the mark back.
        Ok(mut info) if info.backing() == device.backing => {
            info.set_vanishing(device.vanishing);
            match raw::set_status(node.as_fd(), &mut info) {
                Ok(()) => return Ok(Detached::InUse),
                // It went in that moment.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(io("keep")(error)),
            }
        }
        Ok(_) => return Ok(Detached::Gone),
        // Only we have it open, and the kernel lets nobody in any more: it goes when we close it.
        Err(error) if is_gone(&error) => {}
        Err(error) => return Err(io("state of")(error)),
    }
    drop(node);
    Ok(if is_attached(device)? { Detached::InUse } else { Detached::Gone })
}

fn is_attached(device: &LoopDevice) -> Result<bool, LoopError> {
    Ok(look(device.number)?.is_some_and(|now| now.backing == device.backing))
}

/// Detaches the loop device with this number from the file of this path, as the kernel keeps it, without asking the file's file system:
/// that may be dead, or not be mounted any more. Nothing or another file attached there by now is success.
///
/// # Errors
/// [`LoopError::Busy`] when it is mounted, claimed or open, after a wait as of [`detach`]. Where it is only open, it goes when it is
/// closed. [`LoopError::Io`].
pub fn detach_from(number: u32, backing: &Path) -> Result<(), LoopError> {
    let path = node_path(number)?;
    let is_behind = || match sysfs::beneath_loop(number) {
        Ok(found) => Ok(found == Some(Beneath::File(backing.to_owned()))),
        Err(error) => Err(LoopError::io(format!("file of {}", path.display()))(error)),
    };
    let detach = || -> Result<Option<()>, LoopError> {
        if !is_behind()? {
            return Ok(Some(()));
        }
        match OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC).open(&path) {
            // While it is claimed nobody attaches another file to it.
            Ok(node) if is_behind()? => match raw::clear(node.as_fd()) {
                Ok(()) => {}
                Err(error) if is_gone(&error) || error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(LoopError::io(format!("detach {}", path.display()))(error)),
            },
            Ok(_) => return Ok(Some(())),
            Err(error) if is_gone(&error) => return Ok(Some(())),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(LoopError::io(format!("open {}", path.display()))(error)),
        }
        Ok((!is_behind()?).then_some(()))
    };
    failpoint::around("block.detach", || poll::until(OPENERS, detach)?.ok_or_else(|| LoopError::Busy(path.clone())))
}
