//! ControllerExpandVolume and NodeExpandVolume.

use csi_proto::csi::v1::*;

use crate::csi_harness::*;
use crate::{WRITER, staged};

#[tokio::test(flavor = "multi_thread")]
async fn volumes_grow_online() {
    let node = Node::start().await;
    let (volume, staging) = staged(&node, "a", mount("ext4", WRITER)).await;
    let (raw, _) = staged(&node, "raw", block(WRITER)).await;
    let device = node.device(&volume).unwrap();
    let expand = |id: &str| ControllerExpandVolumeRequest {
        volume_id: id.into(),
        capacity_range: bytes(SIZE * 2 + 1, 0),
        ..Default::default()
    };
    let expected = SIZE * 2 + 4096;
    for id in [&volume, &raw] {
        for _ in 0..3 {
            let answer = node.controller.clone().controller_expand_volume(expand(id)).await.unwrap().into_inner();
            assert_eq!(answer.capacity_bytes, expected, "`answer.capacity_bytes`");
            assert!(answer.node_expansion_required, "not `answer.node_expansion_required`");
        }
    }
    node.mounter.set_device_size(&device, expected.unsigned_abs() * 1000);
    for path in [&staging, &staging] {
        let request = NodeExpandVolumeRequest {
            volume_id: volume.clone(),
            volume_path: path.clone(),
            capacity_range: bytes(SIZE * 2 + 1, 0),
            ..Default::default()
        };
        let answer = node.node.clone().node_expand_volume(request).await.unwrap().into_inner();
        assert_eq!(answer.capacity_bytes, expected);
    }
    assert_eq!(node.mounter.file_system_size(&device), expected.unsigned_abs() * 1000);
}
