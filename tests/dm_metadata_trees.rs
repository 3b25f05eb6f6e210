//! The reader of thin metadata on trees of every shape, whole, damaged and hostile, against sets kept beside them.
//!
//! Trees are made by a writer of our own: nodes of a few entries, so that small maps make high trees, which share what is equal in
//! them and are cut differently where they should not match.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

#[path = "support/dm_metadata/mod.rs"]
mod dm_metadata;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use dm_metadata::walks::{changed, everything, exclusive, id, mapped, usage};
use dm_metadata::writer::{Block, INNER, LEAF, Shape, Snapshot, Writer, in_memory, node, put, seal};
use dm_metadata::{Device, Map, Mapping, Pool};
use proptest::prelude::*;
use windlass::dm::metadata::{
    BLOCK_BYTES, MemoryBlocks, MetadataBlock, MetadataSource, NEVER, NODE_SEED, SUPERBLOCK_SEED, Superblock, ThinMetadata,
    ThinMetadataError,
};

/// Nodes so small that a hundred blocks make three levels of inner nodes.
const SMALL: Shape = Shape { leaf: (2, 4), inner: (2, 5), mean: 3, slack: false };

/// Virtual blocks of a volume, about: more than two batches of leaves where leaves are small.
const KEYS: u64 = 1500;

/// No virtual block of 64 KiB is beyond this.
const LAST: u64 = i64::MAX as u64 / 65536 - 1;

/// A step in the making of a device from the one before it.
#[derive(Debug, Clone)]
enum Edit {
    Write { begin: u64, length: u64 },
    Discard { begin: u64, length: u64 },
}

fn edit() -> impl Strategy<Value = Edit> {
    let run = || (0_u64..KEYS, 1_u64..150);
    prop_oneof![
        3 => run().prop_map(|(begin, length)| Edit::Write { begin, length }),
        1 => run().prop_map(|(begin, length)| Edit::Discard { begin, length }),
    ]
}

fn shape() -> impl Strategy<Value = Shape> {
    (1_usize..6, 2_usize..6, 1_u64..8, any::<bool>()).prop_map(|(leaf, inner, mean, slack)| Shape {
        leaf: (leaf, 2 * leaf),
        inner: (inner, 2 * inner),
        mean,
        slack,
    })
}

/// A device for each list of edits, which begins with what the one before it had; `distance` lies between virtual blocks.
fn pool(generations: &[Vec<Edit>], distance: u64) -> Pool {
    let (mut map, mut next, mut devices) = (Map::new(), 0, Vec::new());
    for (number, edits) in generations.iter().enumerate() {
        for edit in edits {
            match *edit {
                Edit::Write { begin, length } => {
                    for block in begin..begin + length {
                        map.insert(block * distance, Mapping { data: next, time: number as u32 });
                        next += 1;
                    }
                }
                Edit::Discard { begin, length } => (begin..begin + length).for_each(|block| {
                    map.remove(&(block * distance));
                }),
            }
        }
        devices.push(Device { id: number as u32, map: map.clone(), ..Device::default() });
    }
    Pool { data_blocks: next, devices, ..Pool::default() }
}

fn different(one: &Map, other: &Map) -> BTreeSet<u64> {
    let data = |map: &Map, block: &u64| map.get(block).map(|mapping| mapping.data);
    one.keys().chain(other.keys()).copied().filter(|block| data(one, block) != data(other, block)).collect()
}

fn alone(pool: &Pool) -> BTreeMap<u32, BTreeSet<u64>> {
    let mut owners: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
    for device in &pool.devices {
        for mapping in device.map.values() {
            owners.entry(mapping.data).or_default().insert(device.id);
        }
    }
    let is_alone = |mapping: &Mapping| owners[&mapping.data].len() == 1;
    let alone = |device: &Device| device.map.iter().filter(|(_, mapping)| is_alone(mapping)).map(|(block, _)| *block).collect();
    pool.devices.iter().map(|device| (device.id, alone(device))).collect()
}

