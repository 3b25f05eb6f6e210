//! A node in the memory of this process: what the layers above [`Blocks`] are tested on, without a pool.
//!
//! One pool; one file in memory for each volume and snapshot. A cut is a copy, and changed ranges are found by comparing bytes: slow, and
//! plainly right. It is as strict as a node with disks: a snapshot that is leased is not deleted, a name is claimed from the beginning
//! of a restore on, a target is not committed, kept or taken over while anybody can write to it, and a deleted snapshot tells what changed since only if
//! it was recorded as exported. [`MemoryBlocks::fail_next`] lets the next call of a verb fail.

mod lease;
mod state;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use super::{
    Blocks, BlocksError, CommitName, LeasedSnapshot, ObjectUsage, OpenPool, PoolSpace, PoolState, ProtectionPage,
    ProtectionQuery, RestoreTarget, SnapshotCopies, SnapshotLease, TargetStart, TaskPage, TaskQuery, UsagePage, UsageQuery,
};
use crate::block::memory_file::{self, MemoryFile};
use crate::block::writers;
use crate::types::{
    Access, Copies, ExportOrder, ExportRecord, ExportTask, FormatState, LocalCopy, LogicalBlockSize, NewVolume, Object,
    ObjectName, OnLoss, Origin, PoolId, PoolName, SnapshotExport, SnapshotHandle, SnapshotId, TargetContent, Timestamp,
    VolumeHandle, VolumeId, VolumeSize,
};
use lease::MemoryLease;
pub use state::Verb;
use state::{Presence, SharedState, Stage, State, StoredSnapshot, StoredVolume, failed, missing};

/// A node in memory. Clones are the same node.
#[derive(Debug, Clone)]
pub struct MemoryBlocks {
    pool: OpenPool,
    total_bytes: u64,
    state: SharedState,
}

impl Default for MemoryBlocks {
    /// A node with one empty pool, of a size that tests do not fill.
    fn default() -> Self {
        Self::with_capacity(1 << 40)
    }
}

impl MemoryBlocks {
    /// A node with one empty pool that says it holds `total_bytes`.
    pub fn with_capacity(total_bytes: u64) -> Self {
        let pool = OpenPool { id: PoolId::random(), name: PoolName::default(), logical_block_size: LogicalBlockSize::B4096 };
        Self { pool, total_bytes, state: SharedState::default() }
    }

    /// The only pool.
    pub fn pool_id(&self) -> PoolId {
        self.pool.id
    }

    /// Lets the next call of `verb` fail.
    pub fn fail_next(&self, verb: Verb, error: BlocksError) {
        self.state().failures.insert(verb, error);
    }

    /// Makes a volume that is there for everybody, with this content.
    ///
    /// # Errors
    /// As for a target: it is one, committed at once.
    pub fn create(&self, request: &NewVolume, parts: &[(u64, &[u8])]) -> Result<VolumeHandle, BlocksError> {
        let TargetStart::Target(target) = self.begin_now(self.pool.id, request.clone(), OnLoss::Delete)? else {
            return Err(BlocksError::NameTaken(format!("`{}` exists already", request.name)));
        };
        for (offset, bytes) in parts {
            target.file.write_all_at(bytes, *offset).map_err(failed)?;
        }
        let handle = target.volume;
        drop(target);
        self.commit_now(handle, CommitName::AsBegun)?;
        Ok(handle)
    }

    /// Overwrites part of a volume.
    ///
    /// # Errors
    /// [`BlocksError::Missing`].
    pub fn write(&self, volume: VolumeHandle, offset: u64, bytes: &[u8]) -> Result<(), BlocksError> {
        let file = self.visible(volume)?.open(Access::ReadWrite).map_err(failed)?;
        file.write_all_at(bytes, offset).map_err(failed)
    }

    /// Cuts a snapshot.
    ///
    /// # Errors
    /// [`BlocksError::Missing`]; [`BlocksError::NameTaken`].
    pub fn cut(&self, name: &ObjectName, source: VolumeHandle) -> Result<SnapshotHandle, BlocksError> {
        self.cut_for_export(name, source, None)
    }

