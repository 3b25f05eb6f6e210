//! Codes of refusals.

use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::blocks::BlocksError;
use crate::blocks::wire::FieldError;
use crate::blocks::wire::refusal as words;

/// A refusal of the node, with its kind: the code alone tells a person or a log as much as it can.
pub(super) fn refusal(error: BlocksError) -> Status {
    let code = match &error {
        BlocksError::Missing(_) => Code::NotFound,
        BlocksError::NameTaken(_) => Code::AlreadyExists,
        BlocksError::Ambiguous(_) => Code::InvalidArgument,
        BlocksError::Busy(_) => Code::Aborted,
        BlocksError::NoSpace(_) => Code::ResourceExhausted,
        BlocksError::InUse(_) => Code::FailedPrecondition,
        BlocksError::Size(_) => Code::OutOfRange,
        BlocksError::Unsupported(_) => Code::Unimplemented,
        BlocksError::Unavailable(_) => Code::Unavailable,
        BlocksError::Failed(_) => Code::Internal,
    };
    let (kind, text) = words::parts(&error);
    let mut metadata = MetadataMap::new();
    metadata.insert(words::KEY, MetadataValue::from_static(kind));
    Status::with_metadata(code, text, metadata)
}

/// A request that no agent of this release makes.
pub(super) fn field(error: FieldError) -> Status {
    Status::invalid_argument(error.to_string())
}