proptest! {
    // Pools of several thousand nodes each.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_mapped_changed_and_exclusive_is_what_the_devices_were_made_of(
        generations in proptest::collection::vec(proptest::collection::vec(edit(), 0..12), 1..5),
        shapes in proptest::collection::vec(shape(), 1..4),
        distance in prop_oneof![Just(1), Just(3), Just(LAST / (KEYS + 150))],
    ) {
        let pool = pool(&generations, distance);
        let blocks = in_memory(&pool, &shapes);
        for metadata in [ThinMetadata::live(&blocks, NEVER).unwrap(), ThinMetadata::held(&blocks, NEVER).unwrap()] {
            for base in &pool.devices {
                let all: BTreeSet<u64> = base.map.keys().copied().collect();
                prop_assert_eq!(mapped(&metadata, base.id).unwrap(), all);
                for target in &pool.devices {
                    let found = changed(&metadata, base.id, target.id).unwrap();
                    prop_assert_eq!(found, different(&base.map, &target.map));
                }
            }
            let alone = alone(&pool);
            for device in &pool.devices {
                prop_assert_eq!(&exclusive(&metadata, device.id).unwrap(), &alone[&device.id]);
            }
            let counts = pool.devices.iter().map(|device| (device.id, (device.map.len() as u64, alone[&device.id].len() as u64)));
            prop_assert_eq!(usage(&metadata).unwrap(), counts.collect());
        }
    }
}

/// Counts reads, and fails where it is told to.
struct Watched {
    blocks: MemoryBlocks,
    reads: AtomicU64,
    blocks_read: AtomicU64,
    fail_at: u64,
}

impl Watched {
    fn new(blocks: MemoryBlocks) -> Self {
        Self { blocks, reads: AtomicU64::new(0), blocks_read: AtomicU64::new(0), fail_at: u64::MAX }
    }
}

impl MetadataSource for Watched {
    fn count(&self) -> u64 {
        self.blocks.count()
    }

    fn read(&self, first: MetadataBlock, buffer: &mut [u8]) -> io::Result<()> {
        self.blocks_read.fetch_add((buffer.len() / BLOCK_BYTES) as u64, Ordering::Relaxed);
        match self.reads.fetch_add(1, Ordering::Relaxed) {
            read if read == self.fail_at => Err(io::Error::from_raw_os_error(5)),
            _ => self.blocks.read(first, buffer),
        }
    }
}

/// Two devices with these blocks, the second of which has a few of its own.
fn two_devices(blocks: u64, changed: impl IntoIterator<Item = u64>) -> Pool {
    let base: Map = (0..blocks).map(|block| (block, Mapping { data: block, time: 0 })).collect();
    let mut target = base.clone();
    for (number, block) in (0..).zip(changed) {
        target.insert(block, Mapping { data: blocks + number, time: 1 });
    }
    let device = |id, map| Device { id, map, ..Device::default() };
    Pool { time: 1, data_blocks: 2 * blocks, devices: vec![device(1, base), device(2, target)], ..Pool::default() }
}

#[test]
fn a_difference_reads_what_is_not_shared_and_little_more() {
    let pool = two_devices(100_000, [50_000, 50_001]);
    let blocks = Watched::new(in_memory(&pool, &[Shape::FULL]));
    let metadata = ThinMetadata::held(&blocks, NEVER).unwrap();
    blocks.blocks_read.store(0, Ordering::Relaxed);
    assert_eq!(changed(&metadata, 1, 2).unwrap().len(), 2);
    // Of each device: the directory twice, three levels on the way to the first leaf, two on the way to the one that differs.
    let read = blocks.blocks_read.load(Ordering::Relaxed);
    assert!(read <= 16, "{read} blocks");
    blocks.blocks_read.store(0, Ordering::Relaxed);
    blocks.reads.store(0, Ordering::Relaxed);
    assert_eq!(mapped(&metadata, 1).unwrap().len(), 100_000);
    let (read, reads) = (blocks.blocks_read.load(Ordering::Relaxed), blocks.reads.load(Ordering::Relaxed));
    assert!(read > 100_000 / 252 && reads < read / 10, "{read} blocks in {reads} reads");
}

