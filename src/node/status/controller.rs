//! Codes of the Controller, SnapshotMetadata and Pools services.

use tonic::{Code, Status};

use crate::mount::MountError;
use crate::node::error::CallError;
use crate::pool::PoolError;

use super::told::told;

/// The calls that change nothing and touch no mount: lists, gets, validation, capacity.
pub fn read(error: CallError) -> Status {
    let of_pool = |error: &PoolError| match error {
        PoolError::Missing(_) | PoolError::SourceMissing(_) => Code::NotFound,
        PoolError::Busy(_) => Code::Aborted,
        PoolError::GivenUp(_) => Code::FailedPrecondition,
        PoolError::NameTaken { .. }
        | PoolError::Size(_)
        | PoolError::InUse { .. }
        | PoolError::NoSpace(_)
        | PoolError::Unsupported(_)
        | PoolError::TooSlow { .. }
        | PoolError::Quiesce(_)
        | PoolError::CannotQuiesce(_)
        | PoolError::Owned(_)
        | PoolError::Format(_)
        | PoolError::CatalogueLost(_)
        | PoolError::Catalogue(_)
        | PoolError::Unfinished(_)
        | PoolError::Io { .. } => Code::Internal,
    };
    told(&error, of_pool, mount_internal)
}

/// GetMetadataAllocated and GetMetadataDelta, before the first message and after it. A stream whose end is not known goes on where it was cut
/// off.
pub fn snapshot_metadata(error: CallError) -> Status {
    let of_pool = |error: &PoolError| match error {
        PoolError::Missing(_) | PoolError::SourceMissing(_) => Code::NotFound,
        PoolError::Busy(_) => Code::Aborted,
        // The pool has the snapshots, and no exact answer; or it has their records only.
        PoolError::Unsupported(_) | PoolError::GivenUp(_) => Code::FailedPrecondition,
        PoolError::NameTaken { .. }
        | PoolError::Size(_)
        | PoolError::InUse { .. }
        | PoolError::NoSpace(_)
        | PoolError::TooSlow { .. }
        | PoolError::Quiesce(_)
        | PoolError::CannotQuiesce(_)
        | PoolError::Owned(_)
        | PoolError::Format(_)
        | PoolError::CatalogueLost(_)
        | PoolError::Catalogue(_)
        | PoolError::Unfinished(_)
        | PoolError::Io { .. } => Code::Internal,
    };
    told(&error, of_pool, mount_internal)
}

/// Mount failures in calls that have no paths of their own: nothing the caller said is wrong.
fn mount_internal(error: &MountError) -> Code {
    match error {
        MountError::NotFound(_)
        | MountError::Busy(_)
        | MountError::Path { .. }
        | MountError::Option(_)
        | MountError::OptionRefused { .. }
        | MountError::NotBlank { .. }
        | MountError::Unsound { .. }
        | MountError::Program { .. }
        | MountError::Io { .. } => Code::Internal,
    }
}

/// CreateVolume.
pub fn create_volume(error: CallError) -> Status {
    let of_pool = |error: &PoolError| match error {
        PoolError::SourceMissing(_) => Code::NotFound,
        PoolError::NameTaken { .. } => Code::AlreadyExists,
        PoolError::Size(_) => Code::OutOfRange,
        PoolError::NoSpace(_) => Code::ResourceExhausted,
        // A parameter, or a source, that this pool's file system cannot serve.
        PoolError::Unsupported(_) => Code::InvalidArgument,
        // Ends by itself: the other operation, or the freeze of someone else.
        PoolError::Busy(_) | PoolError::InUse { .. } | PoolError::Quiesce(_) => Code::Aborted,
        // Gone between two steps; the repetition finds out what is true now.
        PoolError::Missing(_) => Code::Aborted,
        // Does not go away by itself: the source has too many extents, or its file system cannot be frozen. Rolled back.
        PoolError::TooSlow { .. } | PoolError::CannotQuiesce(_) => Code::FailedPrecondition,
        // What has the repository's credentials restores it.
        PoolError::GivenUp(_) => Code::FailedPrecondition,
        // Whether the last commit took hold is not known.
        PoolError::Catalogue(_) | PoolError::Unfinished(_) => Code::Unavailable,
        // Rolled back before it was reported.
        PoolError::Owned(_) | PoolError::Format(_) | PoolError::CatalogueLost(_) | PoolError::Io { .. } => Code::Internal,
    };
    told(&error, of_pool, mount_internal)
}

