//! Why an attempt failed, in texts that do not change from one call to the next: a sidecar makes an event of each new one. What is
//! behind them is in the log, and in the transfer.

use tonic::Code;

use crate::agent::transfers::registry::TransferFailure;
use crate::agent::transfers::status;
use crate::blocks::BlocksError;
use crate::repository::{RepositoryError, StoreError};
use crate::types::error::chain;

/// A reason that somebody can act upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    WrongPassword,
    Denied,
    NoRepository,
    Gone,
    Unreachable,
    Locked,
    Configuration,
    Damaged,
    Scratch,
    Node,
    Unrecorded,
    Unknown,
}

impl Fault {
    /// For people. It names no value.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::WrongPassword => "export: RESTIC_PASSWORD of the Secret does not open the repository",
            Self::Denied => "export: the repository's store refuses access: check the keys of the Secret and what they may do",
            Self::NoRepository => {
                "export: there is no repository where RESTIC_REPOSITORY of the Secret says: make one (`windlass repository init`), or \
                 let the class say `repository: createIfMissing`"
            }
            Self::Gone => {
                "export: the repository that earlier exports went to is gone from where RESTIC_REPOSITORY of the Secret says; no other is \
                 made in its place"
            }
            Self::Unreachable => "export: the repository's store does not answer",
            Self::Locked => "export: somebody else has locked the repository",
            Self::Configuration => {
                "export: the repository's store cannot be used as the Secret says: a key is missing, or the bucket does not exist"
            }
            Self::Damaged => "export: the repository is damaged: `windlass repository check` says what is wrong",
            Self::Scratch => "export: the agent has no room left for its lists (WINDLASS_SCRATCH_DIR)",
            Self::Node => "export: the node does not give the snapshot out; the log of the agent says why",
            Self::Unrecorded => "export: it was made, and could not be recorded yet",
            Self::Unknown => "export: it failed; the log of the agent says why",
        }
    }

    fn of_code(code: Code) -> Self {
        match code {
            Code::PermissionDenied => Self::Denied,
            Code::NotFound | Code::Unavailable => Self::Unreachable,
            Code::Aborted => Self::Locked,
            Code::InvalidArgument | Code::FailedPrecondition => Self::Configuration,
            Code::DataLoss => Self::Damaged,
            Code::ResourceExhausted => Self::Scratch,
            _ => Self::Unknown,
        }
    }
}

/// How an attempt ends that does not succeed.
#[derive(Debug)]
pub(in crate::agent) struct Ended {
    /// What the transfer says.
    pub(in crate::agent) failure: TransferFailure,
    /// What the task and the calls say.
    pub(super) fault: Fault,
}

impl Ended {
    /// It was asked to stop.
    pub(super) fn cancelled() -> Self {
        Self { failure: TransferFailure::Cancelled, fault: Fault::Unknown }
    }

    /// For a reason that only this program knows.
    pub(super) fn inside(fault: Fault) -> Self {
        Self { failure: TransferFailure::inside(fault.text().to_owned()), fault }
    }

    /// The repository's place is empty.
    pub(super) fn without_repository(fault: Fault) -> Self {
        Self { failure: TransferFailure::Failed { code: Code::NotFound, reason: fault.text().to_owned() }, fault }
    }
}

impl From<RepositoryError> for Ended {
    fn from(error: RepositoryError) -> Self {
        let failure = status::late(&status::repository(&error));
        let fault = match (&error, &failure) {
            (RepositoryError::WrongPassword, _) => Fault::WrongPassword,
            (RepositoryError::NoRepository, _) => Fault::NoRepository,
            (RepositoryError::Store(StoreError::Denied { .. }), _) => Fault::Denied,
            (_, TransferFailure::Failed { code, .. }) => Fault::of_code(*code),
            _ => Fault::Unknown,
        };
        Self { failure, fault }
    }
}

impl From<TransferFailure> for Ended {
    fn from(failure: TransferFailure) -> Self {
        let fault = match &failure {
            TransferFailure::Failed { code, .. } => Fault::of_code(*code),
            TransferFailure::Cancelled | TransferFailure::Refused(_) => Fault::Unknown,
        };
        Self { failure, fault }
    }
}

impl From<BlocksError> for Ended {
    fn from(error: BlocksError) -> Self {
        Self { failure: TransferFailure::inside(chain(&error)), fault: Fault::Node }
    }
}
