//! Repair of a pool's metadata, offline.
//!
//! A pool that ran out of metadata, or whose metadata could not be written, goes read-only and says `needs_check`; the kernel then
//! refuses to make it larger or writable until the flag is gone, and only a check may take it away. What the check and the repair do is
//! the business of thin-provisioning-tools, which are run as they are; everything around them is here:
//!
//! 1. the pool is locked as by an owner, and taken down; a volume that is in use refuses it;
//! 2. `thin_check` over the metadata's device. Sound: the flag is cleared, by the same program, which checks once more;
//! 3. not sound: `thin_repair` into a file in scratch space (through a loop device, since it insists on direct I/O, which not every
//!    file system has), which `thin_check` must find sound. Only then it is written over the
//!    metadata: everything but the first block, a flush, the first block, a flush. The file is kept until that is done, under a name of
//!    the pool's: a repair that was interrupted finds it and goes on from here;
//! 4. the catalogue's epoch is set to what the metadata carry, and its records compared with the thin devices that are there. What is
//!    missing is reported, and again by every start; nothing is deleted.
//!
//! Metadata that were repaired may have lost mappings: that the pool works again does not mean that every volume is whole, and the
//! report says so.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::devices::PoolDevices;
use super::growth;
use super::names::{Names, Part};
use super::open::{device_mapper, lock, nodes, open_catalogue};
use super::stack::{Stack, TakenDown};
use crate::block::loop_device::{self, DirectIo, LoopDevice, LoopError, LoopOptions};
use crate::block::{Access, device};
use crate::dm::metadata::{BLOCK_BYTES, MetadataFile, NEVER, Superblock, ThinMetadata};
use crate::failpoint;
use crate::pool::PoolError;
use crate::pool::catalogue::Catalogue;
use crate::pool::record::ThinStored;
use crate::scratch::Scratch;
use crate::types::LogicalBlockSize;

/// Bytes that are copied at once.
const STEP: usize = 1 << 20;

/// What a repair found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairReport {
    /// What was done to the metadata.
    pub outcome: RepairOutcome,
    /// What `thin_check` said at first, if anything.
    pub findings: String,
    /// Recorded objects whose data is not there any more.
    pub missing: Vec<String>,
    /// Thin devices that no record names.
    pub unknown: Vec<String>,
}

/// What was done to the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairOutcome {
    /// They were sound, and needed no check.
    Sound,
    /// They were sound; the flag that kept the pool read-only was cleared.
    Cleared,
    /// They were damaged, and were rebuilt from what could be read. Volumes may have lost data.
    Rebuilt,
}

/// Checks and repairs the metadata of the pool on the device at `path`.
///
/// # Errors
/// [`PoolError::Owned`], [`PoolError::InUse`] while the pool is in use; [`PoolError::Unsupported`] when a program is missing;
/// [`PoolError::Format`] when the metadata cannot be repaired; [`PoolError::Io`], [`PoolError::Catalogue`].
pub fn repair(path: &Path) -> Result<RepairReport, PoolError> {
    let dm = device_mapper()?;
    let devices = PoolDevices::open(path)?;
    let stack = Stack::new(Arc::clone(&dm), Arc::new(nodes()?), Names::new(devices.pool()));
    let lock = lock(&stack, &devices, path)?;
    if stack.take_down_idle()? == TakenDown::InUse {
        return Err(PoolError::Owned(format!("{}: volumes of it are in use", path.display())));
    }
    let report = repair_locked(&stack, &devices, lock, path);
    stack.take_down()?;
    report
}

fn repair_locked(stack: &Stack, devices: &PoolDevices, lock: File, path: &Path) -> Result<RepairReport, PoolError> {
    // Taking the pool down marked it to go with the descriptor that is the lock; it must stay until the end.
    let places = growth::places(devices)?;
    stack.activate_catalogue(&places)?;
    stack.activate_metadata(&places)?;
    let node = stack.node(Part::Metadata)?;
    let spare = Scratch::directory_of_process().join(format!("windlass-repair-{}.metadata", devices.pool()));
    let checked = run("thin_check", &[node.as_os_str()])?;
    let outcome = match (&checked, needs_check(&node)) {
        (Verdict::Sound, Ok(Check::Needed)) => {
            run("thin_check", &["--clear-needs-check-flag".as_ref(), node.as_os_str()])?.sound("clear the flag")?;
            RepairOutcome::Cleared
        }
        (Verdict::Sound, _) => RepairOutcome::Sound,
        (Verdict::Unsound(_), _) => {
            rebuild(&node, &spare)?;
            RepairOutcome::Rebuilt
        }
    };
    let findings = match checked {
        Verdict::Sound => String::new(),
        Verdict::Unsound(text) => text,
    };
    let catalogue = open_catalogue(lock, path)?;
    let (missing, unknown) = reconcile(&catalogue, &node)?;
    tracing::warn!(pool = %devices.pool(), ?outcome, missing = missing.len(), unknown = unknown.len(), "metadata repaired");
    Ok(RepairReport { outcome, findings, missing, unknown })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Needed,
    NotNeeded,
}

