//! A code with its text, as the caller is told.

use tonic::{Code, Status};

use crate::node::error::CallError;

pub(super) fn status(code: Code, error: &CallError) -> Status {
    let text = error.to_string();
    if matches!(code, Code::Internal | Code::Unavailable | Code::Unknown) {
        tracing::error!(?code, error = text, "a call failed");
    }
    Status::new(code, text)
}
