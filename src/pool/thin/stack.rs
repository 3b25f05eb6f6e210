//! The devices beneath the thin devices: catalogue, metadata, data, and the thin pool over the last two.
//!
//! ```text
//! thin devices of objects                  `devices`
//! thin-pool      windlass-ID-pool
//! linear         windlass-ID-metadata   windlass-ID-data   windlass-ID-catalogue
//! ------------------------------------------------------------------------------
//! the device (or two), by the segments of its label
//! ```
//!
//! They live in the kernel and outlive this process: a new owner finds them, compares their tables with what the label says, and
//! goes on with them. A table that is shorter than the label's, segment for segment the same up to there, is of before a growth and
//! is replaced; any other difference is refused, for somebody else is at the devices.
//!
//! **Order**: the catalogue's device first, since whoever has it open exclusively owns the pool; the rest only by its owner.
//! Each device is made in steps that may be repeated ([`ensure`]). Growth loads the tables from below upwards, and the pool's last:
//! it takes notice of larger devices when it is resumed. A crash between leaves larger devices beneath a smaller pool, and the next
//! owner goes on.
//!
//! It never makes a pool over metadata that it has not seen to be a pool's: the kernel would format them
//! ([`super::open`] looks first).

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::label::Segment;
use super::names::{Names, Part};
use crate::dm::DataBlocks;
use crate::dm::DmError;
use crate::dm::units::{DataBlockSize, Sectors};
use crate::dm::{DeviceInfo, DeviceMapper, Removal};
use crate::dm::{DeviceNodes, NodeError};
use crate::dm::{DeviceNumber, DmName};
use crate::dm::{PoolFeatures, Target, TargetKind};
use crate::failpoint;
use crate::pool::{PoolError, PoolUsage};
use crate::types::error::chain;
use crate::types::{Access, Object};

/// A segment and the device it lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) device: DeviceNumber,
    pub(super) segment: Segment,
}

/// What lies where, over all devices of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) catalogue: Place,
    pub(super) metadata: Vec<Place>,
    pub(super) data: Vec<Place>,
    pub(super) block_size: DataBlockSize,
}

impl Places {
    /// Bytes of data: whole data blocks only.
    pub(super) fn data_bytes(&self) -> u64 {
        let bytes = length(&self.data);
        bytes - bytes % self.block_size.bytes()
    }
}

/// The devices of one pool.
pub(super) struct Stack {
    dm: Arc<DeviceMapper>,
    nodes: Arc<DeviceNodes>,
    names: Names,
}

impl Stack {
    pub(super) fn new(dm: Arc<DeviceMapper>, nodes: Arc<DeviceNodes>, names: Names) -> Self {
        Self { dm, nodes, names }
    }

    pub(super) fn names(&self) -> Names {
        self.names
    }

    /// The node of a device that is active.
    pub(super) fn node(&self, part: Part) -> Result<PathBuf, PoolError> {
        let name = self.names.name(part)?;
        let info = self.dm.info(&name).map_err(|error| failed("look at", &name, error))?;
        let info = info.ok_or_else(|| PoolError::io(format!("open the device {name}"), io::ErrorKind::NotFound.into()))?;
        self.nodes.make(&name, info.number).map_err(|error| no_node(&name, error))
    }

    /// Makes the catalogue's device, or finds it; its node.
    pub(super) fn activate_catalogue(&self, places: &Places) -> Result<PathBuf, PoolError> {
        let name = self.names.name(Part::Catalogue)?;
        // One that an earlier owner left to be removed with its last descriptor stays for us.
        let deferred = self.dm.info(&name).map_err(|error| failed("look for", &name, error))?;
        if deferred.is_some_and(|info| info.deferred_remove) {
            match self.dm.cancel_deferred_remove(&name) {
                Ok(()) | Err(DmError::Missing(_) | DmError::Busy(_)) => {}
                Err(error) => return Err(failed("keep", &name, error)),
            }
        }
        self.ensure(Part::Catalogue, &linear(&[places.catalogue])?)?;
        failpoint::hit("thin.catalogue_device.after");
        self.node(Part::Catalogue)
    }

    /// Makes the metadata's device, or finds it; brings it to the size of `places`. For the owner.
    pub(super) fn activate_metadata(&self, places: &Places) -> Result<DeviceInfo, PoolError> {
        let metadata = self.ensure(Part::Metadata, &linear(&places.metadata)?)?;
        failpoint::hit("thin.metadata_device.after");
        Ok(metadata)
    }

