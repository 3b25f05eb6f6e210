//! The binding: device-mapper's verbs as methods.
//!
//! * Each changes one thing in the kernel, at once or not at all; there is nothing to undo and nothing that a crash leaves
//!   half done. [`DeviceMapper::activate`] alone is several: made, loaded, resumed, and removed again when one of these
//!   fails. After a crash between them there is a device without a live table, which [`DeviceMapper::info`] tells and which
//!   may be removed.
//! * Messages to a pool are durable when they return, and are sent exactly once: no answer of the kernel makes this send one
//!   again.
//! * Where a call can wait is where the kernel waits: `suspend` for what was written before, `resume` with a new table for
//!   the same, messages and a pool's status for the pool's commit. Nothing here cancels them.

use std::fs::File;
use std::io;
use std::time::Duration;

use super::call::{FIRST_ROOM, NO_DATA, ask};
use super::control_node::{open_control, unavailable};
use super::error::DmError;
use super::event::{self, EventWaiter, Stopper};
use super::message::PoolMessage;
use super::name::{DmName, DmUuid};
use super::raw::{Verb, flag};
use super::reply::{DeviceInfo, InterfaceVersion, ListedDevice, Malformed, Reply, TargetLine};
use super::request::Request;
use super::status::ThinPoolStatus;
#[cfg(any(test, feature = "doubles"))]
use super::status::ThinStatus;
use super::table::{Target, TargetKind};
use crate::failpoint;
use crate::types::Access;
use crate::types::poll::{self, Patience};

/// The interface of Linux 5.13: the first whose list of devices has the uuids. (The call that arms events is older, of 4.37.)
const OLDEST: (u32, u32) = (4, 45);

/// How long [`DeviceMapper::remove`] waits for those who have the device open: udev and blkid look at devices for some
/// milliseconds when they change, whatever they are told. What lasts longer than this is use. The kernel offers no event for it.
const OPENERS: Patience = Patience { limit: Duration::from_millis(800), every: Duration::from_millis(10) };

/// What becomes of a mounted file system when its device is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// It is frozen: everything is written out first, and the device holds a file system as after a clean unmount.
    Freeze,
    /// It is left alone, and its writes wait in the device.
    Leave,
}

/// Whether what is under way is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Until it is done.
    Wait,
    /// It stays under way: only for targets that keep what is queued.
    Skip,
}

/// How a device is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuspendOptions {
    /// What becomes of a mounted file system.
    pub file_system: FileSystem,
    /// What becomes of requests under way.
    pub flush: Flush,
}

/// When a device is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Now, or not at all.
    Now,
    /// Now, or when the last that has it open closes it.
    Deferred,
}

/// An open binding to the kernel's device-mapper.
#[derive(Debug)]
pub struct DeviceMapper {
    control: File,
    version: InterfaceVersion,
}

impl DeviceMapper {
    /// Opens device-mapper, loading its module if the kernel can. A missing node of it is made.
    ///
    /// # Errors
    /// [`DmError::Unavailable`] when the kernel has none or one older than that of Linux 5.13; [`DmError::Io`], without
    /// privileges among it.
    pub fn open() -> Result<Self, DmError> {
        let control = open_control()?;
        let version = ask(&control, &Request::general(Verb::Version), NO_DATA, |reply| Ok(reply.version()))?;
        if (version.major, version.minor) < OLDEST {
            let source = io::Error::other(format!("its interface is {version}, and {}.{} is needed", OLDEST.0, OLDEST.1));
            return Err(unavailable("device-mapper of Linux 5.13 or later", "dm_mod", source));
        }
        Ok(Self { control, version })
    }

    /// The version of the kernel's interface.
    pub fn version(&self) -> InterfaceVersion {
        self.version
    }

