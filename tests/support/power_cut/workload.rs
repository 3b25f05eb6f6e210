//! A random sequence of operations on a pool, and a model of what it should leave. The same seed makes the same sequence, so the
//! machine that runs it and the one that verifies it need not talk.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use windlass::pool::PoolError;
use windlass::pool::owned::OwnedPool;
use windlass::types::{Access, AnchorLimit, CapacityRange, DataChecksum, NewVolume, Object, ObjectName, VolumeSize};

use crate::basics;

/// What content is counted in: what disks write as a whole.
pub const BLOCK: u64 = 4096;
/// Names of volumes that begin so are none of the workload's.
pub const BESIDE: &str = "beside-";
/// Bounds that keep an image small enough to be read as a whole at each cut.
const VOLUMES: usize = 6;
const SNAPSHOTS: usize = 8;
const MOST_BLOCKS: u64 = 512;

/// What becomes of the device of a volume that was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// It stays attached.
    Kept,
    /// It is detached.
    Detached,
}

/// Which volumes a workload makes with checksums of their data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksums {
    /// None: the pool keeps none.
    Never,
    /// Every second of the empty ones. Copies are as their sources.
    Half,
}

/// One operation. Objects go by their names, for ids are the pool's choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Makes an empty volume.
    Create {
        /// Its name.
        volume: String,
        /// Its size in blocks.
        blocks: u64,
        /// How many anchors its snapshots may leave.
        anchors: AnchorLimit,
        /// Whether its data has checksums.
        checksum: DataChecksum,
    },
    /// Makes a volume with the content of a snapshot or volume.
    Copy {
        /// Its name.
        volume: String,
        /// The snapshot or volume.
        source: Source,
    },
    /// Cuts snapshots at one point in time.
    Snapshot {
        /// Name of each, and of its volume.
        cuts: Vec<(String, String)>,
    },
    /// Grows a volume.
    Grow {
        /// Its name.
        volume: String,
        /// Its new size in blocks.
        blocks: u64,
    },
    /// Writes runs of blocks to a volume's device, and syncs it.
    Write {
        /// Its name.
        volume: String,
        /// First block, number of blocks, and what is written.
        runs: Vec<(u64, u64, u64)>,
        /// What becomes of its device.
        device: Device,
    },
    /// Detaches and deletes a volume.
    DeleteVolume(String),
    /// Deletes a snapshot.
    DeleteSnapshot(String),
}

/// Where a copy comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The volume of this name.
    Volume(String),
    /// The snapshot of this name.
    Snapshot(String),
}

/// Size and content of an object: seeds of the blocks that were written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// Its size in blocks.
    pub blocks: u64,
    /// Of each block that was written to, what was.
    pub written: BTreeMap<u64, u64>,
}

/// What a pool should hold, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Its volumes.
    pub volumes: BTreeMap<String, Content>,
    /// Its snapshots.
    pub snapshots: BTreeMap<String, Content>,
}

impl State {
    /// What an operation makes of it.
    ///
    /// # Panics
    /// When the operation is not possible here.
    pub fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Create { volume, blocks, .. } => {
                self.volumes.insert(volume.clone(), Content { blocks: *blocks, written: BTreeMap::new() });
            }
            Operation::Copy { volume, source } => {
                let content = match source {
                    Source::Volume(name) => self.volumes[name].clone(),
                    Source::Snapshot(name) => self.snapshots[name].clone(),
                };
                self.volumes.insert(volume.clone(), content);
            }
            Operation::Snapshot { cuts } => {
                for (snapshot, volume) in cuts {
                    self.snapshots.insert(snapshot.clone(), self.volumes[volume].clone());
                }
            }
            Operation::Grow { volume, blocks } => self.volumes.get_mut(volume).unwrap().blocks = *blocks,
            Operation::Write { volume, runs, .. } => {
                let content = self.volumes.get_mut(volume).unwrap();
                for &(first, count, seed) in runs {
                    content.written.extend((first..first + count).map(|block| (block, seed.wrapping_add(block))));
                }
            }
            Operation::DeleteVolume(name) => drop(self.volumes.remove(name).unwrap()),
            Operation::DeleteSnapshot(name) => drop(self.snapshots.remove(name).unwrap()),
        }
    }
}

