//! Repair of a pool's metadata, offline.
//!
//! A pool that ran out of metadata, or whose metadata could not be written, goes read-only and says `needs_check`; the kernel then
//! refuses to make it larger or writable until the flag is gone, and only a check may take it away. What the check and the repair do is
//! the business of thin-provisioning-tools, which are run as they are; everything around them is here:
//!
//! 1. the pool is locked as by an owner, and taken down. A volume that anybody has open, mounted, staged or published refuses it, and
//!    nothing is removed before it is known that nobody has (`take_down`). If the device was enlarged, the metadata get their share;
//! 2. what an earlier repair was writing when it was interrupted is written to its end;
//! 3. `thin_check` over the metadata's device. Sound: what it does not look at is looked at here, which is whether the space map of the
//!    data agrees with the devices. Blocks that are allocated and that no device has, as a power cut leaves them, are given back
//!    ([`Reclaim`]) in a copy of the metadata, which `thin_check` must find sound. Then the flag is cleared, by the same program,
//!    which checks once more. Giving back is a favour: where the copy cannot be made, the metadata is no less sound, and the report
//!    says what was left;
//! 4. not sound, or a block that a device has is free there, which the kernel would give to another as well: `thin_repair` into a file (through a loop device, since it insists on direct I/O, which not every file system has), which
//!    `thin_check` must find sound. It would give leaked blocks back as well, but it may write what snapshots share once for
//!    each of them, for which there need not be room: the error says so then, and that a larger device is the cure;
//! 5. the copy, or what was rebuilt, is written over the metadata, which an interruption does not hurt ([`staged`]);
//! 6. the catalogue's epoch, and that of the labels, is set to what the metadata carry, and the catalogue's records are compared with the
//!    thin devices that are there. What is missing is reported, and again by every start; nothing is deleted. Where a part of the pool was
//!    put back to an earlier state, or the metadata was rebuilt, the history is broken ([`epoch`]). Creations that a catalogue
//!    of an earlier state says were interrupted are forgotten and their devices left: they may have been finished since.
//!
//! Metadata that were repaired may have lost mappings: that the pool works again does not mean that every volume is whole, and the
//! report says so.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::access::{device_mapper, lock, nodes, open_catalogue};
use super::devices::PoolDevices;
use super::epoch::{self, Carried};
use super::growth;
use super::ids::above;
use super::layout::MetadataNeed;
use super::names::{Names, Part};
use super::stack::Stack;
use super::staged_metadata::{self, EarlierRepair, StagedMetadata};
use super::take_down::{Records, take_down_idle};
use super::tools::{Attached, Verdict, run};
use crate::block::device;
use crate::dm::DataBlocks;
use crate::dm::metadata::{MetadataFile, NEVER, Reclaim, Superblock, ThinMetadata, ThinMetadataError};
use crate::pool::catalogue::{Catalogue, Change};
use crate::pool::intent::Intent;
use crate::pool::record::ThinStored;
use crate::pool::{PoolError, Refusal};
use crate::types::Object;
use crate::types::error::chain;

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
    /// Whether what changed since the snapshots of before can still be told.
    pub history: History,
}

/// Whether the pool is what it was, as far as that can be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// It is.
    Whole,
    /// A part of it was put back to an earlier state, or rebuilt: volumes may hold what others wrote, and nothing that was cut before is a
    /// base of an increment any more.
    Broken,
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
    take_down_idle(&stack, &lock, Records::Count)?;
    // Only now that this process owns it.
    let mut devices = PoolDevices::open(path)?;
    growth::lay_out(&mut devices, MetadataNeed::BySize)?;
    let report = repair_locked(&stack, &mut devices, lock, path);
    stack.take_down()?;
    report
}

