//! Intents: what a process was about to do to the pool.
//!
//! An intent is in the catalogue exactly while its act may be half done. What an interrupted one means at the next start is
//! decided in `owned::recovery`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::record::{Snapshot, Volume};
use crate::types::{Object, OnLoss, VolumeId, VolumeSize};

/// Key of an intent: ascending, never used twice while the catalogue lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IntentId(pub u64);

/// One change under way, with everything that is needed to finish or undo it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// An empty volume or a copy is being made. Interrupted: undone.
    CreateVolume {
        /// The record as it will be.
        volume: Volume,
        /// The source volume that may be held still for the copy, by us.
        holds: Vec<VolumeId>,
    },
    /// A set of snapshots is being cut. Interrupted: undone.
    CreateSnapshots {
        /// The records as they will be, but for the time of the cut.
        snapshots: Vec<Snapshot>,
        /// The volumes that may be held still for it, by us.
        holds: Vec<VolumeId>,
    },
    /// A volume is being deleted; it is no longer visible. Interrupted: finished.
    DeleteVolume {
        /// The record as it was.
        volume: Volume,
    },
    /// The object of a snapshot is being deleted: of one that is no longer visible, or that has no local copy any more. Interrupted: finished.
    DeleteSnapshot {
        /// The record as it was.
        snapshot: Snapshot,
    },
    /// A volume is being grown. Interrupted: finished.
    Grow {
        volume: VolumeId,
        /// To what.
        size: VolumeSize,
    },
    /// A hidden volume is being filled from elsewhere. Interrupted: undone, or kept for the next equal request, as its beginner said.
    Restore {
        /// The record as it will be.
        volume: Volume,
        /// What becomes of it when nobody holds it any more. Earlier versions kept none.
        #[serde(default)]
        on_loss: OnLoss,
    },
}

impl Intent {
    /// The objects that are being made, filled or deleted.
    pub fn objects(&self) -> Vec<Object> {
        match self {
            Self::CreateVolume { volume, .. } | Self::DeleteVolume { volume } | Self::Restore { volume, .. } => {
                vec![Object::Volume(volume.id)]
            }
            Self::CreateSnapshots { snapshots, .. } => snapshots.iter().map(|snapshot| Object::Snapshot(snapshot.id)).collect(),
            Self::DeleteSnapshot { snapshot } => vec![Object::Snapshot(snapshot.id)],
            Self::Grow { .. } => Vec::new(),
        }
    }

    /// The same change without the holds of these volumes: somebody else holds them still.
    #[must_use]
    pub fn without_holds(&self, foreign: &BTreeSet<VolumeId>) -> Self {
        let mut narrowed = self.clone();
        match &mut narrowed {
            Self::CreateVolume { holds, .. } | Self::CreateSnapshots { holds, .. } => {
                holds.retain(|volume| !foreign.contains(volume))
            }
            Self::DeleteVolume { .. } | Self::DeleteSnapshot { .. } | Self::Grow { .. } | Self::Restore { .. } => {}
        }
        narrowed
    }
}
