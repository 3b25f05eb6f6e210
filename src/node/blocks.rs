//! The node's pools as [`Blocks`], in this process.
//!
//! Each call runs on a blocking thread that outlives whoever waits for it. The words of the pools' errors end here: what is above gets a
//! kind that it can act upon and a text.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::named_pool;
use crate::blocks::{
    Blocks, BlocksError, CommitName, LeasedSnapshot, ObjectUsage, OpenPool, PoolSpace, PoolState, Protection, ProtectionPage,
    ProtectionQuery, ProtectionSnapshot, RestoreTarget, SnapshotCopies, SnapshotLease, TargetStart, TaskPage, TaskQuery,
    UsagePage, UsageQuery,
};
use crate::csi::call::{Lost, detached};
use crate::csi::error::{Fault, RequestError};
use crate::pool::PoolError;
use crate::pool::owned::{Lease, OwnedPool, RestoreStart};
use crate::pool::record::Snapshot;
use crate::pool::set::{Absent, Member, PoolSet};
use crate::types::error::chain;
use crate::types::{
    ExportRecord, ExportTask, FormatState, NewVolume, Object, ObjectName, OnLoss, Origin, PoolId, RangeStream, SnapshotHandle,
    SnapshotId, VolumeHandle,
};

/// How long [`Blocks::state`] waits for one pool. The set of pools finds out by itself, later, that a disk hangs.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

/// The pools of this process, for an agent. Clones are the same.
#[derive(Debug, Clone)]
pub struct PoolBlocks {
    pools: PoolSet,
}

impl PoolBlocks {
    /// The service over `pools`.
    pub fn new(pools: impl Into<PoolSet>) -> Self {
        Self { pools: pools.into() }
    }

