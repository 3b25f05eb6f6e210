//! One log line for each call: method, code and duration. Never a message's content, which may hold secrets.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tonic::Code;
use tonic::codegen::http;
use tower::{Layer, Service};

/// Logs each call of the services within.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogLayer;

impl<S> Layer<S> for LogLayer {
    type Service = Logged<S>;

    fn layer(&self, inner: S) -> Logged<S> {
        Logged { inner }
    }
}

/// A service whose calls are logged.
#[derive(Debug, Clone)]
pub struct Logged<S> {
    inner: S,
}

impl<S, B, R> Service<http::Request<B>> for Logged<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let mut call = Call { method: request.uri().path().to_owned(), began: Instant::now(), ended: false };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            if let Ok(response) = &answer {
                call.end(code(response));
            }
            answer
        })
    }
}

/// The code of an answer. An error without a body carries it in its headers; what has none there has begun to answer well.
fn code<R>(response: &http::Response<R>) -> Code {
    response.headers().get("grpc-status").map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
}

struct Call {
    method: String,
    began: Instant,
    ended: bool,
}

impl Call {
    fn end(&mut self, code: Code) {
        self.ended = true;
        let milliseconds = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        // The orchestrator polls these: one line each would drown the rest.
        let routine = self.method.starts_with("/csi.v1.Identity/")
            || ["Capabilities", "/GetCapacity", "Stats", "/NodeGetInfo"].iter().any(|end| self.method.ends_with(end));
        match code {
            Code::Ok if routine => tracing::debug!(method = self.method, milliseconds, "call answered"),
            Code::Ok => tracing::info!(method = self.method, milliseconds, "call answered"),
            code => tracing::warn!(method = self.method, ?code, milliseconds, "call refused"),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.ended {
            tracing::info!(method = self.method, "the caller went away; the work goes on");
        }
    }
}
