//! Codes of the Node service.

use tonic::{Code, Status};

use crate::mount::MountError;
use crate::node::error::CallError;
use crate::pool::PoolError;

use super::told::{told, with_code};

/// Pool failures in Node calls.
fn pool_on_node(error: &PoolError) -> Code {
    match error {
        PoolError::Missing(_) | PoolError::SourceMissing(_) => Code::NotFound,
        PoolError::InUse { .. } | PoolError::CannotQuiesce(_) | PoolError::GivenUp(_) => Code::FailedPrecondition,
        PoolError::Busy(_) | PoolError::Quiesce(_) => Code::Aborted,
        PoolError::NoSpace(_) => Code::ResourceExhausted,
        PoolError::Size(_) => Code::OutOfRange,
        PoolError::Catalogue(_) | PoolError::Unfinished(_) => Code::Unavailable,
        PoolError::NameTaken { .. }
        | PoolError::Unsupported(_)
        | PoolError::TooSlow { .. }
        | PoolError::Owned(_)
        | PoolError::Format(_)
        | PoolError::CatalogueLost(_)
        | PoolError::Io { .. } => Code::Internal,
    }
}

/// NodeStageVolume.
pub fn node_stage(error: CallError) -> Status {
    let of_mount = |error: &MountError| match error {
        // A file system writes to its log when it is mounted, for which a full pool may have no block.
        error if error.is_out_of_space() => Code::ResourceExhausted,
        MountError::Path { .. } | MountError::Option(_) | MountError::OptionRefused { .. } => Code::InvalidArgument,
        // Never reformatted, nor used while it is damaged: somebody has to look.
        MountError::NotBlank { .. } | MountError::Unsound { .. } => Code::FailedPrecondition,
        MountError::NotFound(_) => Code::FailedPrecondition,
        MountError::Busy(_) | MountError::Program { .. } | MountError::Io { .. } => Code::Internal,
    };
    told(&error, pool_on_node, of_mount)
}

/// NodePublishVolume.
pub fn node_publish(error: CallError) -> Status {
    let of_mount = |error: &MountError| match error {
        MountError::Path { .. } | MountError::Option(_) | MountError::OptionRefused { .. } => Code::InvalidArgument,
        // The staging path, or the parent of the target path.
        MountError::NotFound(_) | MountError::Unsound { .. } => Code::FailedPrecondition,
        MountError::NotBlank { .. } | MountError::Busy(_) | MountError::Program { .. } | MountError::Io { .. } => Code::Internal,
    };
    told(&error, pool_on_node, of_mount)
}

/// NodeUnstageVolume and NodeUnpublishVolume: busy is an error, never success, or the same data would be mounted elsewhere.
pub fn node_undo(error: CallError) -> Status {
    let of_mount = |error: &MountError| match error {
        MountError::Path { .. } | MountError::Option(_) | MountError::OptionRefused { .. } => Code::InvalidArgument,
        MountError::Busy(_) => Code::FailedPrecondition,
        // What could not be undone is there still.
        MountError::NotFound(_)
        | MountError::NotBlank { .. }
        | MountError::Unsound { .. }
        | MountError::Program { .. }
        | MountError::Io { .. } => Code::Unavailable,
    };
    told(&error, pool_on_node, of_mount)
}

/// Mount failures in calls that look at a path of the volume.
fn at_its_path(error: &MountError) -> Code {
    match error {
        MountError::Path { .. } | MountError::Option(_) | MountError::OptionRefused { .. } => Code::InvalidArgument,
        MountError::NotFound(_) => Code::NotFound,
        MountError::Busy(_)
        | MountError::NotBlank { .. }
        | MountError::Unsound { .. }
        | MountError::Program { .. }
        | MountError::Io { .. } => Code::Internal,
    }
}

/// NodeGetVolumeStats.
pub fn node_stats(error: CallError) -> Status {
    match error {
        // Nothing was to be changed, so nothing is unfinished.
        CallError::Lost(_) => with_code(Code::Internal, &error),
        error => told(&error, pool_on_node, at_its_path),
    }
}

/// NodeExpandVolume. A file system writes to its log when it is grown, for which a full pool may have no block.
pub fn node_expand(error: CallError) -> Status {
    told(&error, pool_on_node, |error| if error.is_out_of_space() { Code::ResourceExhausted } else { at_its_path(error) })
}
