//! Reads of single blocks of metadata, each preceded by the question whether to go on.

use super::blocks::{BLOCK_BYTES, MetadataBlock, MetadataSource};
use super::damage::Damage;
use super::error::ThinMetadataError;
use crate::block::AlignedBuffer;

/// Asked before each read: true ends the walk with [`ThinMetadataError::Interrupted`]. A deadline, a cancelled request.
pub type Interrupt<'a> = &'a (dyn Fn() -> bool + Sync);

/// An [`Interrupt`] that lets every walk come to its end.
pub const NEVER: Interrupt<'static> = &|| false;

/// Reads blocks while nobody objects.
pub(super) struct Reader<'a> {
    blocks: &'a dyn MetadataSource,
    interrupt: Interrupt<'a>,
    /// Blocks of the device: pointers beyond are damage, not reads.
    count: u64,
    single: AlignedBuffer,
}

impl<'a> Reader<'a> {
    pub(super) fn new(blocks: &'a dyn MetadataSource, interrupt: Interrupt<'a>) -> Self {
        let count = blocks.count().min(MetadataBlock::LIMIT);
        Self { blocks, interrupt, count, single: AlignedBuffer::zeroed(BLOCK_BYTES) }
    }

    /// The block that a pointer in `holder` leads to.
    pub(super) fn pointer(&self, holder: MetadataBlock, number: u64) -> Result<MetadataBlock, ThinMetadataError> {
        match MetadataBlock::new(number) {
            Some(block) if number < self.count && block != MetadataBlock::SUPERBLOCK => Ok(block),
            _ => Err(ThinMetadataError::damaged(holder, Damage::DanglingPointer)),
        }
    }

    /// Fills an aligned buffer of whole blocks. What is in it is not checked yet.
    pub(super) fn fill(&self, first: MetadataBlock, buffer: &mut [u8]) -> Result<(), ThinMetadataError> {
        if (self.interrupt)() {
            return Err(ThinMetadataError::Interrupted);
        }
        self.blocks.read(first, buffer).map_err(|source| ThinMetadataError::Io { block: first, source })
    }

    /// One block, kept until the next is read. Not checked yet.
    pub(super) fn single(&mut self, block: MetadataBlock) -> Result<&[u8; BLOCK_BYTES], ThinMetadataError> {
        if (self.interrupt)() {
            return Err(ThinMetadataError::Interrupted);
        }
        self.blocks.read(block, &mut self.single).map_err(|source| ThinMetadataError::Io { block, source })?;
        Ok(whole(&self.single))
    }
}

/// The first block of a buffer, which has one at least.
pub(super) fn whole(buffer: &[u8]) -> &[u8; BLOCK_BYTES] {
    &buffer.as_chunks().0[0]
}
