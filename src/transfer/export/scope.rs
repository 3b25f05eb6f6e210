//! What of a volume an export reads: all that is allocated, or only what changed since an export that the repository holds.

use std::sync::Arc;

use serde::Serialize;

use crate::block::BlockSource;
use crate::repository::Id;
use crate::types::RangeStream;

/// A volume to be exported, with what is known about it.
pub struct ExportSource {
    pub blocks: Arc<dyn BlockSource>,
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
    /// What is known of a source without a parent: what is allocated.
    fn from(allocated: RangeStream) -> Self {
        Self { allocated, since: Err(FullReason::NoParent) }
    }
}

/// An earlier export of the same volume, as the caller claims it. All of it is compared with what the repository holds before it is
/// used; only [`Parent::changed`] is taken as it is.
pub struct Parent {
    /// The id of the snapshot in the repository.
    pub snapshot: Id,
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
    #[error("no earlier export of the volume to this repository is known")]
    NoParent,
    #[error("a full export was asked for")]
    Asked,
    /// The pool does not know what changed, for this reason.
    #[error("what changed since the last export is not known: {0}")]
    ChangesUnknown(String),
    #[error("the last export, snapshot {0}, is no longer in the repository")]
    SnapshotGone(Id),
    /// The repository holds something else under the earlier export's name than is known of it.
    #[error("the last export, snapshot {snapshot}, has another {what} than expected")]
    Mismatch { snapshot: Id, what: &'static str },
    /// The earlier export does not read, or its list does not fit. `problem` is told with its causes.
    #[error("the last export, snapshot {snapshot}, cannot be built upon: {problem}")]
    Unusable { snapshot: Id, problem: String },
}

impl FullReason {
    /// All that [`FullReason::kind`] says.
    pub const KINDS: [&str; 6] = ["no_parent", "asked", "changes_unknown", "snapshot_gone", "mismatch", "unusable"];

    /// The reason in a word, without what it is about.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoParent => "no_parent",
            Self::Asked => "asked",
            Self::ChangesUnknown(_) => "changes_unknown",
            Self::SnapshotGone(_) => "snapshot_gone",
            Self::Mismatch { .. } => "mismatch",
            Self::Unusable { .. } => "unusable",
        }
    }
}

/// How an export came by the volume's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportMode {
    /// It read everything that is allocated.
    Full(FullReason),
    /// It read what changed since the export `parent`, and took the rest from that one's list.
    Incremental { parent: Id },
}

impl ExportMode {
    /// All that [`ExportMode::name`] says.
    pub const NAMES: [&str; 2] = ["full", "incremental"];

    /// The mode in one word, as reports have it.
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

    /// The snapshot that the export builds upon.
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
