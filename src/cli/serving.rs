//! What processes that serve have in common: sockets that cannot be bound, and several that end together.

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;

use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::agent::Transfers;
use crate::csi::server::{self, PrivateSocket, ServeError, SocketError};

use super::exit::{CliError, Exit};

/// A socket and what is served on it.
pub struct Service {
    /// The socket.
    pub socket: PrivateSocket,
    /// The services.
    pub routes: Routes,
}

/// What runs beside the sockets, until `end` and a little longer.
pub type Beside = Pin<Box<dyn Future<Output = Result<(), ServeError>> + Send>>;

/// Transfers, which are cancelled while calls end: whoever follows one is such a call.
pub fn transfers(transfers: Transfers, end: &CancellationToken) -> Beside {
    let end = end.clone();
    Box::pin(async move {
        end.cancelled().await;
        transfers.stop().await;
        Ok(())
    })
}

/// Nothing: it lasts as long as the sockets.
pub fn nothing(end: &CancellationToken) -> Beside {
    let end = end.clone();
    Box::pin(async move {
        end.cancelled().await;
        Ok(())
    })
}

/// Serves until `end` is cancelled, which the end of any socket does, a failure of what runs beside, or `reason`. What `reason` gave, if it
/// ended the process.
///
/// # Errors
/// The first that failed.
pub async fn serve(
    services: Vec<Service>,
    beside: Beside,
    end: &CancellationToken,
    reason: impl Future<Output = CliError>,
) -> Result<Option<CliError>, ServeError> {
    let ending = async {
        end.cancelled().await;
        tracing::info!("stopping");
    };
    let beside = async {
        let ended = beside.await;
        end.cancel();
        ended
    };
    let reason = async {
        let reason = tokio::select! {
            () = end.cancelled() => None,
            reason = reason => Some(reason),
        };
        end.cancel();
        reason
    };
    let serving = futures::future::join_all(services.into_iter().map(|service| async {
        let served = server::serve(service.socket, service.routes, end.clone()).await;
        end.cancel();
        served
    }));
    let (served, beside, (), reason) = tokio::join!(serving, beside, ending, reason);
    served.into_iter().chain([beside]).collect::<Result<Vec<()>, _>>()?;
    Ok(reason)
}

/// A bound socket, or why there is none and what to do about it.
///
/// # Errors
/// [`CliError`] with advice for the option that named it.
pub fn bound<S>(endpoint: impl Display, socket: Result<S, SocketError>) -> Result<S, CliError> {
    socket.map_err(|error| {
        let (exit, advice) = match &error {
            SocketError::InUse(_) => {
                (Exit::Refused, "another process serves there; stop it, or name another socket (--endpoint)")
            }
            SocketError::NotASocket(_) | SocketError::NoDirectory(_) => {
                (Exit::Usage, "name a socket (--endpoint) in an existing directory that only this user can write to")
            }
            SocketError::Io { .. } => (Exit::Failed, "see what is at that path; `--endpoint` names another"),
        };
        CliError::because(exit, format!("cannot serve on {endpoint}"), error).advise(advice)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_is_taken_is_refused_with_advice() {
        let taken: Result<PrivateSocket, _> = Err(SocketError::InUse("/run/a.sock".into()));
        let error = bound("unix:///run/a.sock", taken).unwrap_err();
        assert_eq!(error.exit(), Exit::Refused);
        assert!(error.advice().is_some_and(|advice| advice.contains("--endpoint")));
    }
}
