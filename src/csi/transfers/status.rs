//! The code of each failure that a start may meet.
//!
//! The callers are the command line, and later the controller: UNAVAILABLE and ABORTED mean that the same call may succeed later
//! without anyone doing anything; every other code needs somebody.

use tonic::{Code, Status};

use crate::pool::PoolError;
use crate::repository::store::Kind;
use crate::repository::{RepositoryError, StoreError};
use crate::transfer::restore::plan::PlanError;
use crate::transfer::{ExportError, RestoreError};

use super::registry::{Ended, NoSlot};

/// A repository that does not open, or does not hold what was asked for.
pub(super) fn repository(error: &RepositoryError) -> Status {
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
        RepositoryError::Scratch(_) => Code::ResourceExhausted,
        RepositoryError::LockLost(_)
        | RepositoryError::Pack(_)
        | RepositoryError::Randomness(_)
        | RepositoryError::Task(_)
        | RepositoryError::Store(StoreError::Io { .. }) => Code::Internal,
    };
    Status::new(code, format!("repository: {}", chain(error)))
}

/// How an export ends that failed.
pub(super) fn export(error: &ExportError) -> Ended {
    match error {
        ExportError::Cancelled => Ended::Cancelled,
        ExportError::Repository(error) => of_repository(error),
        error => Ended::inside(chain(error)),
    }
}

/// How a restore ends that failed.
pub(super) fn restore(error: &RestoreError) -> Ended {
    match error {
        RestoreError::Cancelled => Ended::Cancelled,
        RestoreError::Repository(error) => of_repository(error),
        RestoreError::Damaged { .. }
        | RestoreError::Plan(PlanError::MissingBlob { .. } | PlanError::UnknownLength { .. } | PlanError::SizeMismatch { .. }) => {
            Ended::Failed { code: Code::DataLoss, reason: chain(error) }
        }
        error => Ended::inside(chain(error)),
    }
}

/// How a transfer ends whose start would have been refused, had it not been answered before that was known.
pub(super) fn late(refusal: &Status) -> Ended {
    Ended::Failed { code: refusal.code(), reason: refusal.message().to_owned() }
}

fn of_repository(error: &RepositoryError) -> Ended {
    late(&repository(error))
}

/// A snapshot that cannot be leased, or a target that cannot be made. `field` is the request's field it is about.
pub(super) fn pool(field: &str, error: &PoolError) -> Status {
    let code = match error {
        PoolError::Missing(_) | PoolError::SourceMissing(_) => Code::NotFound,
        PoolError::NameTaken { .. } => Code::AlreadyExists,
        PoolError::Size(_) => Code::OutOfRange,
        PoolError::Busy(_) => Code::Aborted,
        PoolError::NoSpace(_) => Code::ResourceExhausted,
        PoolError::InUse { .. } | PoolError::Quiesce(_) | PoolError::CannotQuiesce(_) | PoolError::TooSlow { .. } => {
            Code::FailedPrecondition
        }
        PoolError::Unsupported(_) => Code::InvalidArgument,
        PoolError::Catalogue(_) | PoolError::Unfinished(_) => Code::Unavailable,
        PoolError::Owned(_) | PoolError::Format(_) | PoolError::CatalogueLost(_) | PoolError::Io { .. } => Code::Internal,
    };
    Status::new(code, format!("{field}: {}", chain(error)))
}

/// No room for one more transfer now, or no more at all.
pub(super) fn no_slot(error: NoSlot) -> Status {
    let code = match error {
        NoSlot::Full => Code::ResourceExhausted,
        NoSlot::Stopping => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

/// An error with its causes; one that repeats its cause says it once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
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
        let unavailable = StoreError::Unavailable { object: "config".into(), reason: "refused".into() };
        assert_eq!(repository(&unavailable.into()).code(), Code::Unavailable);
        assert_eq!(pool("volume_name", &PoolError::Busy("x".into())).code(), Code::Aborted);
        assert_eq!(repository(&RepositoryError::WrongPassword).code(), Code::PermissionDenied);
    }
}
