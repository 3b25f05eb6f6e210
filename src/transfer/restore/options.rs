//! What the caller of a restore chooses.

use crate::transfer::budget::Budget;

/// What a sink holds before the restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Zeros: what is zero in the image is not written.
    Fresh,
    /// Anything: zeros are written, by punching holes where the sink can.
    Dirty,
    /// What an earlier restore, of this image or another, may have left; or anything else. It is read, and what is right is kept. Not for a
    /// sink whose flush has failed: what its page cache holds may be what the disk never got.
    Partial,
}

impl Target {
    /// Whether zeros of the image have to be written.
    pub(super) fn wants_zeros(self) -> bool {
        match self {
            Self::Fresh => false,
            Self::Dirty | Self::Partial => true,
        }
    }
}

/// What the caller of a restore chooses.
#[derive(Debug, Clone, Copy)]
pub struct RestoreOptions {
    pub target: Target,
    pub budget: Budget,
}
