//! What of a volume an export reads: all that is allocated, or only what changed since an export that the repository holds.

use std::sync::Arc;

use serde::Serialize;

use crate::block::BlockSource;
use crate::repository::Id;
use crate::types::RangeStream;

/// What is exported.
pub struct ExportSource {
    /// Where the bytes are read.
    pub blocks: Arc<dyn BlockSource>,
    /// What is known about them.
    pub scope: Scope,
}

impl ExportSource {
    /// The bytes of `blocks`, as far as `scope` wants them read.
    pub fn new(blocks: Arc<dyn BlockSource>, scope: impl Into<Scope>) -> Self {
        Self { blocks, scope: scope.into() }
    }
}

/// What is known about a source before it is read.
pub struct Scope {
    /// The ranges that may hold anything but zeros.
    pub allocated: RangeStream,
    /// What changed since an earlier export, or why that is not known.
    pub since: Result<Parent, FullReason>,
}

impl From<RangeStream> for Scope {
    /// Nothing is known but what is allocated.
    fn from(allocated: RangeStream) -> Self {
        Self { allocated, since: Err(FullReason::NoParent) }
    }
}

/// An earlier export of the same volume. Everything here is a claim of the caller's, compared with what the repository holds
/// before any of it is used; only [`Parent::changed`] is taken as it is.
pub struct Parent {
    /// The snapshot in the repository.
    pub snapshot: Id,
    /// Handle of the volume.
    pub volume_handle: String,
    /// Handle of the snapshot that was exported then.
    pub snapshot_handle: String,
    /// Size of the volume then, in bytes.
    pub size_bytes: u64,
    /// The ranges in which the source may differ from what was exported then; beyond the end of that, from zeros. Ascending.
    pub changed: RangeStream,
}

/// Why everything was read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FullReason {
    /// There is no earlier export to build on.
    #[error("no earlier export of the volume to this repository is known")]
    NoParent,
    /// The caller wanted it.
    #[error("a full export was asked for")]
    Asked,
    /// What changed since the earlier export cannot be told.
    #[error("what changed since the last export is not known: {0}")]
    ChangesUnknown(String),
    /// The earlier export was removed from the repository.
    #[error("the last export, snapshot {0}, is no longer in the repository")]
    SnapshotGone(Id),
    /// The repository holds something else under the earlier export's name than is known of it.
    #[error("the last export, snapshot {snapshot}, has another {what} than expected")]
    Mismatch {
        /// The snapshot in the repository.
        snapshot: Id,
        /// What differs.
        what: &'static str,
    },
    /// The earlier export cannot be built upon.
    #[error("the last export, snapshot {snapshot}, cannot be built upon: {problem}")]
    Unusable {
        /// The snapshot in the repository.
        snapshot: Id,
        /// Why.
        problem: String,
    },
}

/// How an export came by the volume's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportMode {
    /// It read everything that is allocated.
    Full(FullReason),
    /// It read what changed since another export, and took the rest from that one's list.
    Incremental {
        /// The other export's snapshot in the repository.
        parent: Id,
    },
}

impl ExportMode {
    /// In a word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Full(_) => "full",
            Self::Incremental { .. } => "incremental",
        }
    }

    /// Why everything was read; `None` when it was not.
    pub fn full_reason(&self) -> Option<&FullReason> {
        match self {
            Self::Full(reason) => Some(reason),
            Self::Incremental { .. } => None,
        }
    }

    /// The snapshot that it builds upon.
    pub fn parent(&self) -> Option<Id> {
        match self {
            Self::Full(_) => None,
            Self::Incremental { parent } => Some(*parent),
        }
    }
}

impl Serialize for ExportMode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut fields = serializer.serialize_struct("ExportMode", 3)?;
        fields.serialize_field("mode", self.name())?;
        fields.serialize_field("parent", &self.parent())?;
        fields.serialize_field("full_reason", &self.full_reason().map(ToString::to_string))?;
        fields.end()
    }
}
