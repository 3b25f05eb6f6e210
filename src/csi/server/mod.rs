//! Serves a layer's services on a unix socket that only its user, and perhaps one group, can connect to.
//!
//! Any client of gRPC is served, whatever `:authority` it makes of a socket's path (`authority`).
//!
//! Connections and calls are counted and bounded for each socket (`socket`, `calls`): whoever makes many waits, and nobody waits
//! with what takes volumes down for those who do anything else.
//!
//! Each call is counted and timed (`latency`), in the metrics that the socket was given.
//!
//! Connections are never closed for being idle or old: sidecars hold one for their lifetime and exit when it drops. On a stop
//! no new call is taken; calls that run may end within [`STOP_GRACE`], and as long is waited for a client that does not say whether it
//! has any. Work on blocking threads outlives its call either way; the process gives it a few seconds more, and whatever a stop
//! interrupts is recovered at the next start like after a crash.

mod along;
mod authority;
mod bound;
mod calls;
mod connection;
mod frames;
mod latency;
mod peer;
mod routes;
mod socket;
mod trace;

pub use super::allowance::SocketShare;
pub use bound::{BoundSocket, SocketError, SocketFile, SocketKind};
pub use connection::Connection;
pub use peer::PeerRule;
pub use routes::{MAX_RANGES_BYTES, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, kubelet_routes, node_service, routes};
pub use socket::{Incoming, PrivateSocket};
pub use trace::{caller_watch, spans};

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

/// How long calls may go on after a stop was asked for. The kubelet kills after 30 s.
pub const STOP_GRACE: Duration = Duration::from_secs(20);

/// Why serving ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The runtime did not take the socket.
    #[error("the socket cannot be served")]
    Socket(#[from] std::io::Error),
    /// The transport failed.
    #[error("serving ended")]
    Transport(#[from] tonic::transport::Error),
}

/// Calls under way that one client may have; more wait there. Beside other clients it gets what they leave of the allowances.
const CALLS_OF_A_CONNECTION: u32 = 512;

/// Serves `routes` on `socket` until `stop` is cancelled, then lets the calls that run end.
///
/// # Errors
/// [`ServeError`]. Calls that did not end within [`STOP_GRACE`] are no error.
pub async fn serve(socket: PrivateSocket, routes: Routes, stop: CancellationToken) -> Result<(), ServeError> {
    let (share, latency) = (socket.share(), latency::measured(socket.calls()));
    let incoming = socket.into_incoming()?;
    let server = tonic::transport::Server::builder()
        .max_concurrent_streams(CALLS_OF_A_CONNECTION)
        .layer(latency)
        .layer(trace::spans())
        .layer(trace::caller_watch())
        .layer(calls::CallsLayer::new(share))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let overdue = async {
        stop.cancelled().await;
        let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + STOP_GRACE, STOP_GRACE);
        interval.tick().await;
    };
    tokio::select! {
        result = server => Ok(result?),
        () = overdue => {
            tracing::warn!(seconds = STOP_GRACE.as_secs(), "calls are still running, or a client does not answer; stopping all the same");
            Ok(())
        }
    }
}
