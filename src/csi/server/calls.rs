//! Counts the calls of a socket; see `allowance`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Bytes, http};
use tower::{Layer, Service};

use crate::csi::allowance::{self, Allowances, Kind, Running, SocketShare};

/// Lets as many calls of each kind run as may.
#[derive(Debug, Clone)]
pub struct CallsLayer {
    allowances: Allowances,
}

impl CallsLayer {
    /// The calls of a socket with this share.
    pub fn new(share: SocketShare) -> Self {
        Self { allowances: Allowances::new(share) }
    }
}

impl<S> Layer<S> for CallsLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, allowances: self.allowances.clone() }
    }
}

/// A service whose calls are counted.
#[derive(Debug, Clone)]
pub struct Counted<S> {
    inner: S,
    allowances: Allowances,
}

impl<S, B> Service<http::Request<B>> for Counted<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let admitted = self.allowances.admit(Kind::of(request.uri().path()));
        // The one that said it is ready is the one to call.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        Box::pin(async move {
            let running = match admitted {
                Some(admitted) => admitted.turn().await,
                None => None,
            };
            let Some(running) = running.map(Arc::new) else {
                return Ok(
                    Status::unavailable("too many calls of this kind are waiting for their turn; repeat it later").into_http()
                );
            };
            let answer = allowance::within(Arc::clone(&running), inner.call(request)).await?;
            Ok(answer.map(|body| Body::new(CountedBody { body, _running: running })))
        })
    }
}

/// The body of an answer, whose call counts until all of it was sent.
struct CountedBody {
    body: Body,
    _running: Arc<Running>,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
