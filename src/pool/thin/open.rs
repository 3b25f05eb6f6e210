//! Taking a thin pool over, and making one.
//!
//! Opening, in order:
//!
//! 1. the labels, read ([`PoolDevices`]); a pool whose making was interrupted is refused;
//! 2. the catalogue's device, made or found, and opened *exclusively*: that is the lock. It is the kernel's, on the block device, so
//!    neither mount namespaces nor copies of device nodes get around it, and it ends with the process, however that ends;
//!    A pool that the kernel gave up when its disk failed is removed here and made anew below, for it never works again. While
//!    anything of it is in use that cannot be, and opening fails;
//! 3. the labels once more, now that nobody else writes them, and the catalogue: its id must be the labels', and its epoch ([`epoch`]);
//! 4. the labels, renewed where a copy is damaged; grown with their devices;
//! 5. the superblock of the metadata. **The kernel formats what has none**, so a pool whose metadata does not say what the label says
//!    is never activated;
//! 6. metadata, data and pool, made or found; what was left suspended goes on;
//! 7. the [`epoch`]: compared with the metadata's, then raised in the catalogue, the metadata and the labels. What does not fit means
//!    that a part of the pool was put back to an earlier state, and the pool is refused;
//! 8. what was left of a metadata snapshot let go; the counter of thin ids raised above everything that the metadata holds, whoever
//!    made it; then the owner's recovery, which compares every record with what is there.
//!
//! A pool that takes no changes, since its metadata is used up or must be checked, opens all the same: of these steps it skips those that
//! change the metadata, and what recovery cannot do there is logged and left for a later start.
//!
//! A crash anywhere leaves devices in the kernel, which the next owner finds, and an epoch that is one ahead.
//!
//! Making a pool: the devices are labelled as being made (by `format`, which refuses what is in use or holds anything), then the
//! catalogue, a first superblock (by the kernel, over a block of zeros), and only when all of that is durable the labels say that it
//! is ready. Interrupted, it can be made again, for nobody was promised anything.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::access::{self, device_mapper, nodes, open_catalogue};
use super::devices::{Copies, PoolDevices};
use super::discarder::{Deletions, Discarder};
use super::epoch;
use super::format::{self, CreateOptions};
use super::growth::{self, Growth};
use super::ids::first_free_id;
use super::label::{Label, State};
use super::layout::MetadataNeed;
use super::metadata::MetadataGate;
use super::monitor::{Monitor, Watched};
use super::names::{Names, Part};
use super::pool::ThinPool;
use super::stack::{Active, Places, Stack};
use super::take_down::{Records, take_down_given_up, take_down_idle};
use super::thin_devices::ThinDevices;
use super::usage::UsageTable;
use crate::block::device;
use crate::dm::DeviceMapper;
use crate::dm::metadata::{BLOCK_BYTES, MetadataFile, Superblock};
use crate::failpoint;
use crate::pool::catalogue::Catalogue;
use crate::pool::owned::OwnedPool;
use crate::pool::properties::PoolProperties;
use crate::pool::{PoolError, Quiesce, Refusal};
use crate::types::{ByteRange, LogicalBlockSize, PoolId};

