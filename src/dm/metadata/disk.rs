//! What lies in a block of metadata, in the kernel's words and order (Linux, `drivers/md/dm-thin-metadata.c` and
//! `drivers/md/persistent-data/`). All numbers are little-endian.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::blocks::BLOCK_BYTES;

/// Bytes of a node before its keys.
pub(super) const NODE_HEADER: usize = size_of::<NodeHeader>();

/// What every block begins with.
#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct BlockHeader {
    pub(super) csum: U32,
    /// Flags of the block's kind.
    pub(super) flags: U32,
    pub(super) blocknr: U64,
    rest: [u8; BLOCK_BYTES - 16],
}

/// `struct node_header`.
#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct NodeHeader {
    csum: U32,
    /// Whether it is an inner node or a leaf.
    pub(super) flags: U32,
    blocknr: U64,
    /// Keys, and as many values.
    pub(super) nr_entries: U32,
    /// Keys that there is room for; the values come after them.
    pub(super) max_entries: U32,
    /// Bytes of a value.
    pub(super) value_size: U32,
    padding: U32,
}

/// A node: its header, the room for its keys, its values.
#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct NodeBlock {
    pub(super) header: NodeHeader,
    pub(super) entries: [u8; BLOCK_BYTES - NODE_HEADER],
}

/// `struct disk_sm_root`: where a space map begins.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SpaceMapRoot {
    pub(super) nr_blocks: U64,
    pub(super) nr_allocated: U64,
    pub(super) bitmap_root: U64,
    ref_count_root: U64,
    /// The superblock keeps 128 bytes for it.
    unused: [u8; 96],
}

/// `struct thin_disk_superblock`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SuperblockBlock {
    csum: U32,
    pub(super) flags: U32,
    blocknr: U64,
    uuid: [u8; 16],
    pub(super) magic: U64,
    pub(super) version: U32,
    pub(super) time: U32,
    pub(super) trans_id: U64,
    pub(super) held_root: U64,
    pub(super) data_space_map_root: SpaceMapRoot,
    metadata_space_map_root: SpaceMapRoot,
    pub(super) data_mapping_root: U64,
    pub(super) device_details_root: U64,
    /// In sectors.
    pub(super) data_block_size: U32,
    metadata_block_size: U32,
    pub(super) metadata_nr_blocks: U64,
    compat_flags: U32,
    compat_ro_flags: U32,
    pub(super) incompat_flags: U32,
    rest: [u8; BLOCK_BYTES - 364],
}

/// `struct disk_device_details`: a value of the tree of details.
#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct DeviceDetailsValue {
    pub(super) mapped_blocks: U64,
    pub(super) transaction_id: U64,
    pub(super) creation_time: U32,
    pub(super) snapshotted_time: U32,
}

/// `struct disk_index_entry`: a value of the index of a space map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct IndexEntryValue {
    pub(super) blocknr: U64,
    pub(super) nr_free: U32,
    pub(super) none_free_before: U32,
}

const _: () = assert!(size_of::<BlockHeader>() == BLOCK_BYTES);
const _: () = assert!(NODE_HEADER == 32 && size_of::<NodeBlock>() == BLOCK_BYTES);
const _: () = assert!(size_of::<SpaceMapRoot>() == 128);
const _: () =
    assert!(size_of::<SuperblockBlock>() == BLOCK_BYTES && std::mem::offset_of!(SuperblockBlock, incompat_flags) == 360);
const _: () = assert!(size_of::<DeviceDetailsValue>() == 24);
const _: () = assert!(size_of::<IndexEntryValue>() == 16);
