//! How long each call took, for the metrics of the process: from its arrival, its wait for a turn included, to the head of its answer. Of
//! a stream that is its beginning; how it ended is in nobody's figures. A call whose caller went away counts as cancelled, though its work goes on.
//!
//! What is counted is a method that exists or `other`, whatever a caller names, so that nobody can make series without end.

use std::time::Instant;

use tonic::Code;

use super::along::{Along, Ending};
use crate::telemetry::metrics::CallMetrics;

/// Measures the calls of a socket in `calls`.
pub(super) fn measured(calls: CallMetrics) -> Along<impl Fn(&str) -> Ending + Clone> {
    Along(move |path: &str| -> Ending {
        let call = Call { calls: calls.clone(), method: method(path), begun: Instant::now(), code: Code::Cancelled };
        Box::new(move |code| call.end(code))
    })
}

/// A call, counted when it is dropped.
struct Call {
    calls: CallMetrics,
    method: &'static str,
    begun: Instant,
    code: Code,
}

impl Call {
    fn end(mut self, code: Code) {
        self.code = code;
    }
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
