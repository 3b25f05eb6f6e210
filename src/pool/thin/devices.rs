//! The devices of a pool: their labels read, judged and written, and the second device found.
//!
//! A device carries its label twice (`label`). [`judge`] says which counts: the one with the highest generation that is whole
//! and of the pool whose label is the first that is whole, from the beginning of the device on. What it finds besides, a damaged or stale copy,
//! it reports ([`Copies`]); whoever owns the pool writes both anew with [`LabelledDevice::write`].
//!
//! | found | then |
//! |---|---|
//! | device larger than its label says | it grew; the second label is looked for at both ends, and the owner lays out the new space |
//! | device smaller | an error: it was cut off, and nothing is changed |
//! | first label gone, second whole | the second counts, if nothing else has put its mark where the first was |
//! | a newer format in either place | an error, whatever the other says |
//! | nothing whole | an error that tells absent from damaged |
//!
//! [`LabelledDevice::write`] writes the second copy, flushes, writes the first, flushes; the same again after a crash between is
//! right. The old second copy of a device that grew is left where it is: data will lie over it, and nobody looks there once the
//! first names the new size.
//!
//! Reading needs no lock and changes nothing. Reads and writes pass the page cache, for others look at devices too.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::block::{AlignedBuffer, BlockSink, BlockSource, FileSink, FileSource, device, signature};
use crate::pool::{Cause, PoolError, Refusal};
use crate::types::{Access, LogicalBlockSize, PoolId};

use super::label::{BLOCK, Label, LabelBlock, LabelError, RESERVED, Role, State, second_offset, usable_bytes};

/// Where the kernel lists block devices, partitions and device-mapper's among them.
const SYSFS: &str = "/sys/class/block";
/// What our own device-mapper devices are called.
const OWN_PREFIX: &str = "windlass-";

/// State of the two copies of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// Both are there and the same.
    Whole,
    /// Only the other one counts, or one is older: to be written anew, with the text saying why.
    Renew(&'static str),
}

/// What the labels of a device come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The label that counts.
    pub label: Label,
    /// Whether the other copy is the same.
    pub copies: Copies,
    /// Whole bytes that the device has beyond what the label lays out; zero unless it grew.
    pub grown_bytes: u64,
}

/// Why a device is not one of a pool that can be used. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelsError {
    /// No label at all.
    #[error("there is no pool on it")]
    Absent,
    /// Labels, and none that is whole.
    #[error("both labels are damaged: {0}")]
    Damaged(String),
    /// Of a later version of this program.
    #[error(transparent)]
    Newer(LabelError),
    /// The device is smaller than what is on it.
    #[error("the device was cut off: it has {have} bytes, and the pool on it has {need}")]
    CutOff {
        /// Bytes of the device.
        have: u64,
        /// Bytes that the label says.
        need: u64,
    },
    /// Something else put its mark where the first label was.
    #[error("the first label is gone, and there is {0}: the pool was overwritten, or is about to be used for something else")]
    Overwritten(String),
}

/// What was read where labels may be.
#[derive(Debug, Clone)]
pub struct Readings {
    /// At the beginning.
    pub first: Result<Label, LabelError>,
    /// At the end of the device as it is.
    pub last: Result<Label, LabelError>,
    /// At the end that the first label names, if that is another place.
    pub inner: Option<Result<Label, LabelError>>,
    /// The marks of others in the first MiB, as a text; empty for none.
    pub foreign: String,
}

/// Decides what the labels of a device of `device_bytes` bytes come to.
pub fn judge(readings: &Readings, device_bytes: u64) -> Result<Judgement, LabelsError> {
    let have = usable_bytes(device_bytes);
    let others: Vec<&Result<Label, LabelError>> = [Some(&readings.last), readings.inner.as_ref()].into_iter().flatten().collect();
    for reading in std::iter::once(&readings.first).chain(others.iter().copied()) {
        if let Err(newer @ LabelError::Newer { .. }) = reading {
            return Err(LabelsError::Newer(newer.clone()));
        }
    }
    let label = match &readings.first {
        Ok(first) => {
            // A whole label of another pool at the end is of a former life of the device.
            let ours = others.iter().filter_map(|other| other.as_ref().ok()).filter(|other| other.pool == first.pool);
            ours.chain([first]).max_by_key(|label| label.generation).cloned()
        }
        Err(_) => readings.last.as_ref().ok().cloned(),
    };
    let Some(label) = label else {
        let damaged = std::iter::once(&readings.first).chain(others).find_map(|reading| match reading {
            Err(LabelError::Damaged(what)) => Some(what.clone()),
            _ => None,
        });
        return Err(damaged.map_or(LabelsError::Absent, LabelsError::Damaged));
    };
    if readings.first.is_err() && !readings.foreign.is_empty() {
        return Err(LabelsError::Overwritten(readings.foreign.clone()));
    }
    if have < label.device_bytes {
        return Err(LabelsError::CutOff { have, need: label.device_bytes });
    }
    let at_its_end = if have == label.device_bytes { Some(&readings.last) } else { readings.inner.as_ref() };
    let is_same = |reading: Option<&Result<Label, LabelError>>| matches!(reading, Some(Ok(other)) if *other == label);
    let copies = match (is_same(Some(&readings.first)), is_same(at_its_end)) {
        (true, true) => Copies::Whole,
        (true, false) => Copies::Renew("the second label is damaged or older"),
        (false, _) => Copies::Renew("the first label is damaged or older"),
    };
    let grown_bytes = have - label.device_bytes;
    Ok(Judgement { label, copies, grown_bytes })
}

