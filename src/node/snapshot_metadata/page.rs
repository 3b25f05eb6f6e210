//! Which part of an answer is wanted, in what portions, and how large a portion may be.

use crate::csi::server::MAX_RANGES_BYTES;

/// A range on the wire: tag and length of the message, and two fields of a tag and a non-negative `int64`, at most 9 bytes.
const RANGE_BYTES: usize = 2 + 2 * (1 + 9);
/// The rest of a message: the type, a tag and one byte, and the capacity, a tag and at most 9 bytes.
const HEADER_BYTES: usize = 2 + 1 + 9;

/// Most ranges in a message, so that it stays below [`MAX_RANGES_BYTES`] whatever the ranges are.
pub(super) const MAX_RANGES: usize = (MAX_RANGES_BYTES - 1 - HEADER_BYTES) / RANGE_BYTES;

/// Ranges in a message when the client does not say: at most 88 KiB, enough for the cost of a message not to matter.
pub(super) const DEFAULT_RANGES: usize = 4096;

/// Which part of the answer is wanted, and in what portions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    /// Ranges that end here or before are left out.
    pub start_bytes: u64,
    /// Most ranges in one message, from 1 to [`MAX_RANGES`].
    pub ranges_per_message: usize,
}
