//! One message at a time, by aws-lc.
//!
//! Its assembly is the fastest single stream there is for each processor of interest (SHA extensions of x86-64 and of ARMv8,
//! else AVX), and it is linked anyway.

use aws_lc_rs::digest::{Context, Digest, SHA256, digest};

/// SHA-256 of one message. For several at hand, [`super::sha256_many`] is up to ten times as fast.
#[must_use]
pub fn sha256(input: &[u8]) -> [u8; 32] {
    bytes(&digest(&SHA256, input))
}

/// SHA-256 of a message that comes in pieces.
#[derive(Clone)]
pub struct Hasher(Context);

impl Hasher {
    /// At the start of a message.
    #[must_use]
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Appends to the message.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The digest of all pieces so far.
    #[must_use]
    pub fn finish(self) -> [u8; 32] {
        bytes(&self.0.finish())
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Hasher").finish_non_exhaustive()
    }
}

fn bytes(digest: &Digest) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}
