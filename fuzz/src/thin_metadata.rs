//! Metadata of a thin pool on a disk that comes from somebody else, and the kept map of a deleted snapshot.
//!
//! The input is a list of changes to a small sound pool, after each of which the block gets its number and checksum anew: else nothing
//! would ever be reached behind those. Whatever it says, each walk ends, reads no more blocks than a tree may have, and passes on
//! runs that ascend and do not touch.

use std::io;
use std::num::NonZeroUsize;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use windlass::dm::metadata::{
    BLOCK_BYTES, BlockRun, KeptMap, KeptMapBuilder, MemoryBlocks, MetadataBlock, MetadataSource, NEVER, NODE_SEED,
    SUPERBLOCK_SEED, ThinMetadata, ThinMetadataError,
};
use windlass::dm::units::{ThinId, ThinTime};

use crate::thin_pool::writer::{Block, Shape, Snapshot, Writer, seal};
use crate::thin_pool::{Device, Map, Mapping, Pool};

/// Three devices that share a part of their trees, whose nodes are small.
static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let base: Map = (0..70).map(|block| (block * block, Mapping { data: block, time: 0 })).collect();
    let mut target = base.clone();
    target.retain(|block, _| !(400..900).contains(block));
    target.insert(2000, Mapping { data: 200, time: 1 });
    let device = |id, map| Device { id, map, ..Device::default() };
    let devices = vec![device(1, base), device(2, target.clone()), device(9, target)];
    let pool = Pool { time: 1, data_blocks: 300, devices, ..Pool::default() };
    let shape = Shape { leaf: (3, 6), inner: (2, 5), mean: 3, slack: false };
    Writer::default().pool(&pool, &[shape], Snapshot::None)
});

/// A change: two bytes for the block, two for the place in it, four that are put there.
const CHANGE: usize = 8;
/// Walks are made over so many devices.
const DEVICES: usize = 4;

/// Counts what is read.
struct Counted {
    blocks: MemoryBlocks,
    read: AtomicU64,
}

impl MetadataSource for Counted {
    fn count(&self) -> u64 {
        self.blocks.count()
    }

    fn read(&self, first: MetadataBlock, buffer: &mut [u8]) -> io::Result<()> {
        self.read.fetch_add((buffer.len() / BLOCK_BYTES) as u64, Ordering::Relaxed);
        self.blocks.read(first, buffer)
    }
}

/// Reads a pool with these changes, and the input as a kept map.
pub fn run(data: &[u8]) {
    kept(data);
    let blocks = Counted { blocks: MemoryBlocks::new(changed_pool(data)), read: AtomicU64::new(0) };
    let _ = walks(&blocks);
}

fn changed_pool(data: &[u8]) -> Vec<u8> {
    let mut bytes = SOUND.clone();
    for change in data.chunks_exact(CHANGE) {
        let pair = |at: usize| usize::from(u16::from_le_bytes([change[at], change[at + 1]]));
        let (number, at) = (pair(0) % (bytes.len() / BLOCK_BYTES), pair(2) % (BLOCK_BYTES - 3));
        let start = number * BLOCK_BYTES;
        bytes[start + at..start + at + 4].copy_from_slice(&change[4..]);
        let block: &mut Block = (&mut bytes[start..start + BLOCK_BYTES]).try_into().expect("a block");
        seal(block, number as u64, if number == 0 { SUPERBLOCK_SEED } else { NODE_SEED });
    }
    bytes
}

fn walks(blocks: &Counted) -> Result<(), ThinMetadataError> {
    let metadata = ThinMetadata::live(blocks, NEVER)?;
    // A walk over one tree reads each block once, a few on the way to the first leaf twice, and the path of its device.
    let whole = blocks.count() + 128;
    let devices = bounded(blocks, whole, || metadata.devices())?;
    let ids: Vec<ThinId> = devices.iter().map(|(id, _)| *id).take(DEVICES).collect();
    for id in &ids {
        bounded(blocks, whole, || metadata.details(*id)).map(drop)?;
        let mut runs = Ascending::default();
        let mut builder = KeptMapBuilder::new(ThinTime::MAX, NonZeroUsize::new(5).expect("not zero"));
        let mut sink = |run| {
            builder.push(run).expect("ascending");
            runs.add(run)
        };
        bounded(blocks, whole, || metadata.mapped(*id, &mut sink))?;
        let kept = builder.finish();
        let (mut changed, mut since) = (Ascending::default(), Ascending::default());
        bounded(blocks, 2 * whole, || metadata.changed(ids[0], *id, &mut |run| changed.add(run)))?;
        bounded(blocks, whole, || metadata.changed_since(&kept, ids[0], &mut |run| since.add(run)))?;
    }
    let usage = bounded(blocks, 4 * whole + 64 * devices.len() as u64, || metadata.usage())?;
    assert_eq!(usage.len(), devices.len());
    Ok(())
}

/// The outcome of a walk, which reads so many blocks at most.
fn bounded<T>(blocks: &Counted, most: u64, walk: impl FnOnce() -> T) -> T {
    blocks.read.store(0, Ordering::Relaxed);
    let outcome = walk();
    let read = blocks.read.load(Ordering::Relaxed);
    assert!(read <= most, "{read} blocks read, of {most}");
    outcome
}

#[derive(Default)]
struct Ascending {
    end: Option<u64>,
}

impl Ascending {
    fn add(&mut self, run: BlockRun) -> Result<(), ThinMetadataError> {
        assert!(self.end.is_none_or(|end| end < run.begin()));
        self.end = Some(run.end());
        Ok(())
    }
}

/// A kept map that was read is one that is written.
fn kept(data: &[u8]) {
    if let Ok(map) = KeptMap::decode(data) {
        assert_eq!(map.encode(), data);
    }
}

/// The sound pool, changes of pointers, counts and keys, and kept maps.
pub fn seeds() -> Vec<Vec<u8>> {
    let change = |block: u16, at: u16, value: u32| {
        let mut bytes = block.to_le_bytes().to_vec();
        bytes.extend(at.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        bytes
    };
    let mut seeds = vec![Vec::new()];
    for block in 0..12 {
        seeds.push(change(block, 16, 2));
        seeds.push([change(block, 32, 5), change(block, 40, 7)].concat());
        seeds.push(change(block, 32 + 8 * 252, 9));
        seeds.push(change(block, 4, 1));
    }
    let mut builder = KeptMapBuilder::new(ThinTime::MAX, NonZeroUsize::new(100).expect("not zero"));
    for begin in [3, 400, 70_000] {
        builder.push(BlockRun::new(begin, begin).expect("not empty")).expect("ascending");
    }
    seeds.push(builder.finish().encode());
    seeds
}