    /// The version of a target type, whose module is loaded if the kernel has it.
    ///
    /// # Errors
    /// [`DmError::Unavailable`] when the kernel does not have it.
    pub fn target_version(&self, type_name: &'static str) -> Result<InterfaceVersion, DmError> {
        let request = Request::of_target(Verb::TargetVersion, type_name);
        match ask(&self.control, &request, FIRST_ROOM, |reply| reply.target_version()) {
            Err(DmError::Refused { source, .. }) => {
                let module = format!("dm_{}", type_name.replace('-', "_"));
                Err(unavailable(&format!("device-mapper target `{type_name}`"), &module, source))
            }
            other => other,
        }
    }

    /// Makes a device, which has no table yet and does nothing.
    ///
    /// # Errors
    /// [`DmError::Exists`] when another has the name or the uuid; [`DmError::Io`].
    pub fn create(&self, name: &DmName, uuid: &DmUuid) -> Result<DeviceInfo, DmError> {
        let request = Request::of(Verb::Create, name).uuid(uuid.as_str());
        failpoint::around("dm.create", || self.ask(&request, NO_DATA, |reply| reply.info()))
    }

    /// Loads a table, which becomes live at the next [`DeviceMapper::resume`] and replaces one that was loaded before and has
    /// not.
    ///
    /// # Errors
    /// [`DmError::Missing`]; [`DmError::MissingThin`] for a thin volume that its pool does not have; [`DmError::Busy`] when a
    /// device beneath is mounted or otherwise claimed; [`DmError::Damaged`] for a pool over something else than metadata;
    /// [`DmError::Refused`] for a table that the kernel does not take; [`DmError::Io`].
    pub fn load(&self, name: &DmName, access: Access, table: &[Target]) -> Result<(), DmError> {
        let flags = match access {
            Access::ReadOnly => flag::READ_ONLY,
            Access::ReadWrite => 0,
        };
        let request = Request::of(Verb::TableLoad, name).flags(flags).table(table);
        match failpoint::around("dm.load", || self.ask(&request, NO_DATA, |reply| reply.info())) {
            Ok(_) => Ok(()),
            // The same number when a device beneath has gone.
            Err(DmError::Missing(action)) if self.info(name)?.is_some() => {
                let source = io::Error::new(io::ErrorKind::NotFound, "a device of the table is not there");
                Err(DmError::Refused { action, source })
            }
            Err(error) => Err(error),
        }
    }

    /// Drops a table that was loaded and is not live. None there is success.
    pub fn clear(&self, name: &DmName) -> Result<(), DmError> {
        self.ask(&Request::of(Verb::TableClear, name), NO_DATA, |reply| reply.info()).map(drop)
    }

    /// Makes a loaded table live, after suspending the device if it is not yet, and lets it go on. A device that is going on is
    /// success.
    ///
    /// # Errors
    /// [`DmError::Missing`]; [`DmError::Refused`] when the table does not fit what there is; [`DmError::Io`].
    pub fn resume(&self, name: &DmName) -> Result<DeviceInfo, DmError> {
        let request = Request::of(Verb::Suspend, name).udev_leave_alone();
        failpoint::around("dm.resume", || self.ask(&request, NO_DATA, |reply| reply.info()))
    }

    /// Makes a loaded table live in one call: the device is suspended, mounted file systems left alone, its table replaced, and it goes on, so
    /// that a process that dies leaves it with the one table or the other and going on.
    ///
    /// # Errors
    /// As for [`DeviceMapper::resume`]. A table that does not fit is dropped then, and the device goes on as it was, unless that fails too.
    pub fn replace_table(&self, name: &DmName) -> Result<DeviceInfo, DmError> {
        failpoint::hit("dm.resume.before");
        let request = Request::of(Verb::Suspend, name).flags(flag::SKIP_FREEZE).udev_leave_alone();
        let replaced = self.ask(&request, NO_DATA, |reply| reply.info());
        if replaced.is_err() {
            // The kernel leaves it suspended, with nothing loaded.
            self.resume(name)?;
        }
        failpoint::hit("dm.resume.after");
        replaced
    }

