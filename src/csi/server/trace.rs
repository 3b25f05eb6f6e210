//! A span for each call, with the ids of what it is about, and one line when it is answered: code and duration. Never a message's
//! content, which may hold secrets.

use std::time::Duration;

use tonic::Code;
use tonic::codegen::http;
use tower_http::classify::{GrpcErrorsAsFailures, SharedClassifier};
use tower_http::trace::TraceLayer as HttpTraceLayer;
use tracing::Span;

use super::along::{Along, Ending, code};
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
    if is_poll(method) { span::poll(method) } else { span::call(method) }
}

/// Whether callers repeat a call all the time, and it changes nothing: one line each would drown the rest. The orchestrator does so, and the
/// agent asks its node.
fn is_poll(method: &str) -> bool {
    let reads = |verb: &str| ["Get", "List", "Find"].iter().any(|word| verb.starts_with(word));
    match method.rsplit_once('/') {
        Some(("/csi.v1.Identity", _)) => true,
        Some((service, verb)) if service.starts_with("/windlass.v1.") => reads(verb),
        _ => ["Capabilities", "/GetCapacity", "Stats", "/NodeGetInfo"].iter().any(|end| method.ends_with(end)),
    }
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

/// Says when a caller went away before its call was answered. Stands within [`spans`].
pub fn caller_watch() -> Along<fn(&str) -> Ending> {
    Along(|_| {
        let unanswered = Unanswered { span: Span::current(), is_answered: false };
        Box::new(move |_| unanswered.end())
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_looks_and_is_repeated_is_no_news() {
        for verb in ["Blocks/GetPools", "Blocks/ListTasks", "Blocks/FindVolume", "Pools/GetPoolStatus", "Transfers/ListTransfers"]
        {
            let method = format!("/windlass.v1.{verb}");
            assert!(csi_proto::METHODS.contains(&method.as_str()) && is_poll(&method), "{method}");
        }
        for method in csi_proto::METHODS.iter().filter(|method| method.starts_with("/windlass.v1.Blocks/")) {
            let changes = ["Begin", "Commit", "Abort", "Put", "GiveUp", "Lease"].iter().any(|word| method.contains(word));
            assert_ne!(is_poll(method), changes, "{method}");
        }
        assert!(is_poll("/csi.v1.Identity/Probe") && is_poll("/csi.v1.Controller/GetCapacity"));
        for method in ["/csi.v1.Controller/CreateVolume", "/windlass.v1.Transfers/StartExport", "/made.up/GetPools", ""] {
            assert!(!is_poll(method), "{method}");
        }
    }
}
