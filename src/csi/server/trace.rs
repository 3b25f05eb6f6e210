//! A span for each call, with the ids of what it is about, and one line when it is answered: code and duration. Never a message's
//! content, which may hold secrets.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::Code;
use tonic::codegen::http;
use tower::{Layer, Service};
use tower_http::classify::{GrpcErrorsAsFailures, SharedClassifier};
use tower_http::trace::TraceLayer as HttpTraceLayer;
use tracing::Span;

use crate::types::span;

/// Spans and lines of calls; nothing is said of their messages.
type Spans<B, R> = HttpTraceLayer<
    SharedClassifier<GrpcErrorsAsFailures>,
    fn(&http::Request<B>) -> Span,
    (),
    fn(&http::Response<R>, Duration, &Span),
    (),
    (),
    (),
>;

/// Gives each call a span and a line.
pub fn spans<B, R>() -> Spans<B, R> {
    HttpTraceLayer::new_for_grpc()
        .make_span_with(begin::<B> as fn(&http::Request<B>) -> Span)
        .on_request(())
        .on_response(answered::<R> as fn(&http::Response<R>, Duration, &Span))
        .on_body_chunk(())
        .on_eos(())
        .on_failure(())
}

fn begin<B>(request: &http::Request<B>) -> Span {
    let method = request.uri().path();
    // The orchestrator polls these: one line each would drown the rest.
    let is_routine = method.starts_with("/csi.v1.Identity/")
        || ["Capabilities", "/GetCapacity", "Stats", "/NodeGetInfo"].iter().any(|end| method.ends_with(end));
    if is_routine { span::poll(method) } else { span::call(method) }
}

fn answered<R>(response: &http::Response<R>, latency: Duration, span: &Span) {
    let milliseconds = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
    match code(response) {
        Code::Ok if span.metadata().is_some_and(|metadata| metadata.name() == span::POLL) => {
            tracing::debug!(milliseconds, "call answered");
        }
        Code::Ok => tracing::info!(milliseconds, "call answered"),
        code => tracing::warn!(?code, milliseconds, "call refused"),
    }
}

/// The code of an answer. An error without a body carries it in its headers; what has none there has begun to answer well.
pub(super) fn code<R>(response: &http::Response<R>) -> Code {
    response.headers().get("grpc-status").map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
}

/// Says when a caller went away before its call was answered. Stands within [`spans`].
#[derive(Debug, Clone, Copy, Default)]
pub struct CallerWatch;

impl<S> Layer<S> for CallerWatch {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        Watched { inner }
    }
}

/// A service whose callers are watched.
#[derive(Debug, Clone)]
pub struct Watched<S> {
    inner: S,
}

impl<S, B> Service<http::Request<B>> for Watched<S>
where
    S: Service<http::Request<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let unanswered = Unanswered { span: Span::current(), is_answered: false };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            unanswered.end();
            answer
        })
    }
}

/// A call until it is answered.
struct Unanswered {
    span: Span,
    is_answered: bool,
}

impl Unanswered {
    fn end(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if !self.is_answered {
            self.span.in_scope(|| tracing::info!("the caller went away; the work goes on"));
        }
    }
}