#[test]
fn every_read_may_be_the_one_that_fails_or_after_which_the_caller_has_enough() {
    let pool = two_devices(150, (0..150).step_by(11));
    let mut blocks = Watched::new(in_memory(&pool, &[SMALL]));
    everything(&ThinMetadata::held(&blocks, NEVER).unwrap()).unwrap();
    let reads = blocks.reads.load(Ordering::Relaxed);
    assert!(reads > 50);
    for read in 2..reads {
        blocks.reads.store(0, Ordering::Relaxed);
        let enough = || blocks.reads.load(Ordering::Relaxed) >= read;
        let outcome = ThinMetadata::held(&blocks, &enough).and_then(|metadata| everything(&metadata));
        assert!(matches!(outcome, Err(ThinMetadataError::Interrupted)), "read {read}: {outcome:?}");
        assert_eq!(blocks.reads.load(Ordering::Relaxed), read);
    }
    for read in 0..reads {
        blocks.reads.store(0, Ordering::Relaxed);
        blocks.fail_at = read;
        let outcome = ThinMetadata::held(&blocks, NEVER).and_then(|metadata| everything(&metadata));
        assert!(matches!(outcome, Err(ThinMetadataError::Io { .. })), "read {read}: {outcome:?}");
    }
}

#[test]
fn an_error_of_the_sink_ends_the_walk_at_once() {
    #[derive(Debug)]
    enum Ended {
        Metadata,
        Sink,
    }
    impl From<ThinMetadataError> for Ended {
        fn from(_: ThinMetadataError) -> Self {
            Self::Metadata
        }
    }
    let blocks = in_memory(&two_devices(150, (0..150).step_by(11)), &[SMALL]);
    let metadata = ThinMetadata::held(&blocks, NEVER).unwrap();
    let mut runs = 0;
    let outcome = metadata.changed(id(1), id(2), &mut |_| {
        runs += 1;
        if runs == 3 { Err(Ended::Sink) } else { Ok(()) }
    });
    assert!(matches!(outcome, Err(Ended::Sink)), "{outcome:?}");
    assert_eq!(runs, 3);
}

#[test]
fn a_device_that_is_not_there_and_a_pool_without_a_metadata_snapshot_are_named() {
    let pool = two_devices(10, []);
    let blocks = MemoryBlocks::new(Writer::default().pool(&pool, &[SMALL], Snapshot::None));
    assert!(matches!(ThinMetadata::held(&blocks, NEVER), Err(ThinMetadataError::NotHeld)));
    let metadata = ThinMetadata::live(&blocks, NEVER).unwrap();
    for outcome in [mapped(&metadata, 3), changed(&metadata, 3, 1), changed(&metadata, 1, 0)] {
        assert!(matches!(outcome, Err(ThinMetadataError::MissingDevice(_))), "{outcome:?}");
    }
    let empty = MemoryBlocks::new(vec![0; 64 << 10]);
    assert!(matches!(Superblock::read(&empty), Err(ThinMetadataError::Unformatted { zeroed: true })));
    assert!(matches!(Superblock::read(&MemoryBlocks::default()), Err(ThinMetadataError::Io { .. })));
}

/// Where the trees of a pool have their nodes, and whether a node is a root.
fn nodes(bytes: &[u8]) -> BTreeMap<u64, bool> {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let short = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    fn visit(root: u64, at: &dyn Fn(u64) -> (bool, Vec<u64>), found: &mut BTreeMap<u64, bool>, is_root: bool) -> Vec<u64> {
        found.insert(root, is_root);
        let (is_leaf, values) = at(root);
        if is_leaf { values } else { values.iter().flat_map(|&child| visit(child, at, found, false)).collect() }
    }
    let at = |block: u64| {
        let start = block as usize * BLOCK_BYTES;
        let (count, room, size) = (short(start + 16) as usize, short(start + 20) as usize, short(start + 24) as usize);
        let values = (0..count).map(|index| number(start + 32 + 8 * room + size * index)).collect();
        (short(start + 4) == LEAF, values)
    };
    let mut found = BTreeMap::new();
    for root in visit(number(320), &at, &mut found, true) {
        visit(root, &at, &mut found, true);
    }
    visit(number(328), &at, &mut found, true);
    found
}

fn outcome(bytes: Vec<u8>) -> Result<(), ThinMetadataError> {
    let blocks = MemoryBlocks::new(bytes);
    everything(&ThinMetadata::live(&blocks, NEVER)?)
}

