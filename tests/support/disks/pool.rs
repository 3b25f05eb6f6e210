//! Disks over a pool, in memory unless another is given.

#![allow(dead_code, clippy::unwrap_used, reason = "test support; no test uses all of it")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use windlass::blocks::{Blocks, BlocksError};
use windlass::node::blocks::PoolBlocks;
use windlass::pool::catalogue::Catalogue;
use windlass::pool::memory::MemoryPool;
use windlass::pool::owned::OwnedPool;
use windlass::pool::quiesce::NothingToHold;
use windlass::pool::record::NewSnapshot;
use windlass::types::{PoolId, SnapshotHandle, VolumeHandle, VolumeMode};

use super::disks::{Disks, POOL_BYTES, name};

/// A pool.
pub struct PoolDisks {
    pub pool: Arc<OwnedPool>,
}

impl PoolDisks {
    /// One in memory.
    pub fn new() -> Self {
        let pool = MemoryPool::with_capacity(POOL_BYTES);
        let pool = OwnedPool::open(Arc::new(pool), Catalogue::in_memory().unwrap(), Arc::new(NothingToHold)).unwrap();
        Self::over(pool)
    }

    /// Those of any pool.
    pub fn over(pool: OwnedPool) -> Self {
        Self { pool: Arc::new(pool) }
    }
}

impl Disks for PoolDisks {
    fn blocks(&self) -> Arc<dyn Blocks> {
        Arc::new(PoolBlocks::new(vec![Arc::clone(&self.pool)]))
    }

    fn pool_id(&self) -> PoolId {
        self.pool.id()
    }

    fn cut(&self, text: &str, source: VolumeHandle) -> SnapshotHandle {
        let request =
            NewSnapshot { name: name(text), source: source.volume, parameters: BTreeMap::new(), kubernetes: Default::default() };
        let snapshot = self.pool.create_snapshots(&[request]).unwrap().remove(0).into_inner().id;
        SnapshotHandle { pool: self.pool.id(), snapshot }
    }

    fn delete_snapshot(&self, snapshot: SnapshotHandle) -> Result<(), BlocksError> {
        self.pool.delete_snapshot(snapshot.snapshot).map_err(BlocksError::from)
    }

    fn volumes(&self) -> Vec<(VolumeHandle, String, VolumeMode)> {
        let handle = |volume| VolumeHandle { pool: self.pool.id(), volume };
        let volumes = self.pool.volumes().unwrap().into_iter();
        volumes.map(|volume| (handle(volume.id), volume.name.to_string(), volume.mode)).collect()
    }

    fn targets(&self) -> usize {
        self.pool.status().unwrap().restores
    }

    fn kept(&self) -> usize {
        self.pool.status().unwrap().kept_restores
    }

    fn pass(&self, time: Duration) {
        self.pool.delete_overdue_restores(Instant::now() + time);
    }
}