/// Takes over the pool on the device at `path`, which may be either of two, and recovers it.
///
/// # Errors
/// [`PoolError::Owned`] when another process has it; [`PoolError::Format`] when there is none, it is of a newer format, damaged,
/// half made, or partly put back to an earlier state; [`PoolError::InUse`] when it failed in the kernel and something of it is in
/// use; [`PoolError::Unsupported`] without device-mapper; [`PoolError::Io`], [`PoolError::Catalogue`]. Nothing was changed then.
pub fn open_pool(path: &Path, quiesce: Arc<dyn Quiesce>) -> Result<OwnedPool, PoolError> {
    let dm = device_mapper()?;
    let devices = PoolDevices::open(path)?;
    if devices.state() != State::Ready {
        return Err(PoolError::Format(format!(
            "{}: the making of this pool was interrupted, so there is nothing in it; make it again with `windlass pool create`",
            path.display()
        ).into()));
    }
    let names = Names::new(devices.pool());
    let nodes = Arc::new(nodes()?);
    let stack = Arc::new(Stack::new(Arc::clone(&dm), Arc::clone(&nodes), names));
    let mut lock = access::lock(&stack, &devices, path)?;
    if stack.is_given_up()? {
        take_down_idle(&stack, &lock, Records::Count)?;
        tracing::warn!(pool = %devices.pool(), "the pool had failed in the kernel; it is made anew");
        // Its device goes with this descriptor.
        drop(lock);
        lock = access::lock(&stack, &devices, path)?;
    }
    let mut devices = PoolDevices::open(path)?;
    let catalogue = open_catalogue(lock, path)?;
    check_id(&catalogue, &devices)?;
    if let Some(problem) = epoch::label_problems(&devices, &catalogue)?.first() {
        return Err(PoolError::Format(format!("{}: {problem}; nothing was changed", path.display()).into()));
    }
    renew_labels(&mut devices)?;
    // Only an active pool tells how full its metadata is; the monitor asks for more then.
    growth::lay_out(&mut devices, MetadataNeed::BySize)?;
    let places = growth::places(&devices)?;
    let place = devices.metadata().path().display().to_string();
    activate(&stack, &places, &place)?;
    stack.clear_leftovers()?;
    let name = names.name(Part::Pool)?;
    let gate = MetadataGate::new(Arc::clone(&dm), name.clone(), stack.open_metadata(&places)?)
        .map_err(|error| PoolError::io("read the metadata", error))?;
    epoch::begin(&dm, &name, &catalogue, &mut devices, &place)?;
    gate.sweep()?;
    let first_own_id = claim_ids(&gate, &catalogue)?;
    let pool_device = stack.activate_pool(&places)?;
    let block_size = places.block_size;
    let devices_of_objects = Arc::new(ThinDevices::new(Arc::clone(&dm), nodes, names, pool_device.number));
    let gate = Arc::new(gate);
    let deletions = Deletions {
        dm: Arc::clone(&dm),
        pool: name.clone(),
        devices: Arc::clone(&devices_of_objects),
        gate: Arc::clone(&gate),
        catalogue: catalogue.clone(),
        block_size,
    };
    let pool = ThinPool {
        place: place.clone(),
        dm: Arc::clone(&dm),
        name: name.clone(),
        devices: devices_of_objects,
        gate,
        discarder: Discarder::start(deletions.clone())?,
        deletions,
        catalogue: catalogue.clone(),
        block_size,
        logical_block_size: logical_block_size(&stack)?,
        usages: UsageTable::default(),
        first_own_id,
        taken: Mutex::default(),
        _active: Active(Arc::clone(&stack)),
        _monitor: Monitor::start(Watched { dm, name, place, block_size, growth: Growth::new(devices, stack) })?,
    };
    OwnedPool::open(Arc::new(pool), catalogue, quiesce)?.watched()
}

/// Makes a pool. Interrupted, it may be called again.
///
/// # Errors
/// [`PoolError::Format`] when a device holds anything, and that was not said to be given up; [`PoolError::InUse`]-like refusals as
/// [`PoolError::Owned`]; [`PoolError::Unsupported`] without device-mapper; [`PoolError::NoSpace`] when it is too small;
/// [`PoolError::Io`].
pub fn create_pool(options: &CreateOptions) -> Result<PoolId, PoolError> {
    create_pool_with(options, &PoolProperties::default())
}

/// Makes a new pool with these properties, as for [`create_pool`].
pub fn create_pool_with(options: &CreateOptions, properties: &PoolProperties) -> Result<PoolId, PoolError> {
    let dm = device_mapper()?;
    take_down_given_up(&options.devices.all(), options.given_up_pool)?;
    let mut devices = format::begin(options)?;
    let id = devices.pool();
    let stack = Stack::new(Arc::clone(&dm), Arc::new(nodes()?), Names::new(id));
    let made = fill(&dm, &stack, &mut devices, properties).and_then(|()| {
        failpoint::hit("thin.create.before_ready");
        set_state(&mut devices, State::Ready)
    });
    let taken_down = stack.take_down();
    made?;
    taken_down?;
    tracing::info!(pool = %id, device = %devices.metadata().path().display(), "pool made");
    Ok(id)
}

/// Everything between the two states of the labels.
fn fill(dm: &DeviceMapper, stack: &Stack, devices: &mut PoolDevices, properties: &PoolProperties) -> Result<(), PoolError> {
    let path = devices.metadata().path().to_owned();
    let place = path.display().to_string();
    let catalogue = Catalogue::create_device(access::lock(stack, devices, &path)?, devices.pool())?;
    catalogue.set_properties(properties)?;
    let places = growth::places(devices)?;
    stack.activate_metadata(&places)?;
    wipe_superblock(stack)?;
    let name = stack.names().name(Part::Pool)?;
    stack.activate_pool(&places)?;
    epoch::begin(dm, &name, &catalogue, devices, &place)?;
    check_superblock(stack, &places, &place)
}

