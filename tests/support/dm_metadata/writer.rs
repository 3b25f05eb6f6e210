//! A writer of thin metadata that lets trees share what is equal in them.
//!
//! A node with the same content as an earlier one is not written again: both parents point to one block, as they do after a
//! snapshot. How many entries a node gets is chosen, so that small maps make high trees. The space maps are written too, so that
//! `thin_check` can count references after us.

use std::collections::{BTreeMap, HashMap};

use windlass::dm::metadata::{BLOCK_BYTES, MemoryBlocks, NODE_SEED, SUPERBLOCK_SEED, checksum};

use super::{Device, Map, Pool};

pub type Block = [u8; BLOCK_BYTES];

const BITMAP_SEED: u32 = 240_779;
const INDEX_SEED: u32 = 160_478;
/// Blocks that a bitmap counts the references of, two bits each.
const PER_BITMAP: usize = (BLOCK_BYTES - 16) * 4;
pub const INNER: u32 = 1;
pub const LEAF: u32 = 2;

/// How trees are built. Where nodes end follows from the keys in them, so that two trees fall into step again behind a difference.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Fewest and most entries of a leaf that is not the root. The most are twice the fewest at least.
    pub leaf: (usize, usize),
    /// The same of an inner node's children.
    pub inner: (usize, usize),
    /// How often a node ends before it is full: after one key of so many.
    pub mean: u64,
    /// Whether inner nodes say a lower key of their children than these begin with.
    pub slack: bool,
}

impl Shape {
    /// As the kernel's are.
    pub const FULL: Self = Self { leaf: (84, 252), inner: (84, 252), mean: 80, slack: false };

    /// Lengths of the nodes that these keys are put into.
    fn lengths(&self, (least, most): (usize, usize), keys: &[u64]) -> Vec<usize> {
        assert!(most >= 2 * least);
        let mut lengths = vec![0];
        for (index, key) in keys.iter().enumerate() {
            let last = lengths.len() - 1;
            lengths[last] += 1;
            let ends = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            if index + 1 < keys.len() && (lengths[last] == most || (lengths[last] >= least && ends.is_multiple_of(self.mean))) {
                lengths.push(0);
            }
        }
        if let [.., before, last] = lengths[..]
            && last < least
        {
            lengths.truncate(lengths.len() - 2);
            let both = before + last;
            if both <= most { lengths.push(both) } else { lengths.extend([both / 2, both - both / 2]) }
        }
        lengths
    }
}

/// A node that was written: its block and its first key.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    pub block: u64,
    first: u64,
    last: u64,
}

/// Metadata in the making.
pub struct Writer {
    pub blocks: Vec<Block>,
    /// How many pointers lead to each block.
    references: Vec<u32>,
    known: HashMap<Vec<u8>, u64>,
    data_references: BTreeMap<u64, u32>,
}

