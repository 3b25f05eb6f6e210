//! What every call's code has in common, and the status that the caller is told.

use tonic::{Code, Status};

use crate::csi::status::request;
use crate::mount::MountError;
use crate::node::error::CallError;
use crate::pool::PoolError;

/// The status of a call whose own tables say what failures of pools and mounts mean to its caller.
pub(super) fn told(error: &CallError, of_pool: fn(&PoolError) -> Code, of_mount: fn(&MountError) -> Code) -> Status {
    let code = match error {
        CallError::Request(error) => request(error),
        // The work may have come to its end: only a repetition tells.
        CallError::Lost(_) | CallError::Unfinished { .. } => Code::Unavailable,
        CallError::Pool(error) => of_pool(error),
        CallError::Mount(error) => of_mount(error),
    };
    with_code(code, error)
}

/// The status with this code and the error's text, which is logged when it is the driver's fault or nobody's.
pub(super) fn with_code(code: Code, error: &CallError) -> Status {
    let text = error.to_string();
    if matches!(code, Code::Internal | Code::Unavailable | Code::Unknown) {
        tracing::error!(?code, error = text, "a call failed");
    }
    Status::new(code, text)
}