fn repair_locked(stack: &Stack, devices: &mut PoolDevices, lock: File, path: &Path) -> Result<RepairReport, PoolError> {
    // Taking the pool down marked it to go with the descriptor that is the lock; it must stay until the end.
    let places = growth::places(devices)?;
    stack.activate_catalogue(&places)?;
    stack.activate_metadata(&places)?;
    let node = stack.node(Part::Metadata)?;
    let staged = staged_metadata::path_of(devices.pool());
    let finished = staged_metadata::finish(&staged, &node)?;
    let mut mended = mend(&node, staged.clone())?;
    if finished == EarlierRepair::Lost {
        let lost = format!("an earlier repair was interrupted, and what it was writing is not in {}\n", staged.display());
        mended.findings.insert_str(0, &lost);
    }
    let (outcome, earlier) = match finished {
        EarlierRepair::Nothing | EarlierRepair::Lost => (mended.outcome, DataBlocks::default()),
        EarlierRepair::Reclaimed(blocks) => (mended.outcome, blocks),
        EarlierRepair::Rebuilt => (RepairOutcome::Rebuilt, DataBlocks::default()),
    };
    let bytes = |blocks: DataBlocks| blocks.count().saturating_mul(places.block_size.bytes());
    let reclaimed_bytes = bytes(earlier).saturating_add(bytes(mended.reclaimed));
    let catalogue = open_catalogue(lock, path)?;
    let was_rebuilt = outcome == RepairOutcome::Rebuilt || finished == EarlierRepair::Lost;
    let Reconciled { put_back, history, missing, unknown } =
        reconcile(&catalogue, devices, &node, if was_rebuilt { History::Broken } else { History::Whole })?;
    mended.findings.extend(put_back.iter().map(|text| format!("{text}\n")));
    let (missing_count, unknown_count) = (missing.len(), unknown.len());
    if outcome == RepairOutcome::Sound && missing_count + unknown_count == 0 && mended.findings.is_empty() {
        tracing::info!(pool = %devices.pool(), reclaimed_bytes, "the metadata is sound");
    } else {
        tracing::warn!(
            pool = %devices.pool(), ?outcome, reclaimed_bytes, missing = missing_count, unknown = unknown_count, "metadata repaired"
        );
    }
    let left_bytes = bytes(mended.left);
    Ok(RepairReport { outcome, reclaimed_bytes, left_bytes, findings: mended.findings, missing, unknown, history })
}

/// What was found of the metadata, and done to them.
struct Mended {
    outcome: RepairOutcome,
    reclaimed: DataBlocks,
    left: DataBlocks,
    findings: String,
}

/// Checks the metadata, and does what they need.
fn mend(node: &Path, staged: PathBuf) -> Result<Mended, PoolError> {
    let plan = match inspect(node)? {
        Ok(plan) => plan,
        Err(findings) => {
            rebuild(node, staged)?;
            let (reclaimed, left) = (DataBlocks::default(), DataBlocks::default());
            return Ok(Mended { outcome: RepairOutcome::Rebuilt, reclaimed, left, findings });
        }
    };
    let (mut reclaimed, mut left, mut findings) = (plan.reclaimed, plan.left, String::new());
    if plan.is_needed() {
        match without_leaks(node, staged.clone(), &plan) {
            Ok(staged) => staged.replace(node)?,
            Err(error) => {
                staged_metadata::discard(&staged)?;
                findings = format!("blocks that are allocated to nothing could not be given back: {}\n", chain(&error));
                left = DataBlocks::new(left.count() + reclaimed.count());
                reclaimed = DataBlocks::default();
            }
        }
    }
    let outcome = match needs_check(node)? {
        Check::Needed => {
            run("thin_check", &["--clear-needs-check-flag".as_ref(), node.as_os_str()])?.sound("clear the flag")?;
            RepairOutcome::Cleared
        }
        Check::NotNeeded => RepairOutcome::Sound,
    };
    Ok(Mended { outcome, reclaimed, left, findings })
}

