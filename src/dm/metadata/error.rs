//! What can go wrong when a pool's metadata is read.

use std::io;

use super::blocks::MetadataBlock;
use super::damage::Damage;
use crate::dm::units::ThinId;

/// Why metadata could not be read. Nothing that was told before such an error is a complete answer.
#[derive(Debug, thiserror::Error)]
pub enum ThinMetadataError {
    /// A block is not what the pool wrote. `thin_check` tells more, `thin_repair` may help; a repetition does not.
    #[error("block {block} of the pool's metadata is damaged")]
    Damaged {
        block: MetadataBlock,
        /// What is wrong with it.
        #[source]
        what: Damage,
    },
    /// Block 0 holds no superblock. **The kernel formats a pool whose block 0 is all zeros**: never activate one.
    #[error("there is no thin pool: its superblock {}", if *.zeroed { "is all zeros" } else { "lacks the mark of one" })]
    Unformatted {
        /// All zeros: the kernel would take it for a new pool, and lose what there was.
        zeroed: bool,
    },
    /// A pool of a newer format than this reads.
    #[error("the pool's metadata has version {version} and features {features:#x}, which are not known here")]
    Version {
        version: u32,
        /// Its flags of features that must be understood.
        features: u32,
    },
    /// The pool has no such thin device.
    #[error("the pool has no thin device {0}")]
    MissingDevice(ThinId),
    /// The pool holds no metadata snapshot.
    #[error("the pool holds no metadata snapshot")]
    NotHeld,
    /// The caller asked the walk to end.
    #[error("the walk over the pool's metadata was interrupted")]
    Interrupted,
    /// The device could not be read.
    #[error("block {block} of the pool's metadata cannot be read")]
    Io {
        /// Where the read began.
        block: MetadataBlock,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl ThinMetadataError {
    pub(super) const fn damaged(block: MetadataBlock, what: Damage) -> Self {
        Self::Damaged { block, what }
    }
}
