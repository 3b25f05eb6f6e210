//! The way to a layer that another process serves on a unix socket: there when it is, and there again when it comes back.
//!
//! A connection is made when the first call needs one, and anew whenever it broke: the other process may start later than this one, end, and
//! start again. A call that finds nobody fails at once, and is not repeated here: whoever made it asks again. Whether somebody is there is
//! told once for each change, by the calls that find it out.
//!
//! One connection carries all calls and streams. Nobody may wait there for those who read slowly, so the window of the connection has room for
//! that of each stream: [`STREAMS`] of [`STREAM_WINDOW`], which is what the other end may have sent without being read, and no buffer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// A local socket answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a stream that may be under way: HTTP/2's own default. Nothing is far on a unix socket.
const STREAM_WINDOW: u32 = 64 << 10;
/// Calls and streams of a connection, which is what our server takes of one.
const STREAMS: u32 = 512;

/// A channel to what listens at `path`, which is called `who` in the log. Nothing is connected yet.
pub fn channel(who: &'static str, path: &Path) -> Channel {
    let reach = Arc::new(Reach { who, path: path.to_owned(), last: AtomicU8::new(Reach::UNKNOWN) });
    let connector = service_fn(move |_: Uri| {
        let reach = Arc::clone(&reach);
        async move { reach.connect().await.map(TokioIo::new) }
    });
    // The address is not used: the connector knows the socket.
    Endpoint::from_static("http://windlass")
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * STREAMS)
        .connect_with_connector_lazy(connector)
}

/// Whether somebody was there when it was last asked for.
struct Reach {
    who: &'static str,
    path: PathBuf,
    last: AtomicU8,
}

impl Reach {
    const UNKNOWN: u8 = 0;
    const THERE: u8 = 1;
    const ABSENT: u8 = 2;

    async fn connect(&self) -> io::Result<UnixStream> {
        let connected = UnixStream::connect(&self.path).await;
        let now = if connected.is_ok() { Self::THERE } else { Self::ABSENT };
        if self.last.swap(now, Ordering::Relaxed) != now {
            match &connected {
                Ok(_) => tracing::info!(socket = %self.path.display(), "connected to the {}", self.who),
                Err(error) => tracing::warn!(
                    socket = %self.path.display(),
                    %error,
                    "the {} is not there; what needs it is refused until it is",
                    self.who
                ),
            }
        }
        connected
    }
}
