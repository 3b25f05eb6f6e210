//! The metadata of a thin pool, read from its disk: which blocks a thin device has, and how two of them differ.
//!
//! Owns nothing: it is given a device (or file) of metadata and only ever reads; what would give leaked blocks back ([`Reclaim`]) is
//! written by whoever asked. The format is the kernel's: 4 KiB blocks; a
//! superblock at block 0; B-trees with 64-bit keys. One tree leads from thin ids to the root of each device's own tree, which
//! leads from virtual blocks to `data block << 24 | time`; another holds a few numbers for each device. The trees are copied on
//! write, so devices that come from each other share whole subtrees, and one block number stands for all that is below it.
//!
//! **What may be read when.** While a pool is live its trees change under the reader, and blocks that were freed are used again. So a
//! live pool is read at its *metadata snapshot* only ([`ThinMetadata::held`]), which the kernel keeps unchanged until it is
//! released; the caller holds it, and releases it after the walk. [`ThinMetadata::live`] is for pools that are not active. Reads go
//! past the page cache, which knows nothing of what the kernel writes.
//!
//! **Trust.** Metadata may be damaged, and a disk may come from somebody else. Each block that is read is checked: checksum, that it
//! says the number it was read at, its kind, its sizes, its keys strictly ascending and within what its parent promises for
//! it. The height of a tree is found by one descent and then demanded of every path. Hence a walk ends, whatever is on the disk:
//! each step down lowers the height, and the ranges of siblings are disjoint and not empty, so no tree leads to a block twice.
//! Whatever does not hold is [`ThinMetadataError::Damaged`]; an answer that came to its end is complete.
//!
//! **Cost.** Every walk has one or two cursors over inner nodes (one block of memory for each level) and reads the leaves that
//! they point to in batches: sorted by place, neighbours in one read. A difference steps over pointers that are equal in both trees,
//! so it reads what is not shared, and no more. Memory: a batch of leaves (1 MiB, 2 MiB for a difference), whatever the pool's size;
//! the usage of a whole pool takes a few bits for each block besides.
//!
//! Interruption: each walk asks before each read, and ends with [`ThinMetadataError::Interrupted`]. Nothing is left behind by any end.

mod batch;
mod bitmap;
mod blocks;
mod check;
mod cursor;
mod damage;
mod difference;
mod disk;
mod error;
mod kept;
mod kept_bytes;
mod node;
mod reader;
mod reclaim;
mod run;
mod since;
mod space_map;
mod superblock;
mod thin;
mod usage;
mod walk;

#[cfg(any(test, feature = "doubles"))]
pub use blocks::MemoryBlocks;
pub use blocks::{BLOCK_BYTES, MetadataBlock, MetadataFile, MetadataSource};
pub use check::{BITMAP_SEED, NODE_SEED, SUPERBLOCK_SEED, checksum};
pub use damage::{Damage, NodeFault, SuperblockFault, TreePlace};
pub use error::ThinMetadataError;
pub use kept::{KeptMap, KeptMapBuilder, OutOfOrder};
pub use kept_bytes::KeptMapError;
pub use reader::{Interrupt, NEVER};
pub use reclaim::Reclaim;
pub use run::BlockRun;
pub use space_map::ChangedBlock;
pub use superblock::Superblock;
pub use thin::{DeviceDetails, ThinMetadata};
pub use usage::DeviceUsage;
