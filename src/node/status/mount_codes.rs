//! What a failure of a mount, a device or a path means to whoever made the call.

use tonic::Code::{self, *};

use crate::mount::MountError;

/// The code of one failure for each kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MountCodes {
    /// Calls that have no paths of their own: nothing that the caller said is wrong.
    pub(super) without_path: Code,
    pub(super) stage: Code,
    pub(super) publish: Code,
    /// NodeUnstageVolume and NodeUnpublishVolume: what could not be undone is there still.
    pub(super) undo: Code,
    /// Calls that look at a path of the volume.
    pub(super) at_path: Code,
}

impl MountCodes {
    /// Those of `error`.
    pub(super) fn of(error: &MountError) -> Self {
        let failed = Self { without_path: Internal, stage: Internal, publish: Internal, undo: Unavailable, at_path: Internal };
        match error {
            // Of publish the staging path, or the parent of the target path.
            MountError::NotFound(_) => {
                Self { stage: FailedPrecondition, publish: FailedPrecondition, at_path: NotFound, ..failed }
            }
            // An error and never success, or the same data would be mounted elsewhere.
            MountError::Busy(_) => Self { undo: FailedPrecondition, ..failed },
            MountError::Path { .. } | MountError::Option(_) | MountError::OptionRefused { .. } => Self {
                without_path: Internal,
                stage: InvalidArgument,
                publish: InvalidArgument,
                undo: InvalidArgument,
                at_path: InvalidArgument,
            },
            // Never reformatted: somebody has to look.
            MountError::NotBlank { .. } => Self { stage: FailedPrecondition, ..failed },
            // Never used while it is damaged: somebody has to look.
            MountError::Unsound { .. } => Self { stage: FailedPrecondition, publish: FailedPrecondition, ..failed },
            MountError::Program { .. } | MountError::Io { .. } => failed,
        }
    }
}