    /// The same of a class that asks for an export.
    ///
    /// # Errors
    /// As for [`MemoryBlocks::cut`].
    pub fn cut_for_export(
        &self,
        name: &ObjectName,
        source: VolumeHandle,
        order: Option<ExportOrder>,
    ) -> Result<SnapshotHandle, BlocksError> {
        let mut state = self.state();
        if state.snapshot_named(name).is_some() {
            return Err(BlocksError::NameTaken(format!("`{name}` exists already")));
        }
        let volume = state.visible(source.volume).ok_or_else(|| missing(Object::Volume(source.volume)))?;
        let id = SnapshotId::random();
        let content = volume.file.open(Access::ReadOnly).map_err(failed)?;
        let copy = MemoryFile::copy_of(&content, &format!("snapshot-{id}"), None).map_err(failed)?;
        let handle = SnapshotHandle { pool: self.pool.id, snapshot: id };
        let record = LeasedSnapshot {
            handle,
            source,
            size: volume.size,
            logical_block_size: self.pool.logical_block_size,
            mode: volume.request.mode,
            is_unformatted: volume.format == FormatState::Never,
            created: Timestamp::now(),
            kubernetes: volume.request.kubernetes.clone(),
        };
        let (file, copies) = (Arc::new(copy), Copies::default());
        let stored = StoredSnapshot { name: name.clone(), record, file, presence: Presence::Whole, order, copies };
        state.snapshots.insert(id, stored);
        Ok(handle)
    }

    /// Deletes a snapshot. What an export builds upon is kept, out of sight.
    ///
    /// # Errors
    /// [`BlocksError::InUse`] while it is leased.
    pub fn delete_snapshot(&self, handle: SnapshotHandle) -> Result<(), BlocksError> {
        let mut state = self.state();
        let id = handle.snapshot;
        let is_exported = state.exports.values().any(|export| export.snapshot == id);
        match state.snapshots.get_mut(&id) {
            Some(stored) if Arc::strong_count(&stored.file) > 1 => Err(BlocksError::InUse(format!("snapshot {id} is leased"))),
            Some(stored) if is_exported => {
                stored.presence = Presence::Anchor;
                Ok(())
            }
            _ => {
                state.snapshots.remove(&id);
                Ok(())
            }
        }
    }

    /// The content of a volume that everybody sees.
    ///
    /// # Errors
    /// [`BlocksError::Missing`].
    pub fn content(&self, volume: VolumeHandle) -> Result<Vec<u8>, BlocksError> {
        let file = self.visible(volume)?;
        let mut bytes = vec![0; usize::try_from(file.size().map_err(failed)?).map_err(|error| failed(io::Error::other(error)))?];
        file.open(Access::ReadOnly).and_then(|file| file.read_exact_at(&mut bytes, 0)).map_err(failed)?;
        Ok(bytes)
    }

    /// The requests that the volumes were made by that everybody sees, with the names under which they were committed.
    pub fn volumes(&self) -> Vec<(VolumeHandle, NewVolume)> {
        let state = self.state();
        let visible = state.volumes.iter().filter(|(_, volume)| volume.stage == Stage::Visible);
        visible.map(|(&volume, stored)| (VolumeHandle { pool: self.pool.id, volume }, stored.request.clone())).collect()
    }

    /// Targets that are neither committed nor aborted nor kept.
    pub fn targets(&self) -> usize {
        self.state().volumes.values().filter(|volume| volume.stage == Stage::Hidden).count()
    }

    /// Targets that are kept.
    pub fn kept(&self) -> usize {
        self.state().kept().len()
    }