fn needs_check(node: &Path) -> Result<Check, PoolError> {
    let io = |error| PoolError::io(format!("read {}", node.display()), error);
    let file = File::open(node).and_then(MetadataFile::new).map_err(io)?;
    let superblock = Superblock::read(&file).map_err(|error| io(io::Error::other(error)))?;
    Ok(if superblock.needs_check { Check::Needed } else { Check::NotNeeded })
}

/// Rebuilds the metadata in a file, and writes that over the device.
fn rebuild(node: &Path, spare: &Path) -> Result<(), PoolError> {
    let io = |error| PoolError::io(format!("make {}", spare.display()), error);
    let bytes = File::open(node).and_then(|file| device::size(&file)).map_err(io)?;
    // One that an interrupted repair left is as long, and is found sound below.
    let mut open = OpenOptions::new();
    let file = open.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(spare);
    let file = file.map_err(io)?;
    file.set_len(bytes).map_err(io)?;
    let attached = Attached::new(&file).map_err(|error| io(io::Error::other(error)))?;
    let device = attached.0.path.as_os_str();
    if let Verdict::Unsound(_) = run("thin_check", &[device])? {
        run("thin_repair", &["-i".as_ref(), node.as_os_str(), "-o".as_ref(), device])?.sound("rebuild the metadata")?;
        run("thin_check", &[device])?.sound("check the rebuilt metadata")?;
    }
    drop(attached);
    file.sync_all().map_err(io)?;
    failpoint::hit("thin.repair.before_write");
    write_back(&file, node).map_err(|error| PoolError::io(format!("write {}", node.display()), error))?;
    fs::remove_file(spare).map_err(|error| PoolError::io(format!("remove {}", spare.display()), error))
}

/// A loop device, detached when this is dropped.
struct Attached(LoopDevice);

impl Attached {
    fn new(file: &File) -> Result<Self, LoopError> {
        let options = LoopOptions {
            access: Access::ReadWrite,
            block_size: LogicalBlockSize::B4096,
            label: "windlass-repair",
            direct_io: DirectIo::IfPossible,
        };
        loop_device::attach(file, &options).map(Self)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Err(error) = loop_device::detach(&self.0) {
            tracing::warn!(%error, "a loop device is left");
        }
    }
}

/// Everything but the superblock first: until that is written the old one leads to nothing that checks.
fn write_back(source: &File, node: &Path) -> io::Result<()> {
    let target = OpenOptions::new().write(true).open(node)?;
    let length = source.metadata()?.len();
    let mut buffer = vec![0; STEP];
    let mut position = BLOCK_BYTES as u64;
    while position < length {
        let count = usize::try_from(length - position).map_or(STEP, |left| left.min(STEP));
        source.read_exact_at(&mut buffer[..count], position)?;
        target.write_all_at(&buffer[..count], position)?;
        position += count as u64;
    }
    target.sync_all()?;
    failpoint::hit("thin.repair.before_superblock");
    source.read_exact_at(&mut buffer[..BLOCK_BYTES], 0)?;
    target.write_all_at(&buffer[..BLOCK_BYTES], 0)?;
    target.sync_all()
}

/// Sets the catalogue's epoch to what the metadata carry; recorded objects without a thin device, and thin devices without a record.
fn reconcile(catalogue: &Catalogue, node: &Path) -> Result<(Vec<String>, Vec<String>), PoolError> {
    let io = |error| PoolError::io(format!("read {}", node.display()), error);
    let file = File::open(node).and_then(MetadataFile::new).map_err(io)?;
    let metadata = ThinMetadata::live(&file, NEVER).map_err(|error| io(io::Error::other(error)))?;
    let carried = metadata.superblock().transaction_id;
    if carried != catalogue.epoch()? {
        catalogue.commit("repair.epoch", |change| change.set_epoch(carried))?;
    }
    let devices = metadata.devices().map_err(|error| io(io::Error::other(error)))?;
    let mut ids: BTreeSet<_> = devices.into_iter().map(|(id, _)| id).collect();
    let mut missing = Vec::new();
    for thin in catalogue.thin_objects()? {
        if !ids.remove(&thin.id) && thin.stored == ThinStored::Device {
            missing.push(thin.object.to_string());
        }
    }
    Ok((missing, ids.into_iter().map(|id| format!("thin device {id}")).collect()))
}

/// What a program said.
enum Verdict {
    Sound,
    Unsound(String),
}

impl Verdict {
    fn sound(self, action: &str) -> Result<(), PoolError> {
        match self {
            Self::Sound => Ok(()),
            Self::Unsound(text) => Err(PoolError::Format(format!("{action}: {text}"))),
        }
    }
}

/// Runs a program to its end: a check of the largest metadata takes minutes, and whoever asked for it can stop this process.
fn run(program: &str, arguments: &[&std::ffi::OsStr]) -> Result<Verdict, PoolError> {
    let output = Command::new(program).args(arguments).env("LC_ALL", "C").output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => PoolError::Unsupported(format!(
            "{program} is not installed: it is part of thin-provisioning-tools (device-mapper-persistent-data)"
        )),
        _ => PoolError::io(format!("run {program}"), error),
    })?;
    if output.status.success() {
        return Ok(Verdict::Sound);
    }
    let said = [output.stderr, output.stdout].concat();
    let text = String::from_utf8_lossy(&said);
    Ok(Verdict::Unsound(format!("{program} ended with {}: {}", output.status, text.trim())))
}
