//! NodeGetVolumeStats and NodeExpandVolume.

use csi_proto::csi::v1::*;
use tonic::Code;

use crate::WRITER;
use crate::csi_harness::*;

#[tokio::test(flavor = "multi_thread")]
async fn node_statistics_and_expansion() {
    let node = Node::start().await;
    let mut table = Table::default();
    let mut client = node.node.clone();
    let volume = node.volume("a", mount("ext4", WRITER)).await;
    let staging = node.staging("staging");
    node.stage(&volume, &staging, mount("ext4", WRITER)).await.unwrap();
    let empty = node.staging("empty");

    use Code::{InvalidArgument, NotFound, OutOfRange, Unavailable};
    let rows: Vec<(&str, &str, &str, Code, &str)> = vec![
        ("no id", "", &staging, InvalidArgument, "volume_id"),
        ("no path", &volume, "", InvalidArgument, "volume_path"),
        ("NUL in the path", &volume, "/a\0b", InvalidArgument, "volume_path"),
        ("relative path", &volume, "x", NotFound, "volume_path"),
        ("parent in the path", &volume, "/x/../y", NotFound, "volume_path"),
        ("unknown", "nothing", &staging, NotFound, "volume_id"),
        ("elsewhere", VOLUME_ELSEWHERE, &staging, Unavailable, "volume_id"),
        ("not there", &volume, &empty, NotFound, "volume_path"),
        ("no such path", &volume, "/no/such/path", NotFound, "volume_path"),
    ];
    for (row, id, path, code, names) in rows {
        let request = NodeGetVolumeStatsRequest { volume_id: id.into(), volume_path: path.into(), ..Default::default() };
        table.refused(&format!("stats: {row}"), client.node_get_volume_stats(request).await, code, names);
        let request = NodeExpandVolumeRequest { volume_id: id.into(), volume_path: path.into(), ..Default::default() };
        table.refused(&format!("expand: {row}"), client.node_expand_volume(request).await, code, names);
    }
    let expand = |range, capability| NodeExpandVolumeRequest {
        volume_id: volume.clone(),
        volume_path: staging.clone(),
        capacity_range: range,
        volume_capability: capability,
        ..Default::default()
    };
    let limit = client.node_expand_volume(expand(bytes(0, SIZE / 2), None)).await;
    table.refused("expand: limit below present", limit, OutOfRange, "limit_bytes");
    let required = client.node_expand_volume(expand(bytes(SIZE * 2, 0), None)).await;
    table.refused("expand: beyond the device", required, OutOfRange, "required_bytes");
    let negative = client.node_expand_volume(expand(bytes(-1, 0), None)).await;
    table.refused("expand: negative", negative, InvalidArgument, "required_bytes");
    let other = client.node_expand_volume(expand(None, Some(block(WRITER)))).await;
    table.refused("expand: block of a file system", other, InvalidArgument, "access_type");
    table.finish();
}
