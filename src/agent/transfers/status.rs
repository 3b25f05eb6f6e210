//! The code of each failure that a start may meet.
//!
//! The callers are the command line, and later the controller: UNAVAILABLE and ABORTED mean that the same call may succeed later
//! without anyone doing anything; every other code needs somebody.

use tonic::{Code, Status};

use crate::blocks::BlocksError;
use crate::repository::store::Kind;
use crate::repository::{RepositoryError, StoreError};
use crate::transfer::restore::plan::PlanError;
use crate::transfer::{ExportError, RestoreError};
use crate::types::error::chain;

use super::registry::{SlotError, TransferFailure};

/// A repository that does not open, or does not hold what was asked for.
pub(in crate::agent) fn repository(error: &RepositoryError) -> Status {
    let code = match error {
        // What an index names is to be there.
        RepositoryError::Store(StoreError::NotFound { object }) if object.starts_with(Kind::Data.folder()) => Code::DataLoss,
        RepositoryError::NoRepository
        | RepositoryError::NoSuchSnapshot(_)
        | RepositoryError::NoSuchFile(_)
        | RepositoryError::NoFile
        | RepositoryError::Store(StoreError::NotFound { .. }) => Code::NotFound,
        RepositoryError::WrongPassword | RepositoryError::Store(StoreError::Denied { .. }) => Code::PermissionDenied,
        RepositoryError::Locked { .. } => Code::Aborted,
        RepositoryError::Store(StoreError::Unavailable { .. } | StoreError::Busy { .. }) => Code::Unavailable,
        RepositoryError::AmbiguousSnapshot(_)
        | RepositoryError::AmbiguousFile(_)
        | RepositoryError::SeveralVolumes { .. }
        | RepositoryError::SeveralFiles { .. }
        | RepositoryError::Store(StoreError::Configuration(_)) => Code::InvalidArgument,
        RepositoryError::AlreadyInitialized
        | RepositoryError::UnsupportedVersion { .. }
        | RepositoryError::UnreadableLock { .. }
        | RepositoryError::Store(StoreError::AlreadyExists { .. }) => Code::FailedPrecondition,
        RepositoryError::Damaged { .. }
        | RepositoryError::MissingBlob { .. }
        | RepositoryError::ConfigLost { .. }
        | RepositoryError::Store(StoreError::Truncated { .. }) => Code::DataLoss,
        error if error.is_of_scratch() => Code::ResourceExhausted,
        RepositoryError::LockLost(_)
        | RepositoryError::Pack(_)
        | RepositoryError::Randomness(_)
        | RepositoryError::KeyFile(_)
        | RepositoryError::Json { .. }
        | RepositoryError::Task(_)
        | RepositoryError::Scratch(_)
        | RepositoryError::Store(StoreError::Io { .. }) => Code::Internal,
    };
    Status::new(code, format!("repository: {}", chain(error)))
}

/// How an export ends that failed.
pub(super) fn export(error: &ExportError) -> TransferFailure {
    match error {
        ExportError::Cancelled => TransferFailure::Cancelled,
        ExportError::Repository(error) => of_repository(error),
        error if error.is_of_scratch() => TransferFailure::Failed { code: Code::ResourceExhausted, reason: chain(error) },
        error => TransferFailure::inside(chain(error)),
    }
}

/// How a restore ends that failed.
pub(super) fn restore(error: &RestoreError) -> TransferFailure {
    match error {
        RestoreError::Cancelled => TransferFailure::Cancelled,
        RestoreError::Repository(error) => of_repository(error),
        RestoreError::Plan(PlanError::Scratch(_)) => {
            TransferFailure::Failed { code: Code::ResourceExhausted, reason: chain(error) }
        }
        RestoreError::Damaged { .. }
        | RestoreError::Plan(PlanError::MissingBlob { .. } | PlanError::UnknownLength { .. } | PlanError::SizeMismatch { .. }) => {
            TransferFailure::Failed { code: Code::DataLoss, reason: chain(error) }
        }
        error => TransferFailure::inside(chain(error)),
    }
}

/// How a transfer ends whose start would have been refused, had it not been answered before that was known.
pub(in crate::agent) fn late(refusal: &Status) -> TransferFailure {
    TransferFailure::Failed { code: refusal.code(), reason: refusal.message().to_owned() }
}

fn of_repository(error: &RepositoryError) -> TransferFailure {
    late(&repository(error))
}

/// A snapshot that cannot be leased, or a target that cannot be made. `field` is the request's field it is about.
pub(in crate::agent) fn blocks(field: &str, error: &BlocksError) -> Status {
    let code = match error {
        BlocksError::Missing(_) => Code::NotFound,
        BlocksError::NameTaken(_) => Code::AlreadyExists,
        BlocksError::Ambiguous(_) | BlocksError::Unsupported(_) => Code::InvalidArgument,
        BlocksError::Size(_) => Code::OutOfRange,
        BlocksError::Busy(_) => Code::Aborted,
        BlocksError::NoSpace(_) => Code::ResourceExhausted,
        BlocksError::InUse(_) => Code::FailedPrecondition,
        BlocksError::Unavailable(_) => Code::Unavailable,
        BlocksError::Failed(_) => Code::Internal,
    };
    Status::new(code, format!("{field}: {error}"))
}

/// No room for one more transfer now, or no more at all.
pub(in crate::agent) fn no_slot(error: SlotError) -> Status {
    let code = match error {
        SlotError::Full => Code::ResourceExhausted,
        SlotError::Stopping => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_the_store_is_told_with_its_cause_once() {
        let source = std::io::Error::other("no route");
        let error = RepositoryError::Store(StoreError::Io { object: "config".into(), source });
        let status = repository(&error);
        assert_eq!(status.code(), Code::Internal);
        assert_eq!(status.message(), "repository: input or output on config failed: no route");
    }

    #[test]
    fn a_pack_that_is_gone_is_lost_data_and_no_name_that_does_not_exist() {
        let gone = |object: &str| repository(&StoreError::NotFound { object: object.into() }.into()).code();
        assert_eq!((gone("data/ab/abcd"), gone("snapshots/abcd")), (Code::DataLoss, Code::NotFound));
    }

    #[test]
    fn what_may_succeed_later_by_itself_is_unavailable_or_aborted() {
        let unavailable = StoreError::Unavailable { object: "config".into(), source: "refused".into() };
        assert_eq!(repository(&unavailable.into()).code(), Code::Unavailable);
        assert_eq!(blocks("volume_name", &BlocksError::Busy("x".into())).code(), Code::Aborted);
        assert_eq!(repository(&RepositoryError::WrongPassword).code(), Code::PermissionDenied);
    }
}