/// The bytes of a block that was written with this seed; never all zeros.
pub fn block_of(seed: u64) -> [u8; BLOCK as usize] {
    let mut block = [0; BLOCK as usize];
    let mut word = seed;
    for place in block.chunks_exact_mut(8) {
        word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        place.copy_from_slice(&word.to_le_bytes());
    }
    block
}

/// The sequence, without an end.
#[derive(Debug)]
pub struct Workload {
    state: State,
    random: StdRng,
    number: u64,
    checksums: Checksums,
    /// Empty volumes that were made.
    made: u64,
}

impl Workload {
    /// The sequence of this seed, for an empty pool.
    pub fn new(seed: u64, checksums: Checksums) -> Self {
        Self { state: State::default(), random: StdRng::seed_from_u64(seed), number: 0, checksums, made: 0 }
    }

    fn volume(&mut self) -> Option<String> {
        pick(&mut self.random, &self.state.volumes)
    }

    fn snapshot(&mut self) -> Option<String> {
        pick(&mut self.random, &self.state.snapshots)
    }

    fn propose(&mut self) -> Option<Operation> {
        let name = |kind: &str, number: u64| format!("{kind}-{number}");
        let (volumes, snapshots) = (self.state.volumes.len(), self.state.snapshots.len());
        match self.random.random_range(0..100) {
            0..10 if volumes < VOLUMES => Some(Operation::Create {
                volume: name("volume", self.number),
                blocks: self.random.random_range(64..256),
                anchors: if self.random.random_range(0..2) == 0 { AnchorLimit::NONE } else { AnchorLimit::default() },
                checksum: match self.checksums {
                    Checksums::Half if self.made.is_multiple_of(2) => DataChecksum::On,
                    Checksums::Half | Checksums::Never => DataChecksum::Off,
                },
            }),
            10..50 => {
                let volume = self.volume()?;
                let size = self.state.volumes[&volume].blocks;
                let runs = (0..self.random.random_range(1..6))
                    .map(|_| {
                        let first = self.random.random_range(0..size);
                        (first, self.random.random_range(1..17).min(size - first), self.random.random())
                    })
                    .collect();
                let device = if self.random.random_range(0..3) == 0 { Device::Detached } else { Device::Kept };
                Some(Operation::Write { volume, runs, device })
            }
            50..65 if snapshots + 1 < SNAPSHOTS => {
                let mut cuts = vec![(name("snapshot", self.number), self.volume()?)];
                let other = self.volume()?;
                if other != cuts[0].1 && self.random.random_range(0..3) == 0 {
                    cuts.push((name("other-snapshot", self.number), other));
                }
                Some(Operation::Snapshot { cuts })
            }
            65..75 if volumes < VOLUMES => {
                let source = match self.random.random_range(0..3) {
                    0 => Source::Volume(self.volume()?),
                    _ => Source::Snapshot(self.snapshot()?),
                };
                Some(Operation::Copy { volume: name("copy", self.number), source })
            }
            75..82 => {
                let volume = self.volume()?;
                let blocks = self.state.volumes[&volume].blocks + self.random.random_range(1..64);
                (blocks <= MOST_BLOCKS).then_some(Operation::Grow { volume, blocks })
            }
            82..90 if volumes > 1 => Some(Operation::DeleteVolume(self.volume()?)),
            90..100 => Some(Operation::DeleteSnapshot(self.snapshot()?)),
            _ => None,
        }
    }
}

fn pick(random: &mut StdRng, objects: &BTreeMap<String, Content>) -> Option<String> {
    if objects.is_empty() { None } else { objects.keys().nth(random.random_range(0..objects.len())).cloned() }
}

