//! A pool in the memory of this process: the reference implementation, and what tests without root run on.
//!
//! One memfd for each object. A snapshot is a sparse copy, changed ranges are found by comparing bytes: slow, and plainly right.
//! The "device" of an object is the path of its memfd under `/proc/self/fd`. Nothing survives the value; to simulate a crash, a
//! test keeps the value and opens a new [`OwnedPool`](super::owned::OwnedPool) over it.
//!
//! A [`Hook`] sees every verb before and after its effect, and may fail it, block it or panic there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Attachment, Cut, Found, ObjectSpec, ObjectUsage, Pool, PoolError, PoolHealth, PoolKind, PoolUsage};
use crate::block::memory_file::{self, MemoryFile};
use crate::types::{
    Access, ByteRange, DataChecksum, LogicalBlockSize, Object, RangeStream, SnapshotId, VolumeId, VolumeSize, range,
};

/// The verbs of a pool that have an effect, as a [`Hook`] sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// [`Pool::create`].
    Create,
    /// [`Pool::snapshot`].
    Snapshot,
    /// [`Pool::copy`].
    Copy,
    /// [`Pool::delete`].
    Delete,
    /// [`Pool::grow`].
    Grow,
    /// [`Pool::attach`].
    Attach,
    /// [`Pool::detach`].
    Detach,
    /// [`Pool::condense`], which finds nothing to reduce.
    Condense,
}

/// When a [`Hook`] is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Moment {
    /// Before the verb's effect. An error prevents it.
    Before,
    /// After the verb's effect. An error is returned all the same.
    After,
}

/// Called around every verb.
pub type Hook = Arc<dyn Fn(Verb, Moment) -> Result<(), PoolError> + Send + Sync>;

/// Called for [`Pool::health`]. May fail it, or block it like a disk that hangs.
pub type HealthHook = Arc<dyn Fn() -> Result<(), PoolError> + Send + Sync>;

struct Stored {
    file: MemoryFile,
    attached: Option<Access>,
}

/// A pool in memory.
pub struct MemoryPool {
    total_bytes: u64,
    checksums: bool,
    objects: Mutex<BTreeMap<Object, Stored>>,
    hook: Mutex<Option<Hook>>,
    health_hook: Mutex<Option<HealthHook>>,
    found: Mutex<Option<Vec<Found>>>,
}

impl Default for MemoryPool {
    /// A pool of a size that tests do not fill: 1 TiB.
    fn default() -> Self {
        Self::with_capacity(1 << 40)
    }
}

impl std::fmt::Debug for MemoryPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryPool").field("objects", &self.objects().keys()).finish_non_exhaustive()
    }
}

impl MemoryPool {
    /// An empty pool that says it holds `total_bytes`.
    pub fn with_capacity(total_bytes: u64) -> Self {
        Self {
            total_bytes,
            checksums: true,
            objects: Mutex::default(),
            hook: Mutex::default(),
            health_hook: Mutex::default(),
            found: Mutex::default(),
        }
    }

    /// The pool as one that cannot keep checksums of data, as on XFS.
    #[must_use]
    pub fn without_checksums(self) -> Self {
        Self { checksums: false, ..self }
    }

    /// Sets or removes the hook.
    pub fn set_hook(&self, hook: Option<Hook>) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = hook;
    }

    /// Sets or removes what is asked about the pool's health.
    pub fn set_health_hook(&self, hook: Option<HealthHook>) {
        *self.health_hook.lock().unwrap_or_else(PoisonError::into_inner) = hook;
    }

    /// Sets or removes what a scan says that it found, in place of what is there: more objects than a process may have files.
    pub fn set_found(&self, found: Option<Vec<Found>>) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    fn call(&self, verb: Verb, moment: Moment) -> Result<(), PoolError> {
        let hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        hook.map_or(Ok(()), |hook| hook(verb, moment))
    }

    fn around<T>(&self, verb: Verb, effect: impl FnOnce() -> Result<T, PoolError>) -> Result<T, PoolError> {
        self.call(verb, Moment::Before)?;
        let value = effect()?;
        self.call(verb, Moment::After)?;
        Ok(value)
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<Object, Stored>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn copy_of(&self, source: Object, bytes: Option<u64>) -> Result<MemoryFile, PoolError> {
        let source = self.open(source, Access::ReadOnly).map_err(|error| match error {
            PoolError::Missing(object) => PoolError::SourceMissing(object),
            other => other,
        })?;
        MemoryFile::copy_of(&source, &unique_name(), bytes).map_err(|error| PoolError::io("copy in memory", error))
    }
}

