//! What changed since a snapshot that was deleted, against a model of what a thin pool does.
//!
//! The model follows the kernel: the clock is raised before a snapshot, which gets the new time as the time of its creation, and the
//! origin notes it; a write to a block whose mapping is older than the device's last snapshot, or to one without a mapping, allocates a
//! data block with the current time; another goes in place; a discard unmaps. Beside the mappings it keeps what was written.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

#[path = "support/dm_metadata/mod.rs"]
mod dm_metadata;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;

use dm_metadata::walks::{changed, changed_since, id};
use dm_metadata::writer::{Shape, in_memory};
use dm_metadata::{Device, Mapping, Pool};
use proptest::prelude::*;
use windlass::dm::metadata::{KeptMap, KeptMapBuilder, NEVER, ThinMetadata, ThinMetadataError};
use windlass::dm::units::ThinTime;

const KEYS: u64 = 300;

#[derive(Debug, Clone)]
enum Step {
    /// To one of the devices that descend from the volume.
    Write {
        device: usize,
        begin: u64,
        length: u64,
    },
    Discard {
        device: usize,
        begin: u64,
        length: u64,
    },
    /// A new device, written to from then on like the others.
    Snapshot {
        device: usize,
    },
    /// A device other than the volume goes.
    Delete {
        device: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let run = || (any::<usize>(), 0..KEYS, 1_u64..25);
    prop_oneof![
        6 => run().prop_map(|(device, begin, length)| Step::Write { device, begin, length }),
        2 => run().prop_map(|(device, begin, length)| Step::Discard { device, begin, length }),
        2 => any::<usize>().prop_map(|device| Step::Snapshot { device }),
        1 => any::<usize>().prop_map(|device| Step::Delete { device }),
    ]
}

/// A pool, and for each data block what was written to it last.
#[derive(Debug, Default)]
struct Model {
    pool: Pool,
    contents: BTreeMap<u64, u64>,
    writes: u64,
    next_id: u32,
}

/// What a device reads as; zeros where nothing is.
type Content = BTreeMap<u64, u64>;

impl Model {
    fn new() -> Self {
        let mut model = Self::default();
        model.pool.devices.push(Device::default());
        model.next_id = 1;
        model
    }

    fn write(&mut self, device: usize, block: u64) {
        let (now, device) = (self.pool.time, &mut self.pool.devices[device]);
        let in_place = device.map.get(&block).filter(|mapping| device.snapshotted_time <= mapping.time);
        let data = in_place.map_or(self.pool.data_blocks, |mapping| mapping.data);
        if in_place.is_none() {
            device.map.insert(block, Mapping { data, time: now });
            self.pool.data_blocks += 1;
        }
        self.writes += 1;
        self.contents.insert(data, self.writes);
    }

    /// Returns the place of the new device.
    fn snapshot(&mut self, device: usize) -> usize {
        self.pool.time += 1;
        let time = self.pool.time;
        self.pool.devices[device].snapshotted_time = time;
        let id = self.next_id;
        self.next_id += 1;
        let map = self.pool.devices[device].map.clone();
        self.pool.devices.push(Device { id, creation_time: time, snapshotted_time: time, map, ..Device::default() });
        self.pool.devices.len() - 1
    }

    /// One step, among the devices from this place on.
    fn step(&mut self, step: &Step, first: usize) {
        let choose = |device: usize, pool: &Pool| first + device % (pool.devices.len() - first);
        let range = |begin: u64, length: u64| begin..(begin + length).min(KEYS);
        match *step {
            Step::Write { device, begin, length } => {
                let device = choose(device, &self.pool);
                range(begin, length).for_each(|block| self.write(device, block));
            }
            Step::Discard { device, begin, length } => {
                let device = choose(device, &self.pool);
                self.pool.devices[device].map.retain(|block, _| !range(begin, length).contains(block));
            }
            Step::Snapshot { device } => {
                let device = choose(device, &self.pool);
                self.snapshot(device);
            }
            Step::Delete { device } => {
                let device = choose(device, &self.pool);
                if device > first {
                    self.pool.devices.remove(device);
                }
            }
        }
    }

    fn content(&self, device: usize) -> Content {
        self.pool.devices[device].map.iter().map(|(block, mapping)| (*block, self.contents[&mapping.data])).collect()
    }
}

/// What is kept of a device, in so many runs.
fn keep(pool: &Pool, device: u32, runs: usize) -> KeptMap {
    let blocks = in_memory(pool, &[Shape::FULL]);
    let metadata = ThinMetadata::held(&blocks, NEVER).unwrap();
    let creation_time: ThinTime = metadata.details(id(device)).unwrap().creation_time;
    let mut builder = KeptMapBuilder::new(creation_time, NonZeroUsize::new(runs).unwrap());
    metadata
        .mapped(id(device), &mut |run| {
            builder.push(run).unwrap();
            Ok::<(), ThinMetadataError>(())
        })
        .unwrap();
    KeptMap::decode(&builder.finish().encode()).unwrap()
}

proptest! {
    #[test]
    fn nothing_is_missed_after_the_base_is_gone_and_a_whole_map_tells_exactly_what_it_would_have(
        before in proptest::collection::vec(step(), 0..12),
        after in proptest::collection::vec(step(), 0..25),
        of in any::<usize>(),
        few in 1_usize..8,
    ) {
        let mut model = Model::new();
        before.iter().for_each(|step| model.step(step, 0));
        // The base: a snapshot of some device, and from now on only what descends from that device is of interest.
        let origin = of % model.pool.devices.len();
        let base = model.snapshot(origin);
        let base_id = model.pool.devices[base].id;
        let (content, whole, coarse) =
            (model.content(base), keep(&model.pool, base_id, KEYS as usize), keep(&model.pool, base_id, few));
        prop_assert!(coarse.runs().len() <= few);
        let origin = model.pool.devices[origin].clone();
        let mut with_base = Model { pool: Pool { devices: vec![model.pool.devices[base].clone(), origin], ..model.pool }, ..model };
        after.iter().for_each(|step| with_base.step(step, 1));

        let blocks = in_memory(&with_base.pool, &[Shape::FULL]);
        let metadata = ThinMetadata::held(&blocks, NEVER).unwrap();
        let mut gone = with_base.pool.clone();
        gone.devices.remove(0);
        let blocks_without = in_memory(&gone, &[Shape::FULL]);
        let without = ThinMetadata::held(&blocks_without, NEVER).unwrap();
        for (place, device) in with_base.pool.devices.iter().enumerate().skip(1) {
            let now = with_base.content(place);
            let differs: BTreeSet<u64> = (0..KEYS).filter(|block| content.get(block) != now.get(block)).collect();
            let exact = changed_since(&without, &whole, device.id).unwrap();
            prop_assert!(differs.is_subset(&exact), "{:?}", differs.difference(&exact));
            prop_assert_eq!(&exact, &changed(&metadata, base_id, device.id).unwrap());
            let more = changed_since(&without, &coarse, device.id).unwrap();
            prop_assert!(exact.is_subset(&more), "{:?}", exact.difference(&more));
            // What is too much is in gaps that were closed, and the device has nothing there.
            prop_assert!(more.difference(&exact).all(|block| !device.map.contains_key(block)));
        }
    }
}
