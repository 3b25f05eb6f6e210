//! Data blocks that are allocated to nothing, found and given back; `thin_check` and `thin_dump` are asked before and after.
//!
//! Random pools, from a seed that a failure names, in which blocks are leaked by a second hand ([`DataMap`]). Needs
//! thin-provisioning-tools, and no root: metadata lies in files here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

#[path = "support/dm_metadata/mod.rs"]
mod dm_metadata;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use dm_metadata::space_map::{DataMap, PER_BITMAP};
use dm_metadata::writer::{Shape, Snapshot, Writer};
use dm_metadata::{Device, Map, Mapping, Pool, tools};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use windlass::dm::metadata::{BLOCK_BYTES, ChangedBlock, MemoryBlocks, NEVER, Reclaim, ThinMetadataError};

/// A pool of up to five bitmaps, the last of which is rarely full, whose devices have runs of blocks anywhere, some in common.
fn random_pool(random: &mut StdRng) -> Pool {
    let data_blocks = match random.random_range(0..4) {
        0 => random.random_range(1..100),
        1 => PER_BITMAP * random.random_range(1..4),
        _ => random.random_range(100..80_000),
    };
    let mut free: BTreeSet<u64> = (0..data_blocks).collect();
    let mut map = Map::new();
    let mut devices = Vec::new();
    for generation in 0..random.random_range(0..4_u32) {
        for _ in 0..random.random_range(1..40) {
            let (virtual_begin, data_begin) = (random.random_range(0..50_000), random.random_range(0..data_blocks));
            for offset in 0..random.random_range(1..500) {
                let data = data_begin + offset;
                if free.remove(&data) {
                    map.insert(virtual_begin + offset, Mapping { data, time: generation });
                }
            }
        }
        devices.push(Device {
            id: 3 * generation + 1,
            creation_time: generation,
            snapshotted_time: generation,
            transaction_id: 7,
            map: map.clone(),
        });
    }
    Pool { time: 9, transaction_id: 99, data_blocks, devices }
}

fn mapped(pool: &Pool) -> BTreeSet<u64> {
    pool.devices.iter().flat_map(|device| device.map.values()).map(|mapping| mapping.data).collect()
}

/// Some of the blocks that nothing is mapped to: none, all, or those that fall to it, some of them in runs.
fn some(random: &mut StdRng, pool: &Pool) -> BTreeSet<u64> {
    let mapped = mapped(pool);
    let free = (0..pool.data_blocks).filter(|block| !mapped.contains(block));
    let (step, share) = (random.random_range(1..300), random.random_range(0..=4));
    free.filter(|block| (block / step).wrapping_mul(0x9e37_79b9) >> 4 & 3 < share).collect()
}

/// Metadata of a pool by one of two makers, in a file.
fn metadata(random: &mut StdRng, pool: &Pool, directory: &Path) -> DataMap {
    let bytes = match random.random_range(0..2) {
        0 => fs::read(tools::restore(pool, directory, 16 << 20)).unwrap(),
        _ => {
            let snapshot = if random.random_range(0..2) == 0 { Snapshot::Held } else { Snapshot::None };
            let shape = Shape { mean: random.random_range(1..300), ..Shape::FULL };
            Writer::default().pool(pool, &[shape], snapshot)
        }
    };
    DataMap(bytes)
}

fn plan(metadata: &DataMap) -> Result<Reclaim, ThinMetadataError> {
    Reclaim::plan(&MemoryBlocks::new(metadata.0.clone()), NEVER)
}

fn apply(metadata: &mut DataMap, changes: &[ChangedBlock]) {
    for change in changes {
        let at = change.place.number() as usize * BLOCK_BYTES;
        metadata.0[at..at + BLOCK_BYTES].copy_from_slice(&change.bytes[..]);
    }
}

/// What the tools say of metadata: sound, and all mappings.
fn dumped(metadata: &DataMap, directory: &Path) -> Vec<(u32, Map)> {
    let file = directory.join("looked-at");
    fs::write(&file, &metadata.0).unwrap();
    assert_eq!(tools::check(&file), None);
    tools::dump(&file).devices.into_iter().map(|device| (device.id, device.map)).collect()
}

/// Allocated is what is in `expected`, wherever that is said.
fn allocates(metadata: &DataMap, expected: &BTreeSet<u64>) {
    assert_eq!(metadata.counted(), *expected);
    assert_eq!(metadata.allocated(), expected.len() as u64);
}

/// The kernel finds every free block by the index: it looks where something is free, from where it may be.
fn index_is_right(metadata: &DataMap) {
    let counted = metadata.counted();
    for (number, entry) in (0..).zip(metadata.index()) {
        let range = number * PER_BITMAP..(number + 1) * PER_BITMAP;
        assert_eq!(u64::from(entry.free), PER_BITMAP - counted.range(range.clone()).count() as u64, "bitmap {number}");
        let first_free = range.clone().find(|block| !counted.contains(block)).map(|block| block - range.start);
        assert!(first_free.is_none_or(|first| u64::from(entry.none_free_before) <= first), "bitmap {number}");
    }
}

