//! Repair of a pool's metadata, offline.
//!
//! A pool that ran out of metadata, or whose metadata could not be written, goes read-only and says `needs_check`; the kernel then
//! refuses to make it larger or writable until the flag is gone, and only a check may take it away. What the check and the repair do is
//! the business of thin-provisioning-tools, which are run as they are; everything around them is here:
//!
//! 1. the pool is locked as by an owner, and taken down; a volume that is in use refuses it;
//! 2. what an earlier repair was writing when it was interrupted is written to its end;
//! 3. `thin_check` over the metadata's device. Sound: what it does not look at is looked at here, which is whether the space map of the
//!    data agrees with the devices. Blocks that are allocated and that no device has, as a power cut leaves them, are given back
//!    ([`Reclaim`]) in a copy of the metadata, which `thin_check` must find sound. Then the flag is cleared, by the same program,
//!    which checks once more;
//! 4. not sound, or a block that a device has is free there, which the kernel would give to another as well: `thin_repair` into a file (through a loop device, since it insists on direct I/O, which not every file system has), which
//!    `thin_check` must find sound. It would give leaked blocks back as well, but it may write what snapshots share once for
//!    each of them, for which there need not be room;
//! 5. the copy, or what was rebuilt, is written over the metadata, which an interruption does not hurt ([`spare`]);
//! 6. the catalogue's epoch is set to what the metadata carry, and its records compared with the thin devices that are there. What is
//!    missing is reported, and again by every start; nothing is deleted.
//!
//! Metadata that were repaired may have lost mappings: that the pool works again does not mean that every volume is whole, and the
//! report says so.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::devices::PoolDevices;
use super::growth;
use super::names::{Names, Part};
use super::open::{device_mapper, lock, nodes, open_catalogue};
use super::spare::{self, Finished, Spare};
use super::stack::{Stack, TakenDown};
use super::tools::{Attached, Verdict, run};
use crate::block::device;
use crate::dm::DataBlocks;
use crate::dm::metadata::{MetadataError, MetadataFile, NEVER, Reclaim, Superblock, ThinMetadata};
use crate::pool::PoolError;
use crate::pool::catalogue::Catalogue;
use crate::pool::record::ThinStored;

/// What a repair found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairReport {
    /// What was done to the metadata.
    pub outcome: RepairOutcome,
    /// Bytes that were allocated to nothing, as a power cut leaves them, and are free now: whole data blocks. Zero for metadata that
    /// were rebuilt, in which nothing is allocated in vain, and of which nobody knows what was.
    pub reclaimed_bytes: u64,
    /// Bytes that are allocated to nothing and were left so, since no power cut leaves them: their blocks are counted thrice or more.
    pub left_bytes: u64,
    /// What was found at first by `thin_check`, or what it overlooked, if anything.
    pub findings: String,
    /// Recorded objects whose data is not there any more.
    pub missing: Vec<String>,
    /// Thin devices that no record names.
    pub unknown: Vec<String>,
}

/// What was done to the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairOutcome {
    /// They were sound, and needed no check. Leaked blocks may have been given back.
    Sound,
    /// They were sound; the flag that kept the pool read-only was cleared. Leaked blocks may have been given back.
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
    let spare = spare::path_of(devices.pool());
    let finished = spare::finish(&spare, &node)?;
    let mut mended = mend(&node, spare.clone())?;
    if finished == Finished::Lost {
        let lost = format!("an earlier repair was interrupted, and what it was writing is not in {}\n", spare.display());
        mended.findings.insert_str(0, &lost);
    }
    let (outcome, earlier) = match finished {
        Finished::Nothing | Finished::Lost => (mended.outcome, DataBlocks::default()),
        Finished::Reclaimed(blocks) => (mended.outcome, blocks),
        Finished::Rebuilt => (RepairOutcome::Rebuilt, DataBlocks::default()),
    };
    let bytes = |blocks: DataBlocks| blocks.count().saturating_mul(places.block_size.bytes());
    let reclaimed_bytes = bytes(earlier).saturating_add(bytes(mended.reclaimed));
    let catalogue = open_catalogue(lock, path)?;
    let (missing, unknown) = reconcile(&catalogue, &node)?;
    tracing::warn!(
        pool = %devices.pool(), ?outcome, reclaimed_bytes, missing = missing.len(), unknown = unknown.len(), "metadata repaired"
    );
    let left_bytes = bytes(mended.left);
    Ok(RepairReport { outcome, reclaimed_bytes, left_bytes, findings: mended.findings, missing, unknown })
}

