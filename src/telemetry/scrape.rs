//! Metrics over HTTP: `GET /metrics`, and nothing else.
//!
//! Whoever reaches the port may read; nothing can be changed by it, and no metric holds a secret. What is taken for those who do are a few
//! bounded things: [`CONNECTIONS`] at once (others wait in the kernel), each for one request, whose head is at most [`HEAD_BYTES`] and
//! comes within [`HEAD_TIME`], and all of it within [`CONNECTION_TIME`]. Bodies of requests are not read. An answer that cannot be made
//! within [`TEXT_TIME`] is 503: a scraper waits 10 s by default, and then knows nothing at all.
//!
//! The listener is bound before the process says that it is ready. A failure to accept is logged and tried again, as for the sockets; at a stop
//! connections are dropped: who scrapes asks again.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdTcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::metrics::{Metrics, TextError};
use crate::types::error::chain;

/// A server or two scrape, and somebody looks by hand.
pub const CONNECTIONS: usize = 8;
/// Scrapers send some hundred bytes; hyper takes no less.
const HEAD_BYTES: usize = 8 << 10;
const HEAD_TIME: Duration = Duration::from_secs(5);
/// A second below a scraper's patience.
pub const TEXT_TIME: Duration = Duration::from_secs(9);
/// Head, text, and a slow reader of some MiB.
pub const CONNECTION_TIME: Duration = Duration::from_secs(30);
/// Between two failed accepts.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What makes the text that is scraped.
pub trait Exposition: Send + Sync + 'static {
    /// The text now.
    fn text(&self) -> Pin<Box<dyn Future<Output = Result<String, TextError>> + Send + '_>>;
}

impl Exposition for Metrics {
    fn text(&self) -> Pin<Box<dyn Future<Output = Result<String, TextError>> + Send + '_>> {
        Box::pin(Metrics::text(self))
    }
}

/// A bound port.
#[derive(Debug)]
pub struct MetricsListener(StdTcpListener);

impl MetricsListener {
    /// Binds a port. Every address of IPv6 means every address of IPv4 where the machine has no IPv6.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = match StdTcpListener::bind(address) {
            Err(error)
                if error.raw_os_error() == Some(libc::EAFNOSUPPORT) && address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) =>
            {
                StdTcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
            }
            bound => bound,
        }?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    /// The address, with the port that was chosen if none was named.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Serves `exposition` until `stop` is cancelled. Must be called within the runtime.
///
/// # Errors
/// When the runtime does not take the listener.
pub async fn serve(listener: MetricsListener, exposition: Arc<dyn Exposition>, stop: CancellationToken) -> io::Result<()> {
    let listener = TcpListener::from_std(listener.0)?;
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    let accepting = async {
        loop {
            // Never closed.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let exposition = Arc::clone(&exposition);
                    connections.spawn(async move {
                        let _slot = slot;
                        answer(stream, exposition).await;
                    });
                    while connections.try_join_next().is_some() {}
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "a connection for metrics could not be accepted");
                    // The pause is the bound itself.
                    _ = tokio::time::timeout(ACCEPT_PAUSE, std::future::pending::<()>()).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accepting).await;
    Ok(())
}

/// Answers one request.
async fn answer(stream: TcpStream, exposition: Arc<dyn Exposition>) {
    let service = service_fn(move |request| {
        let exposition = Arc::clone(&exposition);
        async move { Ok::<_, Infallible>(respond(request, exposition.as_ref()).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = %chain(&error), "a connection for metrics ended early"),
        Err(_) => tracing::debug!("a connection for metrics took too long"),
    }
}

async fn respond(request: Request<Incoming>, exposition: &dyn Exposition) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "see /metrics\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match tokio::time::timeout(TEXT_TIME, exposition.text()).await {
        Ok(Ok(text)) => {
            let mut answer = Response::new(Full::new(Bytes::from(text)));
            let format = HeaderValue::from_static(prometheus_client::encoding::prometheus_text::CONTENT_TYPE);
            answer.headers_mut().insert(CONTENT_TYPE, format);
            answer
        }
        Ok(Err(error)) => {
            tracing::warn!(error = %chain(&error), "the metrics could not be read");
            plain(StatusCode::SERVICE_UNAVAILABLE, "the metrics could not be read; the log says why\n")
        }
        Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, "the metrics could not be read in time\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