#[test]
fn every_changed_byte_of_every_node_is_found() {
    let bytes = Writer::default().pool(&two_devices(60, [7, 30]), &[SMALL], Snapshot::None);
    outcome(bytes.clone()).unwrap();
    let nodes = nodes(&bytes);
    assert!(nodes.len() > 20);
    for (number, block) in nodes.keys().enumerate() {
        for at in 0..BLOCK_BYTES {
            // All bytes of the first nodes; of the others a part, another one of each.
            if number > 3 && (at + number) % 64 != 0 {
                continue;
            }
            let mut changed = bytes.clone();
            changed[*block as usize * BLOCK_BYTES + at] ^= 1 << (at % 8);
            let outcome = outcome(changed);
            assert!(
                matches!(outcome, Err(ThinMetadataError::Damaged { block: found, .. }) if found.number() == *block),
                "byte {at} of block {block}: {outcome:?}"
            );
        }
    }
}

/// Changes of a node of which each makes it one that no pool writes; nothing where one does not apply.
fn hostile_changes(block: &Block, number: u64, is_root: bool, beyond: u64) -> Vec<(&'static str, Block)> {
    let short = |at: usize| u32::from_le_bytes(block[at..at + 4].try_into().unwrap());
    let (kind, count, room, size) = (short(4), short(16), short(20), short(24));
    let value = |index: u32| (32 + 8 * room + size * index) as usize;
    let key = |index: u32| (32 + 8 * index) as usize;
    let key_at = |index: u32| u64::from_le_bytes(block[key(index)..][..8].try_into().unwrap());
    let mut changes = Vec::new();
    let mut change = |name, parts: &[(usize, &[u8])]| {
        let mut changed = *block;
        parts.iter().for_each(|(at, bytes)| put(&mut changed, *at, bytes));
        changes.push((name, changed));
    };
    change("more entries than room", &[(16, &(room + 1).to_le_bytes())]);
    change("very many entries", &[(16, &u32::MAX.to_le_bytes())]);
    change("more room than a block has", &[(20, &1000_u32.to_le_bytes())]);
    change("endless room", &[(20, &u32::MAX.to_le_bytes())]);
    change("other values", &[(24, &16_u32.to_le_bytes())]);
    change("endless values", &[(24, &u32::MAX.to_le_bytes())]);
    change("no values", &[(24, &0_u32.to_le_bytes())]);
    change("no kind", &[(4, &0_u32.to_le_bytes())]);
    change("both kinds", &[(4, &3_u32.to_le_bytes())]);
    if !(is_root && kind == INNER) {
        // An inner root is a leaf as good as any.
        change("the other kind", &[(4, &(INNER + LEAF - kind).to_le_bytes())]);
    }
    change("a key beyond all", &[(key(count - 1), &u64::MAX.to_le_bytes())]);
    if count > 1 {
        change("equal keys", &[(key(0), &key_at(1).to_le_bytes())]);
        change("keys in another order", &[(key(0), &key_at(1).to_le_bytes()), (key(1), &key_at(0).to_le_bytes())]);
    }
    if !is_root {
        change("no entries", &[(16, &0_u32.to_le_bytes())]);
        if let Some(below) = key_at(0).checked_sub(1) {
            change("a key below that in its parent", &[(key(0), &below.to_le_bytes())]);
        }
    }
    if kind == INNER {
        change("a pointer to itself", &[(value(0), &number.to_le_bytes())]);
        change("a last pointer to itself", &[(value(count - 1), &number.to_le_bytes())]);
        change("a pointer to the superblock", &[(value(0), &0_u64.to_le_bytes())]);
        change("a pointer beyond the end", &[(value(count - 1), &beyond.to_le_bytes())]);
        change("a pointer beyond all", &[(value(0), &u64::MAX.to_le_bytes())]);
        if count > 1 {
            let first: [u8; 8] = block[value(0)..][..8].try_into().unwrap();
            change("the same child twice", &[(value(1), &first)]);
        }
    }
    changes
}

#[test]
fn hostile_nodes_with_right_checksums_are_errors() {
    // A directory with inner nodes too, which takes more devices than a leaf has entries.
    let mut pool = two_devices(60, [7, 30]);
    pool.devices.extend((3..300).map(|id| Device { id, ..Device::default() }));
    let bytes = Writer::default().pool(&pool, &[SMALL], Snapshot::None);
    outcome(bytes.clone()).unwrap();
    let beyond = (bytes.len() / BLOCK_BYTES) as u64;
    let mut tried = 0;
    for (number, is_root) in nodes(&bytes) {
        let start = number as usize * BLOCK_BYTES;
        let original: Block = bytes[start..start + BLOCK_BYTES].try_into().unwrap();
        if original[16..20] == [0; 4] {
            continue;
        }
        for (name, mut block) in hostile_changes(&original, number, is_root, beyond) {
            seal(&mut block, number, NODE_SEED);
            let mut changed = bytes.clone();
            changed[start..start + BLOCK_BYTES].copy_from_slice(&block);
            let outcome = outcome(changed);
            assert!(matches!(outcome, Err(ThinMetadataError::Damaged { .. })), "{name} in block {number}: {outcome:?}");
            tried += 1;
        }
    }
    assert!(tried > 500, "{tried}");
}

