//! The code of each failure, chosen for the program that reads it (invariant 6).
//!
//! One function for each call, over every failure there is, without a catch-all: a new kind of failure does not compile until
//! somebody has decided what each caller is told. What the callers do with the codes:
//!
//! * csi-provisioner, CreateVolume: CANCELLED, DEADLINE_EXCEEDED, UNAVAILABLE, ABORTED: calls again until the answer is final, also
//!   after the claim is gone. RESOURCE_EXHAUSTED: gives up the node and lets the scheduler choose again. Everything else is final:
//!   nothing may be left behind, since DeleteVolume may never be called.
//! * csi-snapshotter, CreateSnapshot: the first four and RESOURCE_EXHAUSTED are called again; everything else is final and shown
//!   on the VolumeSnapshot.
//! * csi-snapshot-metadata passes the code on to a backup client. NOT_FOUND and FAILED_PRECONDITION: it copies everything.
//!   UNAVAILABLE and ABORTED: it goes on where the ranges ended.
//! * csi-resizer: INVALID_ARGUMENT, OUT_OF_RANGE and NOT_FOUND: infeasible, the user may ask for less. Everything else is retried.
//! * kubelet, Node calls: retries whatever the code is, with backoff; CANCELLED, DEADLINE_EXCEEDED, ABORTED and UNAVAILABLE (and
//!   some more) make it keep the volume marked as possibly mounted.
//!
//! So a fault that will not go away by itself never gets UNAVAILABLE or ABORTED, and one whose outcome is not known gets no
//! other: INTERNAL says that it failed and that nothing is left.

use tonic::{Code, Status};

use crate::mount::MountError;
use crate::pool::PoolError;

use super::error::{CallError, Fault, RequestError};

/// Faults of the request itself mean the same to every caller.
fn request(error: &RequestError) -> Code {
    match error.fault {
        Fault::Invalid | Fault::Unsupported => Code::InvalidArgument,
        Fault::OutOfRange => Code::OutOfRange,
        Fault::NotFound => Code::NotFound,
        // Another node, or this one once its disk is back, may own it.
        Fault::PoolElsewhere => Code::Unavailable,
        Fault::AlreadyExists => Code::AlreadyExists,
        Fault::Precondition => Code::FailedPrecondition,
        Fault::Exhausted => Code::ResourceExhausted,
        Fault::InFlight | Fault::Token => Code::Aborted,
        Fault::Deadline => Code::DeadlineExceeded,
    }
}

fn status(code: Code, error: &CallError) -> Status {
    let text = error.to_string();
    if matches!(code, Code::Internal | Code::Unavailable | Code::Unknown) {
        tracing::error!(?code, error = text, "a call failed");
    }
    Status::new(code, text)
}

/// The calls that change nothing and touch no mount: lists, gets, validation, capacity.
pub fn read(error: CallError) -> Status {
    let code = match &error {
        CallError::Request(error) => request(error),
        CallError::Lost(_) | CallError::Unfinished { .. } => Code::Unavailable,
        CallError::Pool(error) => match error {
            PoolError::Missing(_) | PoolError::SourceMissing(_) => Code::NotFound,
            PoolError::Busy(_) => Code::Aborted,
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
        },
        CallError::Mount(error) => mount_internal(error),
    };
    status(code, &error)
}

/// GetMetadataAllocated and GetMetadataDelta, before the first message and after it.
pub fn snapshot_metadata(error: CallError) -> Status {
    let code = match &error {
        CallError::Request(error) => request(error),
        // It was not said that everything was sent, so the caller goes on where it was cut off.
        CallError::Lost(_) | CallError::Unfinished { .. } => Code::Unavailable,
        CallError::Pool(error) => match error {
            PoolError::Missing(_) | PoolError::SourceMissing(_) => Code::NotFound,
            PoolError::Busy(_) => Code::Aborted,
            // The pool has the snapshots, and no exact answer.
            PoolError::Unsupported(_) => Code::FailedPrecondition,
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
        },
        CallError::Mount(error) => mount_internal(error),
    };
    status(code, &error)
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
    let code = match &error {
        CallError::Request(error) => request(error),
        // The work may have come to its end: only a repetition tells.
        CallError::Lost(_) | CallError::Unfinished { .. } => Code::Unavailable,
        CallError::Pool(error) => match error {
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
            // Whether the last commit took hold is not known.
            PoolError::Catalogue(_) | PoolError::Unfinished(_) => Code::Unavailable,
            // Rolled back before it was reported.
            PoolError::Owned(_) | PoolError::Format(_) | PoolError::CatalogueLost(_) | PoolError::Io { .. } => Code::Internal,
        },
        CallError::Mount(error) => mount_internal(error),
    };
    status(code, &error)
}