/// DeleteVolume and DeleteSnapshot: whatever the code is, the sidecar calls again later.
pub fn delete(error: CallError) -> Status {
    let of_pool = |error: &PoolError| match error {
        PoolError::InUse { .. } => Code::FailedPrecondition,
        PoolError::Busy(_) => Code::Aborted,
        PoolError::Catalogue(_) | PoolError::Unfinished(_) => Code::Unavailable,
        PoolError::Missing(_)
        | PoolError::GivenUp(_)
        | PoolError::SourceMissing(_)
        | PoolError::NameTaken { .. }
        | PoolError::Size(_)
        | PoolError::NoSpace(_)
        | PoolError::Unsupported(_)
        | PoolError::TooSlow { .. }
        | PoolError::Quiesce(_)
        | PoolError::CannotQuiesce(_)
        | PoolError::Owned(_)
        | PoolError::Format(_)
        | PoolError::CatalogueLost(_)
        | PoolError::Io { .. } => Code::Internal,
    };
    told(&error, of_pool, mount_internal)
}

/// CreateSnapshot.
pub fn create_snapshot(error: CallError) -> Status {
    let of_pool = |error: &PoolError| match error {
        PoolError::Missing(_) | PoolError::SourceMissing(_) => Code::NotFound,
        PoolError::NameTaken { .. } => Code::AlreadyExists,
        PoolError::NoSpace(_) => Code::ResourceExhausted,
        // Nothing was kept; the next attempt may find the volume still.
        PoolError::Busy(_) | PoolError::InUse { .. } | PoolError::Quiesce(_) => Code::Aborted,
        // Final until an administrator acts: the file system cannot share extents, or the volume has too many, or it shut down.
        PoolError::Unsupported(_) | PoolError::TooSlow { .. } | PoolError::CannotQuiesce(_) | PoolError::GivenUp(_) => {
            Code::FailedPrecondition
        }
        PoolError::Catalogue(_) | PoolError::Unfinished(_) => Code::Unavailable,
        PoolError::Size(_) | PoolError::Owned(_) | PoolError::Format(_) | PoolError::CatalogueLost(_) | PoolError::Io { .. } => {
            Code::Internal
        }
    };
    told(&error, of_pool, mount_internal)
}

/// ControllerExpandVolume.
pub fn controller_expand(error: CallError) -> Status {
    let of_pool = |error: &PoolError| match error {
        PoolError::Missing(_) | PoolError::SourceMissing(_) => Code::NotFound,
        PoolError::Size(_) => Code::OutOfRange,
        // Retried, and right so: space may come back.
        PoolError::NoSpace(_) => Code::ResourceExhausted,
        PoolError::InUse { .. } | PoolError::CannotQuiesce(_) | PoolError::GivenUp(_) => Code::FailedPrecondition,
        PoolError::Busy(_) | PoolError::Quiesce(_) => Code::Aborted,
        PoolError::Unsupported(_) => Code::InvalidArgument,
        PoolError::Catalogue(_) | PoolError::Unfinished(_) => Code::Unavailable,
        PoolError::NameTaken { .. }
        | PoolError::TooSlow { .. }
        | PoolError::Owned(_)
        | PoolError::Format(_)
        | PoolError::CatalogueLost(_)
        | PoolError::Io { .. } => Code::Internal,
    };
    told(&error, of_pool, mount_internal)
}

/// SetPoolProperties of the Pools service: a person reads it.
pub fn set_pool_properties(error: CallError) -> Status {
    let of_pool = |error: &PoolError| match error {
        PoolError::Catalogue(_) | PoolError::Unfinished(_) => Code::Unavailable,
        PoolError::NoSpace(_) => Code::ResourceExhausted,
        PoolError::Busy(_) => Code::Aborted,
        PoolError::Missing(_)
        | PoolError::GivenUp(_)
        | PoolError::SourceMissing(_)
        | PoolError::NameTaken { .. }
        | PoolError::Size(_)
        | PoolError::InUse { .. }
        | PoolError::Unsupported(_)
        | PoolError::TooSlow { .. }
        | PoolError::Quiesce(_)
        | PoolError::CannotQuiesce(_)
        | PoolError::Owned(_)
        | PoolError::Format(_)
        | PoolError::CatalogueLost(_)
        | PoolError::Io { .. } => Code::Internal,
    };
    told(&error, of_pool, mount_internal)
}
