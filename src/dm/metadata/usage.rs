//! How much of a pool each device has for itself, counted from the trees alone.
//!
//! The pool counts references to its blocks, but a metadata snapshot carries no such counts, and those of a live pool change. What they
//! would say is in the trees: a data block belongs to one device alone when no other leads to it. Three passes:
//!
//! 1. Inner nodes of all devices: which nodes are pointed to more than once. A node that was met before is not entered again.
//! 2. Each leaf, once: data blocks below a shared node are shared; of the others those that are met twice.
//! 3. Leaves that no shared node leads to: their data blocks that are not shared belong to their device alone.
//!
//! So each node is read at most thrice, and what is shared, which is most of a pool with many snapshots, once. Memory: three bits for
//! each block of metadata (1.5 MiB for the largest there can be), two for each data block where any are mapped (4 MiB for a
//! TiB of 64 KiB blocks), a batch of leaves, and 24 bytes for each device.

use super::batch::{Batch, LEAVES};
use super::bitmap::Bitmap;
use super::blocks::MetadataBlock;
use super::cursor::Cursor;
use super::damage::{Damage, SuperblockFault};
use super::error::ThinMetadataError;
use super::node::{NUMBER, Node, TIME_BITS};
use super::reader::Reader;
use super::run::{BlockRun, Runs};

/// Space of a thin device, in data blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceUsage {
    /// All that it has.
    pub mapped_blocks: u64,
    /// Those that no other device has: what would be free if it were deleted.
    pub exclusive_blocks: u64,
}

/// Data blocks of the largest pool whose usage is counted: a PiB of 64 KiB blocks. Metadata cannot hold a 16th of their mappings.
const MOST_DATA_BLOCKS: u64 = 1 << 34;

/// The data blocks that each of the devices has alone, in the order of the devices' roots.
pub(super) fn usage(
    reader: &mut Reader<'_>,
    roots: &[MetadataBlock],
    high: u64,
    data_blocks: u64,
) -> Result<Vec<u64>, ThinMetadataError> {
    let mut census = Census::new(high, data_blocks)?;
    census.find_shared_nodes(reader, roots)?;
    census.find_data(reader, roots)?;
    census.count_exclusive(reader, roots)
}

/// The data blocks that any of the devices has: the second pass alone.
pub(super) fn mapped(
    reader: &mut Reader<'_>,
    roots: &[MetadataBlock],
    high: u64,
    data_blocks: u64,
) -> Result<Bitmap, ThinMetadataError> {
    let mut census = Census::new(high, data_blocks)?;
    census.find_data(reader, roots)?;
    Ok(census.data)
}

/// Counted of all devices, and told of one.
pub(super) struct Exclusive(Census);

/// What [`Exclusive::of`] passes on is counted first.
pub(super) fn exclusive(
    reader: &mut Reader<'_>,
    roots: &[MetadataBlock],
    high: u64,
    data_blocks: u64,
) -> Result<Exclusive, ThinMetadataError> {
    let mut census = Census::new(high, data_blocks)?;
    census.find_shared_nodes(reader, roots)?;
    census.find_data(reader, roots)?;
    Ok(Exclusive(census))
}

impl Exclusive {
    /// Passes on the runs of blocks of the device with this root whose data no other device has. Ascending.
    pub(super) fn of<E: From<ThinMetadataError>>(
        self,
        reader: &mut Reader<'_>,
        root: MetadataBlock,
        sink: &mut dyn FnMut(BlockRun) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self(mut census) = self;
        let mut runs = Runs::new(sink);
        if !census.shared_nodes.has(root.number()) {
            let mut cursor = Cursor::open(reader, root, census.high)?;
            while let Some(place) = cursor.current() {
                if census.shared_nodes.has(place.block.number()) {
                    cursor.step(reader)?;
                } else if place.level > 0 {
                    cursor.descend(reader)?;
                } else {
                    census.batch.push(place);
                    cursor.step(reader)?;
                    if census.batch.is_full() {
                        census.tell(reader, &mut runs)?;
                    }
                }
            }
            census.tell(reader, &mut runs)?;
        }
        runs.finish()
    }
}

/// What leads to a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// A node that more than one node, or device, points to.
    Shared,
    /// Only nodes of this device, a number among the roots.
    Own(usize),
}

struct Census {
    high: u64,
    data_blocks: u64,
    shared_nodes: Bitmap,
    data: Bitmap,
    shared_data: Bitmap,
    batch: Batch,
    /// What leads to each leaf of the batch.
    paths: Vec<Path>,
}

impl Census {
    fn new(high: u64, data_blocks: u64) -> Result<Self, ThinMetadataError> {
        if data_blocks > MOST_DATA_BLOCKS {
            return Err(ThinMetadataError::damaged(
                MetadataBlock::SUPERBLOCK,
                Damage::Superblock(SuperblockFault::TooManyDataBlocks),
            ));
        }
        Ok(Self {
            high,
            data_blocks,
            shared_nodes: Bitmap::new(MetadataBlock::LIMIT),
            data: Bitmap::new(data_blocks),
            shared_data: Bitmap::new(data_blocks),
            batch: Batch::new(LEAVES),
            paths: Vec::with_capacity(LEAVES),
        })
    }

