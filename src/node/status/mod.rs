//! The code of each failure, chosen for the program that reads it (invariant 6).
//!
//! One function for each call, over the codes that each failure has, without a catch-all: a new kind of failure does not compile
//! until somebody has decided what each caller is told. What the callers do with the codes:
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

mod mount_codes;
mod pool_codes;
mod told;

use tonic::{Code, Status};

use crate::node::error::CallError;

use mount_codes::MountCodes;
use told::{told, with_code};

/// The calls that change nothing and touch no mount: lists, gets, validation, capacity.
pub fn read(error: CallError) -> Status {
    told(&error, |of_pool| of_pool.read, |of_mount| of_mount.without_path)
}

/// GetMetadataAllocated and GetMetadataDelta, before the first message and after it. A stream whose end is not known goes on where it was
/// cut off.
pub fn snapshot_metadata(error: CallError) -> Status {
    told(&error, |of_pool| of_pool.snapshot_metadata, |of_mount| of_mount.without_path)
}

/// CreateVolume.
pub fn create_volume(error: CallError) -> Status {
    told(&error, |of_pool| of_pool.create_volume, |of_mount| of_mount.without_path)
}

/// DeleteVolume and DeleteSnapshot.
pub fn delete(error: CallError) -> Status {
    told(&error, |of_pool| of_pool.delete, |of_mount| of_mount.without_path)
}

/// CreateSnapshot.
pub fn create_snapshot(error: CallError) -> Status {
    told(&error, |of_pool| of_pool.create_snapshot, |of_mount| of_mount.without_path)
}

/// ControllerExpandVolume.
pub fn controller_expand(error: CallError) -> Status {
    told(&error, |of_pool| of_pool.expand, |of_mount| of_mount.without_path)
}

/// SetPoolProperties of the Pools service.
pub fn set_pool_properties(error: CallError) -> Status {
    told(&error, |of_pool| of_pool.set_properties, |of_mount| of_mount.without_path)
}

/// NodeStageVolume.
pub fn node_stage(error: CallError) -> Status {
    unless_out_of_space(error, |of_mount| of_mount.stage)
}

/// NodePublishVolume.
pub fn node_publish(error: CallError) -> Status {
    told(&error, |of_pool| of_pool.on_node, |of_mount| of_mount.publish)
}

/// NodeUnstageVolume and NodeUnpublishVolume.
pub fn node_undo(error: CallError) -> Status {
    told(&error, |of_pool| of_pool.on_node, |of_mount| of_mount.undo)
}

/// NodeGetVolumeStats.
pub fn node_stats(error: CallError) -> Status {
    match error {
        // Nothing was to be changed, so nothing is unfinished.
        CallError::Lost(_) => with_code(Code::Internal, &error),
        error => told(&error, |of_pool| of_pool.on_node, |of_mount| of_mount.at_path),
    }
}

/// NodeExpandVolume.
pub fn node_expand(error: CallError) -> Status {
    unless_out_of_space(error, |of_mount| of_mount.at_path)
}

/// A file system writes to its log when it is mounted or grown, for which a full pool may have no block.
fn unless_out_of_space(error: CallError, of_mount: fn(MountCodes) -> Code) -> Status {
    match error {
        CallError::Mount(ref full) if full.is_out_of_space() => with_code(Code::ResourceExhausted, &error),
        error => told(&error, |of_pool| of_pool.on_node, of_mount),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use tonic::Code;

    use super::*;
    use crate::mount::MountError;
    use crate::node::error::CallError;
    use crate::pool::{CatalogueFault, PoolError};
    use crate::types::{Object, VolumeId};

    fn pool_errors() -> Vec<PoolError> {
        let object = Object::Volume(VolumeId::from_bytes([0; 16]));
        vec![
            PoolError::Missing(object),
            PoolError::SourceMissing(object),
            PoolError::GivenUp(object),
            PoolError::NameTaken { name: "a".to_owned(), difference: "capacity" },
            PoolError::Size("too small".to_owned()),
            PoolError::InUse { object, by: "a lease".to_owned() },
            PoolError::Busy("x".to_owned()),
            PoolError::NoSpace("x".to_owned()),
            PoolError::Unsupported("x".into()),
            PoolError::TooSlow { object, extents: 1, estimate: Duration::ZERO, limit: Duration::ZERO },
            PoolError::Quiesce("x".into()),
            PoolError::CannotQuiesce("x".into()),
            PoolError::Owned("x".to_owned()),
            PoolError::Format("x".into()),
            PoolError::CatalogueLost("x".to_owned()),
            PoolError::Catalogue(CatalogueFault::BeingReopened),
            PoolError::Unfinished(Box::new(PoolError::Busy("x".to_owned()))),
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
            | PoolError::GivenUp(_)
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
