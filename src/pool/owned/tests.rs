//! The owned pool over memory: answers, refusals, leases, restores. Crashes are in `crash`, random sequences in `model`.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::*;
use crate::pool::PoolUsage;
use crate::pool::catalogue::Catalogue;
use crate::pool::intent::Intent;
use crate::pool::locks::Key;
use crate::pool::memory::{MemoryPool, Moment, Verb};
use crate::pool::quiesce::{Held, NothingToHold, QuiesceError};
use crate::pool::record::{NewSnapshot, Outcome, Publication, PublicationKind, Snapshot, Volume};
use crate::pool::{FREEZE_DEADLINE, Pool, PoolError, Quiesce, Release};
use crate::types::{
    Access, AccessMode, ByteRange, CapacityRange, DataChecksum, ExportRecord, FormatState, FsType, NewVolume, ObjectName, OnLoss,
    SnapshotId, TargetContent, Timestamp, VolumeMode,
};
use crate::types::{LogicalBlockSize, Object, PoolId, VolumeId, VolumeSize};

mod anchors;
mod copies;
pub(crate) mod crash;
mod create;
mod delete;
mod hold;
mod kept;
mod many;
mod model;
mod restore;
mod sizes;
mod snapshots;
mod zeros;

const MIB: u64 = 1 << 20;

fn name(text: &str) -> ObjectName {
    text.to_owned().try_into().unwrap()
}

fn bytes(bytes: u64) -> VolumeSize {
    VolumeSize::new(bytes).unwrap()
}

fn new_volume(text: &str) -> NewVolume {
    NewVolume {
        name: name(text),
        capacity: CapacityRange::new(Some(MIB), None).unwrap(),
        minimum: bytes(4096),
        mode: VolumeMode::Filesystem(FsType::Ext4),
        access_modes: vec![AccessMode::SingleNodeWriter],
        mount_flags: Vec::new(),
        parameters: BTreeMap::new(),
        checksum: DataChecksum::Off,
        source: None,
        foreign_source: None,
        kubernetes: Default::default(),
    }
}

fn new_snapshot(text: &str, source: VolumeId) -> NewSnapshot {
    NewSnapshot { name: name(text), source, parameters: BTreeMap::new(), kubernetes: Default::default() }
}

struct World {
    memory: Arc<MemoryPool>,
    catalogue: Catalogue,
    quiesce: Arc<dyn Quiesce>,
    owned: OwnedPool,
}

impl World {
    fn new() -> Self {
        Self::over(MemoryPool::default(), Arc::new(NothingToHold))
    }

    fn over(memory: MemoryPool, quiesce: Arc<dyn Quiesce>) -> Self {
        let (memory, catalogue) = (Arc::new(memory), Catalogue::in_memory().unwrap());
        let owned = OwnedPool::open(memory.clone(), catalogue.clone(), quiesce.clone()).unwrap();
        Self { memory, catalogue, quiesce, owned }
    }

    /// As after the death of the process.
    fn restart(&mut self) {
        self.memory.set_hook(None);
        self.owned = OwnedPool::open(self.memory.clone(), self.catalogue.clone(), self.quiesce.clone()).unwrap();
    }

    fn create(&self, text: &str) -> Volume {
        self.owned.create_volume(&new_volume(text)).unwrap().into_inner()
    }

    fn cut(&self, text: &str, source: VolumeId) -> Snapshot {
        self.owned.create_snapshots(&[new_snapshot(text, source)]).unwrap().remove(0).into_inner()
    }

    fn write(&self, id: VolumeId, offset: u64, data: &[u8]) {
        self.memory.open(Object::Volume(id), Access::ReadWrite).unwrap().write_all_at(data, offset).unwrap();
    }

    fn read(&self, object: Object, offset: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        self.memory.open(object, Access::ReadOnly).unwrap().read_exact_at(&mut data, offset).unwrap();
        data
    }

