//! Disks whose blocks come over a wire.

#![allow(clippy::unwrap_used, reason = "test support")]

use std::sync::Arc;
use std::time::Duration;

use windlass::blocks::client::BlocksClient;
use windlass::blocks::{Blocks, BlocksError};
use windlass::types::{PoolId, SnapshotHandle, VolumeHandle, VolumeMode};

use super::disks::Disks;
use super::served_blocks::ServedBlocks;

/// Other disks, whose blocks are served by a node and asked for by an agent.
pub struct WireDisks {
    // Dropped in this order: a node holds its disks as long as it serves them.
    agent: BlocksClient,
    _node: ServedBlocks,
    below: Arc<dyn Disks>,
}

impl WireDisks {
    /// Must be called within a runtime.
    pub fn over(below: Arc<dyn Disks>) -> Self {
        let node = ServedBlocks::over(below.blocks());
        Self { agent: node.client(), _node: node, below }
    }
}

impl Disks for WireDisks {
    fn blocks(&self) -> Arc<dyn Blocks> {
        Arc::new(self.agent.clone())
    }

    fn pool_id(&self) -> PoolId {
        self.below.pool_id()
    }

    fn cut(&self, name: &str, source: VolumeHandle) -> SnapshotHandle {
        self.below.cut(name, source)
    }

    fn delete_snapshot(&self, snapshot: SnapshotHandle) -> Result<(), BlocksError> {
        self.below.delete_snapshot(snapshot)
    }

    fn volumes(&self) -> Vec<(VolumeHandle, String, VolumeMode)> {
        self.below.volumes()
    }

    fn targets(&self) -> usize {
        self.below.targets()
    }

    fn kept(&self) -> usize {
        self.below.kept()
    }

    fn pass(&self, time: Duration) {
        self.below.pass(time);
    }
}
