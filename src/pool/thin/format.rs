//! Making a pool: everything that needs no device-mapper.
//!
//! Order, and nothing is written before everything was looked at, on both devices if there are two:
//!
//! 1. each device is opened exclusively: what anybody uses, longer than a moment, is refused, with who it is;
//! 2. it is laid out, or refused as too small, with how much is needed;
//! 3. what is on it is listed. Marks of others are refused unless they were given up (`--force`). A **pool of ours that was ready** is
//!    refused even then, unless it was named: its id is on every message about it, and nobody names it by habit. A pool whose making was interrupted
//!    holds nothing and is no obstacle;
//! 4. both ends of the device are wiped, where nearly every mark lies, and its partitions forgotten;
//! 5. the labels are written with the state *being made* (second copy, then first).
//!
//! Then the caller makes what lies between the labels, and last writes them again as *ready*. A crash before 4 changes nothing; a crash
//! later leaves a device without a mark, or one whose label says that it is being made, and making it again is no question.
//!
//! The exclusive descriptors are closed at the end, because device-mapper must claim the devices itself. In the moment between,
//! somebody else can take them; then the caller's next step fails.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::block::signature::{self, Signature};
use crate::block::{AlignedBuffer, BlockSink, device, users};
pub use crate::dm::units::DataBlockSize;
use crate::failpoint;
use crate::pool::{PoolError, Refusal};
use crate::types::poll::{self, Patience};
use crate::types::{Access, PoolId};

use super::devices::{LabelledDevice, OpenDevice, PoolDevices, Readings, judge};
use super::label::{Label, LabelError, Link, RESERVED, Role, State, usable_bytes};
use super::layout::{self, LayoutError, LayoutOptions};

/// How long a device may be in use before it is refused: a device-mapper device lets go of its disk some milliseconds after it was
/// removed, and udev looks at what changed. What lasts longer than this is use. The kernel offers no event for it.
const HOLDERS: Patience = Patience { limit: Duration::from_millis(800), every: Duration::from_millis(10) };

/// Which devices a pool is made on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DevicePaths {
    One(PathBuf),
    /// One for label, catalogue and metadata, and one for the data.
    Two {
        /// For the metadata.
        metadata: PathBuf,
        /// For the data.
        data: PathBuf,
    },
}

impl DevicePaths {
    /// All of them.
    pub fn all(&self) -> Vec<&Path> {
        match self {
            Self::One(path) => vec![path],
            Self::Two { metadata, data } => vec![metadata, data],
        }
    }
}

/// Whether marks of others are an obstacle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Others {
    /// They are: the device is refused.
    #[default]
    Kept,
    /// What they stand for may be destroyed.
    GivenUp,
}

/// How a pool is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateOptions {
    pub devices: DevicePaths,
    /// Whether what others left on the devices may be destroyed.
    pub others: Others,
    /// A pool of ours that may be destroyed.
    pub given_up_pool: Option<PoolId>,
    /// Size of data blocks, if not by the size of the pool.
    pub block_size: Option<DataBlockSize>,
    /// Bytes of metadata, if not by the size of the pool; of a pool on one device.
    pub metadata_bytes: Option<u64>,
}

impl CreateOptions {
    /// A pool on devices that nothing is on, with the sizes that fit them.
    pub fn on(devices: DevicePaths) -> Self {
        Self { devices, others: Others::Kept, given_up_pool: None, block_size: None, metadata_bytes: None }
    }
}

