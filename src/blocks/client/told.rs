//! From a status to what the node says, or to what the connection says in its place.

use std::error::Error;

use tonic::{Code, Status};

use crate::blocks::BlocksError;
use crate::blocks::wire::refusal;

/// The refusal of a call.
pub(super) fn told(status: Status) -> BlocksError {
    let kind = status.metadata().get(refusal::KEY).and_then(|kind| kind.to_str().ok()).map(str::to_owned);
    if let Some(refusal) = kind.and_then(|kind| refusal::read(&kind, status.message().to_owned())) {
        return refusal;
    }
    let is_the_connections = status.source().is_some()
        || matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded);
    match is_the_connections {
        true => BlocksError::Unavailable(format!("the node gave no answer: {}", status.message())),
        // A request that it does not understand, or an answer that this does not.
        false => BlocksError::Failed(format!("the node and this process do not understand each other: {}", status.message())),
    }
}

#[cfg(test)]
mod tests {
    use tonic::metadata::{MetadataMap, MetadataValue};

    use super::*;

    fn with_kind(code: Code, kind: &'static str) -> Status {
        let mut metadata = MetadataMap::new();
        metadata.insert(refusal::KEY, MetadataValue::from_static(kind));
        Status::with_metadata(code, "so it is", metadata)
    }

    #[test]
    fn the_kind_counts_and_without_one_the_connection_speaks() {
        let text = || "so it is".to_owned();
        assert_eq!(told(with_kind(Code::InvalidArgument, "ambiguous")), BlocksError::Ambiguous(text()));
        assert_eq!(told(with_kind(Code::Unavailable, "missing")), BlocksError::Missing(text()));
        for code in [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::DeadlineExceeded] {
            assert!(matches!(told(Status::new(code, "lost")), BlocksError::Unavailable(_)), "{code:?}");
        }
        for code in [Code::InvalidArgument, Code::NotFound, Code::Unimplemented, Code::Internal] {
            assert!(matches!(told(Status::new(code, "what")), BlocksError::Failed(_)), "{code:?}");
        }
        assert!(matches!(told(with_kind(Code::Internal, "new")), BlocksError::Failed(_)));
    }
}
