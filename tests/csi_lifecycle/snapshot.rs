//! CreateSnapshot, GetSnapshot and DeleteSnapshot.

use csi_proto::csi::v1::*;
use tonic::Code;
use windlass::mount::memory::Verb;
use windlass::types::SnapshotHandle;

use crate::csi_harness::*;
use crate::{WRITER, staged};

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_keeps_its_time_size_and_id_and_outlives_its_source() {
    let node = Node::start().await;
    let (volume, staging) = staged(&node, "a", mount("ext4", WRITER)).await;
    let snapshot = node.snapshot("s", &volume).await.unwrap();
    assert!(snapshot.ready_to_use && snapshot.creation_time.is_some());
    assert_eq!(snapshot.size_bytes, SIZE, "`snapshot.size_bytes`");
    assert_eq!(snapshot.source_volume_id.as_str(), volume.as_str(), "`snapshot.source_volume_id`");
    assert_eq!(node.mounter.count(Verb::Freeze), 1, "calls of `Freeze`");
    assert_eq!(node.mounter.count(Verb::Thaw), 1, "calls of `Thaw`");
    let grow =
        ControllerExpandVolumeRequest { volume_id: volume.clone(), capacity_range: bytes(SIZE * 2, 0), ..Default::default() };
    node.controller.clone().controller_expand_volume(grow).await.unwrap();
    node.unstage(&volume, &staging).await.unwrap();
    node.delete(&volume).await.unwrap();
    let get = GetSnapshotRequest { snapshot_id: snapshot.snapshot_id.clone(), ..Default::default() };
    for _ in 0..3 {
        assert_eq!(node.snapshot("s", &volume).await.unwrap(), snapshot);
        let got = node.controller.clone().get_snapshot(get.clone()).await.unwrap().into_inner().snapshot.unwrap();
        assert_eq!(got, snapshot);
    }
    let list = ListSnapshotsRequest { source_volume_id: volume, ..Default::default() };
    let listed = node.controller.clone().list_snapshots(list).await.unwrap().into_inner().entries;
    assert_eq!(listed[0].snapshot.as_ref(), Some(&snapshot));
    for _ in 0..3 {
        node.delete_snapshot(&snapshot.snapshot_id).await.unwrap();
    }
    refused(node.controller.clone().get_snapshot(get).await, Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leased_snapshot_is_not_deleted() {
    let node = Node::start().await;
    let volume = node.volume("a", mount("ext4", WRITER)).await;
    let snapshot = node.snapshot("s", &volume).await.unwrap().snapshot_id;
    let handle: SnapshotHandle = snapshot.parse().unwrap();
    let lease = node.pools[0].lease(handle.snapshot).unwrap();
    refused(node.delete_snapshot(&snapshot).await, Code::FailedPrecondition);
    drop(lease);
    node.delete_snapshot(&snapshot).await.unwrap();
}
