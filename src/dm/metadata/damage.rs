//! What can be wrong with a block of metadata.

use std::fmt;

use super::blocks::MetadataBlock;

/// What is wrong with a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Not what was written.
    #[error("its checksum is wrong")]
    Checksum,
    /// Written to, or read from, the wrong place.
    #[error("it belongs to another place")]
    Misplaced,
    /// A node of a tree.
    #[error("{fault} ({place})")]
    Node {
        /// What is wrong with it.
        fault: NodeFault,
        /// Where in which tree it is.
        place: TreePlace,
    },
    /// A pointer leads beyond the metadata, or to the superblock.
    #[error("it points to a block that does not exist")]
    DanglingPointer,
    /// The way to the first leaf does not end.
    #[error("its tree is too high")]
    TooHigh,
    /// Two trees share it at different heights.
    #[error("it is at two heights at once")]
    TwoHeights,
    /// The root of a metadata snapshot is something else.
    #[error("it is not a copy of the superblock")]
    NoSuperblockCopy,
    /// A field of the superblock.
    #[error("{0}")]
    Superblock(SuperblockFault),
    /// The two trees of devices do not agree.
    #[error("its devices differ from those of the tree of details")]
    OtherDevices,
    /// A time beyond 24 bits.
    #[error("a device has a time beyond 24 bits")]
    TimeOutOfRange,
    /// A mapping leads beyond the data.
    #[error("it maps to a data block that does not exist")]
    DataBlockOutOfRange,
    /// The index of a space map has a gap.
    #[error("it leaves a bitmap out")]
    MissingBitmap,
    /// A bitmap stands for two parts of the data.
    #[error("two parts of the space map share it")]
    SharedBitmap,
    /// The kernel would give a block that is in use to somebody else.
    #[error("a data block that is mapped is free in it")]
    MappedButFree,
}

/// What is wrong with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NodeFault {
    /// Neither an inner node nor a leaf.
    #[error("it is not a node")]
    NoNode,
    /// A leaf where an inner node must be, or the other way round.
    #[error("it is at another height than its tree")]
    WrongHeight,
    /// Values of another size than those of its tree.
    #[error("its values have another size than those of its tree")]
    WrongValueSize,
    /// More entries than there is room for.
    #[error("it has more entries than there is room for")]
    TooManyEntries,
    /// No entries.
    #[error("it is empty")]
    Empty,
    /// Keys outside of what its parent says.
    #[error("it has keys outside of what its parent says")]
    KeysOutOfRange,
    /// Keys that do not ascend.
    #[error("its keys do not ascend")]
    KeysOutOfOrder,
}

/// What is wrong with a superblock whose checksum is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockFault {
    /// The root of the metadata snapshot.
    #[error("its metadata snapshot lies outside of the metadata")]
    HeldRoot,
    /// The root of the tree of mappings.
    #[error("its tree of mappings lies outside of the metadata")]
    DataMappingRoot,
    /// The root of the tree of details.
    #[error("its tree of details lies outside of the metadata")]
    DeviceDetailsRoot,
    /// The clock.
    #[error("its clock is beyond 24 bits")]
    Time,
    /// The size of data blocks.
    #[error("its data blocks have an impossible size")]
    DataBlockSize,
    /// The number of data blocks.
    #[error("it has more data blocks than there can be")]
    TooManyDataBlocks,
}

/// Where a node is: the way from the root to it is the way of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreePlace {
    /// The root of the tree.
    pub root: MetadataBlock,
    /// Steps down from it to a leaf.
    pub level: u8,
    /// No key is below this.
    pub low: u64,
    /// All keys are below this.
    pub high: u64,
}

impl fmt::Display for TreePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { root, level, low, high } = self;
        write!(f, "level {level} of the tree at block {root}, keys {low} to {}", high.saturating_sub(1))
    }
}
