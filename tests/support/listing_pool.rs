//! A pool in memory whose listings are made by the test.

#![allow(clippy::unwrap_used, reason = "called by tests only")]

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use windlass::mount::memory::MemoryMounter;
use windlass::node::quiesce::MountQuiesce;
use windlass::pool::catalogue::Catalogue;
use windlass::pool::memory::MemoryPool;
use windlass::pool::owned::OwnedPool;
use windlass::pool::{Attachment, Cut, Found, ObjectSpec, ObjectUsage, Pool, PoolError, PoolKind, PoolUsage};
use windlass::types::{Access, LogicalBlockSize, Object, RangeStream, SnapshotId, VolumeId, VolumeSize};

/// A pool in memory whose listings are made by the test.
pub struct Injected {
    inner: MemoryPool,
    listing: Arc<dyn Fn() -> RangeStream + Send + Sync>,
}

impl Pool for Injected {
    fn kind(&self) -> PoolKind {
        self.inner.kind()
    }
    fn location(&self) -> String {
        self.inner.location()
    }
    fn mechanism(&self) -> &'static str {
        self.inner.mechanism()
    }
    fn logical_block_size(&self) -> LogicalBlockSize {
        self.inner.logical_block_size()
    }
    fn create(&self, volume: VolumeId, spec: ObjectSpec) -> Result<(), PoolError> {
        self.inner.create(volume, spec)
    }
    fn snapshot(&self, cuts: &[Cut], stall: Duration) -> Result<(), PoolError> {
        self.inner.snapshot(cuts, stall)
    }
    fn copy(&self, source: Object, volume: VolumeId, spec: ObjectSpec, stall: Duration) -> Result<(), PoolError> {
        self.inner.copy(source, volume, spec, stall)
    }
    fn delete(&self, object: Object) -> Result<(), PoolError> {
        self.inner.delete(object)
    }
    fn grow(&self, volume: VolumeId, size: VolumeSize) -> Result<(), PoolError> {
        self.inner.grow(volume, size)
    }
    fn size(&self, object: Object) -> Result<VolumeSize, PoolError> {
        self.inner.size(object)
    }
    fn attach(&self, object: Object, access: Access) -> Result<Attachment, PoolError> {
        self.inner.attach(object, access)
    }
    fn detach(&self, object: Object) -> Result<(), PoolError> {
        self.inner.detach(object)
    }
    fn attachment(&self, object: Object) -> Result<Option<Attachment>, PoolError> {
        self.inner.attachment(object)
    }
    fn open(&self, object: Object, access: Access) -> Result<File, PoolError> {
        self.inner.open(object, access)
    }
    fn allocated(&self, _: SnapshotId) -> Result<RangeStream, PoolError> {
        Ok((self.listing)())
    }
    fn changed(&self, _: SnapshotId, _: SnapshotId) -> Result<RangeStream, PoolError> {
        Ok((self.listing)())
    }
    fn stored(&self, volume: VolumeId) -> Result<RangeStream, PoolError> {
        self.inner.stored(volume)
    }
    fn granule(&self) -> u64 {
        self.inner.granule()
    }
    fn usage(&self) -> Result<PoolUsage, PoolError> {
        self.inner.usage()
    }
    fn object_usage(&self, object: Object) -> Result<ObjectUsage, PoolError> {
        self.inner.object_usage(object)
    }
    fn scan(&self) -> Result<Vec<Found>, PoolError> {
        self.inner.scan()
    }
}

/// Such a pool, owned.
pub fn injected(mounter: &Arc<MemoryMounter>, listing: impl Fn() -> RangeStream + Send + Sync + 'static) -> Arc<OwnedPool> {
    let pool = Injected { inner: MemoryPool::default(), listing: Arc::new(listing) };
    let quiesce = MountQuiesce::new(Arc::clone(mounter) as Arc<dyn windlass::mount::Mounter>);
    Arc::new(OwnedPool::open(Arc::new(pool), Catalogue::in_memory().unwrap(), Arc::new(quiesce)).unwrap())
}