    /// Makes the device wait: when this returns nothing is under way, and what is sent to it is kept until
    /// [`DeviceMapper::resume`]. A suspended device is success.
    pub fn suspend(&self, name: &DmName, options: SuspendOptions) -> Result<(), DmError> {
        let mut request = Request::of(Verb::Suspend, name).flags(flag::SUSPEND);
        if options.file_system == FileSystem::Leave {
            request = request.flags(flag::SKIP_FREEZE);
        }
        if options.flush == Flush::Skip {
            request = request.flags(flag::NO_FLUSH);
        }
        failpoint::around("dm.suspend", || self.ask(&request, NO_DATA, |reply| reply.info()).map(drop))
    }

    /// Makes a device with this table and starts it. On failure there is none.
    pub fn activate(&self, name: &DmName, uuid: &DmUuid, access: Access, table: &[Target]) -> Result<DeviceInfo, DmError> {
        self.create(name, uuid)?;
        self.load(name, access, table).and_then(|()| self.resume(name)).inspect_err(|_| {
            // If this fails too, a device without a live table is left, as after a crash here.
            let _ = self.remove(name, Removal::Now);
        })
    }

    /// Removes a device.
    ///
    /// # Errors
    /// [`DmError::Missing`]; [`DmError::Busy`] when somebody has it open, after a wait of at most 800 ms for short visitors,
    /// or never with [`Removal::Deferred`]; [`DmError::Io`].
    pub fn remove(&self, name: &DmName, removal: Removal) -> Result<(), DmError> {
        let flags = match removal {
            Removal::Now => 0,
            Removal::Deferred => flag::DEFERRED_REMOVE,
        };
        let request = Request::of(Verb::Remove, name).flags(flags).udev_leave_alone();
        let mut busy = None;
        failpoint::around("dm.remove", || {
            // The reply of a removed device describes nothing.
            let removed = poll::until(OPENERS, || match self.ask(&request, NO_DATA, |_| Ok(())) {
                Err(error @ DmError::Busy(_)) => {
                    busy = Some(error);
                    Ok(None)
                }
                other => other.map(Some),
            })?;
            match (removed, busy) {
                (None, Some(busy)) => Err(busy),
                _ => Ok(()),
            }
        })
    }

    /// Takes back a deferred removal. None asked for is success.
    ///
    /// # Errors
    /// Too late is [`DmError::Busy`] in the moment of the removal and [`DmError::Missing`] after it; [`DmError::Io`].
    pub fn cancel_deferred_remove(&self, name: &DmName) -> Result<(), DmError> {
        self.send(name, "@cancel_deferred_remove")
    }

