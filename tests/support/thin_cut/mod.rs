//! Power cuts of a busy thin pool: what is done to it, step by step, and where on its disk things lie.
//!
//! The pool's device is a part of the logged disk; the marks lie behind it. The label, the catalogue, the metadata and the data
//! are so all on one disk, and what the pool relies on between them is cut through as well. The steps are those of the workload;
//! between them files are written to an ext4 and an XFS on volumes that stay mounted, each synced and promised by a mark of its own:
//! a mark that covered a step and the sync of a file would hide that the step forgot its own. While an operation is done, other
//! writes to those volumes are under way, which nobody syncs.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test support; no test uses all of it")]

pub mod files;
pub mod stored;

#[path = "../thin_random/oracle.rs"]
mod oracle;

use windlass::pool::owned::OwnedPool;
use windlass::pool::record::Consumer;
use windlass::types::{Access, AnchorLimit, FsType, Object, ObjectName, VolumeId};

use crate::basics::MIB;
use crate::power_cut::replay::ReplayOptions;
use crate::power_cut::workload::{BESIDE, Checksums, Operation, State, Workload, new_volume, perform, volume_of};

/// Size of the logged disk in bytes, and of the pool's device at its beginning; where the marks are.
pub const DISK: u64 = 416 * MIB;
/// See [`DISK`].
pub const POOL: u64 = 415 * MIB;
/// What the volumes with files have.
pub const FILE_SYSTEMS: [FsType; 2] = [FsType::Ext4, FsType::Xfs];
const MOUNTED_BYTES: u64 = 32 * MIB;
/// Of the workload.
const SEED: u64 = 11;
/// How many steps there are. They flush the disk some 5 times each.
pub const STEPS: u64 = 130;
/// Of how many steps one writes a file.
const FILES: u64 = 5;

/// Most data blocks that may be with nobody after a cut: those that were being written for the first time. An operation writes to
/// two blocks in each of five places, what goes on besides to two in each of four of each file system, and those have their journals,
/// bitmaps, trees and tables of inodes.
pub const LOST_AT_MOST: u64 = 56;

/// How the log is replayed.
pub const REPLAY: ReplayOptions = ReplayOptions { disk: DISK, marks: POOL, torn_of: 4, seed: SEED };

/// What is done, and then promised by a mark with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The volumes for files are made, formatted and mounted.
    Mount,
    /// An operation of the workload.
    Operation(Operation),
    /// A file of this number is written and synced.
    File(u64),
}

/// All steps, from the one whose mark is 1.
pub fn steps() -> impl Iterator<Item = Step> {
    let mut workload = Workload::new(SEED, Checksums::Never);
    (1..=STEPS).map(move |number| match number {
        1 => Step::Mount,
        _ if number.is_multiple_of(FILES) => Step::File(number),
        _ => Step::Operation(workload.next().unwrap()),
    })
}

/// What was promised by some steps.
#[derive(Debug, Clone, Default)]
pub struct Promised {
    /// The files that are there, once the volumes for them are.
    pub files: Option<Vec<u64>>,
    /// Of the workload.
    pub state: State,
}

impl Promised {
    /// Another step.
    ///
    /// # Panics
    /// When it is not possible here.
    pub fn apply(&mut self, step: &Step) {
        match step {
            Step::Mount => self.files = Some(Vec::new()),
            Step::Operation(operation) => self.state.apply(operation),
            Step::File(number) => self.files.as_mut().expect("it is mounted before").push(*number),
        }
    }
}

/// The operation of the workload that a step is.
pub fn operation(step: Option<&Step>) -> Option<&Operation> {
    match step {
        Some(Step::Operation(operation)) => Some(operation),
        _ => None,
    }
}

/// The file system that a file is in: each has large ones and small ones.
pub fn file_system_of(file: u64) -> FsType {
    FILE_SYSTEMS[usize::from(!(file / FILES / 2).is_multiple_of(2))]
}

/// Name of the volume with a file system.
fn mounted_name(fs_type: FsType) -> ObjectName {
    format!("{BESIDE}{fs_type}").try_into().unwrap()
}

/// Makes and attaches the volume for a file system.
///
/// # Panics
/// When that fails.
pub fn make_mounted(pool: &OwnedPool, fs_type: FsType) -> std::path::PathBuf {
    let request = new_volume(mounted_name(fs_type).as_str(), MOUNTED_BYTES, AnchorLimit::NONE, None);
    let volume = pool.create_volume(&request).unwrap().into_inner();
    pool.attach(Object::Volume(volume.id), Access::ReadWrite).unwrap().device
}

/// The volume with a file system.
///
/// # Panics
/// When there is none.
pub fn mounted(pool: &OwnedPool, fs_type: FsType) -> VolumeId {
    volume_of(pool, mounted_name(fs_type).as_str()).unwrap().id
}

/// Does an operation. Snapshots were used before they are deleted, so that their maps are kept where the volume wants that.
///
/// # Panics
/// When it fails.
pub fn perform_used(pool: &OwnedPool, operation: &Operation) {
    if let Operation::DeleteSnapshot(name) = operation {
        let snapshot = pool.snapshot_by_name(&name.clone().try_into().unwrap()).unwrap().unwrap();
        pool.record_use(snapshot.id, Consumer::MetadataClient).unwrap();
    }
    perform(pool, operation).unwrap_or_else(|error| panic!("{operation:?}: {error}"));
}