    /// The metadata's device, open for reading.
    pub(super) fn open_metadata(&self, places: &Places) -> Result<File, PoolError> {
        self.activate_metadata(places)?;
        let path = self.node(Part::Metadata)?;
        File::open(&path).map_err(|error| PoolError::io(format!("open {}", path.display()), error))
    }

    /// Makes data and the pool over them and the metadata, or finds them; brings them to the size of `places`. For the owner, when
    /// the metadata is known to be a pool's.
    pub(super) fn activate_pool(&self, places: &Places) -> Result<DeviceInfo, PoolError> {
        let metadata = self.activate_metadata(places)?;
        let data = self.ensure(Part::Data, &linear(&places.data)?)?;
        failpoint::hit("thin.data_device.after");
        let bytes = places.data_bytes();
        let kind = TargetKind::ThinPool {
            metadata: metadata.number,
            data: data.number,
            block_size: places.block_size,
            // New volumes are refused from here on; the monitor is woken to say so.
            low_water: DataBlocks::new(PoolUsage::reserve_of(bytes) / places.block_size.bytes()),
            features: PoolFeatures::default(),
        };
        let target = Target { start: Sectors::default(), length: sectors(bytes)?, kind };
        let pool = self.ensure(Part::Pool, &[target])?;
        failpoint::hit("thin.pool_device.after");
        Ok(pool)
    }

    /// Makes the pool look at the size of its metadata: it does so when it is resumed. One that went read-only because they were used
    /// up is writable again, unless it says that they must be checked.
    pub(super) fn notice_growth(&self) -> Result<(), PoolError> {
        let name = self.names.name(Part::Pool)?;
        // The table that it has, once more: to replace it is one call, and there is no moment in which a death leaves the pool suspended.
        let table = self.dm.table(&name).map_err(|error| failed("read the table of", &name, error))?;
        let noticed = self.dm.load(&name, Access::ReadWrite, &table).and_then(|()| self.dm.replace_table(&name));
        noticed.map(drop).map_err(|error| failed("resume", &name, error))
    }

    /// Whether the kernel has the pool and has given it up: it could not read or write its metadata. Whatever becomes of the disk,
    /// and whatever table it is given, it fails all I/O until it is removed.
    pub(super) fn is_given_up(&self) -> Result<bool, PoolError> {
        let name = self.names.name(Part::Pool)?;
        let info = self.dm.info(&name).map_err(|error| failed("look for", &name, error))?;
        if info.is_none_or(|info| !info.live_table) {
            return Ok(false);
        }
        let status =
            self.dm.thin_pool_status_uncommitted(&name).map_err(|error| failed("ask for the status of", &name, error))?;
        Ok(status.running().is_none())
    }

    /// Removes everything that no thin device stands on any more; whether that was all.
    pub(super) fn take_down(&self) -> Result<TakenDown, PoolError> {
        let listed = self.dm.list().map_err(|error| PoolError::io("list the devices", io::Error::other(error)))?;
        let is_object = |uuid: &str| matches!(self.names.part_of(uuid), Some(Part::Object(_)));
        if listed.iter().any(|device| device.uuid.as_deref().is_some_and(is_object)) {
            return Ok(TakenDown::InUse);
        }
        for part in [Part::Pool, Part::Data, Part::Metadata, Part::Catalogue] {
            self.remove(part)?;
        }
        Ok(TakenDown::All)
    }

    /// The thin devices of the pool that are there.
    pub(super) fn objects(&self) -> Result<Vec<ObjectDevice>, PoolError> {
        let listed = self.dm.list().map_err(|error| PoolError::io("list the devices", io::Error::other(error)))?;
        let mut found = Vec::new();
        for device in listed {
            let Some(Part::Object(object)) = device.uuid.as_deref().and_then(|uuid| self.names.part_of(uuid)) else { continue };
            let name = self.names.name(Part::Object(object))?;
            if let Some(info) = self.dm.info(&name).map_err(|error| failed("look at", &name, error))? {
                found.push(ObjectDevice { object, name, open_count: info.open_count });
            }
        }
        Ok(found)
    }

