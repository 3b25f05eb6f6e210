//! Following a transfer that a node runs.

use csi_proto::windlass::v1 as windlass;
use csi_proto::windlass::v1::TransferState;
use tokio_util::sync::CancellationToken;

use super::client::{Answer, Node, failure, next_message};
use super::exit::{CliError, Exit};
use super::output::Format;
use super::progress::{Progress, Step, Unit};

/// What is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// A snapshot goes into a repository.
    Export,
    /// A volume comes out of one.
    Restore,
}

impl Transfer {
    /// What it is called.
    const fn title(self) -> &'static str {
        match self {
            Self::Export => "export",
            Self::Restore => "restore",
        }
    }

    /// What is left of one that was cancelled.
    const fn left_behind(self) -> &'static str {
        match self {
            Self::Export => {
                "what the repository has of it already is not sent again when the command is repeated, except where its store did not answer any more"
            }
            Self::Restore => "nothing of the volume is left; repeated, the command begins anew",
        }
    }
}

/// Follows a transfer to its end, and shows how far it is. When `interrupt` fires, the transfer is cancelled and its end
/// still awaited, so that nothing runs on behind a command that has returned.
///
/// # Errors
/// As for a start that is refused for what the transfer failed of; [`Exit::Refused`] when it would be of no use,
/// [`Exit::Interrupted`] when it was cancelled, [`Exit::Unavailable`] when the node went away before its end.
pub async fn follow(
    node: &Node,
    transfer_id: &str,
    transfer: Transfer,
    format: Format,
    interrupt: &CancellationToken,
) -> Result<windlass::TransferProgress, CliError> {
    let title = transfer.title();
    let what = format!("{title} cannot be followed");
    let request = windlass::WatchTransferRequest { transfer_id: transfer_id.to_owned() };
    let mut stream = node.transfers().watch_transfer(request).await.answer(&what)?;
    let mut progress = Progress::begin(title, Unit::Bytes, format);
    let mut cancelled = false;
    loop {
        let message = tokio::select! {
            message = next_message(&mut stream, &what) => message?,
            () = interrupt.cancelled(), if !cancelled => {
                cancelled = true;
                let request = windlass::CancelTransferRequest { transfer_id: transfer_id.to_owned() };
                node.transfers().cancel_transfer(request).await.answer(&format!("{title} cannot be cancelled"))?;
                continue;
            }
        };
        let Some(message) = message else {
            return Err(CliError::new(Exit::Unavailable, format!("{title}: the node ended before the transfer did"))
                .advise("its log says why; the command may be repeated"));
        };
        progress.update(&Step {
            phase: phase(&message),
            done: message.bytes_done,
            total: message.bytes_total,
            stored: message.bytes_stored,
        });
        match message.state() {
            TransferState::Succeeded => return Ok(message),
            TransferState::Failed => {
                return Err(failure(&format!("{title} failed"), message.failure_code, &message.message));
            }
            TransferState::Refused => {
                return Err(CliError::because(Exit::Refused, format!("{title} was refused"), message.message)
                    .advise("a restore may ask for --logical-block-size 512, or for a --file"));
            }
            TransferState::Canceled => {
                return Err(CliError::interrupted(format!("{title} was cancelled")).advise(transfer.left_behind()));
            }
            TransferState::Unspecified | TransferState::Pending | TransferState::Running => {}
        }
    }
}

/// What a transfer does, and what it waits for.
fn phase(progress: &windlass::TransferProgress) -> String {
    match progress.message.as_str() {
        "" => progress.phase.clone(),
        reason => format!("{}: {reason}", progress.phase),
    }
}
