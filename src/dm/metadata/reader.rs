//! Reads of single blocks of metadata, each preceded by the question whether to go on.

use super::blocks::{BLOCK_BYTES, MetadataBlock, MetadataBlocks};
use super::error::MetadataError;
use crate::block::AlignedBuffer;

/// Asked before each read: true ends the walk with [`MetadataError::Interrupted`]. A deadline, a cancelled request.
pub type Interrupt<'a> = &'a (dyn Fn() -> bool + Sync);

/// An [`Interrupt`] that lets every walk come to its end.
pub const NEVER: Interrupt<'static> = &|| false;

/// Reads blocks while nobody objects.
pub(super) struct Reader<'a> {
    blocks: &'a dyn MetadataBlocks,
    interrupt: Interrupt<'a>,
    /// Blocks of the device: pointers beyond are damage, not reads.
    count: u64,
    single: AlignedBuffer,
}

impl<'a> Reader<'a> {
    pub(super) fn new(blocks: &'a dyn MetadataBlocks, interrupt: Interrupt<'a>) -> Self {
        let count = blocks.count().min(MetadataBlock::LIMIT);
        Self { blocks, interrupt, count, single: AlignedBuffer::zeroed(BLOCK_BYTES) }
    }

    /// The block that a pointer in `holder` leads to.
    pub(super) fn pointer(&self, holder: MetadataBlock, number: u64) -> Result<MetadataBlock, MetadataError> {
        match MetadataBlock::new(number) {
            Some(block) if number < self.count && block != MetadataBlock::SUPERBLOCK => Ok(block),
            _ => Err(MetadataError::damaged(holder, "it points to a block that there is not")),
        }
    }

    /// Fills an aligned buffer of whole blocks. What is in it is not checked yet.
    pub(super) fn fill(&self, first: MetadataBlock, buffer: &mut [u8]) -> Result<(), MetadataError> {
        if (self.interrupt)() {
            return Err(MetadataError::Interrupted);
        }
        self.blocks.read(first, buffer).map_err(|source| MetadataError::Io { block: first, source })
    }

    /// One block, kept until the next is read. Not checked yet.
    pub(super) fn single(&mut self, block: MetadataBlock) -> Result<&[u8; BLOCK_BYTES], MetadataError> {
        if (self.interrupt)() {
            return Err(MetadataError::Interrupted);
        }
        self.blocks.read(block, &mut self.single).map_err(|source| MetadataError::Io { block, source })?;
        Ok(whole(&self.single))
    }
}

/// A buffer of one block, as such.
pub(super) fn whole(buffer: &[u8]) -> &[u8; BLOCK_BYTES] {
    const NONE: &[u8; BLOCK_BYTES] = &[0; BLOCK_BYTES];
    buffer.first_chunk().unwrap_or(NONE)
}
