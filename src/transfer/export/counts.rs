//! What an export counts.

/// What was found and done.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) chunks: u64,
    pub(super) zero_bytes: u64,
    pub(super) new_chunks: u64,
    /// Of the new chunks, all their bytes.
    pub(super) new_bytes: u64,
    /// Of the new chunks, what was read: without what is not allocated.
    pub(super) new_read_bytes: u64,
}
