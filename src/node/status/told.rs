//! What every call's code has in common, and the status that the caller is told.

use tonic::{Code, Status};

use super::mount_codes::MountCodes;
use super::pool_codes::PoolCodes;
use crate::csi::status::request;
use crate::node::error::CallError;
use crate::types::error::chain;

/// The status of a call, which picks its code among those that a failure of a pool or a mount has for all calls.
pub(super) fn told(error: &CallError, of_pool: fn(PoolCodes) -> Code, of_mount: fn(MountCodes) -> Code) -> Status {
    let code = match error {
        CallError::Request(error) => request(error),
        // The work may have come to its end: only a repetition tells.
        CallError::Lost(_) | CallError::Unfinished { .. } => Code::Unavailable,
        CallError::Pool(error) => of_pool(PoolCodes::of(error)),
        CallError::Mount(error) => of_mount(MountCodes::of(error)),
    };
    with_code(code, error)
}

/// The status with this code and the error's text, which is logged when it is the driver's fault or nobody's.
pub(super) fn with_code(code: Code, error: &CallError) -> Status {
    let text = chain(error);
    if matches!(code, Code::Internal | Code::Unavailable | Code::Unknown) {
        tracing::error!(?code, error = text, "a call failed");
    }
    Status::new(code, text)
}