/// What was found of the metadata, and done to them.
struct Mended {
    outcome: RepairOutcome,
    reclaimed: DataBlocks,
    left: DataBlocks,
    findings: String,
}

/// Checks the metadata, and does what they need.
fn mend(node: &Path, spare: PathBuf) -> Result<Mended, PoolError> {
    let plan = match inspect(node, node)? {
        Ok(plan) => plan,
        Err(findings) => {
            rebuild(node, spare)?;
            let (reclaimed, left) = (DataBlocks::default(), DataBlocks::default());
            return Ok(Mended { outcome: RepairOutcome::Rebuilt, reclaimed, left, findings });
        }
    };
    if plan.is_needed() {
        reclaim(node, spare, &plan)?;
    }
    let outcome = match needs_check(node)? {
        Check::Needed => {
            run("thin_check", &["--clear-needs-check-flag".as_ref(), node.as_os_str()])?.sound("clear the flag")?;
            RepairOutcome::Cleared
        }
        Check::NotNeeded => RepairOutcome::Sound,
    };
    Ok(Mended { outcome, reclaimed: plan.reclaimed, left: plan.left, findings: String::new() })
}

/// What is to be reclaimed of metadata, or what is wrong with them. `thin_check` is given `device`; they are read from `file`, which holds
/// the same.
fn inspect(device: &Path, file: &Path) -> Result<Result<Reclaim, String>, PoolError> {
    if let Verdict::Unsound(text) = run("thin_check", &[device.as_os_str()])? {
        return Ok(Err(text));
    }
    let io = |error| PoolError::io(format!("read {}", file.display()), error);
    let metadata = File::open(file).and_then(MetadataFile::new).map_err(io)?;
    match Reclaim::plan(&metadata, NEVER) {
        Ok(plan) => Ok(Ok(plan)),
        // A check that does not look at the space map of the data overlooks this.
        Err(error @ (MetadataError::Damaged { .. } | MetadataError::Io { .. })) => Ok(Err(error.to_string())),
        Err(error) => Err(PoolError::Format(format!("{}: {error}", file.display()))),
    }
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

/// Makes the metadata anew in a file, and writes that over the device.
fn rebuild(node: &Path, spare: PathBuf) -> Result<(), PoolError> {
    let spare = Spare::make(spare, length(node)?)?;
    let attached = Attached::new(spare.file())?;
    run("thin_repair", &["-i".as_ref(), node.as_os_str(), "-o".as_ref(), attached.path().as_os_str()])?
        .sound("rebuild the metadata")?;
    check(&attached, &spare)?;
    drop(attached);
    spare.replace(node)
}

/// Gives leaked blocks back in a copy of the metadata, and writes that over the device.
fn reclaim(node: &Path, spare: PathBuf, plan: &Reclaim) -> Result<(), PoolError> {
    let spare = Spare::make(spare, length(node)?)?;
    spare.copy(node, &plan.changes)?;
    let attached = Attached::new(spare.file())?;
    if check(&attached, &spare)?.is_needed() {
        return Err(PoolError::Format("blocks that were given back are leaked still; nothing was changed".to_owned()));
    }
    drop(attached);
    spare.replace(node)
}

/// Demands that metadata in a file are sound; what could be reclaimed in them.
fn check(attached: &Attached, spare: &Spare) -> Result<Reclaim, PoolError> {
    let found = inspect(attached.path(), spare.path())?;
    found.map_err(|text| PoolError::Format(format!("check what is to be written over the metadata: {text}; nothing was changed")))
}

fn length(node: &Path) -> Result<u64, PoolError> {
    File::open(node)
        .and_then(|file| device::size(&file))
        .map_err(|error| PoolError::io(format!("look at {}", node.display()), error))
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