/// What is to be reclaimed of metadata, or what is wrong with them.
fn inspect(device: &Path) -> Result<Result<Reclaim, String>, PoolError> {
    if let Verdict::Unsound(text) = run("thin_check", &[device.as_os_str()])? {
        return Ok(Err(text));
    }
    let io = |error| PoolError::io(format!("read {}", device.display()), error);
    let metadata = File::open(device).and_then(MetadataFile::new).map_err(io)?;
    match Reclaim::plan(&metadata, NEVER) {
        Ok(plan) => Ok(Ok(plan)),
        // A check that does not look at the space map of the data overlooks this.
        Err(error @ (ThinMetadataError::Damaged { .. } | ThinMetadataError::Io { .. })) => Ok(Err(chain(&error))),
        Err(error) => Err(PoolError::Format(Refusal::because(format!("{} cannot be repaired", device.display()), error))),
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
fn rebuild(node: &Path, staged: PathBuf) -> Result<(), PoolError> {
    let bytes = length(node)?;
    let staged = StagedMetadata::make(staged, bytes)?;
    let attached = Attached::new(staged.file())?;
    let made = run("thin_repair", &["-i".as_ref(), node.as_os_str(), "-o".as_ref(), attached.path().as_os_str()])?;
    if let Verdict::Unsound(text) = made {
        return Err(PoolError::Format(not_rebuilt(&text, bytes).into()));
    }
    check(&attached)?;
    drop(attached);
    staged.replace(node)
}

/// Says why metadata could not be rebuilt in so many bytes, with what the program said of it.
fn not_rebuilt(said: &str, bytes: u64) -> String {
    // What versions before 1.0 and those since say; the former abort.
    let is_too_small = ["allocate new block", "out of metadata space", "No space left"].iter().any(|words| said.contains(words));
    let cure = if is_too_small {
        format!(
            "; rebuilt, what snapshots share is written once for each of them, for which {bytes} bytes of metadata are too few: enlarge \
             the device and repair again"
        )
    } else {
        String::new()
    };
    format!("rebuild the metadata: {said}{cure}; nothing was changed")
}

/// A copy of the metadata in which leaked blocks are given back, known to be sound.
fn without_leaks(node: &Path, staged: PathBuf, plan: &Reclaim) -> Result<StagedMetadata, PoolError> {
    let staged = StagedMetadata::make(staged, length(node)?)?;
    staged.copy(node, &plan.changes)?;
    let attached = Attached::new(staged.file())?;
    if check(&attached)?.is_needed() {
        return Err(PoolError::Format("blocks that were given back are leaked still; nothing was changed".into()));
    }
    Ok(staged)
}

/// Demands that metadata in a file are sound; what could be reclaimed in them.
fn check(attached: &Attached) -> Result<Reclaim, PoolError> {
    let found = inspect(attached.path())?;
    found.map_err(|text| {
        PoolError::Format(format!("check what is to be written over the metadata: {text}; nothing was changed").into())
    })
}

fn length(node: &Path) -> Result<u64, PoolError> {
    File::open(node)
        .and_then(|file| device::size(&file))
        .map_err(|error| PoolError::io(format!("look at {}", node.display()), error))
}

/// What came of comparing catalogue, metadata and labels.
struct Reconciled {
    /// What was put back to an earlier state.
    put_back: Vec<String>,
    history: History,
    missing: Vec<String>,
    unknown: Vec<String>,
}

/// Sets the epoch of catalogue and labels to what the metadata carry; recorded objects without a thin device, and thin devices without a
/// record. `mended` is what is known of the history by what was done to the metadata.
fn reconcile(catalogue: &Catalogue, devices: &mut PoolDevices, node: &Path, mended: History) -> Result<Reconciled, PoolError> {
    let io = |error| PoolError::io(format!("read {}", node.display()), error);
    let file = File::open(node).and_then(MetadataFile::new).map_err(io)?;
    let metadata = ThinMetadata::live(&file, NEVER).map_err(|error| io(io::Error::other(error)))?;
    let (carried, epoch) = (metadata.superblock().transaction_id, catalogue.epoch()?);
    let mut put_back = epoch::label_problems(devices, catalogue)?;
    let found = epoch::check_metadata(epoch, catalogue.epoch_step()?, carried);
    let is_behind = found == Ok(Carried::OneBehind);
    put_back.extend(found.err());
    let history = if put_back.is_empty() && !is_behind { mended } else { History::Broken };
    let thin_devices = metadata.devices().map_err(|error| io(io::Error::other(error)))?;
    let first = above(catalogue.next_thin_id()?, thin_devices.iter().map(|(id, _)| *id), metadata.superblock().time);
    // Known before anything says that all is settled.
    catalogue.commit("repair.history", |change| {
        change.skip_thin_ids(first)?;
        if carried > epoch {
            forget_creations(catalogue, change)?;
        }
        if history == History::Broken { change.break_history() } else { Ok(()) }
    })?;
    epoch::settle(catalogue, devices, carried)?;
    let mut ids: BTreeSet<_> = thin_devices.into_iter().map(|(id, _)| id).collect();
    for thin in catalogue.deleted_thin()? {
        ids.remove(&thin.id);
    }
    let mut missing = Vec::new();
    for thin in catalogue.thin_objects()? {
        if !ids.remove(&thin.id) && thin.stored == ThinStored::Device {
            missing.push(thin.object.to_string());
        }
    }
    let unknown = ids.into_iter().map(|id| format!("thin device {id}")).collect();
    Ok(Reconciled { put_back, history, missing, unknown })
}

/// Forgets creations that were under way in the state that a catalogue was put back to. To undo them would delete what was finished since.
fn forget_creations(catalogue: &Catalogue, change: &mut Change<'_>) -> Result<(), PoolError> {
    for (id, intent) in catalogue.intents()? {
        let objects: Vec<Object> = match &intent {
            Intent::CreateVolume { volume, .. } | Intent::Restore { volume, .. } => vec![Object::Volume(volume.id)],
            Intent::CreateSnapshots { snapshots, .. } => snapshots.iter().map(|cut| Object::Snapshot(cut.id)).collect(),
            Intent::DeleteVolume { .. } | Intent::DeleteSnapshot { .. } | Intent::Grow { .. } => continue,
        };
        objects.into_iter().try_for_each(|object| change.remove_thin_object(object))?;
        change.drop_intent(id)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Metadata of 512 blocks, all of which are used.
    const USED_UP: &[u8] = include_bytes!("../../../tests/data/used-up.bin.zst");

    fn used_up(folder: &Path) -> PathBuf {
        let node = folder.join("node");
        std::fs::write(&node, zstd::decode_all(USED_UP).unwrap()).unwrap();
        node
    }

    #[test]
    fn metadata_that_are_used_up_and_sound_are_called_sound() {
        let folder = tempfile::tempdir().unwrap();
        let node = used_up(folder.path());
        let plan = inspect(&node).unwrap().unwrap();
        assert_eq!((plan.reclaimed, plan.left, plan.is_needed()), (DataBlocks::new(1), DataBlocks::default(), true));
        // Also where the block that is allocated to nothing cannot be given back, for want of a place for the copy.
        let before = std::fs::read(&node).unwrap();
        let mended = mend(&node, folder.path().join("none").join("staged")).unwrap();
        assert_eq!(
            (mended.outcome, mended.reclaimed, mended.left),
            (RepairOutcome::Sound, DataBlocks::default(), DataBlocks::new(1))
        );
        assert!(mended.findings.contains("could not be given back"), "{}", mended.findings);
        assert!(std::fs::read(&node).unwrap() == before);
    }

    #[test]
    fn what_does_not_fit_when_it_is_rebuilt_is_told_with_its_cure() {
        let aborted = "thin_repair ended with signal: 6 (SIGABRT): transaction_manager::new_block() couldn't allocate new block";
        let text = not_rebuilt(aborted, 2 << 20);
        assert!(text.contains("2097152 bytes of metadata are too few: enlarge the device and repair again"), "{text}");
        assert!(!not_rebuilt("thin_repair ended with exit status: 1: no compatible roots found", 2 << 20).contains("enlarge"));
    }

    #[test]
    fn a_program_that_was_killed_has_not_said_that_all_is_well() {
        let killed = run("sh", &["-c".as_ref(), "kill -ABRT $$".as_ref()]).unwrap();
        assert!(matches!(killed, Verdict::Unsound(text) if text.contains("signal: 6")));
    }
}