impl Iterator for Workload {
    type Item = Operation;

    fn next(&mut self) -> Option<Operation> {
        loop {
            if let Some(operation) = self.propose() {
                self.state.apply(&operation);
                self.number += 1;
                self.made += u64::from(matches!(operation, Operation::Create { .. }));
                return Some(operation);
            }
        }
    }
}

fn name(text: &str) -> ObjectName {
    text.to_owned().try_into().unwrap()
}

fn size(blocks: u64) -> VolumeSize {
    VolumeSize::new(blocks * BLOCK).unwrap()
}

/// The object of a name.
///
/// # Errors
/// Those of the catalogue.
///
/// # Panics
/// When there is none.
pub fn volume_of(pool: &OwnedPool, text: &str) -> Result<windlass::pool::record::Volume, PoolError> {
    Ok(pool.volume_by_name(&name(text))?.unwrap_or_else(|| panic!("no volume {text}")))
}

/// A request for a volume, without checksums.
pub fn new_volume(text: &str, bytes: u64, limit: AnchorLimit, source: Option<Object>) -> NewVolume {
    let parameters = BTreeMap::from([(AnchorLimit::PARAMETER.to_owned(), limit.count().to_string())]);
    NewVolume { parameters, source, ..basics::new_volume(text, bytes) }
}

/// Does an operation; it is promised when this returns.
///
/// # Errors
/// Those of the pool.
///
/// # Panics
/// When an object is missing or a device cannot be written to.
pub fn perform(pool: &OwnedPool, operation: &Operation) -> Result<(), PoolError> {
    match operation {
        Operation::Create { volume, blocks, anchors, checksum } => {
            let request = new_volume(volume, blocks * BLOCK, *anchors, None);
            pool.create_volume(&NewVolume { checksum: *checksum, ..request })?;
        }
        Operation::Copy { volume, source } => {
            let (object, bytes, checksum) = match source {
                Source::Volume(text) => {
                    let volume = volume_of(pool, text)?;
                    (Object::Volume(volume.id), volume.size, volume.checksum)
                }
                Source::Snapshot(text) => {
                    let snapshot = pool.snapshot_by_name(&name(text))?.unwrap();
                    (Object::Snapshot(snapshot.id), snapshot.size, snapshot.checksum)
                }
            };
            let request = new_volume(volume, bytes.bytes(), AnchorLimit::default(), Some(object));
            pool.create_volume(&NewVolume { checksum, ..request })?;
        }
        Operation::Snapshot { cuts } => {
            let requests = cuts.iter().map(|(snapshot, volume)| Ok(basics::new_snapshot(snapshot, volume_of(pool, volume)?.id)));
            pool.create_snapshots(&requests.collect::<Result<Vec<_>, PoolError>>()?)?;
        }
        Operation::Grow { volume, blocks } => {
            pool.grow_volume(volume_of(pool, volume)?.id, CapacityRange::exactly(size(*blocks)))?;
        }
        Operation::Write { volume, runs, device } => {
            let object = Object::Volume(volume_of(pool, volume)?.id);
            let attachment = pool.attach(object, Access::ReadWrite)?;
            let node = OpenOptions::new().write(true).open(&attachment.device).unwrap();
            for &(first, count, seed) in runs {
                let data: Vec<u8> = (first..first + count).flat_map(|block| block_of(seed.wrapping_add(block))).collect();
                node.write_all_at(&data, first * BLOCK).unwrap();
            }
            node.sync_all().unwrap();
            drop(node);
            if *device == Device::Detached {
                pool.detach(object)?;
            }
        }
        Operation::DeleteVolume(volume) => {
            let id = volume_of(pool, volume)?.id;
            pool.detach(Object::Volume(id))?;
            pool.delete_volume(id)?;
        }
        Operation::DeleteSnapshot(snapshot) => pool.delete_snapshot(pool.snapshot_by_name(&name(snapshot))?.unwrap().id)?,
    }
    Ok(())
}
