//! Serves the companion socket: a token in, one descriptor or a refusal out, and the connection is closed.
//!
//! A client is given [`WITHIN`] to send its token, which it has when it connects; nothing else is waited for, since the answer
//! always has room. [`CLIENTS`] are waited for at once, each with a task and one descriptor and no thread. One more makes the one that has been
//! silent the longest go: whoever connects without a word, however often, keeps nobody from being served and holds no more than that. An
//! agent whose connection had to go before its token came connects again (`blocks::descriptor::fetch`): the token was not used.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::offers::{Offers, Worthless};
use super::peer::Peer;
use super::socket::DescriptorSocket;
use crate::blocks::descriptor;
use crate::types::error::chain;

/// How long a client may be silent: it has its token before it connects, so this is for a machine that has no time for it.
const WITHIN: Duration = Duration::from_secs(2);
/// Clients that are waited for at once: as many as may hold anything (`holds::OF_A_SOCKET`), each of which fetches once.
const CLIENTS: usize = super::holds::OF_A_SOCKET;
/// Between two accepts that failed: short beside what an agent waits, long beside a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` is cancelled.
///
/// # Errors
/// When the runtime does not take the socket.
pub(super) async fn serve(socket: DescriptorSocket, offers: Offers, stop: CancellationToken) -> io::Result<()> {
    let (listener, _file) = socket.into_parts();
    let listener = descriptor::watch(listener)?;
    let mut silent = Silent::default();
    loop {
        let accepting = listener.async_io(Interest::READABLE, |listener| descriptor::accept(listener));
        match stop.run_until_cancelled(accepting).await {
            None => return Ok(()),
            Some(Ok(client)) => {
                let offers = offers.clone();
                let answering = tokio::spawn(async move {
                    // A client that goes away, or says nothing, is nothing to tell of.
                    let _ = tokio::time::timeout(WITHIN, answer(client, &offers)).await;
                });
                silent.add(answering.abort_handle());
            }
            Some(Err(error)) => {
                tracing::warn!(error = %chain(&error), "a client for a descriptor could not be accepted");
                let _ = tokio::time::timeout(ACCEPT_PAUSE, stop.cancelled()).await;
            }
        }
    }
}

/// Clients that were not answered yet, those that came first at the front.
#[derive(Debug, Default)]
struct Silent {
    clients: VecDeque<AbortHandle>,
}

impl Silent {
    /// One more; the first goes if there are too many. It can be waiting for its token only: from there to the answer nothing waits.
    fn add(&mut self, client: AbortHandle) {
        self.clients.retain(|client| !client.is_finished());
        if self.clients.len() >= CLIENTS
            && let Some(first) = self.clients.pop_front()
        {
            first.abort();
        }
        self.clients.push_back(client);
    }
}

async fn answer(client: OwnedFd, offers: &Offers) -> io::Result<()> {
    let client = descriptor::watch(client)?;
    let token = client.async_io(Interest::READABLE, |client| descriptor::receive_request(client)).await?;
    let peer = Peer::connected_to(client.get_ref());
    let taken = token.ok_or(Worthless::Unknown).and_then(|token| offers.take(&token, peer, Instant::now()));
    match taken {
        Ok(offered) => {
            let sent = offered.send(client.get_ref());
            if let Err(error) = &sent {
                tracing::warn!(error = %chain(&error), "a descriptor could not be sent");
            }
            // It may be the last of a lease that has ended meanwhile.
            drop(tokio::task::spawn_blocking(move || drop(offered)));
            sent
        }
        Err(why) => {
            tracing::warn!(?why, ?peer, "a token for a descriptor is worth nothing");
            descriptor::refuse(client.get_ref().as_fd())
        }
    }
}