impl Pool for MemoryPool {
    fn kind(&self) -> PoolKind {
        PoolKind::Memory
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn mechanism(&self) -> &'static str {
        "memory"
    }

    fn logical_block_size(&self) -> LogicalBlockSize {
        LogicalBlockSize::B4096
    }

    fn supports(&self, checksum: DataChecksum) -> bool {
        self.checksums || checksum == DataChecksum::Off
    }

    fn offers(&self, _size: LogicalBlockSize) -> bool {
        true
    }

    fn create(&self, volume: VolumeId, spec: ObjectSpec) -> Result<(), PoolError> {
        self.around(Verb::Create, || {
            let file = new_file(spec.size.bytes())?;
            self.objects().entry(Object::Volume(volume)).or_insert(Stored { file, attached: None });
            Ok(())
        })
    }

    fn snapshot(&self, cuts: &[Cut], _stall: Duration) -> Result<(), PoolError> {
        self.around(Verb::Snapshot, || {
            let copies: Result<Vec<_>, _> = cuts
                .iter()
                .map(|cut| Ok::<_, PoolError>((Object::Snapshot(cut.snapshot), self.copy_of(Object::Volume(cut.source), None)?)))
                .collect();
            let stored = copies?.into_iter().map(|(object, file)| (object, Stored { file, attached: None }));
            self.objects().extend(stored);
            Ok(())
        })
    }

    fn copy(&self, source: Object, volume: VolumeId, spec: ObjectSpec, _stall: Duration) -> Result<(), PoolError> {
        self.around(Verb::Copy, || {
            let file = self.copy_of(source, Some(spec.size.bytes()))?;
            self.objects().insert(Object::Volume(volume), Stored { file, attached: None });
            Ok(())
        })
    }

    fn condense(&self, _snapshot: SnapshotId) -> Result<(), PoolError> {
        self.around(Verb::Condense, || Ok(()))
    }

    fn delete(&self, object: Object) -> Result<(), PoolError> {
        self.around(Verb::Delete, || {
            let mut objects = self.objects();
            if objects.get(&object).is_some_and(|stored| stored.attached.is_some()) {
                return Err(PoolError::InUse { object, by: "its device".to_owned() });
            }
            objects.remove(&object);
            Ok(())
        })
    }

    fn grow(&self, volume: VolumeId, size: VolumeSize) -> Result<(), PoolError> {
        self.around(Verb::Grow, || {
            let object = Object::Volume(volume);
            let objects = self.objects();
            let file = &objects.get(&object).ok_or(PoolError::Missing(object))?.file;
            file.grow(size.bytes()).map_err(|error| PoolError::io("grow in memory", error))
        })
    }

    fn size(&self, object: Object) -> Result<VolumeSize, PoolError> {
        let objects = self.objects();
        let file = &objects.get(&object).ok_or(PoolError::Missing(object))?.file;
        let bytes = file.size().map_err(look)?;
        VolumeSize::new(bytes).map_err(|error| PoolError::io(format!("size of {object}"), io::Error::other(error)))
    }

    fn attach(&self, object: Object, access: Access) -> Result<Attachment, PoolError> {
        self.around(Verb::Attach, || {
            let mut objects = self.objects();
            let stored = objects.get_mut(&object).ok_or(PoolError::Missing(object))?;
            match (stored.attached, access) {
                (Some(Access::ReadOnly), Access::ReadWrite) => {
                    return Err(PoolError::InUse { object, by: "a read-only attachment".to_owned() });
                }
                (Some(_), _) => {}
                (None, access) => stored.attached = Some(access),
            }
            Ok(device(stored, stored.attached.unwrap_or(access)))
        })
    }

