//! A pool in the memory of this process: the reference implementation, and what tests without root run on.
//!
//! One memfd for each object. A snapshot is a sparse copy, changed ranges are found by comparing bytes: slow, and plainly right.
//! The "device" of an object is the path of its memfd under `/proc/self/fd`. Nothing survives the value; to simulate a crash, a
//! test keeps the value and opens a new [`OwnedPool`](super::owned::OwnedPool) over it.
//!
//! A [`Hook`] sees every verb before and after its effect, and may fail it, block it or panic there.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Whence, lseek};

use super::{Attachment, Cut, Found, ObjectSpec, ObjectUsage, Pool, PoolError, PoolHealth, PoolKind, PoolUsage};
use crate::types::{
    Access, ByteRange, DataChecksum, LogicalBlockSize, Object, RangeStream, SnapshotId, VolumeId, VolumeSize, range,
};

/// Unit in which content is compared and copied, in bytes: a page, the smallest hole of a memfd.
const BLOCK: u64 = 4096;

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
    file: File,
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

    fn copy_of(&self, source: Object, bytes: Option<u64>) -> Result<File, PoolError> {
        let source = self.open(source, Access::ReadOnly).map_err(|error| match error {
            PoolError::Missing(object) => PoolError::SourceMissing(object),
            other => other,
        })?;
        let io = |error| PoolError::io("copy in memory", error);
        let copy = new_file(bytes.unwrap_or(source.metadata().map_err(io)?.len()))?;
        for range in data_ranges(&source).map_err(io)? {
            copy_range(&source, &copy, range).map_err(io)?;
        }
        Ok(copy)
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
            let grow = || if file.metadata()?.len() < size.bytes() { file.set_len(size.bytes()) } else { Ok(()) };
            grow().map_err(|error| PoolError::io("grow in memory", error))
        })
    }

    fn size(&self, object: Object) -> Result<VolumeSize, PoolError> {
        let objects = self.objects();
        let file = &objects.get(&object).ok_or(PoolError::Missing(object))?.file;
        let bytes = file.metadata().map_err(|error| PoolError::io("look at an object in memory", error))?.len();
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
        let path = path(&stored.file);
        let file = OpenOptions::new().read(true).write(access == Access::ReadWrite).open(&path);
        file.map_err(|error| PoolError::io(format!("open {}", path.display()), error))
    }

    fn allocated(&self, snapshot: SnapshotId) -> Result<RangeStream, PoolError> {
        let file = self.open(Object::Snapshot(snapshot), Access::ReadOnly)?;
        let ranges = data_ranges(&file).map_err(|error| PoolError::io("look for data in memory", error))?;
        Ok(Box::new(ranges.into_iter().map(Ok)))
    }

    fn stored(&self, volume: VolumeId) -> Result<RangeStream, PoolError> {
        let file = self.open(Object::Volume(volume), Access::ReadOnly)?;
        let ranges = data_ranges(&file).map_err(|error| PoolError::io("look for data in memory", error))?;
        Ok(Box::new(ranges.into_iter().map(Ok)))
    }

    fn granule(&self) -> u64 {
        BLOCK
    }

    fn changed(&self, base: SnapshotId, target: SnapshotId) -> Result<RangeStream, PoolError> {
        let base = self.open(Object::Snapshot(base), Access::ReadOnly)?;
        let target = self.open(Object::Snapshot(target), Access::ReadOnly)?;
        let changed = compare(&base, &target).map_err(|error| PoolError::io("compare in memory", error))?;
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
            used += allocated_bytes(&stored.file)?;
        }
        let total = self.total_bytes;
        Ok(PoolUsage::new(total, total.saturating_sub(used)))
    }

    fn object_usage(&self, object: Object) -> Result<ObjectUsage, PoolError> {
        let file = self.open(object, Access::ReadOnly)?;
        let allocated = allocated_bytes(&file)?;
        let extents = data_ranges(&file).map_err(|error| PoolError::io("look for data in memory", error))?.len();
        Ok(ObjectUsage { allocated, exclusive: allocated, extents: extents as u64 })
    }

    fn scan(&self) -> Result<Vec<Found>, PoolError> {
        if let Some(found) = &*self.found.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(found.clone());
        }
        let size = |stored: &Stored| stored.file.metadata().map_err(|error| PoolError::io("look at an object in memory", error));
        self.objects().iter().map(|(&object, stored)| Ok(Found::Object { object, size: size(stored)?.len() })).collect()
    }
}

fn new_file(bytes: u64) -> Result<File, PoolError> {
    let make = || -> io::Result<File> {
        // A name of its own: the link of the descriptor shows it, and tells the "devices" of two objects apart.
        let name = format!("windlass-{}", VolumeId::random());
        let file = File::from(memfd_create(name.as_str(), MFdFlags::MFD_CLOEXEC)?);
        file.set_len(bytes)?;
        Ok(file)
    };
    make().map_err(|error| PoolError::io("make an object in memory", error))
}

fn path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn device(stored: &Stored, access: Access) -> Attachment {
    Attachment { device: path(&stored.file), access }
}

fn allocated_bytes(file: &File) -> Result<u64, PoolError> {
    /// Unit of `st_blocks`, in bytes.
    const UNIT: u64 = 512;
    file.metadata().map(|metadata| metadata.blocks() * UNIT).map_err(|error| PoolError::io("look at an object in memory", error))
}

/// The parts of a file that are no holes. Moves the position of the descriptor.
fn data_ranges(file: &File) -> io::Result<Vec<ByteRange>> {
    let mut ranges = Vec::new();
    let mut position = 0;
    loop {
        let start = match lseek(file, position, Whence::SeekData) {
            Ok(start) => start,
            // Nothing but a hole until the end.
            Err(nix::Error::ENXIO) => return Ok(ranges),
            Err(error) => return Err(error.into()),
        };
        position = lseek(file, start, Whence::SeekHole)?;
        ranges.extend(ByteRange::between(start.unsigned_abs(), position.unsigned_abs()));
    }
}

fn copy_range(source: &File, copy: &File, range: ByteRange) -> io::Result<()> {
    let mut buffer = vec![0; 256 * BLOCK as usize];
    let mut position = range.offset();
    while position < range.end() {
        let length = (range.end() - position).min(buffer.len() as u64);
        let part = &mut buffer[..length as usize];
        source.read_exact_at(part, position)?;
        copy.write_all_at(part, position)?;
        position += length;
    }
    Ok(())
}

/// The blocks in which two files differ. What one has beyond the end of the other counts as a difference unless it is zero.
fn compare(base: &File, target: &File) -> io::Result<Vec<ByteRange>> {
    let mut blocks: Vec<u64> = Vec::new();
    for file in [base, target] {
        for range in data_ranges(file)? {
            blocks.extend(range.offset() / BLOCK..range.end().div_ceil(BLOCK));
        }
    }
    blocks.sort_unstable();
    blocks.dedup();
    let size = target.metadata()?.len();
    let mut changed = Vec::new();
    for block in blocks {
        if read_block(base, block)? != read_block(target, block)? {
            changed.extend(ByteRange::between(block * BLOCK, ((block + 1) * BLOCK).min(size)));
        }
    }
    Ok(changed)
}

/// One block; zeros beyond the end.
fn read_block(file: &File, block: u64) -> io::Result<[u8; BLOCK as usize]> {
    let mut buffer = [0; BLOCK as usize];
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], block * BLOCK + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(buffer)
}