    /// No intent is left, every object has a record and every record an object.
    fn assert_tidy(&self) {
        assert_eq!(self.catalogue.intents().unwrap(), Vec::new());
        let findings = recovery::compare(self.memory.as_ref(), &self.catalogue).unwrap();
        assert_eq!(findings.quarantined, Vec::<String>::new());
        assert_eq!(findings.damaged, BTreeMap::new());
    }

    fn fail(&self, verb: Verb, moment: Moment) {
        self.memory.set_hook(Some(Arc::new(move |called, at| {
            if (called, at) == (verb, moment) { Err(PoolError::io("test", io::Error::other("injected"))) } else { Ok(()) }
        })));
    }
}

fn publication(boot_id: &str) -> Publication {
    Publication {
        path: PathBuf::from("/var/lib/kubelet/target"),
        kind: PublicationKind::Published,
        mode: VolumeMode::Block,
        access_mode: AccessMode::SingleNodeWriter,
        mount_flags: Vec::new(),
        access: Access::ReadWrite,
        boot_id: boot_id.to_owned(),
    }
}

fn this_boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}

/// Holds, with what is to be answered at the release, and a count of what is held.
#[derive(Default)]
struct Recorder {
    expire: bool,
    refuse: Option<fn() -> QuiesceError>,
    /// Somebody else has frozen all of it.
    foreign: bool,
    held: Arc<AtomicUsize>,
    holds: Mutex<Vec<Vec<PathBuf>>>,
    leftovers: Mutex<Vec<Vec<PathBuf>>>,
}

struct Recorded {
    expire: bool,
    foreign: Vec<PathBuf>,
    held: Arc<AtomicUsize>,
}

impl Quiesce for Recorder {
    fn hold(&self, devices: &[PathBuf], deadline: Duration) -> Result<Box<dyn Held>, QuiesceError> {
        assert_eq!(deadline, FREEZE_DEADLINE);
        self.holds.lock().unwrap().push(devices.to_vec());
        if let Some(error) = self.refuse {
            return Err(error());
        }
        self.held.fetch_add(1, Ordering::SeqCst);
        let foreign = if self.foreign { devices.to_vec() } else { Vec::new() };
        Ok(Box::new(Recorded { expire: self.expire, foreign, held: self.held.clone() }))
    }

    fn release_leftovers(&self, devices: &[PathBuf]) -> Result<(), QuiesceError> {
        self.leftovers.lock().unwrap().push(devices.to_vec());
        Ok(())
    }
}

impl Held for Recorded {
    fn foreign(&self) -> &[PathBuf] {
        &self.foreign
    }

    fn release(self: Box<Self>) -> Release {
        if self.expire { Release::Expired } else { Release::InTime }
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn objects_without_a_record_are_quarantined_and_records_without_an_object_are_damaged() {
    let mut world = World::new();
    let volume = world.create("one");
    let stray = VolumeId::random();
    let spec = crate::pool::ObjectSpec { size: bytes(MIB), checksum: DataChecksum::Off };
    world.memory.create(stray, spec).unwrap();
    world.memory.delete(Object::Volume(volume.id)).unwrap();
    world.restart();
    let status = world.owned.status().unwrap();
    assert_eq!(status.quarantined, vec![Object::Volume(stray).to_string()]);
    assert_eq!(status.damaged.len(), 1);
    assert_eq!((status.volumes, status.snapshots), (1, 0));
    assert_eq!(world.owned.volumes().unwrap(), vec![volume.clone()]);
    let object = Object::Volume(volume.id);
    assert!(matches!(world.owned.attach(object, Access::ReadOnly), Err(PoolError::Io { .. })));
    assert!(matches!(world.owned.create_snapshots(&[new_snapshot("s", volume.id)]), Err(PoolError::Io { .. })));
    assert!(world.owned.attachment(object).unwrap().is_none());
    // It is not said to be gone, since it is not.
    let deleted = world.owned.delete_volume(stray);
    assert!(matches!(&deleted, Err(PoolError::InUse { by, .. }) if by.contains("no record")), "{deleted:?}");
    world.memory.open(Object::Volume(stray), Access::ReadOnly).unwrap();
    world.owned.delete_volume(VolumeId::random()).unwrap();
}
