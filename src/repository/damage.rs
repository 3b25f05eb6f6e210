//! What is wrong with bytes of a repository.

use super::id::Id;

/// Why bytes of a repository are not what they must be. Whoever knows the object adds its name
/// ([`RepositoryError::Damaged`]).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Too short to hold what it must.
    #[error("it is too short")]
    TooShort,
    /// The message authentication code does not fit: changed, cut, or made with another key.
    #[error("its authentication code does not match")]
    Forged,
    /// The hash of the bytes is not the name they are stored under.
    #[error("its contents hash to {found}")]
    WrongHash {
        /// What they hash to.
        found: Id,
    },
    /// Decompression failed or gave another length than recorded.
    #[error("it does not decompress: {0}")]
    Compression(String),
    /// A leading byte that stands for no known encoding.
    #[error("its encoding {0} is unknown")]
    Encoding(u8),
    /// JSON that does not say what it must.
    #[error("it does not parse: {0}")]
    Syntax(String),
    /// The directory of a pack contradicts itself.
    #[error("its header is inconsistent: {0}")]
    Header(&'static str),
}