/// DeleteVolume and DeleteSnapshot: whatever the code is, the sidecar calls again later.
pub fn delete(error: CallError) -> Status {
    let code = match &error {
        CallError::Request(error) => request(error),
        CallError::Lost(_) | CallError::Unfinished { .. } => Code::Unavailable,
        CallError::Pool(error) => match error {
            PoolError::InUse { .. } => Code::FailedPrecondition,
            PoolError::Busy(_) => Code::Aborted,
            PoolError::Catalogue(_) | PoolError::Unfinished(_) => Code::Unavailable,
            PoolError::Missing(_)
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
        },
        CallError::Mount(error) => mount_internal(error),
    };
    status(code, &error)
}

/// CreateSnapshot.
pub fn create_snapshot(error: CallError) -> Status {
    let code = match &error {
        CallError::Request(error) => request(error),
        CallError::Lost(_) | CallError::Unfinished { .. } => Code::Unavailable,
        CallError::Pool(error) => match error {
            PoolError::Missing(_) | PoolError::SourceMissing(_) => Code::NotFound,
            PoolError::NameTaken { .. } => Code::AlreadyExists,
            PoolError::NoSpace(_) => Code::ResourceExhausted,
            // Nothing was kept; the next attempt may find the volume still.
            PoolError::Busy(_) | PoolError::InUse { .. } | PoolError::Quiesce(_) => Code::Aborted,
            // Final until an administrator acts: the file system cannot share extents, or the volume has too many, or it shut down.
            PoolError::Unsupported(_) | PoolError::TooSlow { .. } | PoolError::CannotQuiesce(_) => Code::FailedPrecondition,
            PoolError::Catalogue(_) | PoolError::Unfinished(_) => Code::Unavailable,
            PoolError::Size(_)
            | PoolError::Owned(_)
            | PoolError::Format(_)
            | PoolError::CatalogueLost(_)
            | PoolError::Io { .. } => Code::Internal,
        },
        CallError::Mount(error) => mount_internal(error),
    };
    status(code, &error)
}

/// ControllerExpandVolume.
pub fn controller_expand(error: CallError) -> Status {
    let code = match &error {
        CallError::Request(error) => request(error),
        CallError::Lost(_) | CallError::Unfinished { .. } => Code::Unavailable,
        CallError::Pool(error) => match error {
            PoolError::Missing(_) | PoolError::SourceMissing(_) => Code::NotFound,
            PoolError::Size(_) => Code::OutOfRange,
            // Retried, and right so: space may come back.
            PoolError::NoSpace(_) => Code::ResourceExhausted,
            PoolError::InUse { .. } | PoolError::CannotQuiesce(_) => Code::FailedPrecondition,
            PoolError::Busy(_) | PoolError::Quiesce(_) => Code::Aborted,
            PoolError::Unsupported(_) => Code::InvalidArgument,
            PoolError::Catalogue(_) | PoolError::Unfinished(_) => Code::Unavailable,
            PoolError::NameTaken { .. }
            | PoolError::TooSlow { .. }
            | PoolError::Owned(_)
            | PoolError::Format(_)
            | PoolError::CatalogueLost(_)
            | PoolError::Io { .. } => Code::Internal,
        },
        CallError::Mount(error) => mount_internal(error),
    };
    status(code, &error)
}