    /// Removes a thin device; one that somebody has opened by now is [`PoolError::InUse`].
    pub(super) fn remove_object(&self, device: &ObjectDevice) -> Result<(), PoolError> {
        let name = &device.name;
        match self.dm.remove(name, Removal::Now) {
            Ok(()) | Err(DmError::Missing(_)) => self.nodes.remove(name).map_err(|error| no_node(name, error)),
            Err(DmError::Busy(_)) => {
                Err(PoolError::InUse { object: device.object, by: format!("{name}, which was just opened") })
            }
            Err(error) => Err(failed("remove", name, error)),
        }
    }

    /// Removes a device now, or with its last descriptor.
    fn remove(&self, part: Part) -> Result<(), PoolError> {
        let name = self.names.name(part)?;
        let removed = match self.dm.remove(&name, Removal::Now) {
            // Of the two that processes open: by somebody who looks at the catalogue of a pool that is going.
            Err(DmError::Busy(_)) if matches!(part, Part::Metadata | Part::Catalogue) => self.dm.remove(&name, Removal::Deferred),
            removed => removed,
        };
        match removed {
            Ok(()) | Err(DmError::Missing(_)) => {}
            Err(error) => return Err(failed("remove", &name, error)),
        }
        self.nodes.remove(&name).map_err(|error| no_node(&name, error))
    }

    /// Resumes whatever of this pool a dead process left suspended, its own devices only, from below upwards; and removes the nodes of
    /// devices that are gone.
    pub(super) fn clear_leftovers(&self) -> Result<(), PoolError> {
        let listed = self.dm.list().map_err(|error| PoolError::io("list the devices", io::Error::other(error)))?;
        let mut ours: Vec<(Part, DmName)> = listed
            .iter()
            .filter_map(|device| Some((self.names.part_of(device.uuid.as_deref()?)?, DmName::new(&*device.name).ok()?)))
            .collect();
        // Only the owner makes nodes of this pool's devices.
        let swept = self.nodes.sweep(&self.names.prefix(), &listed);
        let swept = swept.map_err(|error| PoolError::io("remove stale device nodes", io::Error::other(error)))?;
        if !swept.is_empty() {
            tracing::info!(nodes = ?swept, "removed device nodes that an earlier process left");
        }
        ours.sort_unstable_by_key(|(part, _)| *part);
        for (_, name) in ours {
            let info = self.dm.info(&name).map_err(|error| failed("look at", &name, error))?;
            if info.is_some_and(|info| info.suspended && info.live_table) {
                self.dm.resume(&name).map_err(|error| failed("resume", &name, error))?;
                tracing::warn!(device = %name, "resumed what an earlier process left suspended");
            }
        }
        Ok(())
    }

    /// The device with this table: made, finished, found, or brought from the smaller table of before a growth.
    fn ensure(&self, part: Part, table: &[Target]) -> Result<DeviceInfo, PoolError> {
        let name = self.names.name(part)?;
        let io = |what, error| failed(what, &name, error);
        let info = match self.dm.create(&name, &self.names.uuid(part)?) {
            Ok(info) => info,
            Err(DmError::Exists(_)) => {
                let info = self.dm.info(&name).map_err(|error| io("look at", error))?;
                info.ok_or_else(|| PoolError::Busy(format!("the device {name}")))?
            }
            Err(error) => return Err(io("make", error)),
        };
        if info.live_table {
            let live = self.dm.table(&name).map_err(|error| io("read the table of", error))?;
            match compare(&live, table) {
                Difference::None if !info.suspended => return Ok(info),
                Difference::None => return self.dm.resume(&name).map_err(|error| io("resume", error)),
                Difference::Grown => {}
                Difference::Other => {
                    return Err(PoolError::Format(format!(
                        "the device {name} is active with another table than the pool's label says; nothing was changed. If no \
                         node uses this pool, remove the device with `dmsetup remove` and try again"
                    ).into()));
                }
            }
            self.dm.load(&name, Access::ReadWrite, table).map_err(|error| io("load the table of", error))?;
            let grown = self.dm.replace_table(&name).map_err(|error| io("grow", error))?;
            tracing::info!(device = %name, "device grown");
            return Ok(grown);
        }
        let made = self.dm.load(&name, Access::ReadWrite, table).and_then(|()| self.dm.resume(&name));
        made.map_err(|error| {
            if let Err(left) = self.dm.remove(&name, Removal::Now) {
                tracing::warn!(device = %name, error = %chain(&left), "a device without a table is left");
            }
            io("activate", error)
        })
    }
}

/// A pool that is active in the kernel for as long as its owner lives, and beyond that while volumes are attached.
pub(super) struct Active(pub(super) Arc<Stack>);

