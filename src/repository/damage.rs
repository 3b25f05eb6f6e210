//! What is wrong with bytes of a repository.

use std::io;
use std::sync::Arc;

use super::id::Id;

/// Why bytes of a repository are not what they must be. The caller that knows the object adds its name
/// ([`RepositoryError::Damaged`](super::RepositoryError::Damaged)).
#[derive(Debug, Clone, thiserror::Error)]
pub enum Damage {
    #[error("it is too short")]
    TooShort,
    /// The message authentication code does not fit: changed, cut, or made with another key.
    #[error("its authentication code does not match")]
    Forged,
    /// The hash of the bytes is not the name they are stored under.
    #[error("its contents hash to {found}")]
    WrongHash { found: Id },
    #[error("it does not decompress")]
    Compression(#[source] Arc<io::Error>),
    #[error("it does not decompress: {expected} bytes expected, {found} found")]
    Length { expected: u64, found: u64 },
    #[error("it does not decompress: it is larger than {limit} bytes")]
    TooLong { limit: u64 },
    /// The leading byte stands for no known encoding.
    #[error("its encoding {0} is unknown")]
    Encoding(u8),
    #[error("it does not parse")]
    Json(#[source] Arc<serde_json::Error>),
    /// It is JSON and does not say what it must.
    #[error("it does not parse: {0}")]
    Syntax(String),
    /// The header of a pack contradicts itself.
    #[error("its header is inconsistent: {0}")]
    Header(&'static str),
}

impl Damage {
    /// The damage that the decompressor reports.
    pub(crate) fn compression(error: io::Error) -> Self {
        Self::Compression(Arc::new(error))
    }

    /// The damage that the parser reports.
    pub(super) fn json(error: serde_json::Error) -> Self {
        Self::Json(Arc::new(error))
    }
}