/// What the labels of the device at `path` come to, or why there is no pool on it that can be used. Changes nothing.
///
/// # Errors
/// [`PoolError::Io`] when the device cannot be read.
pub fn look(path: &Path) -> Result<Result<Judgement, LabelsError>, PoolError> {
    let device = OpenDevice::open(path, Access::ReadOnly)?;
    let readings = device.readings().map_err(|source| PoolError::io(format!("read the labels of {}", path.display()), source))?;
    Ok(judge(&readings, device.bytes))
}

/// A device of a pool, with what its labels say.
#[derive(Debug)]
pub struct LabelledDevice {
    path: PathBuf,
    bytes: u64,
    judgement: Judgement,
}

impl LabelledDevice {
    /// Reads the labels of the device at `path`.
    ///
    /// # Errors
    /// [`PoolError::Format`] when there is no label that counts; [`PoolError::Io`].
    pub fn read(path: &Path) -> Result<Self, PoolError> {
        let device = OpenDevice::open(path, Access::ReadOnly)?;
        let refuse =
            |error: LabelsError| PoolError::Format(Refusal::because(format!("{} was not changed", path.display()), error));
        let readings =
            device.readings().map_err(|source| PoolError::io(format!("read the labels of {}", path.display()), source))?;
        let judgement = judge(&readings, device.bytes).map_err(refuse)?;
        Ok(Self { path: path.to_owned(), bytes: device.bytes, judgement })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The label that counts.
    pub fn label(&self) -> &Label {
        &self.judgement.label
    }

    /// What was found out about the copies.
    pub fn judgement(&self) -> &Judgement {
        &self.judgement
    }

    /// Writes both copies of `label`, which takes the next generation. Durable when it returns. Whoever calls this owns the pool.
    ///
    /// # Errors
    /// [`PoolError::Format`] when the label contradicts itself or is larger than the device; [`PoolError::Io`].
    pub fn write(&mut self, mut label: Label) -> Result<(), PoolError> {
        label.generation = self.judgement.label.generation.max(label.generation).saturating_add(1);
        let device = OpenDevice::open(&self.path, Access::ReadWrite)?;
        device.write_label(&label)?;
        let grown_bytes = usable_bytes(device.bytes) - label.device_bytes;
        (self.bytes, self.judgement) = (device.bytes, Judgement { label, copies: Copies::Whole, grown_bytes });
        Ok(())
    }
}

/// An open device or file whose labels are read and written.
#[derive(Debug)]
pub(super) struct OpenDevice {
    path: PathBuf,
    bytes: u64,
    source: FileSource,
    sink: Option<FileSink>,
}

impl OpenDevice {
    pub(super) fn open(path: &Path, access: Access) -> Result<Self, PoolError> {
        let file = OpenOptions::new().read(true).write(access == Access::ReadWrite).open(path);
        let file = file.map_err(|source| PoolError::io(format!("open {}", path.display()), source))?;
        Self::over(path, file, access)
    }

