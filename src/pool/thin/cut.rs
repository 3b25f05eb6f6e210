//! Thin devices that stand still while they are cut.
//!
//! The kernel takes a snapshot of a thin device whose writes are under way without a word, and the snapshot then holds any of them or
//! none. So every device of the set is suspended first, which waits for what is in flight and queues what comes, then all are cut,
//! then all go on. What is mounted was frozen before by the caller ([`Quiesce`](crate::pool::Quiesce)); a device is suspended as it is.
//!
//! A suspended device blocks its writers: [`Stopped`] sees to it that each is resumed. Devices that a dead process left suspended
//! are resumed when the pool is taken over.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::dm::DmName;
use crate::dm::{DeviceMapper, FileSystem, Flush, SuspendOptions};
use crate::failpoint;
use crate::pool::stopped::{Late, Stopped};
use crate::pool::{PoolError, Release};
use crate::types::error::chain;

/// Runs `cut` while `devices` are suspended. An error means that what was cut must be thrown away.
///
/// # Errors
/// Those of `cut`; [`PoolError::Quiesce`] when the devices went on before it was done; [`PoolError::Io`].
pub(super) fn while_suspended<T>(
    dm: &Arc<DeviceMapper>,
    devices: &[DmName],
    deadline: Duration,
    cut: impl FnOnce() -> Result<T, PoolError>,
) -> Result<T, PoolError> {
    if devices.is_empty() {
        return cut();
    }
    let resumer = Arc::clone(dm);
    let suspended = Stopped::until(deadline, move |device: &DmName| resume(&resumer, device))
        .map_err(|error| PoolError::io("start a watchdog", error))?;
    for device in devices {
        let options = SuspendOptions { file_system: FileSystem::Leave, flush: Flush::Wait };
        dm.suspend(device, options).map_err(|error| PoolError::io(format!("suspend {device}"), io::Error::other(error)))?;
        suspended.add(device.clone()).map_err(|Late| late(deadline))?;
        failpoint::hit("thin.suspend.after");
    }
    let made = cut();
    failpoint::hit("thin.resume.before");
    let release = suspended.release();
    failpoint::hit("thin.resume.after");
    match (made, release) {
        (Err(error), _) => Err(error),
        (Ok(value), Release::InTime) => Ok(value),
        (Ok(_), Release::Expired) => Err(late(deadline)),
    }
}

fn late(deadline: Duration) -> PoolError {
    PoolError::Quiesce(
        format!("the cut took longer than {} s and its volumes went on before it was done", deadline.as_secs()).into(),
    )
}

/// A device that is not resumed leaves somebody's writers blocked: it is tried again at once, and then said loudly.
fn resume(dm: &DeviceMapper, device: &DmName) {
    match dm.resume(device).or_else(|_| dm.resume(device)) {
        Ok(_) => tracing::debug!(%device, "resumed"),
        Err(error) => {
            tracing::error!(%device, error = %chain(&error), "a volume could not be resumed; run `dmsetup resume` on it")
        }
    }
}
