//! What a pool keeps of a restore in progress.

use crate::pool::intent::IntentId;
use crate::pool::locks::Locked;
use crate::pool::record::Volume;
use crate::types::ObjectName;

/// A restore in progress, as the pool keeps it.
pub(super) struct Restoring {
    pub(super) intent: IntentId,
    pub(super) volume: Volume,
    pub(super) _locked: Locked,
    /// The name under which it is to be committed, if that is another.
    pub(super) renamed: Option<(ObjectName, Locked)>,
}