    /// Over a file that is open already, as for `access`.
    pub(super) fn over(path: &Path, file: File, access: Access) -> Result<Self, PoolError> {
        let io = |source| PoolError::io(format!("look at {}", path.display()), source);
        let bytes = device::size(&file).map_err(io)?;
        // Whole blocks only, so that all goes past the page cache.
        let (usable, unit) = (usable_bytes(bytes), LogicalBlockSize::B4096);
        let sink = match access {
            Access::ReadOnly => None,
            Access::ReadWrite => Some(FileSink::new(file.try_clone().map_err(io)?, usable, unit).map_err(io)?),
        };
        let source = FileSource::new(file, usable, unit).map_err(io)?;
        Ok(Self { path: path.to_owned(), bytes, source, sink })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn source(&self) -> &FileSource {
        &self.source
    }

    pub(super) fn into_source(self) -> FileSource {
        self.source
    }

    /// For writing.
    pub(super) fn sink(&self) -> Result<&FileSink, PoolError> {
        let read_only = || PoolError::io(format!("write to {}", self.path.display()), io::ErrorKind::ReadOnlyFilesystem.into());
        self.sink.as_ref().ok_or_else(read_only)
    }

    /// Reads wherever labels may be.
    pub(super) fn readings(&self) -> io::Result<Readings> {
        let at = |offset: Option<u64>| match offset {
            Some(offset) => self.label_at(offset),
            None => Ok(Err(LabelError::Absent)),
        };
        let first = at((self.bytes >= BLOCK).then_some(0))?;
        let end = second_offset(self.bytes);
        let last = at(end)?;
        let inner = match &first {
            Ok(label) if label.device_bytes < usable_bytes(self.bytes) => Some(at(second_offset(label.device_bytes))?),
            _ => None,
        };
        let head = usize::try_from(usable_bytes(self.bytes).min(RESERVED)).map_err(io::Error::other)?;
        let mut bytes = AlignedBuffer::zeroed(head);
        self.source.read_at(0, &mut bytes)?;
        let mut foreign = signature::detect(&bytes, &[], self.bytes);
        foreign.retain(|mark| !mark.name.contains("windlass"));
        Ok(Readings { first, last, inner, foreign: signature::listed(&foreign) })
    }

    fn label_at(&self, offset: u64) -> io::Result<Result<Label, LabelError>> {
        let mut bytes = AlignedBuffer::zeroed(BLOCK as usize);
        self.source.read_at(offset, &mut bytes)?;
        let mut block: LabelBlock = [0; BLOCK as usize];
        block.copy_from_slice(&bytes);
        Ok(Label::decode(&block))
    }

    /// The second copy, a flush, the first, a flush.
    pub(super) fn write_label(&self, label: &Label) -> Result<(), PoolError> {
        let what = || format!("write the label of {}", self.path.display());
        let refuse =
            |reason: Cause| PoolError::Format(Refusal::because(format!("{} was not changed", self.path.display()), reason));
        if label.device_bytes > usable_bytes(self.bytes) {
            return Err(refuse(LabelsError::CutOff { have: self.bytes, need: label.device_bytes }.into()));
        }
        let block = label.encode().map_err(|error| refuse(error.into()))?;
        let second = second_offset(label.device_bytes).ok_or_else(|| refuse("it has no room for two labels".into()))?;
        let mut bytes = AlignedBuffer::zeroed(block.len());
        bytes.copy_from_slice(&block);
        let sink = self.sink()?;
        for offset in [second, 0] {
            sink.write_at(offset, &bytes).and_then(|()| sink.flush()).map_err(|source| PoolError::io(what(), source))?;
        }
        Ok(())
    }
}

/// A device of a pool that a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDevice {
    /// Its node.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// What its labels say, or why they cannot be used.
    pub label: Result<Label, LabelsError>,
}

/// Every device of this machine that carries a label, whole or not, by path. Devices that something else than a pool has taken
/// (a disk under multipath, a physical volume) are left out: what lies above them is found instead. So are devices that cannot be
/// read: they are no hint of a pool.
///
/// # Errors
/// [`PoolError::Io`] when the devices cannot be listed.
pub fn search() -> Result<Vec<FoundDevice>, PoolError> {
    search_in(Path::new(SYSFS), Path::new("/dev"))
}

fn search_in(sysfs: &Path, dev: &Path) -> Result<Vec<FoundDevice>, PoolError> {
    let io = |source| PoolError::io(format!("list {}", sysfs.display()), source);
    let mut found = Vec::new();
    for entry in fs::read_dir(sysfs).map_err(io)? {
        let entry = entry.map_err(io)?;
        // Drives without a medium and detached loop devices: opening one may take seconds.
        if fs::read_to_string(entry.path().join("size")).is_ok_and(|sectors| sectors.trim() == "0") {
            continue;
        }
        // The kernel writes `!` where a name has a slash.
        let path = dev.join(entry.file_name().to_string_lossy().replace('!', "/"));
        if is_own(&entry.path()) || foreign_holder(&entry.path()).is_some() {
            continue;
        }
        let Ok(device) = OpenDevice::open(&path, Access::ReadOnly) else { continue };
        let Ok(readings) = device.readings() else { continue };
        let label = judge(&readings, device.bytes).map(|judgement| judgement.label);
        if label != Err(LabelsError::Absent) {
            found.push(FoundDevice { path, bytes: device.bytes, label });
        }
    }
    found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Whether this entry of sysfs is one of our own device-mapper devices.
fn is_own(entry: &Path) -> bool {
    fs::read_to_string(entry.join("dm/name")).is_ok_and(|name| name.starts_with(OWN_PREFIX))
}

/// What holds the device of this entry of sysfs, if that is not a pool of ours.
pub(super) fn foreign_holder(entry: &Path) -> Option<String> {
    let holders = fs::read_dir(entry.join("holders")).into_iter().flatten().flatten();
    let mut names = holders.map(|holder| (holder.path(), holder.file_name().to_string_lossy().into_owned()));
    names.find(|(path, _)| !is_own(path)).map(|(path, name)| {
        let mapped = fs::read_to_string(path.join("dm/name")).map(|mapped| format!("{name} ({})", mapped.trim_end()));
        mapped.unwrap_or(name)
    })
}

/// The devices of a pool.
#[derive(Debug)]
pub enum PoolDevices {
    One(LabelledDevice),
    /// One for label, catalogue and metadata, one for the data.
    Two {
        /// With the catalogue.
        metadata: LabelledDevice,
        /// With the data.
        data: LabelledDevice,
    },
}

impl PoolDevices {
    /// The devices of the pool whose label is at `path`, which may be either of two. The other one is found by its label.
    ///
    /// # Errors
    /// [`PoolError::Format`] when there is no label that counts, the other device is not there or there more than once, or the two contradict
    /// each other; [`PoolError::Io`].
    pub fn open(path: &Path) -> Result<Self, PoolError> {
        Self::open_with(path, search)
    }

    fn open_with(path: &Path, search: impl FnOnce() -> Result<Vec<FoundDevice>, PoolError>) -> Result<Self, PoolError> {
        let device = LabelledDevice::read(path)?;
        let wanted = match device.label().role {
            Role::Whole => return Ok(Self::One(device)),
            Role::Metadata => Role::Data,
            Role::Data => Role::Metadata,
        };
        let refuse = |text: String| PoolError::Format(format!("{}: {text}; nothing was changed", path.display()).into());
        let (pool, link) = (device.label().pool, device.label().link);
        let belongs = |label: &Label| label.pool == pool && label.link == link && label.role == wanted;
        let fits = |found: &FoundDevice| found.label.as_ref().is_ok_and(belongs);
        let mut found: Vec<FoundDevice> = search()?.into_iter().filter(fits).collect();
        let other = match found.len() {
            1 => LabelledDevice::read(&found.swap_remove(0).path)?,
            0 => {
                return Err(refuse(format!("this is {} {pool}, and the device with {wanted} is not there", device.label().role)));
            }
            _ => {
                let paths: Vec<String> = found.iter().map(|found| found.path.display().to_string()).collect();
                let text = format!("{wanted} {pool} is there more than once: {}; remove or hide the copies", paths.join(", "));
                return Err(refuse(text));
            }
        };
        let (metadata, data) = if wanted == Role::Data { (device, other) } else { (other, device) };
        Self::pair(metadata, data)
    }

    /// Two devices that are said to be one pool.
    ///
    /// # Errors
    /// [`PoolError::Format`] when they are not.
    pub fn pair(metadata: LabelledDevice, data: LabelledDevice) -> Result<Self, PoolError> {
        let (a, b) = (metadata.label(), data.label());
        let is_linked = a.pool == b.pool && a.link == b.link;
        let fits = is_linked && a.role == Role::Metadata && b.role == Role::Data && a.block_size == b.block_size;
        if fits {
            return Ok(Self::Two { metadata, data });
        }
        Err(PoolError::Format(
            format!(
                "{} is {} {} and {} is {} {}: they do not belong together; nothing was changed",
                metadata.path().display(),
                a.role,
                a.pool,
                data.path().display(),
                b.role,
                b.pool,
            )
            .into(),
        ))
    }

    /// The one with the catalogue and the metadata.
    pub fn metadata(&self) -> &LabelledDevice {
        match self {
            Self::One(device) | Self::Two { metadata: device, .. } => device,
        }
    }

    /// The one with the data.
    pub fn data(&self) -> &LabelledDevice {
        match self {
            Self::One(device) | Self::Two { data: device, .. } => device,
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<&LabelledDevice> {
        match self {
            Self::One(device) => vec![device],
            Self::Two { metadata, data } => vec![metadata, data],
        }
    }

    /// All of them, to write labels.
    pub fn all_mut(&mut self) -> Vec<&mut LabelledDevice> {
        match self {
            Self::One(device) => vec![device],
            Self::Two { metadata, data } => vec![metadata, data],
        }
    }

    /// The pool.
    pub fn pool(&self) -> PoolId {
        self.metadata().label().pool
    }

    /// Ready when all of them are.
    pub fn state(&self) -> State {
        if self.all().iter().all(|device| device.label().state == State::Ready) { State::Ready } else { State::Making }
    }
}

#[cfg(test)]
mod tests;
