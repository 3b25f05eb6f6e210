//! Thin devices of objects: made when somebody opens or attaches an object, found by asking the kernel, never remembered.
//!
//! One device for an object, or none. It lives in the kernel and outlives this process, so a volume stays usable while the driver is
//! replaced. Two ways to get one:
//!
//! * *attached*: stays until it is detached. Its node is `/dev/windlass/NAME`, made by us, for nobody else needs to see it;
//! * *opened* for a descriptor only: made, opened, and at once marked for *deferred removal*, so that the kernel removes it when the
//!   last descriptor is closed, whoever holds it and however that process ends. Attached meanwhile, the mark is taken back. One that
//!   only reads and that nobody has open any more makes way for somebody who writes.
//!
//! Making one is four steps (create, load the table, resume, make the node), each of which may be the last before a crash: a device
//! without a table is loaded, a node that is missing or shows another device is made anew, whenever the device is asked for. What an
//! interrupted attempt left and nobody asks for again is removed with its object.
//!
//! One mutex orders all of it within the process, so that nobody opens what another is just removing, nor takes one that is being opened
//! for a descriptor, and is not marked yet, for attached. It is never held for a walk or a cut.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::names::{Names, Part};
use crate::dm::DeviceNodes;
use crate::dm::DmError;
use crate::dm::units::Sectors;
use crate::dm::{DeviceInfo, DeviceMapper, Removal};
use crate::dm::{DeviceNumber, DmName};
use crate::dm::{Target, TargetKind};
use crate::failpoint;
use crate::pool::record::ThinObject;
use crate::pool::{Attachment, PoolError};
use crate::types::error::chain;
use crate::types::{Access, Object, VolumeSize};

/// The thin devices of one pool.
pub(super) struct ThinDevices {
    dm: Arc<DeviceMapper>,
    nodes: Arc<DeviceNodes>,
    names: Names,
    pool: DeviceNumber,
    order: Mutex<()>,
}

impl ThinDevices {
    /// The thin devices over the pool's device `pool`.
    pub(super) fn new(dm: Arc<DeviceMapper>, nodes: Arc<DeviceNodes>, names: Names, pool: DeviceNumber) -> Self {
        Self { dm, nodes, names, pool, order: Mutex::new(()) }
    }