    /// Runs `work` on the pool with this id.
    async fn on<T: Send + 'static>(
        &self,
        pool: PoolId,
        work: impl FnOnce(&OwnedPool) -> Result<T, PoolError> + Send + 'static,
    ) -> Result<T, BlocksError> {
        let pool = self.pools.get(pool)?;
        detached(move || work(&pool).map_err(BlocksError::from)).await
    }

    /// The first answer of a pool that is open. An error is told only if no pool has one.
    async fn first<T: Send + 'static>(
        &self,
        look: impl Fn(&OwnedPool) -> Result<Option<T>, PoolError> + Send + 'static,
    ) -> Result<Option<T>, BlocksError> {
        let pools = self.pools.pools();
        detached(move || {
            let mut failure = None;
            for pool in pools {
                match look(&pool) {
                    Ok(Some(found)) => return Ok(Some(found)),
                    Ok(None) => {}
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
            failure.map_or(Ok(None), |error| Err(BlocksError::from(error)))
        })
        .await
    }
}

#[async_trait::async_trait]
impl Blocks for PoolBlocks {
    async fn state(&self) -> Vec<PoolState> {
        join_all(self.pools.members().into_iter().map(state_of)).await
    }

    async fn pool(&self, wanted: &str) -> Result<OpenPool, BlocksError> {
        let (pools, wanted) = (self.pools.clone(), wanted.to_owned());
        detached(move || {
            let pool = named_pool::find(&pools, "pool", &wanted)?;
            Ok(described(&pool)?)
        })
        .await
    }

    async fn find_volume(&self, name: &ObjectName) -> Result<Option<VolumeHandle>, BlocksError> {
        let wanted = name.clone();
        let found = self.first(move |pool| {
            let volume = pool.volume_by_name(&wanted)?;
            Ok(volume.map(|volume| VolumeHandle { pool: pool.id(), volume: volume.id }))
        });
        match (found.await?, self.pools.failed_owner(name)) {
            (None, Some(failed)) => Err(BlocksError::Unavailable(failed.to_string())),
            (found, _) => Ok(found),
        }
    }

    async fn find_snapshot(&self, name: &ObjectName) -> Result<Option<SnapshotHandle>, BlocksError> {
        let wanted = name.clone();
        let found = self.first(move |pool| {
            let snapshot = pool.snapshot_by_name(&wanted)?;
            Ok(snapshot.map(|snapshot| SnapshotHandle { pool: pool.id(), snapshot: snapshot.id }))
        });
        match (found.await?, self.pools.failed().first()) {
            (None, Some(failed)) => Err(BlocksError::Unavailable(failed.to_string())),
            (found, _) => Ok(found),
        }
    }

    async fn lease(&self, snapshot: SnapshotHandle) -> Result<Arc<dyn SnapshotLease>, BlocksError> {
        let lease = self.on(snapshot.pool, move |pool| pool.lease(snapshot.snapshot)).await?;
        let recorded = lease.snapshot();
        let record = LeasedSnapshot {
            handle: snapshot,
            source: VolumeHandle { pool: snapshot.pool, volume: recorded.source },
            size: recorded.size,
            logical_block_size: recorded.logical_block_size,
            mode: recorded.mode,
            is_unformatted: recorded.format == FormatState::Never,
            created: recorded.created,
            kubernetes: recorded.kubernetes.clone(),
        };
        Ok(Arc::new(PoolLease { record, lease: Arc::new(lease) }))
    }

    async fn begin(&self, pool: PoolId, volume: NewVolume, on_loss: OnLoss) -> Result<TargetStart, BlocksError> {
        let begun = self.on(pool, move |pool| pool.begin_restore(&volume, on_loss)).await?;
        Ok(match begun {
            RestoreStart::Existing(volume) => TargetStart::Existing(VolumeHandle { pool, volume: volume.id }),
            RestoreStart::Target(target) => {
                let (volume, size) = (VolumeHandle { pool, volume: target.volume() }, target.size());
                TargetStart::Target(RestoreTarget { volume, size, content: target.content(), file: target.into_file() })
            }
        })
    }

    async fn commit(&self, volume: VolumeHandle, name: CommitName) -> Result<(), BlocksError> {
        let committed = self.on(volume.pool, move |pool| match name {
            CommitName::AsBegun => pool.commit_restore(volume.volume),
            CommitName::AsBegunUnformatted => pool.commit_restore_unformatted(volume.volume),
            CommitName::Instead(name) => pool.commit_restore_as(volume.volume, name),
        });
        self.pools.made(volume.pool, &committed.await?.name);
        Ok(())
    }

    async fn abort(&self, volume: VolumeHandle) -> Result<(), BlocksError> {
        self.on(volume.pool, move |pool| pool.abort_restore(volume.volume)).await
    }

    async fn let_go(&self, volume: VolumeHandle) -> Result<(), BlocksError> {
        self.on(volume.pool, move |pool| pool.let_go_restore(volume.volume)).await
    }

    async fn put_export(&self, pool: PoolId, record: ExportRecord) -> Result<(), BlocksError> {
        self.on(pool, move |pool| pool.put_export(&record)).await
    }

    async fn last_export(&self, volume: VolumeHandle, repository: &str) -> Result<Option<ExportRecord>, BlocksError> {
        let repository = repository.to_owned();
        self.on(volume.pool, move |pool| pool.export(&repository, volume.volume)).await
    }

    async fn copies(&self, snapshot: SnapshotHandle) -> Result<SnapshotCopies, BlocksError> {
        let look = move |pool: &OwnedPool| pool.snapshot(snapshot.snapshot);
        let recorded = self.on(snapshot.pool, look).await?;
        let recorded = recorded.ok_or_else(|| PoolError::Missing(Object::Snapshot(snapshot.snapshot)))?;
        Ok(copies_of(snapshot.pool, recorded))
    }

    async fn put_task(&self, snapshot: SnapshotHandle, task: ExportTask) -> Result<(), BlocksError> {
        self.on(snapshot.pool, move |pool| pool.put_task(snapshot.snapshot, &task)).await
    }

    async fn tasks(&self, query: TaskQuery) -> Result<TaskPage, BlocksError> {
        let recorded = self.on(query.pool, OwnedPool::snapshots).await?;
        Ok(query.select(recorded.into_iter().map(|snapshot| copies_of(query.pool, snapshot))))
    }

    async fn protected(&self, query: ProtectionQuery) -> Result<ProtectionPage, BlocksError> {
        self.on(query.pool, move |pool| protected(pool, query)).await
    }

    async fn give_up_local_copy(&self, snapshot: SnapshotHandle) -> Result<(), BlocksError> {
        self.on(snapshot.pool, move |pool| pool.give_up_local_copy(snapshot.snapshot)).await
    }

    async fn usage(&self, query: UsageQuery) -> Result<UsagePage, BlocksError> {
        self.on(query.pool, move |pool| usage(pool, query)).await
    }
}

/// A lease of a pool of this process.
struct PoolLease {
    record: LeasedSnapshot,
    lease: Arc<Lease>,
}

impl PoolLease {
    async fn ranges(
        &self,
        of: impl FnOnce(&Lease) -> Result<RangeStream, PoolError> + Send + 'static,
    ) -> Result<RangeStream, BlocksError> {
        let lease = Arc::clone(&self.lease);
        // Lists of extents are read from the file system, and a base may have to be opened for them.
        detached(move || of(&lease).map_err(BlocksError::from)).await
    }
}

#[async_trait::async_trait]
impl SnapshotLease for PoolLease {
    fn snapshot(&self) -> &LeasedSnapshot {
        &self.record
    }

    fn file(&self) -> &File {
        self.lease.file()
    }

    async fn allocated(&self) -> Result<RangeStream, BlocksError> {
        self.ranges(Lease::allocated).await
    }

    async fn changed_since(&self, base: SnapshotId) -> Result<RangeStream, BlocksError> {
        self.ranges(move |lease| lease.changed_since(base)).await
    }
}

async fn state_of(member: Member) -> PoolState {
    let pool = match member {
        Member::Open(pool) => pool,
        Member::Failed(failed) => return PoolState::Failed { id: failed.id, reason: failed.to_string() },
    };
    let (id, location) = (pool.id(), pool.location());
    let failed =
        |why: String| PoolState::Failed { id: Some(id), reason: format!("the pool at {location} cannot be used now: {why}") };
    let look = detached(move || {
        let (usage, health) = (pool.usage()?, pool.health()?);
        let space = PoolSpace { total: usage.total, free: usage.free, available: usage.available() };
        let problem = health.problem.or_else(|| usage.shortage());
        Ok::<_, BlocksError>(PoolState::Open { pool: described(&pool)?, space, problem, kept: pool.kept_names() })
    });
    match tokio::time::timeout(LOOK_WITHIN, look).await {
        Ok(Ok(state)) => state,
        Ok(Err(error)) => failed(error.to_string()),
        Err(_) => failed(format!("it has not answered for {} s", LOOK_WITHIN.as_secs())),
    }
}

fn copies_of(pool: PoolId, snapshot: Snapshot) -> SnapshotCopies {
    let handle = SnapshotHandle { pool, snapshot: snapshot.id };
    SnapshotCopies { snapshot: handle, order: snapshot.order(), copies: snapshot.copies }
}

/// The snapshots first: of a volume that is deleted meanwhile they are told as left over, which the next look repairs, and none is missed.
fn protected(pool: &OwnedPool, query: ProtectionQuery) -> Result<ProtectionPage, PoolError> {
    let is_made = |snapshot: &Snapshot| snapshot.order().is_some_and(|order| order.origin == Origin::Protection);
    let snapshots = pool.snapshots()?.into_iter().filter(is_made);
    let snapshots = snapshots.map(|snapshot| {
        let (name, created) = (snapshot.name.clone(), snapshot.created);
        (snapshot.source, ProtectionSnapshot { name, created, copies: copies_of(query.pool, snapshot) })
    });
    let volumes = pool.volumes()?.into_iter().filter_map(|volume| {
        let order = volume.protection()?;
        let (created, format) = (volume.created, volume.format);
        let (kubernetes, restored_from) = (volume.kubernetes, volume.foreign_source);
        Some((volume.id, Protection { order, created, format, kubernetes, restored_from }))
    });
    Ok(query.select(volumes, snapshots))
}

fn described(pool: &OwnedPool) -> Result<OpenPool, PoolError> {
    Ok(OpenPool { id: pool.id(), name: pool.properties()?.name, logical_block_size: pool.logical_block_size() })
}

fn usage(pool: &OwnedPool, query: UsageQuery) -> Result<UsagePage, PoolError> {
    let volumes = pool.volumes()?.into_iter().map(|volume| Object::Volume(volume.id));
    let snapshots = pool.snapshots()?.into_iter().map(|snapshot| Object::Snapshot(snapshot.id));
    let ordered: BTreeSet<Object> = volumes.chain(snapshots).collect();
    let (page, next) = query.select(ordered);
    let mut objects = Vec::with_capacity(page.len());
    for object in page {
        match pool.usage_of(object) {
            Ok(usage) => objects.push(ObjectUsage {
                object,
                allocated: usage.allocated,
                exclusive: usage.exclusive,
                extents: usage.extents,
            }),
            // It went meanwhile.
            Err(PoolError::Missing(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(UsagePage { objects, next })
}

impl From<PoolError> for BlocksError {
    fn from(error: PoolError) -> Self {
        let text = chain(&error);
        match error {
            PoolError::Missing(_) | PoolError::SourceMissing(_) => Self::Missing(text),
            PoolError::NameTaken { .. } => Self::NameTaken(text),
            PoolError::Size(_) => Self::Size(text),
            PoolError::Busy(_) => Self::Busy(text),
            PoolError::NoSpace(_) => Self::NoSpace(text),
            PoolError::InUse { .. } | PoolError::Quiesce(_) | PoolError::CannotQuiesce(_) | PoolError::TooSlow { .. } => {
                Self::InUse(text)
            }
            PoolError::Unsupported(_) | PoolError::GivenUp(_) => Self::Unsupported(text),
            PoolError::Catalogue(_) | PoolError::Unfinished(_) => Self::Unavailable(text),
            PoolError::Owned(_) | PoolError::Format(_) | PoolError::CatalogueLost(_) | PoolError::Io { .. } => Self::Failed(text),
        }
    }
}

impl From<Absent> for BlocksError {
    fn from(absent: Absent) -> Self {
        Self::Unavailable(absent.to_string())
    }
}

impl From<RequestError> for BlocksError {
    /// Of a request that named a pool; the field is the caller's to say.
    fn from(error: RequestError) -> Self {
        match error.fault {
            Fault::NotFound => Self::Missing(error.reason),
            Fault::PoolElsewhere => Self::Unavailable(error.reason),
            _ => Self::Ambiguous(error.reason),
        }
    }
}

impl From<Lost> for BlocksError {
    fn from(lost: Lost) -> Self {
        Self::Unavailable(lost.to_string())
    }
}
