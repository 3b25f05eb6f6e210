//! A node's disks, as a test needs them besides `Blocks`: over a pool in memory, or over no pool at all; in this process, or over a wire.

#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "test support; no test uses all of it")]

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use windlass::blocks::memory::MemoryBlocks;
use windlass::blocks::{Blocks, BlocksError, CommitName, RestoreTarget, TargetStart};
use windlass::types::poll::{self, Patience};
use windlass::types::{
    AccessMode, CapacityRange, DataChecksum, NewVolume, ObjectName, OnLoss, PoolId, SnapshotHandle, VolumeHandle, VolumeMode,
    VolumeSize,
};

/// Space of the only pool, in bytes.
pub const POOL_BYTES: u64 = 1 << 30;

/// What a node's own layer does to its disks, and a test in its place.
pub trait Disks: Send + Sync {
    /// The service that is tested.
    fn blocks(&self) -> Arc<dyn Blocks>;
    /// The only pool.
    fn pool_id(&self) -> PoolId;
    /// Cuts a snapshot.
    fn cut(&self, name: &str, source: VolumeHandle) -> SnapshotHandle;
    /// Deletes a snapshot.
    fn delete_snapshot(&self, snapshot: SnapshotHandle) -> Result<(), BlocksError>;
    /// The volumes that everybody sees, with their names and modes.
    fn volumes(&self) -> Vec<(VolumeHandle, String, VolumeMode)>;
    /// Targets that are neither committed nor aborted nor kept.
    fn targets(&self) -> usize;
    /// Targets that are kept.
    fn kept(&self) -> usize;
    /// Lets so much time pass for the targets that are kept.
    fn pass(&self, time: Duration);
}

impl Disks for MemoryBlocks {
    fn blocks(&self) -> Arc<dyn Blocks> {
        Arc::new(self.clone())
    }

    fn pool_id(&self) -> PoolId {
        MemoryBlocks::pool_id(self)
    }

    fn cut(&self, text: &str, source: VolumeHandle) -> SnapshotHandle {
        MemoryBlocks::cut(self, &name(text), source).unwrap()
    }

    fn delete_snapshot(&self, snapshot: SnapshotHandle) -> Result<(), BlocksError> {
        MemoryBlocks::delete_snapshot(self, snapshot)
    }

    fn volumes(&self) -> Vec<(VolumeHandle, String, VolumeMode)> {
        let volumes = MemoryBlocks::volumes(self).into_iter();
        volumes.map(|(volume, request)| (volume, request.name.to_string(), request.mode)).collect()
    }

    fn targets(&self) -> usize {
        MemoryBlocks::targets(self)
    }

    fn kept(&self) -> usize {
        MemoryBlocks::kept(self)
    }

    fn pass(&self, time: Duration) {
        self.delete_overdue(Instant::now() + time);
    }
}

/// Disks without a pool.
pub fn memory() -> Arc<dyn Disks> {
    Arc::new(MemoryBlocks::with_capacity(POOL_BYTES))
}

pub fn name(text: &str) -> ObjectName {
    ObjectName::try_from(text.to_owned()).unwrap()
}

/// A request for a volume.
pub fn new_volume(text: &str, bytes: u64, mode: VolumeMode) -> NewVolume {
    NewVolume {
        name: name(text),
        capacity: CapacityRange::exactly(VolumeSize::new(bytes).unwrap()),
        minimum: VolumeSize::new(4096).unwrap(),
        mode,
        access_modes: vec![AccessMode::SingleNodeWriter],
        mount_flags: vec![],
        parameters: BTreeMap::new(),
        checksum: DataChecksum::Off,
        source: None,
        foreign_source: None,
        kubernetes: Default::default(),
    }
}

/// Deletes a snapshot, and waits until whoever dropped a lease of it just now has let go: over a wire that takes a moment.
pub async fn delete_when_let_go(disks: &Arc<dyn Disks>, snapshot: SnapshotHandle) {
    let disks = Arc::clone(disks);
    let patience = Patience { limit: Duration::from_secs(30), every: Duration::from_millis(5) };
    let delete = move || {
        poll::until(patience, || match disks.delete_snapshot(snapshot) {
            Err(BlocksError::InUse(_) | BlocksError::Busy(_)) => Ok(None),
            deleted => deleted.map(Some),
        })
    };
    let deleted = tokio::task::spawn_blocking(delete).await.unwrap();
    assert_eq!(deleted, Ok(Some(())), "{snapshot} is still held");
}

impl dyn Disks {
    /// A target for a volume that is not there.
    pub async fn begin(&self, request: &NewVolume) -> RestoreTarget {
        match self.blocks().begin(self.pool_id(), request.clone(), OnLoss::Delete).await.unwrap() {
            TargetStart::Target(target) => target,
            TargetStart::Existing(volume) => panic!("it exists: {volume}"),
        }
    }

    /// A target that is kept when nobody holds it any more.
    pub async fn begin_kept(&self, request: &NewVolume) -> RestoreTarget {
        match self.blocks().begin(self.pool_id(), request.clone(), OnLoss::Keep).await.unwrap() {
            TargetStart::Target(target) => target,
            TargetStart::Existing(volume) => panic!("it exists: {volume}"),
        }
    }

    /// Makes a volume with this content.
    pub async fn create(&self, request: &NewVolume, parts: &[(u64, &[u8])]) -> VolumeHandle {
        let target = self.begin(request).await;
        for (offset, bytes) in parts {
            target.file.write_all_at(bytes, *offset).unwrap();
        }
        let volume = target.volume;
        drop(target);
        self.blocks().commit(volume, CommitName::AsBegun).await.unwrap();
        volume
    }

    /// All bytes of a snapshot.
    pub async fn content(&self, snapshot: SnapshotHandle) -> Vec<u8> {
        let lease = self.blocks().lease(snapshot).await.unwrap();
        let mut bytes = vec![0; usize::try_from(lease.snapshot().size.bytes()).unwrap()];
        lease.file().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// Free space of the pool, in bytes.
    pub async fn free_bytes(&self) -> u64 {
        match self.blocks().state().await.as_slice() {
            [windlass::blocks::PoolState::Open { space, .. }] => space.free,
            other => panic!("{other:?}"),
        }
    }
}
