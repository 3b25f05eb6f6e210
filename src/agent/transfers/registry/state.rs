//! The words for a transfer, and its state as whoever watches it sees it. Pure.

use csi_proto::windlass::v1::{ExportResult, RestoreResult, TransferProgress, TransferState};
use tonic::Code;

use crate::transfer::{Phase, Progress};

/// What a transfer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferKind {
    /// A snapshot into a repository.
    Export,
    /// A repository into a volume.
    Restore,
}

impl TransferKind {
    /// The name in the protocol.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Export => "export",
            Self::Restore => "restore",
        }
    }
}

/// What a transfer that succeeded has done.
#[derive(Debug, Clone, PartialEq)]
pub enum TransferResult {
    /// Of an export.
    Export(ExportResult),
    /// Of a restore.
    Restore(RestoreResult),
}

/// Why a transfer did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferFailure {
    /// It was asked to stop, and did.
    Cancelled,
    /// It failed; the reason holds no secret. The code is that of a start which is refused for it.
    Failed {
        /// What kind of failure it was.
        code: Code,
        /// Why, for people.
        reason: String,
    },
    /// It is not to be: the same request would always end so. The text says why.
    Refused(String),
}

impl TransferFailure {
    /// A failure that is nobody's but this program's, or its machine's.
    pub fn inside(reason: String) -> Self {
        Self::Failed { code: Code::Internal, reason }
    }
}

/// Makes the state final.
pub(super) fn finish(transfer: &mut TransferProgress, result: Result<TransferResult, TransferFailure>) {
    match result {
        Ok(done) => {
            transfer.set_state(TransferState::Succeeded);
            match done {
                TransferResult::Export(result) => transfer.export_result = Some(result),
                TransferResult::Restore(result) => transfer.restore_result = Some(result),
            }
        }
        Err(TransferFailure::Cancelled) => {
            transfer.set_state(TransferState::Canceled);
            transfer.message = "cancelled on request".to_owned();
        }
        Err(TransferFailure::Failed { code, reason }) => {
            transfer.set_state(TransferState::Failed);
            transfer.failure_code = code as u32;
            transfer.message = reason;
        }
        Err(TransferFailure::Refused(reason)) => {
            transfer.set_state(TransferState::Refused);
            transfer.message = reason;
        }
    }
}

/// The state with what the counters say now.
pub(super) fn with_counters(mut transfer: TransferProgress, progress: &Progress) -> TransferProgress {
    let counters = progress.snapshot();
    let phase = match counters.phase {
        Phase::Preparing => "preparing",
        Phase::Transferring => "copying",
        Phase::Committing => "committing",
        Phase::Done => "done",
    };
    if transfer.state() == TransferState::Running {
        let waiting = progress.waiting();
        if waiting.is_some() { "waiting" } else { phase }.clone_into(&mut transfer.phase);
        transfer.message = waiting.unwrap_or_default();
    }
    transfer.bytes_done = counters.done_bytes;
    transfer.bytes_total = counters.total_bytes;
    transfer.bytes_stored = counters.stored_bytes;
    transfer
}

/// True for a transfer that waits for its turn, or was not begun.
pub fn is_waiting(transfer: &TransferProgress) -> bool {
    transfer.state() == TransferState::Pending
}

/// True for a state that does not change any more.
pub fn is_final(transfer: &TransferProgress) -> bool {
    use TransferState::{Canceled, Failed, Refused, Succeeded};
    matches!(transfer.state(), Succeeded | Failed | Canceled | Refused)
}