    /// What there is to know of a device; `None` when there is none of this name.
    pub fn info(&self, name: &DmName) -> Result<Option<DeviceInfo>, DmError> {
        match self.ask(&Request::of(Verb::Status, name), NO_DATA, |reply| reply.info()) {
            Ok(info) => Ok(Some(info)),
            Err(DmError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All devices, those of others among them.
    pub fn list(&self) -> Result<Vec<ListedDevice>, DmError> {
        self.ask(&Request::general(Verb::ListDevices).flags(flag::WITH_UUID), FIRST_ROOM, |reply| reply.devices())
    }

    /// The live table; empty when there is none.
    ///
    /// # Errors
    /// [`DmError::Missing`], [`DmError::Io`]; [`DmError::Reply`] for a table with targets or words that are not modelled, and
    /// for a thin volume whose pool has failed.
    pub fn table(&self, name: &DmName) -> Result<Vec<Target>, DmError> {
        let request = Request::of(Verb::TableStatus, name).flags(flag::STATUS_TABLE);
        self.ask(&request, FIRST_ROOM, |reply| reply.targets()?.into_iter().map(target).collect())
    }

    /// The state of a thin pool, after a commit of what changed before (unless it is suspended).
    ///
    /// # Errors
    /// [`DmError::Missing`], [`DmError::Io`]; [`DmError::Reply`] when the device has no live table or is something else.
    pub fn thin_pool_status(&self, name: &DmName) -> Result<ThinPoolStatus, DmError> {
        self.status(Request::of(Verb::TableStatus, name), "thin-pool")
    }

    /// The state of a thin pool as the kernel knows it at this moment, without a commit: nothing is written, and nothing waited for. A
    /// pool that has run out of space and got some back says so from its next commit on, which takes it a second.
    pub fn thin_pool_status_uncommitted(&self, name: &DmName) -> Result<ThinPoolStatus, DmError> {
        self.status(Request::of(Verb::TableStatus, name).flags(flag::NO_FLUSH), "thin-pool")
    }

    /// The state of a thin volume.
    #[cfg(any(test, feature = "doubles"))]
    pub fn thin_status(&self, name: &DmName) -> Result<ThinStatus, DmError> {
        self.status(Request::of(Verb::TableStatus, name), "thin")
    }

    fn status<T>(&self, request: Request<'_>, type_name: &'static str) -> Result<T, DmError>
    where
        T: std::str::FromStr<Err = super::LineError>,
    {
        self.ask(&request, FIRST_ROOM, |reply| {
            let targets = reply.targets()?;
            match targets.as_slice() {
                [only] if only.kind == type_name => only.text.parse().map_err(|error| line(&only.text, error)),
                other => {
                    let found = other.iter().map(|target| target.kind.as_str()).collect::<Vec<_>>().join(", ");
                    Err(Malformed::Targets { expected: type_name, found: if found.is_empty() { "none".into() } else { found } })
                }
            }
        })
    }

    /// Sends a thin pool a message. What it does is durable when this returns.
    ///
    /// # Errors
    /// [`DmError::Missing`] without the pool; [`DmError::ExistsThin`], [`DmError::MissingThin`]; [`DmError::Busy`] for a
    /// volume to delete that is active, and for a second metadata snapshot; [`DmError::PoolReadOnly`]; [`DmError::Refused`]
    /// for another transaction id than the pool's, and for no metadata snapshot to release; [`DmError::Io`], without room for
    /// metadata among it.
    pub fn message(&self, pool: &DmName, message: &PoolMessage) -> Result<(), DmError> {
        let name = match message {
            PoolMessage::CreateThin { .. } => "dm.create_thin",
            PoolMessage::CreateSnap { .. } => "dm.create_snap",
            PoolMessage::Delete { .. } => "dm.delete",
            PoolMessage::SetTransactionId { .. } => "dm.set_transaction_id",
            PoolMessage::ReserveMetadataSnap => "dm.reserve_metadata_snap",
            PoolMessage::ReleaseMetadataSnap => "dm.release_metadata_snap",
        };
        failpoint::around(name, || self.send(pool, &message.to_string()))
    }

    fn send(&self, name: &DmName, text: &str) -> Result<(), DmError> {
        self.ask(&Request::of(Verb::Message, name).message(text), NO_DATA, |_| Ok(()))
    }

    /// Something to wait with for events of any device, and what ends the waiting.
    pub fn events(&self) -> Result<(EventWaiter, Stopper), DmError> {
        event::pair(open_control()?)
    }

    fn ask<T>(
        &self,
        request: &Request<'_>,
        room: usize,
        read: impl FnOnce(&Reply<'_>) -> Result<T, Malformed>,
    ) -> Result<T, DmError> {
        ask(&self.control, request, room, read)
    }
}

fn target(found: TargetLine) -> Result<Target, Malformed> {
    let kind = TargetKind::parse(&found.kind, &found.text);
    let kind = kind.map_err(|error| line(&format!("{} {}", found.kind, found.text), error))?;
    Ok(Target { start: found.start, length: found.length, kind })
}

fn line(line: &str, source: super::LineError) -> Malformed {
    Malformed::Line { line: line.to_owned(), source }
}