    fn in_order(&self) -> MutexGuard<'_, ()> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, object: Object) -> Result<DmName, PoolError> {
        self.names.name(Part::Object(object))
    }

    /// The device of an object, whatever it is there for.
    fn info(&self, object: Object) -> Result<Option<DeviceInfo>, PoolError> {
        self.dm.info(&self.name(object)?).map_err(|error| failed("look for the device of", object, error))
    }

    /// The device under which an object can be written to at this moment.
    pub(super) fn writable(&self, object: Object) -> Result<Option<DmName>, PoolError> {
        let _order = self.in_order();
        let is_writable = self.info(object)?.is_some_and(|info| info.live_table && info.access == Access::ReadWrite);
        if is_writable { self.name(object).map(Some) } else { Ok(None) }
    }

    /// Makes sure that an object has no device, so that it can be deleted. One that goes with its last descriptor goes a moment
    /// after that was closed; it is removed now.
    ///
    /// # Errors
    /// [`PoolError::InUse`] while it is attached, or a descriptor is open.
    pub(super) fn check_none(&self, object: Object) -> Result<(), PoolError> {
        let found = {
            let _order = self.in_order();
            self.info(object)?
        };
        match found {
            None => Ok(()),
            Some(info) if info.deferred_remove => self.detach(object),
            Some(_) => Err(PoolError::InUse { object, by: "its device".to_owned() }),
        }
    }

    /// The attachment of an object, if it is attached.
    pub(super) fn attachment(&self, object: Object) -> Result<Option<Attachment>, PoolError> {
        let _order = self.in_order();
        match self.info(object)? {
            Some(info) if info.live_table && !info.deferred_remove => {
                let device = self.node(object, &info)?;
                Ok(Some(Attachment { device, access: info.access }))
            }
            _ => Ok(None),
        }
    }

    /// Attaches an object, or says how it is attached.
    pub(super) fn attach(&self, thin: &ThinObject, access: Access) -> Result<Attachment, PoolError> {
        let _order = self.in_order();
        let object = thin.object;
        let name = self.name(object)?;
        if let Some(info) = self.usable(object, access)? {
            let kept = !info.deferred_remove || self.keep(&name, object)?;
            if kept {
                let device = self.node(object, &info)?;
                return Ok(Attachment { device, access: info.access });
            }
            // It went at the last moment; what is made now is another.
        }
        let info = self.make(thin, access)?;
        failpoint::hit("thin.activate.after");
        Ok(Attachment { device: self.node(object, &info)?, access: info.access })
    }

    /// The device of an object, if it has one that can be used for `access`. One that only reads and goes with its last descriptor goes a
    /// moment after that was closed: for somebody who writes it is removed now.
    fn usable(&self, object: Object, access: Access) -> Result<Option<DeviceInfo>, PoolError> {
        let Some(info) = self.info(object)?.filter(|info| info.live_table) else { return Ok(None) };
        if info.access == Access::ReadWrite || access == Access::ReadOnly {
            return Ok(Some(info));
        }
        let in_use = || PoolError::InUse { object, by: "its device, which is read-only".to_owned() };
        if !info.deferred_remove {
            return Err(in_use());
        }
        let name = self.name(object)?;
        match self.dm.remove(&name, Removal::Now) {
            Ok(()) | Err(DmError::Missing(_)) => {
                self.remove_node(&name);
                Ok(None)
            }
            Err(DmError::Busy(_)) => Err(in_use()),
            Err(error) => Err(failed("remove the device of", object, error)),
        }
    }

    /// Takes back the mark of a device that goes with its last descriptor; whether it is still there.
    fn keep(&self, name: &DmName, object: Object) -> Result<bool, PoolError> {
        match self.dm.cancel_deferred_remove(name) {
            Ok(()) => Ok(true),
            Err(DmError::Missing(_) | DmError::Busy(_)) => Ok(false),
            Err(error) => Err(failed("keep the device of", object, error)),
        }
    }

    /// A descriptor of an object's device, which lasts as long as the descriptor unless the object is attached.
    pub(super) fn open(&self, thin: &ThinObject, access: Access) -> Result<File, PoolError> {
        let _order = self.in_order();
        let object = thin.object;
        let name = self.name(object)?;
        let present = self.usable(object, access)?;
        let is_attached = present.as_ref().is_some_and(|info| !info.deferred_remove);
        if let Some(info) = &present {
            match self.open_node(object, info, access) {
                Ok(file) => {
                    if !is_attached {
                        self.remove_node(&name);
                    }
                    return Ok(file);
                }
                // The last descriptor was closed meanwhile, and the device went with it.
                Err(_) if !is_attached => {}
                Err(error) => return Err(error),
            }
        }
        let info = self.make(thin, access)?;
        let file = self.open_node(object, &info, access);
        if let Err(error) = self.dm.remove(&name, Removal::Deferred) {
            // It stays, as if it were attached; it is removed with the object, or when the pool is taken down.
            tracing::warn!(%object, error = %chain(&error), "the device of a descriptor is not removed with it");
        }
        self.remove_node(&name);
        file
    }

    /// Removes the device of an object.
    pub(super) fn detach(&self, object: Object) -> Result<(), PoolError> {
        let _order = self.in_order();
        let name = self.name(object)?;
        match self.dm.remove(&name, Removal::Now) {
            Ok(()) | Err(DmError::Missing(_)) => {
                self.remove_node(&name);
                Ok(())
            }
            Err(DmError::Busy(_)) => {
                let by = format!("{name}, which is open or mounted");
                Err(PoolError::InUse { object, by })
            }
            Err(error) => Err(failed("remove the device of", object, error)),
        }
    }

    /// Brings the device of a volume, if it has one, to a new size.
    pub(super) fn resize(&self, thin: &ThinObject, size: VolumeSize) -> Result<(), PoolError> {
        let _order = self.in_order();
        let object = thin.object;
        let Some(info) = self.info(object)?.filter(|info| info.live_table) else { return Ok(()) };
        let name = self.name(object)?;
        let failed = |error| failed("grow the device of", object, error);
        self.dm.load(&name, info.access, &[self.target(thin, size)?]).map_err(failed)?;
        // What is mounted is left as it is: its file system may be frozen by somebody, and need not be still for this.
        self.dm.replace_table(&name).map(drop).map_err(failed)
    }

    fn target(&self, thin: &ThinObject, size: VolumeSize) -> Result<Target, PoolError> {
        let length = Sectors::from_bytes(size.bytes())
            .ok_or_else(|| PoolError::Size(format!("{} bytes are not a whole number of sectors", size.bytes())))?;
        Ok(Target { start: Sectors::default(), length, kind: TargetKind::Thin { pool: self.pool, id: thin.id } })
    }

    /// Makes the device, or finishes what an interrupted attempt began.
    fn make(&self, thin: &ThinObject, access: Access) -> Result<DeviceInfo, PoolError> {
        let object = thin.object;
        let name = self.name(object)?;
        let failed = |error| failed("make the device of", object, error);
        match self.dm.create(&name, &self.names.uuid(Part::Object(object))?) {
            Ok(_) | Err(DmError::Exists(_)) => {}
            Err(error) => return Err(failed(error)),
        }
        let table = self.target(thin, thin.size)?;
        let made = self.dm.load(&name, access, &[table]).and_then(|()| self.dm.resume(&name));
        made.map_err(|error| {
            if let Err(left) = self.dm.remove(&name, Removal::Now) {
                tracing::warn!(%object, error = %chain(&left), "a device without a table is left until its object is asked for again");
            }
            failed(error)
        })
    }

    fn node(&self, object: Object, info: &DeviceInfo) -> Result<PathBuf, PoolError> {
        let name = self.name(object)?;
        let made = self.nodes.make(&name, info.number);
        made.map_err(|error| PoolError::io(format!("make the node of {name}"), io::Error::other(error)))
    }

    fn open_node(&self, object: Object, info: &DeviceInfo, access: Access) -> Result<File, PoolError> {
        let path = self.node(object, info)?;
        let failed = |error| PoolError::io(format!("open {}", path.display()), error);
        let file = File::options().read(true).write(access == Access::ReadWrite).open(&path).map_err(failed)?;
        // One that goes with its last descriptor may have gone before this one was there, and its number to a device of somebody else.
        // From here on neither can happen.
        match self.info(object)? {
            Some(now) if now.number == info.number => Ok(file),
            _ => Err(failed(io::Error::other("it is gone, and another device may have its number"))),
        }
    }

    fn remove_node(&self, name: &DmName) {
        if let Err(error) = self.nodes.remove(name) {
            tracing::warn!(%name, error = %chain(&error), "a device node is left");
        }
    }
}

fn failed(what: &str, object: Object, error: DmError) -> PoolError {
    PoolError::io(format!("{what} {object}"), io::Error::other(error))
}
