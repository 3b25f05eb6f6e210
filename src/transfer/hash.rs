//! Names of chunks: SHA-256, several at a time.
//!
//! The one place where the pipelines hash plain bytes, so that a kernel that hashes many buffers at once has one seam to go
//! into.

use crate::repository::Id;

/// The ids of `inputs`, in their order; `ids` is cleared first.
pub fn sha256_many(inputs: &[&[u8]], ids: &mut Vec<Id>) {
    ids.clear();
    ids.extend(inputs.iter().map(|input| Id::of(input)));
}
