//! What a pool keeps of a restore in progress, and of one that nobody holds.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::pool::intent::IntentId;
use crate::pool::locks::Locked;
use crate::pool::record::Volume;
use crate::types::{ObjectName, OnLoss, VolumeId};

/// A restore in progress, as the pool keeps it.
pub(super) struct Restoring {
    pub(super) intent: IntentId,
    pub(super) volume: Volume,
    /// What becomes of it when nobody holds it any more.
    pub(super) on_loss: OnLoss,
    /// Its name, and its object.
    pub(super) _locked: [Locked; 2],
    /// The name under which it is to be committed, if that is another.
    pub(super) renamed: Option<(ObjectName, Locked)>,
}

/// A target that nobody holds.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) intent: IntentId,
    pub(super) volume: Volume,
    /// When its time began.
    pub(super) since: Instant,
}

impl Kept {
    /// One whose time begins.
    pub(super) fn new(intent: IntentId, volume: Volume) -> Self {
        Self { intent, volume, since: Instant::now() }
    }
}

/// The kept targets of a pool.
pub(super) type KeptTargets = BTreeMap<VolumeId, Kept>;