    /// Deletes the targets that have been kept for long enough by `now`.
    pub fn delete_overdue(&self, now: Instant) {
        let mut state = self.state();
        for (since, id) in state.kept() {
            if now.saturating_duration_since(since) >= OnLoss::KEPT_FOR {
                state.volumes.remove(&id);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn visible(&self, volume: VolumeHandle) -> Result<Arc<MemoryFile>, BlocksError> {
        self.here(volume.pool)?;
        let state = self.state();
        let stored = state.visible(volume.volume).ok_or_else(|| missing(Object::Volume(volume.volume)))?;
        Ok(Arc::clone(&stored.file))
    }

    /// Only the pool that is here says that something is missing.
    fn here(&self, pool: PoolId) -> Result<(), BlocksError> {
        if pool == self.pool.id {
            return Ok(());
        }
        Err(BlocksError::Unavailable(format!("belongs to pool {}, which is not on this node", pool.label())))
    }

    fn used_bytes(&self) -> Result<u64, BlocksError> {
        let state = self.state();
        let volumes = state.volumes.values().map(|volume| &volume.file);
        let files = volumes.chain(state.snapshots.values().map(|snapshot| &snapshot.file));
        files.map(|file| file.allocated()).sum::<io::Result<u64>>().map_err(failed)
    }

    fn begin_now(&self, pool: PoolId, request: NewVolume, on_loss: OnLoss) -> Result<TargetStart, BlocksError> {
        self.here(pool)?;
        let mut state = self.state();
        if request.source.is_some() {
            return Err(BlocksError::Unsupported("a volume is either restored or copied from another object".to_owned()));
        }
        match state.volume_named(&request.name) {
            Some((_, stored)) if stored.stage == Stage::Hidden => {
                return Err(BlocksError::Busy(format!("another operation on the volume named `{}` is running", request.name)));
            }
            Some((id, stored)) if is_equal(&stored.request, &request) => {
                return Ok(TargetStart::Existing(VolumeHandle { pool: self.pool.id, volume: id }));
            }
            Some(_) => {
                return Err(BlocksError::NameTaken(format!("`{}` exists already with another content source", request.name)));
            }
            None => {}
        }
        if let Some((id, stored)) = state.take_kept(&request.name)
            && let Some(file) = take_over(&stored, &request, on_loss)
        {
            let (volume, size) = (VolumeHandle { pool: self.pool.id, volume: id }, stored.size);
            state.volumes.insert(id, StoredVolume { request, stage: Stage::Hidden, ..stored });
            return Ok(TargetStart::Target(RestoreTarget { volume, size, content: TargetContent::Partial, file }));
        }
        let size = request.capacity.choose(request.minimum, VolumeSize::DEFAULT);
        let size = size.ok_or_else(|| BlocksError::Size("no size lies within the requested range".to_owned()))?;
        if size.bytes() > self.total_bytes {
            return Err(BlocksError::NoSpace(format!("a volume of {} bytes is larger than the whole pool", size.bytes())));
        }
        let id = VolumeId::random();
        let file = MemoryFile::new(&format!("volume-{id}"), size.bytes()).map_err(failed)?;
        let descriptor = file.open(Access::ReadWrite).map_err(failed)?;
        let (created, file, stage, format) = (Timestamp::now(), Arc::new(file), Stage::Hidden, FormatState::Content);
        state.volumes.insert(id, StoredVolume { request, created, size, file, stage, format, on_loss });
        let volume = VolumeHandle { pool: self.pool.id, volume: id };
        Ok(TargetStart::Target(RestoreTarget { volume, size, content: TargetContent::Zeros, file: descriptor }))
    }

    fn commit_now(&self, volume: VolumeHandle, name: CommitName) -> Result<(), BlocksError> {
        self.here(volume.pool)?;
        let (mut state, object) = (self.state(), Object::Volume(volume.volume));
        if let CommitName::Instead(name) = &name
            && let Some((_, taken)) = state.volume_named(name)
        {
            return Err(match taken.stage {
                Stage::Hidden | Stage::Kept(_) => {
                    BlocksError::Busy(format!("another operation on the volume named `{name}` is running"))
                }
                Stage::Visible => BlocksError::NameTaken(format!("`{name}` exists already with another content")),
            });
        }
        let hidden = state.volumes.get_mut(&volume.volume).filter(|stored| stored.stage == Stage::Hidden);
        let stored = hidden.ok_or_else(|| missing(object))?;
        let reader = stored.file.open(Access::ReadOnly).map_err(failed)?;
        if writers::stays_open_for_writing(&reader).map_err(failed)? {
            return Err(BlocksError::InUse(format!("{object} is in use: a descriptor that can write to it")));
        }
        let bytes = stored.file.size().map_err(failed)?;
        if bytes != stored.size.bytes() {
            return Err(BlocksError::Size(format!("the restored volume has {bytes} bytes instead of {}", stored.size.bytes())));
        }
        if name == CommitName::AsBegunUnformatted && stored.file.allocated().map_err(failed)? == 0 {
            stored.format = FormatState::Never;
        }
        stored.stage = Stage::Visible;
        if let CommitName::Instead(name) = name {
            stored.request.name = name.clone();
            state.take_kept(&name);
        }
        Ok(())
    }

    fn let_go_now(&self, volume: VolumeHandle) -> Result<(), BlocksError> {
        self.here(volume.pool)?;
        let (mut state, id) = (self.state(), volume.volume);
        state.fail(Verb::LetGo)?;
        let Some(stored) = state.volumes.get_mut(&id).filter(|stored| stored.stage == Stage::Hidden) else { return Ok(()) };
        if stored.on_loss == OnLoss::Delete {
            state.volumes.remove(&id);
            return Ok(());
        }
        let reader = stored.file.open(Access::ReadOnly).map_err(failed)?;
        if writers::stays_open_for_writing(&reader).map_err(failed)? {
            return Err(BlocksError::InUse(format!("{} is in use: a descriptor that can write to it", Object::Volume(id))));
        }
        stored.stage = Stage::Kept(Instant::now());
        let kept = state.kept();
        for (_, oldest) in kept.iter().take(kept.len().saturating_sub(OnLoss::MOST_KEPT)) {
            state.volumes.remove(oldest);
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Blocks for MemoryBlocks {
    async fn state(&self) -> Vec<PoolState> {
        match self.used_bytes() {
            Ok(used) => {
                let free = self.total_bytes.saturating_sub(used);
                let space = PoolSpace { total: self.total_bytes, free, available: free };
                let state = self.state();
                let kept = state.kept().into_iter().filter_map(|(_, id)| Some(state.volumes.get(&id)?.request.name.clone()));
                vec![PoolState::Open { pool: self.pool.clone(), space, problem: None, kept: kept.collect() }]
            }
            Err(error) => vec![PoolState::Failed { id: Some(self.pool.id), reason: error.to_string() }],
        }
    }

    async fn pool(&self, wanted: &str) -> Result<OpenPool, BlocksError> {
        let names = [String::new(), self.pool.id.to_string(), self.pool.id.label(), self.pool.name.to_string()];
        if names.iter().any(|name| name == wanted) {
            return Ok(self.pool.clone());
        }
        Err(BlocksError::Missing(format!("there is no pool {wanted} on this node")))
    }

    async fn find_volume(&self, name: &ObjectName) -> Result<Option<VolumeHandle>, BlocksError> {
        let state = self.state();
        let found = state.volume_named(name).filter(|(_, stored)| stored.stage == Stage::Visible);
        Ok(found.map(|(volume, _)| VolumeHandle { pool: self.pool.id, volume }))
    }

    async fn find_snapshot(&self, name: &ObjectName) -> Result<Option<SnapshotHandle>, BlocksError> {
        Ok(self.state().snapshot_named(name).map(|snapshot| SnapshotHandle { pool: self.pool.id, snapshot }))
    }

    async fn lease(&self, snapshot: SnapshotHandle) -> Result<Arc<dyn SnapshotLease>, BlocksError> {
        self.here(snapshot.pool)?;
        let mut state = self.state();
        state.fail(Verb::Lease)?;
        let id = snapshot.snapshot;
        let stored = state.here(id)?;
        let file = stored.file.open(Access::ReadOnly).map_err(failed)?;
        let lease =
            MemoryLease { state: self.state.clone(), record: stored.record.clone(), file, held: Arc::clone(&stored.file) };
        Ok(Arc::new(lease))
    }

    async fn begin(&self, pool: PoolId, volume: NewVolume, on_loss: OnLoss) -> Result<TargetStart, BlocksError> {
        self.state().fail(Verb::Begin)?;
        self.begin_now(pool, volume, on_loss)
    }

    async fn commit(&self, volume: VolumeHandle, name: CommitName) -> Result<(), BlocksError> {
        self.state().fail(Verb::Commit)?;
        self.commit_now(volume, name)
    }

    async fn abort(&self, volume: VolumeHandle) -> Result<(), BlocksError> {
        self.here(volume.pool)?;
        let mut state = self.state();
        state.fail(Verb::Abort)?;
        if state.volumes.get(&volume.volume).is_some_and(|stored| stored.stage == Stage::Hidden) {
            state.volumes.remove(&volume.volume);
        }
        Ok(())
    }

    async fn let_go(&self, volume: VolumeHandle) -> Result<(), BlocksError> {
        self.let_go_now(volume)
    }

    async fn put_export(&self, pool: PoolId, record: ExportRecord) -> Result<(), BlocksError> {
        self.here(pool)?;
        let mut state = self.state();
        state.fail(Verb::PutExport)?;
        if state.visible(record.volume).is_none() && state.whole(record.snapshot).is_none() {
            return Err(missing(Object::Snapshot(record.snapshot)));
        }
        if let Some(stored) = state.snapshots.get_mut(&record.snapshot) {
            stored.copies.note_export(SnapshotExport {
                repository: record.repository.clone(),
                repository_snapshot: record.repository_snapshot.clone(),
                size: record.size,
                finished: record.finished,
            });
        }
        state.exports.insert((record.volume, record.repository.clone()), record);
        Ok(())
    }

    async fn last_export(&self, volume: VolumeHandle, repository: &str) -> Result<Option<ExportRecord>, BlocksError> {
        self.here(volume.pool)?;
        let mut state = self.state();
        state.fail(Verb::LastExport)?;
        Ok(state.exports.get(&(volume.volume, repository.to_owned())).cloned())
    }

    async fn copies(&self, snapshot: SnapshotHandle) -> Result<SnapshotCopies, BlocksError> {
        self.here(snapshot.pool)?;
        let state = self.state();
        let stored = state.whole(snapshot.snapshot).ok_or_else(|| missing(Object::Snapshot(snapshot.snapshot)))?;
        Ok(stored.described())
    }

    async fn put_task(&self, snapshot: SnapshotHandle, task: ExportTask) -> Result<(), BlocksError> {
        self.here(snapshot.pool)?;
        let mut state = self.state();
        state.fail(Verb::PutTask)?;
        state.whole_mut(snapshot.snapshot)?.copies.task = Some(task);
        Ok(())
    }

    async fn tasks(&self, query: TaskQuery) -> Result<TaskPage, BlocksError> {
        self.here(query.pool)?;
        let state = self.state();
        let whole = state.snapshots.values().filter(|stored| stored.presence == Presence::Whole);
        Ok(query.select(whole.map(StoredSnapshot::described)))
    }

    async fn protected(&self, query: ProtectionQuery) -> Result<ProtectionPage, BlocksError> {
        self.here(query.pool)?;
        let state = self.state();
        let visible = state.volumes.iter().filter(|(_, stored)| stored.stage == Stage::Visible);
        let volumes = visible.filter_map(|(&id, stored)| Some((id, stored.protection()?)));
        let whole = state.snapshots.values().filter(|stored| stored.presence == Presence::Whole);
        let made = whole.filter(|stored| stored.order.is_some_and(|order| order.origin == Origin::Protection));
        Ok(query.select(volumes, made.map(|stored| (stored.record.source.volume, stored.of_protection()))))
    }

    async fn give_up_local_copy(&self, snapshot: SnapshotHandle) -> Result<(), BlocksError> {
        self.here(snapshot.pool)?;
        let (mut state, object) = (self.state(), Object::Snapshot(snapshot.snapshot));
        state.fail(Verb::GiveUpLocalCopy)?;
        let stored = state.whole_mut(snapshot.snapshot)?;
        if stored.copies.exports.is_empty() {
            return Err(BlocksError::Unsupported(format!("{object} is in no repository: its local copy is the only one")));
        }
        if Arc::strong_count(&stored.file) > 1 {
            return Err(BlocksError::InUse(format!("{object} is leased")));
        }
        stored.copies.local = LocalCopy::GivenUp;
        Ok(())
    }

    async fn usage(&self, query: UsageQuery) -> Result<UsagePage, BlocksError> {
        self.here(query.pool)?;
        let state = self.state();
        let visible = state.volumes.iter().filter(|(_, volume)| volume.stage == Stage::Visible);
        let volumes = visible.map(|(&id, stored)| (Object::Volume(id), Some(Arc::clone(&stored.file))));
        let whole = state.snapshots.iter().filter(|(_, snapshot)| snapshot.presence == Presence::Whole);
        let snapshots = whole.map(|(&id, stored)| {
            let is_here = stored.copies.local == LocalCopy::Kept;
            (Object::Snapshot(id), is_here.then(|| Arc::clone(&stored.file)))
        });
        let files: BTreeMap<Object, Option<Arc<MemoryFile>>> = volumes.chain(snapshots).collect();
        let (page, next) = query.select(files.keys().copied());
        let usage = |object: Object| {
            let Some(file) = &files[&object] else { return Ok(ObjectUsage { object, allocated: 0, exclusive: 0, extents: 0 }) };
            let (allocated, reader) = (file.allocated()?, file.open(Access::ReadOnly)?);
            let extents = memory_file::data_ranges(&reader)?.len() as u64;
            Ok(ObjectUsage { object, allocated, exclusive: allocated, extents })
        };
        let objects = page.into_iter().map(usage).collect::<io::Result<_>>().map_err(failed)?;
        Ok(UsagePage { objects, next })
    }
}

/// A descriptor of a kept target, if it is what the request would make, has its size, and nobody else can write to it.
fn take_over(stored: &StoredVolume, request: &NewVolume, on_loss: OnLoss) -> Option<File> {
    if on_loss == OnLoss::Delete || !is_equal(&stored.request, request) || stored.file.size().ok()? != stored.size.bytes() {
        return None;
    }
    let reader = stored.file.open(Access::ReadOnly).ok()?;
    let is_written = writers::stays_open_for_writing(&reader).ok()?;
    if is_written { None } else { stored.file.open(Access::ReadWrite).ok() }
}

/// Whether a request is answered by a volume that was made by another; what Kubernetes calls it never counts.
fn is_equal(made_by: &NewVolume, request: &NewVolume) -> bool {
    let kubernetes = request.kubernetes.clone();
    NewVolume { kubernetes, ..made_by.clone() } == *request
}
