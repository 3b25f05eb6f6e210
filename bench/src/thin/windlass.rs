//! The product: a pool that is driven as a node drives it, catalogue and all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use windlass::pool::owned::OwnedPool;
use windlass::pool::quiesce::NothingToHold;
use windlass::pool::record::{NewSnapshot, Snapshot, Volume};
use windlass::pool::thin::format::{CreateOptions, DevicePaths};
use windlass::pool::thin::{create_pool, open_pool};
use windlass::types::{
    Access, AccessMode, CapacityRange, DataChecksum, KubernetesNames, NewVolume, Object, ObjectName, VolumeMode, VolumeSize,
};

use super::{Operation, Tool};
use crate::error::{BenchError, While};

/// Its name in the results.
pub const NAME: &str = "windlass";

/// A pool on a disk, and what the repetitions made.
pub struct Pool {
    /// The pool.
    pub owned: OwnedPool,
    volumes: Vec<Volume>,
    snapshots: Vec<Snapshot>,
}

impl Pool {
    /// Makes a pool on a blank disk and takes it over.
    pub fn make(disk: &Path) -> Result<Self, BenchError> {
        let what = || format!("making a pool on {}", disk.display());
        create_pool(&CreateOptions::on(DevicePaths::One(disk.to_owned()))).while_doing(what)?;
        let owned = open_pool(disk, Arc::new(NothingToHold)).while_doing(what)?;
        Ok(Self { owned, volumes: Vec::new(), snapshots: Vec::new() })
    }

    /// Makes a volume and attaches it; its device.
    pub fn volume(&self, name: &str, bytes: u64, source: Option<Object>) -> Result<(Volume, PathBuf), BenchError> {
        let what = || format!("making the volume {name}");
        let size = VolumeSize::new(bytes).while_doing(what)?;
        let least = VolumeSize::new(4096).while_doing(what)?;
        let request = NewVolume {
            name: named(name)?,
            capacity: CapacityRange::exactly(size),
            minimum: least,
            mode: VolumeMode::Block,
            access_modes: vec![AccessMode::SingleNodeWriter],
            mount_flags: Vec::new(),
            parameters: BTreeMap::new(),
            checksum: DataChecksum::Off,
            source,
            foreign_source: None,
            kubernetes: KubernetesNames::default(),
        };
        let volume = self.owned.create_volume(&request).while_doing(what)?.into_inner();
        let attached = self.owned.attach(Object::Volume(volume.id), Access::ReadWrite).while_doing(what)?;
        Ok((volume, attached.device))
    }

    /// Cuts a snapshot.
    pub fn snapshot(&self, name: &str, volume: &Volume) -> Result<Snapshot, BenchError> {
        let request = NewSnapshot {
            name: named(name)?,
            source: volume.id,
            parameters: BTreeMap::new(),
            kubernetes: KubernetesNames::default(),
        };
        let mut cut = self.owned.create_snapshots(&[request]).while_doing(|| format!("cutting {name}"))?;
        cut.pop().map(|outcome| outcome.into_inner()).ok_or_else(|| BenchError::new("no snapshot was cut"))
    }
}

/// Its version.
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

fn named(name: &str) -> Result<ObjectName, BenchError> {
    name.to_owned().try_into().map_err(|_| BenchError::new(format!("`{name}` is no name")))
}

impl Tool for &mut Pool {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> String {
        version()
    }

    fn run(&mut self, operation: Operation, repetition: usize) -> Result<(), BenchError> {
        let what = || format!("{} number {repetition}", operation.name());
        let missing = || "the repetition made nothing";
        match operation {
            Operation::Create => {
                let (volume, _) = self.volume(&format!("volume-{repetition}"), 1 << 30, None)?;
                self.volumes.push(volume);
            }
            Operation::Snapshot => {
                let volume = self.volumes.last().ok_or_else(missing).while_doing(what)?;
                let snapshot = Pool::snapshot(self, &format!("snapshot-{repetition}"), volume)?;
                self.snapshots.push(snapshot);
            }
            Operation::Clone => {
                let source = self.snapshots.last().ok_or_else(missing).while_doing(what)?.id;
                self.volume(&format!("clone-{repetition}"), 1 << 30, Some(Object::Snapshot(source)))?;
            }
            Operation::Delete => {
                let snapshot = self.snapshots.last().ok_or_else(missing).while_doing(what)?.id;
                self.owned.delete_snapshot(snapshot).while_doing(what)?;
            }
        }
        Ok(())
    }
}