impl Drop for Active {
    fn drop(&mut self) {
        let pool = self.0.names.text_of_pool();
        match self.0.take_down() {
            Ok(TakenDown::All) => tracing::info!(pool, "the pool's devices are taken down"),
            Ok(TakenDown::InUse) => tracing::info!(pool, "volumes are attached: the pool's devices stay"),
            Err(error) => tracing::warn!(pool, error = %chain(&error), "the pool's devices stay"),
        }
    }
}

/// A thin device in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObjectDevice {
    pub(super) object: Object,
    pub(super) name: DmName,
    /// How many have it open or mounted. A bind mount of its node is none.
    pub(super) open_count: u32,
}

/// See [`Stack::take_down`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TakenDown {
    /// Nothing of the pool is left in the kernel, but what somebody has open.
    All,
    /// Thin devices stand on it: everything was left.
    InUse,
}

/// How the table of an active device differs from what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Difference {
    None,
    /// It is what it should have been before a growth.
    Grown,
    Other,
}

fn compare(live: &[Target], wanted: &[Target]) -> Difference {
    if live == wanted {
        return Difference::None;
    }
    let Some((last, before)) = live.split_last() else { return Difference::Other };
    let is_grown = wanted.get(..before.len()) == Some(before)
        && wanted.get(before.len()).is_some_and(|wanted| {
            last.start == wanted.start && last.length <= wanted.length && is_same_kind(&last.kind, &wanted.kind)
        });
    if is_grown { Difference::Grown } else { Difference::Other }
}

/// Whether two targets differ by nothing but what a growth changes.
fn is_same_kind(live: &TargetKind, wanted: &TargetKind) -> bool {
    match (live, wanted) {
        (TargetKind::ThinPool { metadata, data, block_size, low_water: _, features }, TargetKind::ThinPool { low_water, .. }) => {
            let (metadata, data, block_size, features) = (*metadata, *data, *block_size, *features);
            TargetKind::ThinPool { metadata, data, block_size, low_water: *low_water, features } == *wanted
        }
        (live, wanted) => live == wanted,
    }
}

/// One linear target for each place, one after another.
fn linear(places: &[Place]) -> Result<Vec<Target>, PoolError> {
    let mut targets = Vec::new();
    let mut start = 0;
    for place in places {
        let range = place.segment.range();
        let kind = TargetKind::Linear { device: place.device, offset: sectors(range.offset())? };
        targets.push(Target { start: sectors(start)?, length: sectors(range.length())?, kind });
        start += range.length();
    }
    Ok(targets)
}

fn length(places: &[Place]) -> u64 {
    places.iter().map(|place| place.segment.range().length()).sum()
}

fn sectors(bytes: u64) -> Result<Sectors, PoolError> {
    Sectors::from_bytes(bytes).ok_or_else(|| PoolError::Format(format!("{bytes} bytes are not a whole number of sectors").into()))
}

fn no_node(name: &DmName, error: NodeError) -> PoolError {
    PoolError::io(format!("the node of {name}"), io::Error::other(error))
}

fn failed(what: &str, name: &DmName, error: DmError) -> PoolError {
    PoolError::io(format!("{what} the device {name}"), io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(start: u64, length: u64, offset: u64) -> Target {
        let sectors = |count| Sectors::new(count).unwrap();
        let device = "8:0".parse().unwrap();
        let kind = TargetKind::Linear { device, offset: sectors(offset) };
        Target { start: sectors(start), length: sectors(length), kind }
    }

    #[test]
    fn a_table_of_before_a_growth_is_told_from_a_foreign_one() {
        let wanted = [target(0, 100, 8), target(100, 50, 500)];
        for (live, expected) in [
            (vec![target(0, 100, 8), target(100, 50, 500)], Difference::None),
            (vec![target(0, 100, 8)], Difference::Grown),
            (vec![target(0, 60, 8)], Difference::Grown),
            (vec![target(0, 100, 8), target(100, 20, 500)], Difference::Grown),
            (vec![target(0, 60, 8), target(100, 50, 500)], Difference::Other),
            (vec![target(0, 100, 9)], Difference::Other),
            (vec![target(0, 200, 8)], Difference::Other),
            (vec![target(0, 100, 8), target(100, 50, 500), target(150, 1, 0)], Difference::Other),
            (Vec::new(), Difference::Other),
        ] {
            assert_eq!(compare(&live, &wanted), expected, "{live:?}");
        }
    }
}
