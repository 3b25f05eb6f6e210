//! What a failure of a pool means to whoever made the call.

use tonic::Code::{self, *};

use crate::pool::PoolError;

/// The code of one failure for each kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PoolCodes {
    /// Calls that change nothing and touch no mount.
    pub(super) read: Code,
    pub(super) snapshot_metadata: Code,
    pub(super) create_volume: Code,
    pub(super) create_snapshot: Code,
    /// DeleteVolume and DeleteSnapshot: whatever the code is, the sidecar calls again later.
    pub(super) delete: Code,
    pub(super) expand: Code,
    /// Its answer is read by a person.
    pub(super) set_properties: Code,
    /// All of the Node service.
    pub(super) on_node: Code,
}

impl PoolCodes {
    const fn all(code: Code) -> Self {
        Self {
            read: code,
            snapshot_metadata: code,
            create_volume: code,
            create_snapshot: code,
            delete: code,
            expand: code,
            set_properties: code,
            on_node: code,
        }
    }

    /// Those of `error`.
    pub(super) fn of(error: &PoolError) -> Self {
        let internal = Self::all(Internal);
        match error {
            PoolError::Missing(_) => Self {
                // Gone between two steps; the repetition finds out what is true now.
                create_volume: Aborted,
                delete: Internal,
                set_properties: Internal,
                ..Self::all(NotFound)
            },
            PoolError::SourceMissing(_) => Self { delete: Internal, set_properties: Internal, ..Self::all(NotFound) },
            // The pool has the snapshot's record only; what has the repository's credentials restores it.
            PoolError::GivenUp(_) => Self { delete: Internal, set_properties: Internal, ..Self::all(FailedPrecondition) },
            PoolError::NameTaken { .. } => Self { create_volume: AlreadyExists, create_snapshot: AlreadyExists, ..internal },
            PoolError::Size(_) => Self { create_volume: OutOfRange, expand: OutOfRange, on_node: OutOfRange, ..internal },
            PoolError::InUse { .. } => Self {
                // Nothing was kept; the next attempt may find the source free.
                create_volume: Aborted,
                create_snapshot: Aborted,
                delete: FailedPrecondition,
                expand: FailedPrecondition,
                on_node: FailedPrecondition,
                ..internal
            },
            // The other operation ends by itself.
            PoolError::Busy(_) => Self::all(Aborted),
            PoolError::NoSpace(_) => Self {
                // Another pool may have it.
                create_volume: ResourceExhausted,
                // Retried, and right so: space may come back.
                create_snapshot: ResourceExhausted,
                expand: ResourceExhausted,
                set_properties: ResourceExhausted,
                on_node: ResourceExhausted,
                ..internal
            },
            PoolError::Unsupported(_) => Self {
                // The pool has the snapshots, and no exact answer.
                snapshot_metadata: FailedPrecondition,
                // A parameter, or a source, that this pool's file system cannot serve.
                create_volume: InvalidArgument,
                expand: InvalidArgument,
                // Final until an administrator acts: the file system cannot share extents.
                create_snapshot: FailedPrecondition,
                ..internal
            },
            // Does not go away by itself: the source has too many extents. Rolled back.
            PoolError::TooSlow { .. } => {
                Self { create_volume: FailedPrecondition, create_snapshot: FailedPrecondition, ..internal }
            }
            // The freeze of someone else, which ends by itself. Rolled back.
            PoolError::Quiesce(_) => {
                Self { create_volume: Aborted, create_snapshot: Aborted, expand: Aborted, on_node: Aborted, ..internal }
            }
            // A file system that cannot be frozen, or that shut down, and stays so. Rolled back.
            PoolError::CannotQuiesce(_) => Self {
                create_volume: FailedPrecondition,
                create_snapshot: FailedPrecondition,
                expand: FailedPrecondition,
                on_node: FailedPrecondition,
                ..internal
            },
            // Whether the last commit took hold is not known, which is nothing to those who only read.
            PoolError::Catalogue(_) | PoolError::Unfinished(_) => {
                Self { read: Internal, snapshot_metadata: Internal, ..Self::all(Unavailable) }
            }
            // Rolled back before it was reported.
            PoolError::Owned(_) | PoolError::Format(_) | PoolError::CatalogueLost(_) | PoolError::Io { .. } => internal,
        }
    }
}