/// Labels the devices of a new pool as being made.
///
/// # Errors
/// [`PoolError::Format`] when a device is in use, carries something that was not given up, or is no block device;
/// [`PoolError::NoSpace`] when it is too small; [`PoolError::Io`]. Nothing was changed by the first two.
pub fn begin(options: &CreateOptions) -> Result<PoolDevices, PoolError> {
    let (taken, block_size) = match &options.devices {
        DevicePaths::One(path) => {
            let device = ExclusiveDevice::claim(path)?;
            let wanted = LayoutOptions { block_size: options.block_size, metadata_bytes: options.metadata_bytes };
            let plan = layout::plan(device.open.bytes(), wanted).map_err(|error| unplanned(&device, error))?;
            (vec![(device, Role::Whole, plan.segments)], plan.block_size)
        }
        DevicePaths::Two { metadata, data } => {
            if options.metadata_bytes.is_some() {
                return Err(PoolError::Format("the metadata of a pool on two devices are as large as their device".into()));
            }
            check_distinct(metadata, data)?;
            let (metadata, data) = (ExclusiveDevice::claim(metadata)?, ExclusiveDevice::claim(data)?);
            let plan = layout::plan_pair(metadata.open.bytes(), data.open.bytes(), options.block_size).map_err(|error| {
                let culprit = if matches!(error, LayoutError::TooSmall { have, .. } if have == data.open.bytes()) {
                    &data
                } else {
                    &metadata
                };
                unplanned(culprit, error)
            })?;
            // The data first: by the device with the catalogue the pool is found.
            (vec![(data, Role::Data, plan.data), (metadata, Role::Metadata, plan.metadata)], plan.block_size)
        }
    };
    let mut given_up: Vec<PoolId> = options.given_up_pool.into_iter().collect();
    for (device, _, _) in &taken {
        given_up.extend(device.unfinished_pool()?);
    }
    for (device, _, _) in &taken {
        device.check_unused(options.others, &given_up)?;
    }
    failpoint::hit("thin.format.before");
    let (pool, link) = (PoolId::random(), Link::random());
    for (device, role, segments) in &taken {
        device.wipe_ends()?;
        failpoint::hit("thin.format.wiped");
        device.open.write_label(&Label {
            pool,
            link,
            generation: 1,
            epoch: None,
            role: *role,
            state: State::Making,
            device_bytes: usable_bytes(device.open.bytes()),
            block_size,
            segments: segments.clone(),
        })?;
        failpoint::hit("thin.format.labelled");
    }
    let mut labelled = Vec::new();
    for (device, _, _) in taken {
        let path = device.path.clone();
        drop(device);
        labelled.push(LabelledDevice::read(&path)?);
    }
    match (labelled.pop(), labelled.pop()) {
        (Some(device), None) => Ok(PoolDevices::One(device)),
        (Some(metadata), Some(data)) => PoolDevices::pair(metadata, data),
        // There was at least one.
        (None, _) => Err(PoolError::Format("no device".into())),
    }
}

fn unplanned(device: &ExclusiveDevice, error: LayoutError) -> PoolError {
    match error {
        LayoutError::TooSmall { .. } => PoolError::NoSpace(format!("{}: {error}; nothing was changed", device.path.display())),
        _ => PoolError::Format(Refusal::because(format!("{} was not changed", device.path.display()), error)),
    }
}

fn check_distinct(metadata: &Path, data: &Path) -> Result<(), PoolError> {
    let number = |path: &Path| {
        let found = std::fs::metadata(path).map_err(|source| PoolError::io(format!("open {}", path.display()), source))?;
        Ok::<_, PoolError>((found.rdev(), found.ino(), found.dev()))
    };
    let (metadata_number, data_number) = (number(metadata)?, number(data)?);
    if metadata_number.0 == data_number.0 && (metadata_number.0 != 0 || metadata_number == data_number) {
        return Err(PoolError::Format(
            format!("{} and {} are the same device; give one --device for a pool on one", metadata.display(), data.display())
                .into(),
        ));
    }
    Ok(())
}

/// A device that nobody else uses while this lives.
#[derive(Debug)]
struct ExclusiveDevice {
    path: PathBuf,
    file: File,
    open: OpenDevice,
}

