//! Work that an interrupt ends.

use std::future::Future;

use tokio_util::sync::CancellationToken;

use super::exit::CliError;

/// Runs short work that has nothing to undo on this side.
pub async fn unless<T>(interrupt: &CancellationToken, work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    tokio::select! {
        result = work => result,
        () = interrupt.cancelled() => Err(CliError::interrupted("interrupted")
            .advise("what a node was asked to do before runs on there; repeat the command to see its result")),
    }
}