/// Pool failures in Node calls.
fn pool_on_node(error: &PoolError) -> Code {
    match error {
        PoolError::Missing(_) | PoolError::SourceMissing(_) => Code::NotFound,
        PoolError::InUse { .. } | PoolError::CannotQuiesce(_) => Code::FailedPrecondition,
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
    let code = match &error {
        CallError::Request(error) => request(error),
        CallError::Lost(_) | CallError::Unfinished { .. } => Code::Unavailable,
        CallError::Pool(error) => pool_on_node(error),
        // A file system writes to its log when it is mounted or grown, for which a full pool may have no block.
        CallError::Mount(error) if error.is_out_of_space() => Code::ResourceExhausted,
        CallError::Mount(error) => match error {
            MountError::Path { .. } | MountError::Option(_) | MountError::OptionRefused { .. } => Code::InvalidArgument,
            // Never reformatted, nor used while it is damaged: somebody has to look.
            MountError::NotBlank { .. } | MountError::Unsound { .. } => Code::FailedPrecondition,
            MountError::NotFound(_) => Code::FailedPrecondition,
            MountError::Busy(_) | MountError::Program { .. } | MountError::Io { .. } => Code::Internal,
        },
    };
    status(code, &error)
}

/// NodePublishVolume.
pub fn node_publish(error: CallError) -> Status {
    let code = match &error {
        CallError::Request(error) => request(error),
        CallError::Lost(_) | CallError::Unfinished { .. } => Code::Unavailable,
        CallError::Pool(error) => pool_on_node(error),
        CallError::Mount(error) => match error {
            MountError::Path { .. } | MountError::Option(_) | MountError::OptionRefused { .. } => Code::InvalidArgument,
            // The staging path, or the parent of the target path.
            MountError::NotFound(_) | MountError::Unsound { .. } => Code::FailedPrecondition,
            MountError::NotBlank { .. } | MountError::Busy(_) | MountError::Program { .. } | MountError::Io { .. } => {
                Code::Internal
            }
        },
    };
    status(code, &error)
}

/// NodeUnstageVolume and NodeUnpublishVolume: busy is an error, never success, or the same data would be mounted elsewhere.
pub fn node_undo(error: CallError) -> Status {
    let code = match &error {
        CallError::Request(error) => request(error),
        CallError::Lost(_) | CallError::Unfinished { .. } => Code::Unavailable,
        CallError::Pool(error) => pool_on_node(error),
        CallError::Mount(error) => match error {
            MountError::Path { .. } | MountError::Option(_) | MountError::OptionRefused { .. } => Code::InvalidArgument,
            MountError::Busy(_) => Code::FailedPrecondition,
            // What could not be undone is there still.
            MountError::NotFound(_)
            | MountError::NotBlank { .. }
            | MountError::Unsound { .. }
            | MountError::Program { .. }
            | MountError::Io { .. } => Code::Unavailable,
        },
    };
    status(code, &error)
}

/// NodeGetVolumeStats.
pub fn node_stats(error: CallError) -> Status {
    let code = match &error {
        CallError::Request(error) => request(error),
        CallError::Lost(_) => Code::Internal,
        CallError::Unfinished { .. } => Code::Unavailable,
        CallError::Pool(error) => pool_on_node(error),
        CallError::Mount(error) => match error {
            MountError::Path { .. } | MountError::Option(_) | MountError::OptionRefused { .. } => Code::InvalidArgument,
            MountError::NotFound(_) => Code::NotFound,
            MountError::Busy(_)
            | MountError::NotBlank { .. }
            | MountError::Unsound { .. }
            | MountError::Program { .. }
            | MountError::Io { .. } => Code::Internal,
        },
    };
    status(code, &error)
}

/// NodeExpandVolume.
pub fn node_expand(error: CallError) -> Status {
    let code = match &error {
        CallError::Request(error) => request(error),
        CallError::Lost(_) | CallError::Unfinished { .. } => Code::Unavailable,
        CallError::Pool(error) => pool_on_node(error),
        // A file system writes to its log when it is mounted or grown, for which a full pool may have no block.
        CallError::Mount(error) if error.is_out_of_space() => Code::ResourceExhausted,
        CallError::Mount(error) => match error {
            MountError::Path { .. } | MountError::Option(_) | MountError::OptionRefused { .. } => Code::InvalidArgument,
            MountError::NotFound(_) => Code::NotFound,
            MountError::Busy(_)
            | MountError::NotBlank { .. }
            | MountError::Unsound { .. }
            | MountError::Program { .. }
            | MountError::Io { .. } => Code::Internal,
        },
    };
    status(code, &error)
}

/// SetPoolProperties of the Pools service: a person reads it.
pub fn set_pool_properties(error: CallError) -> Status {
    let code = match &error {
        CallError::Request(error) => request(error),
        // Whether it took hold is not known.
        CallError::Lost(_) | CallError::Unfinished { .. } => Code::Unavailable,
        CallError::Pool(error) => match error {
            PoolError::Catalogue(_) | PoolError::Unfinished(_) => Code::Unavailable,
            PoolError::NoSpace(_) => Code::ResourceExhausted,
            PoolError::Busy(_) => Code::Aborted,
            PoolError::Missing(_)
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
        },
        CallError::Mount(error) => mount_internal(error),
    };
    status(code, &error)
}

/// A call that this driver does not offer; its capability is not advertised.
pub fn unimplemented(call: &'static str) -> Status {
    Status::unimplemented(format!("{call} is not offered by this driver"))
}

/// Probe, when no pool is open.
pub fn unhealthy(reason: impl Into<String>) -> Status {
    Status::failed_precondition(reason)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::*;
    use crate::types::{Object, VolumeId};

    fn pool_errors() -> Vec<PoolError> {
        let object = Object::Volume(VolumeId::from_bytes([0; 16]));
        vec![
            PoolError::Missing(object),
            PoolError::SourceMissing(object),
            PoolError::NameTaken { name: "a".to_owned(), difference: "capacity" },
            PoolError::Size("too small".to_owned()),
            PoolError::InUse { object, by: "a lease".to_owned() },
            PoolError::Busy("x".to_owned()),
            PoolError::NoSpace("x".to_owned()),
            PoolError::Unsupported("x".to_owned()),
            PoolError::TooSlow { object, extents: 1, estimate: Duration::ZERO, limit: Duration::ZERO },
            PoolError::Quiesce("x".to_owned()),
            PoolError::CannotQuiesce("x".to_owned()),
            PoolError::Owned("x".to_owned()),
            PoolError::Format("x".to_owned()),
            PoolError::CatalogueLost("x".to_owned()),
            PoolError::Catalogue("x".to_owned()),
            PoolError::Unfinished("x".to_owned()),
            PoolError::Io { action: "x".to_owned(), source: io::Error::other("x") },
        ]
    }

    /// What goes away without anybody doing anything, or whose outcome is not known.
    fn is_transient(error: &PoolError) -> bool {
        match error {
            PoolError::Missing(_)
            | PoolError::InUse { .. }
            | PoolError::Busy(_)
            | PoolError::Quiesce(_)
            | PoolError::NoSpace(_)
            | PoolError::Catalogue(_)
            | PoolError::Unfinished(_) => true,
            PoolError::SourceMissing(_)
            | PoolError::NameTaken { .. }
            | PoolError::Size(_)
            | PoolError::Unsupported(_)
            | PoolError::TooSlow { .. }
            | PoolError::CannotQuiesce(_)
            | PoolError::Owned(_)
            | PoolError::Format(_)
            | PoolError::CatalogueLost(_)
            | PoolError::Io { .. } => false,
        }
    }

    #[test]
    fn final_faults_never_get_a_code_that_the_sidecars_repeat_for_ever() {
        for make in [create_volume, create_snapshot, snapshot_metadata] {
            for error in pool_errors() {
                let transient = is_transient(&error);
                let text = error.to_string();
                let code = make(error.into()).code();
                let repeated = matches!(
                    code,
                    Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable | Code::Aborted | Code::ResourceExhausted
                );
                assert!(transient || !repeated, "{text}: {code:?}");
            }
        }
    }

    #[test]
    fn busy_is_never_taken_for_done() {
        let busy = || CallError::Mount(MountError::Busy("/x".into()));
        assert_eq!(node_undo(busy()).code(), Code::FailedPrecondition);
        let in_use = PoolError::InUse { object: Object::Volume(VolumeId::from_bytes([0; 16])), by: "a mount".to_owned() };
        assert_eq!(node_undo(in_use.into()).code(), Code::FailedPrecondition);
    }

    #[test]
    fn a_file_system_that_finds_no_room_in_the_pool_says_that_the_pool_is_full() {
        let full = || MountError::io("mount /dev/x")(io::Error::from_raw_os_error(libc::ENOSPC));
        let program =
            || MountError::Program { program: "xfs_growfs", output: "XFS_IOC_FSGROWFSDATA: No space left on device".into() };
        for make in [node_stage, node_expand] {
            assert_eq!(make(full().into()).code(), Code::ResourceExhausted);
            assert_eq!(make(program().into()).code(), Code::ResourceExhausted);
            assert_eq!(make(MountError::Busy("/x".into()).into()).code(), Code::Internal);
        }
    }

    #[test]
    fn no_status_carries_details() {
        for error in pool_errors() {
            let status = read(error.into());
            assert!(status.details().is_empty() && !status.message().is_empty());
        }
    }
}
