//! Exports and restores through the Transfers service, over a pool in memory.

#![allow(clippy::unwrap_used, clippy::panic, reason = "called by tests only")]

#[path = "support/disks/mod.rs"]
mod disks;
#[path = "support/disks/pool.rs"]
mod pool_disks;
#[path = "support/transfers.rs"]
mod transfers;

use std::sync::Arc;

use csi_proto::windlass::v1 as proto;
use csi_proto::windlass::v1::pools_server::Pools;
use disks::Disks;
use pool_disks::PoolDisks;
use tonic::Request;
use windlass::node::pools_service::PoolsService;
use windlass::types::VolumeMode;

const SIZE: u64 = 16 << 20;

test_transfers!(Arc::new(PoolDisks::new()));

#[tokio::test(flavor = "multi_thread")]
async fn pools_tell_their_space_and_what_takes_it() {
    let disks = Arc::new(PoolDisks::new());
    let service = PoolsService::new(vec![Arc::clone(&disks.pool)]);
    let disks: Arc<dyn Disks> = disks;
    let request = disks::new_volume("source", SIZE, VolumeMode::Block);
    let volume = disks.create(&request, &[(0, &[7; 8192])]).await;
    let snapshot = disks.cut("cut", volume);
    let mut pools = service.get_pool_status(Request::new(proto::GetPoolStatusRequest {})).await.unwrap().into_inner().pools;
    let pool = pools.remove(0);
    assert_eq!((pool.pool_id.as_str(), pool.kind.as_str()), (disks.pool_id().to_string().as_str(), "memory"));
    assert_eq!((pool.volume_count, pool.snapshot_count, pool.state.as_str()), (1, 1, "ready"));
    let handles: Vec<_> = pool.objects.iter().map(|object| object.handle.clone()).collect();
    assert_eq!(handles, [volume.to_string(), snapshot.to_string()]);
    assert!(pool.objects.iter().all(|object| object.size_bytes == SIZE && object.allocated_bytes > 0));
}
