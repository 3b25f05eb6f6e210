//! The reader of thin metadata against `thin_dump`, `thin_delta` and `thin_ls`, on metadata that `thin_restore` made and on such that
//! a writer of our own made, whose trees share what a pool's would.
//!
//! Random pools, from a seed that a failure names. Needs thin-provisioning-tools, and no root: metadata lies in files here.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

#[path = "support/dm_metadata/mod.rs"]
mod dm_metadata;

use std::fs::{self, File};
use std::path::Path;

use dm_metadata::walks::{changed, id, mapped, usage};
use dm_metadata::writer::{Shape, Snapshot, Writer};
use dm_metadata::{Device, Map, Mapping, Pool, tools};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use windlass::dm::metadata::{MetadataFile, NEVER, ThinMetadata};

/// A volume and snapshots of it, each after some writes and discards, all with data blocks of their own where they differ.
fn random_pool(random: &mut StdRng, blocks: u64, generations: u32) -> Pool {
    let mut next_data = 0;
    let mut map = Map::new();
    let mut devices = Vec::new();
    let fill = random.random_range(1..=100);
    for block in 0..blocks {
        if random.random_range(0..100) < fill {
            map.insert(block, Mapping { data: next_data, time: 0 });
            next_data += 1;
        }
    }
    for generation in 0..generations {
        devices.push(Device {
            id: 3 * generation + 1,
            creation_time: generation,
            snapshotted_time: generation,
            transaction_id: 7 + u64::from(generation),
            map: map.clone(),
        });
        for _ in 0..random.random_range(0..20) {
            let begin = random.random_range(0..blocks);
            let discards = random.random_range(0..4) == 0;
            for block in begin..(begin + random.random_range(1..200)).min(blocks) {
                if discards {
                    map.remove(&block);
                } else {
                    map.insert(block, Mapping { data: next_data, time: generation + 1 });
                    next_data += 1;
                }
            }
        }
    }
    Pool { time: generations, transaction_id: 99, data_blocks: next_data + 10, devices }
}

/// The reader says of the metadata in a file what the tools say, and what the pool was made of.
fn agrees(file: &Path, pool: &Pool, metadata: &ThinMetadata<'_>) {
    let dumped = tools::dump(file);
    assert_eq!(dumped.time, metadata.superblock().time.number());
    assert_eq!(dumped.transaction_id, metadata.superblock().transaction_id);
    let devices = metadata.devices().unwrap();
    assert_eq!(devices.len(), dumped.devices.len());
    for ((device, details), dumped) in devices.iter().zip(&dumped.devices) {
        assert_eq!(device.number(), dumped.id);
        assert_eq!(details, &metadata.details(*device).unwrap());
        assert_eq!(details.mapped_blocks, dumped.map.len() as u64);
        assert_eq!(details.transaction_id, dumped.transaction_id);
        assert_eq!(details.creation_time.number(), dumped.creation_time);
        assert_eq!(details.snapshotted_time.number(), dumped.snapshotted_time);
        assert!(mapped(metadata, dumped.id).unwrap().into_iter().eq(dumped.map.keys().copied()));
    }
    for (device, dumped) in pool.devices.iter().zip(&dumped.devices) {
        assert_eq!(device.map, dumped.map);
    }
    for base in &pool.devices {
        for target in &pool.devices {
            if base.id != target.id {
                let found = changed(metadata, base.id, target.id).unwrap();
                assert_eq!(found, tools::delta(file, base.id, target.id), "{} to {}", base.id, target.id);
            }
        }
    }
    assert_eq!(usage(metadata).unwrap(), tools::usage(file));
}

#[test]
fn restored_pools_are_read_as_the_tools_read_them() {
    for seed in 0..6 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let (blocks, generations) = (random.random_range(1..40_000), random.random_range(1..5));
        let pool = random_pool(&mut random, blocks, generations);
        let directory = tempfile::tempdir().unwrap();
        let file = tools::restore(&pool, directory.path(), 16 << 20);
        let blocks = MetadataFile::new(File::open(&file).unwrap()).unwrap();
        agrees(&file, &pool, &ThinMetadata::live(&blocks, NEVER).unwrap());
    }
}

#[test]
fn pools_with_shared_trees_are_read_as_the_tools_read_them() {
    for seed in 0..6 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(1000 + seed);
        let (blocks, generations) = (random.random_range(1..80_000), random.random_range(2..5));
        let pool = random_pool(&mut random, blocks, generations);
        let shape = Shape { mean: random.random_range(1..300), ..Shape::FULL };
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("written");
        fs::write(&file, Writer::default().pool(&pool, &[shape], Snapshot::Held)).unwrap();
        assert_eq!(tools::check(&file), None);
        let blocks = MetadataFile::new(File::open(&file).unwrap()).unwrap();
        agrees(&file, &pool, &ThinMetadata::live(&blocks, NEVER).unwrap());
        agrees(&file, &pool, &ThinMetadata::held(&blocks, NEVER).unwrap());
    }
}

#[test]
fn a_pool_without_devices_and_a_device_without_blocks_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut pool = Pool { data_blocks: 100, ..Pool::default() };
    for devices in 0..2 {
        pool.devices = vec![Device { id: 5, ..Device::default() }; devices];
        let file = tools::restore(&pool, directory.path(), 4 << 20);
        let blocks = MetadataFile::new(File::open(&file).unwrap()).unwrap();
        let metadata = ThinMetadata::live(&blocks, NEVER).unwrap();
        agrees(&file, &pool, &metadata);
        assert!(metadata.details(id(4)).is_err());
    }
}