fn renew_labels(devices: &mut PoolDevices) -> Result<(), PoolError> {
    for device in devices.all_mut() {
        if let Copies::Renew(why) = device.judgement().copies {
            tracing::warn!(device = %device.path().display(), why, "the labels are written anew");
            let label = device.label().clone();
            device.write(label)?;
        }
    }
    Ok(())
}

fn set_state(devices: &mut PoolDevices, state: State) -> Result<(), PoolError> {
    // The one with the catalogue last: by it the pool is found.
    devices.all_mut().into_iter().rev().try_for_each(|device| {
        let label = Label { state, ..device.label().clone() };
        device.write(label)
    })
}

fn check_id(catalogue: &Catalogue, devices: &PoolDevices) -> Result<(), PoolError> {
    if catalogue.id() == devices.pool() {
        return Ok(());
    }
    Err(PoolError::Format(
        format!(
            "{}: its label is of the pool {} and its catalogue of the pool {}; nothing was changed",
            devices.metadata().path().display(),
            devices.pool(),
            catalogue.id()
        )
        .into(),
    ))
}

/// Activates metadata, data and pool, when the metadata is that of a pool.
fn activate(stack: &Stack, places: &Places, place: &str) -> Result<(), PoolError> {
    stack.activate_metadata(places)?;
    check_superblock(stack, places, place)?;
    stack.activate_pool(places).map(drop)
}

/// Compares the superblock with the label. The one thing that stands between a pool and being formatted by the kernel.
fn check_superblock(stack: &Stack, places: &Places, place: &str) -> Result<(), PoolError> {
    let refuse =
        |text: String| PoolError::Format(format!("{place}: {text}; the pool was not activated and nothing was changed").into());
    let file = MetadataFile::new(stack.open_metadata(places)?).map_err(|error| PoolError::io("read the metadata", error))?;
    let superblock = Superblock::read(&file).map_err(|error| {
        let text = format!(
            "{place}: the pool was not activated and nothing was changed; if the disk is well, `windlass pool repair --device {place}` \
             may make the metadata usable again"
        );
        PoolError::Format(Refusal::because(text, error))
    })?;
    if superblock.data_block_size != places.block_size {
        return Err(refuse(format!(
            "its metadata is of a pool with data blocks of {} bytes and its label of one with {}",
            superblock.data_block_size.bytes(),
            places.block_size.bytes()
        )));
    }
    Ok(())
}

/// Makes the first block of metadata zeros, so that the kernel makes a pool of them whatever was there.
fn wipe_superblock(stack: &Stack) -> Result<(), PoolError> {
    let path = stack.node(Part::Metadata)?;
    let io = |error| PoolError::io(format!("wipe {}", path.display()), error);
    let file = OpenOptions::new().read(true).write(true).open(&path).map_err(io)?;
    let block = ByteRange::new(0, BLOCK_BYTES as u64).ok_or_else(|| io(io::ErrorKind::InvalidInput.into()))?;
    device::zero_out(&file, block).and_then(|()| file.sync_all()).map_err(io)
}

/// Raises the counter of thin ids above everything that the metadata holds; the first id that is given out from now on.
fn claim_ids(gate: &MetadataGate, catalogue: &Catalogue) -> Result<u64, PoolError> {
    let next = catalogue.next_thin_id()?;
    let first = first_free_id(gate, next)?;
    if first > next {
        catalogue.commit("claim_ids", |change| change.skip_thin_ids(first))?;
        tracing::warn!(next, first, pool = %catalogue.id(), "the metadata holds thin devices that the catalogue does not know of: their ids are skipped");
    }
    Ok(first)
}

fn logical_block_size(stack: &Stack) -> Result<LogicalBlockSize, PoolError> {
    let path = stack.node(Part::Data)?;
    let io = |error| PoolError::io(format!("look at {}", path.display()), error);
    let bytes = File::open(&path).and_then(|file| device::logical_block_bytes(&file)).map_err(io)?;
    LogicalBlockSize::from_bytes(bytes).ok_or_else(|| {
        PoolError::Unsupported(format!("logical blocks of {bytes} bytes are not supported: 512 and 4096 are").into())
    })
}
