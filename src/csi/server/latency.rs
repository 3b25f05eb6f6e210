//! How long each call took, for the metrics of the process: from its arrival, its wait for a turn included, to the head of its answer. Of
//! a stream that is its beginning; how it ended is in nobody's figures. A call whose caller went away counts as cancelled, though its work goes on.
//!
//! What is counted is a method that exists or `other`, whatever a caller names, so that nobody can make series without end.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tonic::Code;
use tonic::codegen::http;
use tower::{Layer, Service};

use super::trace;
use crate::telemetry::metrics::CallMetrics;

/// Measures the calls of a socket.
#[derive(Debug, Clone)]
pub(super) struct LatencyLayer {
    calls: CallMetrics,
}

impl LatencyLayer {
    /// Counts in `calls`.
    pub(super) fn new(calls: CallMetrics) -> Self {
        Self { calls }
    }
}

impl<S> Layer<S> for LatencyLayer {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured { inner, calls: self.calls.clone() }
    }
}

/// A service whose calls are measured.
#[derive(Debug, Clone)]
pub(super) struct Measured<S> {
    inner: S,
    calls: CallMetrics,
}

impl<S, B, R> Service<http::Request<B>> for Measured<S>
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
        let call = Call {
            calls: self.calls.clone(),
            method: method(request.uri().path()),
            begun: Instant::now(),
            code: Code::Cancelled,
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut call = call;
            let answer = answer.await;
            call.code = answer.as_ref().map_or(Code::Unknown, trace::code);
            answer
        })
    }
}

/// A call, counted when it is dropped.
struct Call {
    calls: CallMetrics,
    method: &'static str,
    begun: Instant,
    code: Code,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.calls.answered(self.method, name(self.code), self.begun.elapsed());
    }
}

/// A method of our protocols, as it is written there.
fn method(path: &str) -> &'static str {
    let known = csi_proto::METHODS.binary_search(&path).ok();
    known.and_then(|at| csi_proto::METHODS.get(at)).copied().unwrap_or("other")
}

/// The name of a code in gRPC's own spelling.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_nobody_has_is_counted_with_all_others_of_its_like() {
        assert_eq!(method("/csi.v1.Node/NodeStageVolume"), "/csi.v1.Node/NodeStageVolume");
        for path in ["/csi.v1.Node/NodeStageVolum", "", "/made.up/Thing"] {
            assert_eq!(method(path), "other", "{path}");
        }
    }
}
