//! What a node in memory holds.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::block::memory_file::MemoryFile;
use crate::blocks::{BlocksError, LeasedSnapshot, Protection, ProtectionSnapshot, SnapshotCopies};
use crate::types::{
    Copies, ExportOrder, ExportRecord, FormatState, LocalCopy, NewVolume, Object, ObjectName, OnLoss, ProtectionOrder,
    SnapshotId, Timestamp, VolumeId, VolumeSize,
};

/// The verbs that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// [`Blocks::lease`](crate::blocks::Blocks::lease).
    Lease,
    /// [`SnapshotLease::allocated`](crate::blocks::SnapshotLease::allocated).
    Allocated,
    /// [`SnapshotLease::changed_since`](crate::blocks::SnapshotLease::changed_since).
    ChangedSince,
    /// [`Blocks::begin`](crate::blocks::Blocks::begin).
    Begin,
    /// [`Blocks::commit`](crate::blocks::Blocks::commit).
    Commit,
    /// [`Blocks::abort`](crate::blocks::Blocks::abort).
    Abort,
    /// [`Blocks::let_go`](crate::blocks::Blocks::let_go).
    LetGo,
    /// [`Blocks::put_export`](crate::blocks::Blocks::put_export).
    PutExport,
    /// [`Blocks::last_export`](crate::blocks::Blocks::last_export).
    LastExport,
    /// [`Blocks::put_task`](crate::blocks::Blocks::put_task).
    PutTask,
    /// [`Blocks::give_up_local_copy`](crate::blocks::Blocks::give_up_local_copy).
    GiveUpLocalCopy,
}

/// The state of one node. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedState(Arc<Mutex<State>>);

impl SharedState {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of a test that holds it fails that test.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) volumes: BTreeMap<VolumeId, StoredVolume>,
    pub(super) snapshots: BTreeMap<SnapshotId, StoredSnapshot>,
    pub(super) exports: BTreeMap<(VolumeId, String), ExportRecord>,
    pub(super) failures: BTreeMap<Verb, BlocksError>,
}

#[derive(Debug)]
pub(super) struct StoredVolume {
    pub(super) request: NewVolume,
    pub(super) created: Timestamp,
    pub(super) size: VolumeSize,
    pub(super) file: Arc<MemoryFile>,
    pub(super) stage: Stage,
    pub(super) format: FormatState,
    pub(super) on_loss: OnLoss,
}

impl StoredVolume {
    /// What protects it, if anything does.
    pub(super) fn protection(&self) -> Option<Protection> {
        let order = ProtectionOrder::parse(&self.request.parameters).ok().flatten()?;
        let (kubernetes, restored_from) = (self.request.kubernetes.clone(), self.request.foreign_source.clone());
        Some(Protection { order, created: self.created, format: self.format, kubernetes, restored_from })
    }
}

/// How far a volume has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The target of a restore: its name is claimed, and nobody sees it.
    Hidden,
    /// A target that nobody has held since then. It claims nothing.
    Kept(Instant),
    /// Committed.
    Visible,
}

#[derive(Debug)]
pub(super) struct StoredSnapshot {
    pub(super) name: ObjectName,
    pub(super) record: LeasedSnapshot,
    /// Shared with every lease.
    pub(super) file: Arc<MemoryFile>,
    pub(super) presence: Presence,
    pub(super) order: Option<ExportOrder>,
    pub(super) copies: Copies,
}

impl StoredSnapshot {
    pub(super) fn described(&self) -> SnapshotCopies {
        SnapshotCopies { snapshot: self.record.handle, order: self.order, copies: self.copies.clone() }
    }
}

impl StoredSnapshot {
    /// As its volume's protection, which made it, sees it.
    pub(super) fn of_protection(&self) -> ProtectionSnapshot {
        ProtectionSnapshot { name: self.name.clone(), created: self.record.created, copies: self.described() }
    }
}

/// What is left of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// All of it.
    Whole,
    /// It was deleted; what changed since is still told.
    Anchor,
}

impl State {
    pub(super) fn fail(&mut self, verb: Verb) -> Result<(), BlocksError> {
        self.failures.remove(&verb).map_or(Ok(()), Err)
    }

    pub(super) fn visible(&self, volume: VolumeId) -> Option<&StoredVolume> {
        self.volumes.get(&volume).filter(|stored| stored.stage == Stage::Visible)
    }

    pub(super) fn whole(&self, snapshot: SnapshotId) -> Option<&StoredSnapshot> {
        self.snapshots.get(&snapshot).filter(|stored| stored.presence == Presence::Whole)
    }

    pub(super) fn whole_mut(&mut self, snapshot: SnapshotId) -> Result<&mut StoredSnapshot, BlocksError> {
        let found = self.snapshots.get_mut(&snapshot).filter(|stored| stored.presence == Presence::Whole);
        found.ok_or_else(|| missing(Object::Snapshot(snapshot)))
    }

    /// The volume or held target of a name.
    pub(super) fn volume_named(&self, name: &ObjectName) -> Option<(VolumeId, &StoredVolume)> {
        let mut claiming = self.volumes.iter().filter(|(_, stored)| !matches!(stored.stage, Stage::Kept(_)));
        claiming.find(|(_, stored)| stored.request.name == *name).map(|(&id, stored)| (id, stored))
    }

    /// Takes the kept target of a name away.
    pub(super) fn take_kept(&mut self, name: &ObjectName) -> Option<(VolumeId, StoredVolume)> {
        let is_kept = |stored: &StoredVolume| matches!(stored.stage, Stage::Kept(_)) && stored.request.name == *name;
        let id = self.volumes.iter().find(|(_, stored)| is_kept(stored)).map(|(&id, _)| id)?;
        Some((id, self.volumes.remove(&id)?))
    }

    /// The kept targets, those first that have been kept for longest.
    pub(super) fn kept(&self) -> Vec<(Instant, VolumeId)> {
        let mut kept: Vec<(Instant, VolumeId)> = self
            .volumes
            .iter()
            .filter_map(|(&id, stored)| match stored.stage {
                Stage::Kept(since) => Some((since, id)),
                Stage::Hidden | Stage::Visible => None,
            })
            .collect();
        kept.sort_unstable();
        kept
    }

    /// A snapshot whose bytes are here.
    pub(super) fn here(&self, snapshot: SnapshotId) -> Result<&StoredSnapshot, BlocksError> {
        let object = Object::Snapshot(snapshot);
        let stored = self.whole(snapshot).ok_or_else(|| missing(object))?;
        match stored.copies.local {
            LocalCopy::Kept => Ok(stored),
            LocalCopy::GivenUp => {
                Err(BlocksError::Unsupported(format!("{object} is not here any more: restore it from the repository")))
            }
        }
    }

    pub(super) fn snapshot_named(&self, name: &ObjectName) -> Option<SnapshotId> {
        let mut whole = self.snapshots.iter().filter(|(_, stored)| stored.presence == Presence::Whole);
        whole.find(|(_, stored)| stored.name == *name).map(|(&id, _)| id)
    }
}

pub(super) fn missing(object: Object) -> BlocksError {
    BlocksError::Missing(format!("there is no {object} in this pool"))
}

pub(super) fn failed(error: io::Error) -> BlocksError {
    BlocksError::Failed(error.to_string())
}