/// A pool whose devices have these roots.
fn with_roots(mut writer: Writer, roots: &[u64]) -> MemoryBlocks {
    let next = writer.blocks.len() as u64;
    let mut superblock = writer.superblock(&Pool { data_blocks: 100, ..Pool::default() }, (next, next + 1));
    let directory: Vec<_> = (1..).zip(roots).map(|(id, root)| (id, root.to_le_bytes().to_vec())).collect();
    let details: Vec<_> = (1..).zip(roots).map(|(id, _)| (id, vec![0; 24])).collect();
    let (mut directory, mut details) = (node(LEAF, &directory, 8), node(LEAF, &details, 24));
    seal(&mut directory, next, NODE_SEED);
    seal(&mut details, next + 1, NODE_SEED);
    seal(&mut superblock, 0, SUPERBLOCK_SEED);
    writer.blocks.extend([directory, details]);
    writer.blocks[0] = superblock;
    MemoryBlocks::new(writer.blocks.concat())
}

/// Writes a node as it is, and says where.
fn write(writer: &mut Writer, kind: u32, entries: &[(u64, u64)]) -> u64 {
    let entries: Vec<_> = entries.iter().map(|(key, value)| (*key, value.to_le_bytes().to_vec())).collect();
    let number = writer.blocks.len() as u64;
    let mut block = node(kind, &entries, 8);
    seal(&mut block, number, NODE_SEED);
    writer.blocks.push(block);
    number
}

#[test]
fn a_tree_that_is_higher_than_any_is_an_error_and_one_below_that_is_read() {
    for (height, is_read) in [(16, true), (17, false)] {
        let mut writer = Writer::default();
        let mut root = write(&mut writer, LEAF, &[(5, 9 << 24)]);
        for _ in 0..height {
            root = write(&mut writer, INNER, &[(5, root)]);
        }
        let blocks = with_roots(writer, &[root]);
        match mapped(&ThinMetadata::live(&blocks, NEVER).unwrap(), 1) {
            Ok(blocks) => assert!(is_read && blocks == BTreeSet::from([5])),
            Err(error) => assert!(!is_read && matches!(error, ThinMetadataError::Damaged { .. }), "{error:?}"),
        }
    }
}

#[test]
fn a_block_at_two_heights_at_once_is_an_error() {
    let mut writer = Writer::default();
    let first = write(&mut writer, LEAF, &[(0, 1 << 24)]);
    let second = write(&mut writer, LEAF, &[(5, 2 << 24)]);
    let low = write(&mut writer, INNER, &[(5, second)]);
    let high = write(&mut writer, INNER, &[(0, first)]);
    let high = write(&mut writer, INNER, &[(0, high)]);
    let both = write(&mut writer, INNER, &[(0, high), (5, low)]);
    let blocks = with_roots(writer, &[both, low]);
    let metadata = ThinMetadata::live(&blocks, NEVER).unwrap();
    assert_eq!(mapped(&metadata, 2).unwrap(), BTreeSet::from([5]));
    for outcome in [changed(&metadata, 1, 2), changed(&metadata, 2, 1), mapped(&metadata, 1)] {
        assert!(matches!(outcome, Err(ThinMetadataError::Damaged { .. })), "{outcome:?}");
    }
}

#[test]
fn a_mapping_to_data_beyond_the_device_is_an_error_of_the_usage() {
    let mut pool = two_devices(10, []);
    pool.data_blocks = 9;
    let blocks = in_memory(&pool, &[SMALL]);
    let outcome = usage(&ThinMetadata::live(&blocks, NEVER).unwrap());
    assert!(matches!(outcome, Err(ThinMetadataError::Damaged { .. })), "{outcome:?}");
}