    fn find_shared_nodes(&mut self, reader: &mut Reader<'_>, roots: &[MetadataBlock]) -> Result<(), ThinMetadataError> {
        let mut met = Bitmap::new(MetadataBlock::LIMIT);
        for &root in roots {
            if met.put(root.number()) {
                self.shared_nodes.put(root.number());
                continue;
            }
            let mut cursor = Cursor::open(reader, root, self.high)?;
            while let Some(place) = cursor.current() {
                // The root was met just now.
                let again = !place.is_root() && met.put(place.block.number());
                if again {
                    self.shared_nodes.put(place.block.number());
                }
                if again || place.level == 0 { cursor.step(reader)? } else { cursor.descend(reader)? }
            }
        }
        Ok(())
    }

    /// Which data blocks there are, and which of them are shared as far as the first pass told of nodes that are.
    fn find_data(&mut self, reader: &mut Reader<'_>, roots: &[MetadataBlock]) -> Result<(), ThinMetadataError> {
        let mut met = Bitmap::new(MetadataBlock::LIMIT);
        for (device, &root) in roots.iter().enumerate() {
            if met.has(root.number()) {
                continue;
            }
            let mut cursor = Cursor::open(reader, root, self.high)?;
            // Depth of the uppermost shared node above the cursor, or where it stands.
            let mut shared_from = None;
            while let Some(place) = cursor.current() {
                if shared_from.is_none_or(|depth| cursor.depth() <= depth) {
                    shared_from = self.shared_nodes.has(place.block.number()).then_some(cursor.depth());
                }
                if met.put(place.block.number()) {
                    cursor.step(reader)?;
                } else if place.level > 0 {
                    cursor.descend(reader)?;
                } else {
                    self.batch.push(place);
                    self.paths.push(if shared_from.is_some() { Path::Shared } else { Path::Own(device) });
                    cursor.step(reader)?;
                    if self.batch.is_full() {
                        self.mark(reader)?;
                    }
                }
            }
        }
        self.mark(reader)
    }

    /// Reads the batch for the second pass.
    fn mark(&mut self, reader: &Reader<'_>) -> Result<(), ThinMetadataError> {
        self.batch.load::<NUMBER>(reader)?;
        for ((place, node), path) in self.batch.nodes().zip(&self.paths) {
            for block in data_of(node) {
                if block >= self.data_blocks {
                    return Err(ThinMetadataError::damaged(place.block, Damage::DataBlockOutOfRange));
                }
                if self.data.put(block) || *path == Path::Shared {
                    self.shared_data.put(block);
                }
            }
        }
        self.batch.clear();
        self.paths.clear();
        Ok(())
    }

    fn count_exclusive(&mut self, reader: &mut Reader<'_>, roots: &[MetadataBlock]) -> Result<Vec<u64>, ThinMetadataError> {
        let mut exclusive = vec![0; roots.len()];
        for (device, &root) in roots.iter().enumerate() {
            if self.shared_nodes.has(root.number()) {
                continue;
            }
            let mut cursor = Cursor::open(reader, root, self.high)?;
            while let Some(place) = cursor.current() {
                if self.shared_nodes.has(place.block.number()) {
                    cursor.step(reader)?;
                } else if place.level > 0 {
                    cursor.descend(reader)?;
                } else {
                    self.batch.push(place);
                    self.paths.push(Path::Own(device));
                    cursor.step(reader)?;
                    if self.batch.is_full() {
                        self.count(reader, &mut exclusive)?;
                    }
                }
            }
        }
        self.count(reader, &mut exclusive)?;
        Ok(exclusive)
    }

    /// Reads the batch, and passes on those of its blocks whose data is not shared.
    fn tell<E: From<ThinMetadataError>>(&mut self, reader: &Reader<'_>, runs: &mut Runs<'_, E>) -> Result<(), E> {
        self.batch.load::<NUMBER>(reader)?;
        for (_, node) in self.batch.nodes::<NUMBER>() {
            for (key, data) in node.keys().iter().zip(data_of(node)) {
                if !self.shared_data.has(data) {
                    runs.push(u64::from_le_bytes(*key))?;
                }
            }
        }
        self.batch.clear();
        Ok(())
    }

    /// Reads the batch for the third pass.
    fn count(&mut self, reader: &Reader<'_>, exclusive: &mut [u64]) -> Result<(), ThinMetadataError> {
        self.batch.load::<NUMBER>(reader)?;
        for ((_, node), path) in self.batch.nodes().zip(&self.paths) {
            if let Path::Own(device) = path
                && let Some(count) = exclusive.get_mut(*device)
            {
                *count += data_of(node).filter(|&block| !self.shared_data.has(block)).count() as u64;
            }
        }
        self.batch.clear();
        self.paths.clear();
        Ok(())
    }
}

/// The data blocks that a leaf maps to.
fn data_of(node: Node<'_, NUMBER>) -> impl Iterator<Item = u64> {
    node.values().iter().map(|value| u64::from_le_bytes(*value) >> TIME_BITS)
}