impl ExclusiveDevice {
    /// Opens a block device exclusively.
    fn claim(path: &Path) -> Result<Self, PoolError> {
        let io = |source| PoolError::io(format!("open {}", path.display()), source);
        let is_device = std::fs::metadata(path).map_err(io)?.file_type().is_block_device();
        if !is_device {
            return Err(PoolError::Format(format!("{} must be a block device; nothing was changed", path.display()).into()));
        }
        let open = || match OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(None),
            Err(error) => Err(io(error)),
        };
        Self::over(path, poll::until(HOLDERS, open)?.ok_or_else(|| in_use(path))?)
    }

    fn over(path: &Path, file: File) -> Result<Self, PoolError> {
        let again = file.try_clone().map_err(|source| PoolError::io(format!("open {}", path.display()), source))?;
        Ok(Self { path: path.to_owned(), open: OpenDevice::over(path, file, Access::ReadWrite)?, file: again })
    }

    fn readings(&self) -> Result<Readings, PoolError> {
        self.open.readings().map_err(|source| PoolError::io(format!("look at {}", self.path.display()), source))
    }

    /// The pool on it whose making was interrupted. Of two devices the one with the catalogue becomes ready last, so it speaks for
    /// both.
    fn unfinished_pool(&self) -> Result<Option<PoolId>, PoolError> {
        let label = judge(&self.readings()?, self.open.bytes()).map(|judgement| judgement.label);
        Ok(label.ok().filter(|label| label.state == State::Making).map(|label| label.pool))
    }

    /// Refuses it when it carries what was not given up.
    fn check_unused(&self, others: Others, given_up: &[PoolId]) -> Result<(), PoolError> {
        let read = |source| PoolError::io(format!("look at {}", self.path.display()), source);
        let readings = self.readings()?;
        let found = signature::examine(self.open.source()).map_err(read)?;
        verdict(&readings, &found, others, given_up)
            .map_err(|reason| PoolError::Format(format!("{}: {reason}; nothing was changed", self.path.display()).into()))?;
        if !found.is_empty() {
            tracing::warn!(device = %self.path.display(), found = signature::listed(&found), "what is on the device is given up");
        }
        Ok(())
    }

    /// Makes both ends read as zeros, and lets the kernel forget what partitions were described there.
    fn wipe_ends(&self) -> Result<(), PoolError> {
        let io = |source| PoolError::io(format!("wipe {}", self.path.display()), source);
        let zeros = AlignedBuffer::zeroed(usize::try_from(RESERVED).map_err(|error| io(io::Error::other(error)))?);
        let sink = self.open.sink()?;
        for offset in [0, usable_bytes(self.open.bytes()).saturating_sub(RESERVED)] {
            sink.write_at(offset, &zeros).map_err(io)?;
        }
        sink.flush().map_err(io)?;
        match device::read_partitions(&self.file) {
            Ok(()) => Ok(()),
            // A partition, a volume, a file: it has no partitions.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOTTY)) => Ok(()),
            Err(error) => Err(PoolError::io(format!("forget the partitions of {}", self.path.display()), error)),
        }
    }
}

fn in_use(path: &Path) -> PoolError {
    let users = users::of(path).unwrap_or_default();
    let by = if users.is_empty() { "by another process".to_owned() } else { users.join(", ") };
    PoolError::Format(format!("{} is in use: {by}; nothing was changed", path.display()).into())
}

/// Whether a device with these labels and these marks may be taken. The text says what is in the way and how to give it up.
fn verdict(readings: &Readings, found: &[Signature], others: Others, given_up: &[PoolId]) -> Result<(), String> {
    for reading in [Some(&readings.first), Some(&readings.last), readings.inner.as_ref()].into_iter().flatten() {
        match reading {
            // Whatever was said: a later version may know what it is worth.
            Err(error @ LabelError::Newer { .. }) => return Err(error.to_string()),
            Ok(label) if label.state == State::Ready && !given_up.contains(&label.pool) => {
                return Err(format!(
                    "it carries {} {}. If that pool and every volume in it are to be destroyed, say so by --replace-pool {}",
                    label.role, label.pool, label.pool
                ));
            }
            _ => {}
        }
    }
    let ours = |label: &Result<Label, LabelError>| label.is_ok();
    let any_ours = ours(&readings.first) || ours(&readings.last);
    // The marks of labels that were judged above are no obstacle; those of damaged ones are.
    let in_the_way: Vec<Signature> = found.iter().filter(|mark| !(any_ours && is_label(mark))).cloned().collect();
    if in_the_way.is_empty() || others == Others::GivenUp {
        return Ok(());
    }
    Err(format!("there is {} on it. If that may be destroyed, say so by --force", signature::listed(&in_the_way)))
}

fn is_label(mark: &Signature) -> bool {
    mark.name.starts_with("a pool of windlass")
}

#[cfg(test)]
mod tests;
