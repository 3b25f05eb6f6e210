//! The codes that mean the same to every caller. Those of a layer's own failures are chosen where the layer is.

use tonic::{Code, Status};

use super::error::{Fault, RequestError};

/// Faults of the request itself mean the same to every caller.
pub fn request(error: &RequestError) -> Code {
    match error.fault {
        Fault::Invalid | Fault::Unsupported => Code::InvalidArgument,
        Fault::OutOfRange => Code::OutOfRange,
        Fault::NotFound => Code::NotFound,
        // Another node, or this one once its disk is back, may own it.
        Fault::PoolElsewhere => Code::Unavailable,
        Fault::AlreadyExists => Code::AlreadyExists,
        Fault::Precondition => Code::FailedPrecondition,
        Fault::Exhausted => Code::ResourceExhausted,
        Fault::InFlight | Fault::Token => Code::Aborted,
        Fault::Deadline => Code::DeadlineExceeded,
    }
}

/// A call that this driver does not offer; its capability is not advertised.
pub fn unimplemented(call: &'static str) -> Status {
    Status::unimplemented(format!("{call} is not offered by this driver"))
}

/// Probe, when no pool works that is open.
pub fn unhealthy(reason: impl Into<String>) -> Status {
    Status::failed_precondition(reason)
}