pub fn put(block: &mut Block, at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Puts number and checksum where they belong.
pub fn seal(block: &mut Block, number: u64, seed: u32) {
    put(block, 8, &number.to_le_bytes());
    let sum = checksum(block, seed);
    put(block, 0, &sum.to_le_bytes());
}

/// A node without number and checksum.
pub fn node(kind: u32, entries: &[(u64, Vec<u8>)], value_size: usize) -> Block {
    let room = (BLOCK_BYTES - 32) / (8 + value_size) / 3 * 3;
    assert!(entries.len() <= room);
    let mut block = [0; BLOCK_BYTES];
    put(&mut block, 4, &kind.to_le_bytes());
    put(&mut block, 16, &(entries.len() as u32).to_le_bytes());
    put(&mut block, 20, &(room as u32).to_le_bytes());
    put(&mut block, 24, &(value_size as u32).to_le_bytes());
    for (index, (key, value)) in entries.iter().enumerate() {
        assert_eq!(value.len(), value_size);
        put(&mut block, 32 + 8 * index, &key.to_le_bytes());
        put(&mut block, 32 + 8 * room + value_size * index, value);
    }
    block
}

impl Default for Writer {
    fn default() -> Self {
        Self { blocks: vec![[0; BLOCK_BYTES]], references: vec![1], known: HashMap::new(), data_references: BTreeMap::new() }
    }
}

impl Writer {
    fn allocate(&mut self) -> u64 {
        self.blocks.push([0; BLOCK_BYTES]);
        self.references.push(0);
        self.blocks.len() as u64 - 1
    }

    /// The node with this content; whether it had to be written.
    fn intern(&mut self, mut block: Block) -> (u64, bool) {
        if let Some(&number) = self.known.get(&block[..]) {
            return (number, false);
        }
        let number = self.allocate();
        self.known.insert(block.to_vec(), number);
        seal(&mut block, number, NODE_SEED);
        self.blocks[number as usize] = block;
        (number, true)
    }

    fn refer(&mut self, block: u64) {
        self.references[block as usize] += 1;
    }

    /// A tree over these entries; `shape` says where its nodes end. Returns its root, which nothing refers to yet.
    pub fn tree(&mut self, entries: &[(u64, Vec<u8>)], value_size: usize, shape: Shape) -> u64 {
        if entries.is_empty() {
            return self.intern(node(LEAF, &[], value_size)).0;
        }
        let mut level = Vec::new();
        let keys: Vec<u64> = entries.iter().map(|(key, _)| *key).collect();
        let mut rest = entries;
        for length in shape.lengths(shape.leaf, &keys) {
            let (leaf, others) = rest.split_at(length);
            let (block, is_new) = self.intern(node(LEAF, leaf, value_size));
            if is_new && value_size == 8 {
                self.note_values(leaf);
            }
            level.push(Written { block, first: leaf[0].0, last: leaf[length - 1].0 });
            rest = others;
        }
        // Nodes of one child would make a tree without end.
        assert!(shape.inner.0 >= 2);
        while level.len() > 1 {
            let keys: Vec<u64> = level.iter().map(|child| child.first).collect();
            let mut rest = &level[..];
            let mut above: Vec<Written> = Vec::new();
            for length in shape.lengths(shape.inner, &keys) {
                let (children, others) = rest.split_at(length);
                let end = above.last().map_or(0, |before| before.last + 1);
                above.push(self.inner(children, end, shape));
                rest = others;
            }
            level = above;
        }
        level[0].block
    }

    /// A node above these, all of whose keys are from `end` on.
    fn inner(&mut self, children: &[Written], mut end: u64, shape: Shape) -> Written {
        let mut entries = Vec::new();
        for child in children {
            let key = if shape.slack { (child.first - child.first % 3).max(end) } else { child.first };
            entries.push((key, child.block.to_le_bytes().to_vec()));
            end = child.last + 1;
        }
        let (block, is_new) = self.intern(node(INNER, &entries, 8));
        if is_new {
            children.iter().for_each(|child| self.refer(child.block));
        }
        Written { block, first: entries[0].0, last: end - 1 }
    }

    /// Counts the data blocks of a new leaf of mappings. The trees of roots pass through here as well: [`Writer::pool`] undoes that.
    fn note_values(&mut self, leaf: &[(u64, Vec<u8>)]) {
        for (_, value) in leaf {
            let number = u64::from_le_bytes(value[..].try_into().unwrap());
            *self.data_references.entry(number >> 24).or_default() += 1;
        }
    }

    /// The root of a device's tree.
    pub fn mappings(&mut self, map: &Map, shape: Shape) -> u64 {
        let entries: Vec<_> = map
            .iter()
            .map(|(&key, mapping)| (key, (mapping.data << 24 | u64::from(mapping.time)).to_le_bytes().to_vec()))
            .collect();
        let root = self.tree(&entries, 8, shape);
        self.refer(root);
        root
    }

    /// The roots of mappings and details of devices whose trees have these roots.
    pub fn directory(&mut self, devices: &[(&Device, u64)]) -> (u64, u64) {
        let roots: Vec<_> = devices.iter().map(|(device, root)| (device.id.into(), root.to_le_bytes().to_vec())).collect();
        let counted = self.data_references.clone();
        let mapping_root = self.tree(&roots, 8, Shape::FULL);
        self.data_references = counted;
        let details: Vec<_> = devices
            .iter()
            .map(|(device, _)| {
                let mut value = (device.map.len() as u64).to_le_bytes().to_vec();
                value.extend(device.transaction_id.to_le_bytes());
                value.extend(device.creation_time.to_le_bytes());
                value.extend(device.snapshotted_time.to_le_bytes());
                (device.id.into(), value)
            })
            .collect();
        let details_root = self.tree(&details, 24, Shape { leaf: (42, 126), ..Shape::FULL });
        (mapping_root, details_root)
    }

    /// A superblock that names these roots.
    pub fn superblock(&self, pool: &Pool, roots: (u64, u64)) -> Block {
        let mut block = [0; BLOCK_BYTES];
        put(&mut block, 32, &27_022_010_u64.to_le_bytes());
        put(&mut block, 40, &2_u32.to_le_bytes());
        put(&mut block, 44, &pool.time.to_le_bytes());
        put(&mut block, 48, &pool.transaction_id.to_le_bytes());
        put(&mut block, 320, &roots.0.to_le_bytes());
        put(&mut block, 328, &roots.1.to_le_bytes());
        put(&mut block, 336, &128_u32.to_le_bytes());
        put(&mut block, 340, &8_u32.to_le_bytes());
        block
    }

    /// The metadata of a pool, with space maps, and a metadata snapshot of the same state if asked for.
    pub fn pool(mut self, pool: &Pool, shapes: &[Shape], snapshot: Snapshot) -> Vec<u8> {
        let mut devices: Vec<_> = pool
            .devices
            .iter()
            .zip(shapes.iter().cycle())
            .map(|(device, &shape)| (device, self.mappings(&device.map, shape)))
            .collect();
        devices.sort_by_key(|(device, _)| device.id);
        let roots = self.directory(&devices);
        self.refer(roots.0);
        self.refer(roots.1);
        let mut superblock = self.superblock(pool, roots);
        if let Snapshot::Held = snapshot {
            let mut copy = superblock;
            let number = self.allocate();
            self.refer(number);
            self.refer(roots.0);
            self.refer(roots.1);
            seal(&mut copy, number, SUPERBLOCK_SEED);
            self.blocks[number as usize] = copy;
            put(&mut superblock, 56, &number.to_le_bytes());
        }
        self.data_space_map(&mut superblock, pool.data_blocks);
        self.metadata_space_map(&mut superblock);
        seal(&mut superblock, 0, SUPERBLOCK_SEED);
        self.blocks[0] = superblock;
        self.blocks.concat()
    }

    fn data_space_map(&mut self, superblock: &mut Block, count: u64) {
        let references = std::mem::take(&mut self.data_references);
        let counts = |block: usize| references.get(&(block as u64)).copied().unwrap_or_default();
        let bitmaps = self.bitmaps(count as usize, &counts);
        let overflow = self.overflow(references.iter().map(|(&block, &count)| (block, count)));
        let index: Vec<_> = (0..).zip(bitmaps).map(|(number, entry)| (number, entry.to_vec())).collect();
        let index_root = self.tree(&index, 16, Shape { leaf: (56, 168), ..Shape::FULL });
        self.refer(index_root);
        put(superblock, 64, &count.to_le_bytes());
        put(superblock, 72, &(references.len() as u64).to_le_bytes());
        put(superblock, 80, &index_root.to_le_bytes());
        put(superblock, 88, &overflow.to_le_bytes());
    }

    fn metadata_space_map(&mut self, superblock: &mut Block) {
        let overflow = {
            let counts: Vec<_> = (0..).zip(self.references.iter().copied()).collect();
            self.overflow(counts.into_iter())
        };
        let index = self.allocate();
        self.refer(index);
        // Room for the bitmaps themselves, one for each 16,320 blocks, and some that are free.
        let total = self.blocks.len() + self.blocks.len() / PER_BITMAP + 100;
        let first_bitmap = self.blocks.len();
        let bitmaps = total.div_ceil(PER_BITMAP);
        let mut references = self.references.clone();
        references.resize(first_bitmap + bitmaps, 1);
        let written = self.bitmaps(total, &|block| references.get(block).copied().unwrap_or_default());
        let mut block = [0; BLOCK_BYTES];
        for (number, entry) in written.iter().enumerate() {
            put(&mut block, 16 + 16 * number, entry);
        }
        seal(&mut block, index, INDEX_SEED);
        self.blocks[index as usize] = block;
        put(superblock, 192, &(total as u64).to_le_bytes());
        put(superblock, 200, &(references.iter().filter(|&&count| count > 0).count() as u64).to_le_bytes());
        put(superblock, 208, &index.to_le_bytes());
        put(superblock, 216, &overflow.to_le_bytes());
        put(superblock, 344, &(total as u64).to_le_bytes());
        self.blocks.resize(total, [0; BLOCK_BYTES]);
    }

    /// Bitmaps of the references of so many blocks, and an index entry for each.
    fn bitmaps(&mut self, count: usize, references: &dyn Fn(usize) -> u32) -> Vec<[u8; 16]> {
        (0..count.div_ceil(PER_BITMAP))
            .map(|number| {
                let number_of_block = self.allocate();
                self.refer(number_of_block);
                let (mut block, mut entry) = ([0; BLOCK_BYTES], [0; 16]);
                let (mut free, mut first_free) = (0_u32, None);
                for bit in 0..PER_BITMAP.min(count - number * PER_BITMAP) {
                    let count = references(number * PER_BITMAP + bit).min(3) as u8;
                    if count == 0 {
                        free += 1;
                        first_free.get_or_insert(bit as u32);
                    }
                    // The higher bit comes first.
                    block[16 + bit / 4] |= (count >> 1 | (count & 1) << 1) << (bit % 4 * 2);
                }
                seal(&mut block, number_of_block, BITMAP_SEED);
                self.blocks[number_of_block as usize] = block;
                entry[..8].copy_from_slice(&number_of_block.to_le_bytes());
                entry[8..12].copy_from_slice(&free.to_le_bytes());
                entry[12..].copy_from_slice(&first_free.unwrap_or(0).to_le_bytes());
                entry
            })
            .collect()
    }

    /// A tree of the counts that two bits do not hold.
    fn overflow(&mut self, counts: impl Iterator<Item = (u64, u32)>) -> u64 {
        // The two space maps have trees of their own, even where both are empty.
        self.known.clear();
        let counts: Vec<_> =
            counts.filter(|(_, count)| *count > 2).map(|(block, count)| (block, count.to_le_bytes().to_vec())).collect();
        let root = self.tree(&counts, 4, Shape { leaf: (112, 336), ..Shape::FULL });
        self.refer(root);
        root
    }
}

/// Whether the pool holds a metadata snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snapshot {
    None,
    Held,
}

/// Metadata of a pool in memory.
pub fn in_memory(pool: &Pool, shapes: &[Shape]) -> MemoryBlocks {
    MemoryBlocks::new(Writer::default().pool(pool, shapes, Snapshot::Held))
}
