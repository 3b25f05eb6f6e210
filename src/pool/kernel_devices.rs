//! Devices of volumes, found in the kernel without their pools.
//!
//! A device outlives the process that made it, and it may outlive its pool: the disk was moved to another machine, or died. Mounts of
//! it must still come off, and it must go, or a pod of this node never ends. So a device is told by what the kernel keeps of it:
//!
//! * a loop device by the path of its file, which ends in the volume's id, for that is how reflink pools name them;
//! * a thin device by its uuid in device-mapper, which has the ids of the pool and of the volume.
//!
//! No file of the pool is opened, and no catalogue asked. Ids are random, so nothing else has the name by chance; a device that somebody
//! made of a copy of a pool, by hand, is taken for the volume's.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::thin::names::{Names, Part};
use super::{PoolError, reflink, thin};
use crate::block::loop_device::{self, LoopError};
use crate::block::sysfs::{self, Beneath, StackedDevice};
use crate::dm::node::DIRECTORY;
use crate::types::{Object, VolumeHandle};

/// A device of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelDevice {
    /// Its node, as its pool names it.
    pub path: PathBuf,
    /// Its number (major, minor).
    pub number: (u32, u32),
}

/// The door to them: the kernel, or a double of it in tests.
pub trait KernelDevices: Send + Sync + fmt::Debug {
    /// The devices of a volume: none or one, if nobody made another by hand.
    fn of_volume(&self, volume: VolumeHandle) -> Result<Vec<KernelDevice>, PoolError>;

    /// Whether there is nothing behind a device node of this name and number any more: its loop device has no file.
    fn is_void(&self, name: &str, number: (u32, u32)) -> Result<bool, PoolError>;

    /// Removes the devices of a volume. None is success.
    ///
    /// # Errors
    /// [`PoolError::InUse`] while one is open or mounted; [`PoolError::Io`].
    fn detach(&self, volume: VolumeHandle) -> Result<(), PoolError>;
}

/// The devices of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDevices;

impl KernelDevices for SystemDevices {
    fn of_volume(&self, volume: VolumeHandle) -> Result<Vec<KernelDevice>, PoolError> {
        let path = |device: &StackedDevice| match &device.beneath {
            Beneath::File(_) => Path::new("/dev").join(&device.name),
            Beneath::Mapped { name, .. } => Path::new(DIRECTORY).join(name),
        };
        let ours = listed(volume)?.into_iter();
        Ok(ours.map(|device| KernelDevice { path: path(&device), number: device.number }).collect())
    }

    fn is_void(&self, name: &str, number: (u32, u32)) -> Result<bool, PoolError> {
        let is_loop = name.strip_prefix("loop").is_some_and(|rest| rest.parse::<u32>().is_ok());
        let beneath = || sysfs::beneath(number).map_err(|error| PoolError::io(format!("look at {name}"), error));
        Ok(is_loop && beneath()?.is_none())
    }

    fn detach(&self, volume: VolumeHandle) -> Result<(), PoolError> {
        let object = Object::Volume(volume.volume);
        for device in listed(volume)? {
            match (&device.beneath, device.loop_number()) {
                (Beneath::File(backing), Some(number)) => {
                    loop_device::detach_from(number, backing).map_err(|error| match error {
                        LoopError::Busy(path) => PoolError::InUse { object, by: format!("{}, which is open", path.display()) },
                        error => PoolError::io(format!("detach {object}"), io::Error::other(error)),
                    })?;
                }
                (Beneath::File(_), None) => continue,
                (Beneath::Mapped { .. }, _) => thin::remove_device(volume)?,
            }
            tracing::info!(%object, device = device.name, "detached without its pool");
        }
        Ok(())
    }
}

/// What the kernel has of a volume.
fn listed(volume: VolumeHandle) -> Result<Vec<StackedDevice>, PoolError> {
    let mut listed = sysfs::stacked_devices().map_err(|error| PoolError::io("list the devices of the kernel", error))?;
    listed.retain(|device| match &device.beneath {
        Beneath::File(path) => reflink::is_file_of(path, volume.volume),
        Beneath::Mapped { uuid, .. } => is_thin_device_of(uuid, volume),
    });
    Ok(listed)
}

fn is_thin_device_of(uuid: &str, volume: VolumeHandle) -> bool {
    Names::new(volume.pool).part_of(uuid) == Some(Part::Object(Object::Volume(volume.volume)))
}

/// Whether a file of `/dev`, as the mount table names it, is the node of a volume's thin device, which names it in full: also when it
/// was removed since.
pub fn is_thin_node_of(node: &Path, volume: VolumeHandle) -> bool {
    let node = sysfs::without_deletion_mark(node).unwrap_or_else(|| node.to_owned());
    let name = Names::new(volume.pool).name(Part::Object(Object::Volume(volume.volume)));
    name.is_ok_and(|name| node.file_name().is_some_and(|found| found == name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PoolId, VolumeId};

    fn handle() -> VolumeHandle {
        VolumeHandle { pool: PoolId::random(), volume: VolumeId::random() }
    }

    #[test]
    fn a_thin_device_belongs_to_its_volume_and_pool_alone() {
        let (volume, other) = (handle(), handle());
        let text = |volume: VolumeHandle| format!("windlass-{}-v-{}", volume.pool, volume.volume);
        assert!(is_thin_device_of(&format!("WINDLASS-{}", text(volume)), volume));
        assert!(!is_thin_device_of(&format!("WINDLASS-{}", text(other)), volume));
        for node in [format!("/windlass/{}", text(volume)), format!("/windlass/{}//deleted", text(volume))] {
            assert!(is_thin_node_of(Path::new(&node), volume), "{node}");
            assert!(!is_thin_node_of(Path::new(&node), other), "{node}");
        }
        let elsewhere = VolumeHandle { pool: PoolId::random(), ..volume };
        assert!(!is_thin_node_of(Path::new(&format!("/windlass/{}", text(volume))), elsewhere));
    }

    #[test]
    fn a_volume_that_has_no_device_has_none_in_the_kernel_either() {
        assert_eq!(SystemDevices.of_volume(handle()).unwrap(), []);
    }
}