#[test]
fn leaked_blocks_are_given_back_and_nothing_else_changes() {
    let (mut leaking, mut held) = (0, 0);
    for seed in 0..24 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let directory = tempfile::tempdir().unwrap();
        let pool = random_pool(&mut random);
        let mut metadata = metadata(&mut random, &pool, directory.path());
        allocates(&metadata, &mapped(&pool));
        assert!(!plan(&metadata).unwrap().is_needed(), "nothing is leaked yet");
        let devices = dumped(&metadata, directory.path());
        let sound = metadata.clone();

        let leaked = some(&mut random, &pool);
        leaked.iter().for_each(|&block| metadata.set(block, random.random_range(1..=2)));
        let found = plan(&metadata).unwrap();
        assert_eq!((found.reclaimed.count(), found.left.count()), (leaked.len() as u64, 0));
        assert_eq!(found.is_needed(), !leaked.is_empty());
        apply(&mut metadata, &found.changes);
        allocates(&metadata, &mapped(&pool));
        assert_eq!(dumped(&metadata, directory.path()), devices);
        let again = plan(&metadata).unwrap();
        assert_eq!((again.reclaimed.count(), again.is_needed()), (0, false));
        if leaked.is_empty() {
            assert_eq!(metadata, sound);
        } else {
            index_is_right(&metadata);
            leaking += 1;
        }
        held += u32::from(metadata.0[56..64] != [0; 8]);
    }
    assert!(leaking > 12 && held > 2, "{leaking} pools leaked, {held} held a metadata snapshot");
}

#[test]
fn whatever_was_written_before_an_interruption_the_next_plan_does_the_rest() {
    for seed in 0..12 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(100 + seed);
        let directory = tempfile::tempdir().unwrap();
        let pool = random_pool(&mut random);
        let mut metadata = metadata(&mut random, &pool, directory.path());
        let leaked = some(&mut random, &pool);
        leaked.iter().for_each(|&block| metadata.set(block, 1));
        let whole = plan(&metadata).unwrap();
        let mut expected = metadata.clone();
        apply(&mut expected, &whole.changes);
        let rest = whole.changes.len().saturating_sub(1);
        for _ in 0..4 {
            let mut interrupted = metadata.clone();
            for change in &whole.changes[..rest] {
                if random.random_range(0..2) == 0 {
                    apply(&mut interrupted, std::slice::from_ref(change));
                }
            }
            let next = plan(&interrupted).unwrap();
            assert_eq!(next.reclaimed, whole.reclaimed, "what was given back before the superblock said so is told again");
            apply(&mut interrupted, &next.changes);
            assert!(interrupted == expected, "another end than without an interruption");
        }
        let first = |metadata: &DataMap| metadata.0[..BLOCK_BYTES].try_into().unwrap();
        assert_eq!(Reclaim::between(&first(&metadata), &first(&expected)), Some(whole.reclaimed));
    }
}

/// A pool of two bitmaps with a few mapped blocks, of which block 20,000 is the last.
fn small() -> (Pool, DataMap) {
    let map = (0..10).map(|block| (block, Mapping { data: 19_991 + block, time: 0 })).collect();
    let devices = vec![Device { id: 1, map, ..Device::default() }];
    let pool = Pool { transaction_id: 1, data_blocks: 20_100, devices, ..Pool::default() };
    let bytes = Writer::default().pool(&pool, &[Shape::FULL], Snapshot::None);
    (pool, DataMap(bytes))
}

#[test]
fn a_mapped_block_that_is_free_is_damage() {
    let (_, mut metadata) = small();
    metadata.set(5, 1);
    metadata.set(20_000, 0);
    let refused = plan(&metadata);
    assert!(matches!(refused, Err(ThinMetadataError::Damaged { .. })), "{refused:?}");
}

#[test]
fn what_is_counted_oftener_than_a_power_cut_does_is_left() {
    let (pool, mut metadata) = small();
    // Mapped once and counted twice is for the kernel to live with.
    metadata.set(20_000, 2);
    metadata.set(7, 3);
    let found = plan(&metadata).unwrap();
    assert_eq!((found.reclaimed.count(), found.left.count(), found.is_needed()), (0, 1, false));
    metadata.set(8, 1);
    let found = plan(&metadata).unwrap();
    assert_eq!((found.reclaimed.count(), found.left.count(), found.is_needed()), (1, 1, true));
    apply(&mut metadata, &found.changes);
    let mut expected = mapped(&pool);
    expected.insert(7);
    allocates(&metadata, &expected);
}

#[test]
fn a_wrong_number_of_allocated_blocks_is_put_right() {
    let (pool, metadata) = small();
    for wrong in [0_u64, 9, 11, 20_100] {
        let mut metadata = metadata.clone();
        metadata.0[72..80].copy_from_slice(&wrong.to_le_bytes());
        metadata.seal(0, windlass::dm::metadata::SUPERBLOCK_SEED);
        let found = plan(&metadata).unwrap();
        assert_eq!(found.reclaimed.count(), wrong.saturating_sub(10));
        apply(&mut metadata, &found.changes);
        allocates(&metadata, &mapped(&pool));
    }
}

#[test]
fn every_changed_bit_of_the_space_map_is_damage() {
    let (_, metadata) = small();
    let index = metadata.index();
    for block in [index[0].leaf, index[0].bitmap, index[1].bitmap] {
        for at in (0..BLOCK_BYTES).step_by(61) {
            let mut damaged = metadata.clone();
            damaged.0[block as usize * BLOCK_BYTES + at] ^= 0x10;
            let refused = plan(&damaged);
            assert!(matches!(refused, Err(ThinMetadataError::Damaged { .. })), "block {block}, byte {at}: {refused:?}");
        }
    }
}

#[test]
fn superblocks_that_differ_in_more_than_a_plan_changes_are_told_apart() {
    let (_, metadata) = small();
    let old: [u8; BLOCK_BYTES] = metadata.0[..BLOCK_BYTES].try_into().unwrap();
    for at in [48, 80, 320, 344] {
        let mut other = metadata.clone();
        other.0[at] ^= 1;
        other.seal(0, windlass::dm::metadata::SUPERBLOCK_SEED);
        assert_eq!(Reclaim::between(&old, other.0[..BLOCK_BYTES].try_into().unwrap()), None, "byte {at}");
    }
    assert_eq!(Reclaim::between(&old, &old).map(|blocks| blocks.count()), Some(0));
}