    fn detach(&self, object: Object) -> Result<(), PoolError> {
        self.around(Verb::Detach, || {
            if let Some(stored) = self.objects().get_mut(&object) {
                stored.attached = None;
            }
            Ok(())
        })
    }

    fn attachment(&self, object: Object) -> Result<Option<Attachment>, PoolError> {
        let objects = self.objects();
        let stored = objects.get(&object).ok_or(PoolError::Missing(object))?;
        Ok(stored.attached.map(|access| device(stored, access)))
    }

    fn open(&self, object: Object, access: Access) -> Result<File, PoolError> {
        let objects = self.objects();
        let stored = objects.get(&object).ok_or(PoolError::Missing(object))?;
        stored.file.open(access).map_err(|error| PoolError::io(format!("open {}", stored.file.path().display()), error))
    }

    fn allocated(&self, snapshot: SnapshotId) -> Result<RangeStream, PoolError> {
        let file = self.open(Object::Snapshot(snapshot), Access::ReadOnly)?;
        Ok(Box::new(data_ranges(&file)?.into_iter().map(Ok)))
    }

    fn stored(&self, volume: VolumeId) -> Result<RangeStream, PoolError> {
        let file = self.open(Object::Volume(volume), Access::ReadOnly)?;
        Ok(Box::new(data_ranges(&file)?.into_iter().map(Ok)))
    }

    fn granule(&self) -> u64 {
        memory_file::BLOCK
    }

    fn changed(&self, base: SnapshotId, target: SnapshotId) -> Result<RangeStream, PoolError> {
        let base = self.open(Object::Snapshot(base), Access::ReadOnly)?;
        let target = self.open(Object::Snapshot(target), Access::ReadOnly)?;
        let changed = memory_file::differing(&base, &target).map_err(|error| PoolError::io("compare in memory", error))?;
        Ok(Box::new(range::coalesce(changed.into_iter().map(Ok))))
    }

    fn health(&self) -> Result<PoolHealth, PoolError> {
        let hook = self.health_hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        hook.map_or(Ok(()), |hook| hook())?;
        Ok(PoolHealth::default())
    }

    fn usage(&self) -> Result<PoolUsage, PoolError> {
        let mut used = 0_u64;
        for stored in self.objects().values() {
            used += stored.file.allocated().map_err(look)?;
        }
        let total = self.total_bytes;
        Ok(PoolUsage::new(total, total.saturating_sub(used)))
    }

    fn object_usage(&self, object: Object) -> Result<ObjectUsage, PoolError> {
        let reader = self.open(object, Access::ReadOnly)?;
        let extents = data_ranges(&reader)?.len();
        let objects = self.objects();
        let allocated = objects.get(&object).ok_or(PoolError::Missing(object))?.file.allocated().map_err(look)?;
        Ok(ObjectUsage { allocated, exclusive: allocated, extents: extents as u64 })
    }

    fn scan(&self) -> Result<Vec<Found>, PoolError> {
        if let Some(found) = &*self.found.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(found.clone());
        }
        let size = |stored: &Stored| stored.file.size().map_err(look);
        self.objects().iter().map(|(&object, stored)| Ok(Found::Object { object, size: size(stored)? })).collect()
    }
}

fn new_file(bytes: u64) -> Result<MemoryFile, PoolError> {
    MemoryFile::new(&unique_name(), bytes).map_err(|error| PoolError::io("make an object in memory", error))
}

/// The link of a descriptor shows it, and it tells the "devices" of two objects apart.
fn unique_name() -> String {
    format!("windlass-{}", VolumeId::random())
}

fn device(stored: &Stored, access: Access) -> Attachment {
    Attachment { device: stored.file.path(), access }
}

fn look(error: io::Error) -> PoolError {
    PoolError::io("look at an object in memory", error)
}

fn data_ranges(file: &File) -> Result<Vec<ByteRange>, PoolError> {
    memory_file::data_ranges(file).map_err(|error| PoolError::io("look for data in memory", error))
}
