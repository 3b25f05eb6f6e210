//! What an export counts.

/// Chunks and bytes that the workers of an export found and stored.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) chunks: u64,
    pub(super) zero_bytes: u64,
    pub(super) new_chunks: u64,
    /// All bytes of the new chunks.
    pub(super) new_bytes: u64,
    /// The bytes of the new chunks that were read, which those that are not allocated are not.
    pub(super) new_read_bytes: u64,
}
