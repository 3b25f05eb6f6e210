//! CreateSnapshot, DeleteSnapshot, GetSnapshot and ListSnapshots.

use csi_proto::csi::v1::*;
use tonic::Code;

use crate::csi_harness::*;
use crate::{NOT_OURS, WRITER, big_map, elsewhere, long, parameters};

#[tokio::test(flavor = "multi_thread")]
async fn snapshots() {
    let node = Node::start().await;
    let mut table = Table::default();
    let mut client = node.controller.clone();
    let volume = node.volume("a", mount("ext4", WRITER)).await;
    let other = node.volume("b", mount("ext4", WRITER)).await;
    let snapshot = node.snapshot("s", &volume).await.unwrap().snapshot_id;

    let create = |name: &str, source: &str| CreateSnapshotRequest {
        name: name.into(),
        source_volume_id: source.into(),
        ..Default::default()
    };
    let rows: Vec<(&str, CreateSnapshotRequest, Code, &str)> = vec![
        ("no name", create("", &volume), Code::InvalidArgument, "name"),
        ("long name", create(&long(), &volume), Code::InvalidArgument, "name"),
        ("control character", create("a\u{1}", &volume), Code::InvalidArgument, "name"),
        ("no source", create("t", ""), Code::InvalidArgument, "source_volume_id"),
        ("unknown source", create("t", "nothing"), Code::NotFound, "source_volume_id"),
        ("source elsewhere", create("t", VOLUME_ELSEWHERE), Code::Unavailable, "source_volume_id"),
        ("same name, other source", create("s", &other), Code::AlreadyExists, "`s`"),
        (
            "unknown parameter",
            CreateSnapshotRequest { parameters: parameters(&[("x", "y")]), ..create("t", &volume) },
            Code::InvalidArgument,
            "parameters",
        ),
        ("large secrets", CreateSnapshotRequest { secrets: big_map(), ..create("t", &volume) }, Code::InvalidArgument, "secrets"),
        (
            "topology",
            CreateSnapshotRequest { accessibility_requirements: elsewhere(), ..create("t", &volume) },
            Code::ResourceExhausted,
            "requisite",
        ),
    ];
    for (row, request, code, names) in rows {
        table.refused(&format!("create: {row}"), client.create_snapshot(request).await, code, names);
    }

    let delete = |id: &str| DeleteSnapshotRequest { snapshot_id: id.into(), ..Default::default() };
    table.refused("delete: no id", client.delete_snapshot(delete("")).await, Code::InvalidArgument, "snapshot_id");
    let result = client.delete_snapshot(delete(SNAPSHOT_ELSEWHERE)).await;
    table.refused("delete: elsewhere", result, Code::Unavailable, "snapshot_id");
    for id in NOT_OURS {
        table.accepted("delete: not ours", client.delete_snapshot(delete(id)).await);
    }

    let get = |id: &str| GetSnapshotRequest { snapshot_id: id.into(), ..Default::default() };
    table.refused("get: no id", client.get_snapshot(get("")).await, Code::InvalidArgument, "snapshot_id");
    table.refused("get: unknown", client.get_snapshot(get("nothing")).await, Code::NotFound, "snapshot_id");
    table.refused("get: elsewhere", client.get_snapshot(get(SNAPSHOT_ELSEWHERE)).await, Code::Unavailable, "snapshot_id");

    let list = ListSnapshotsRequest::default;
    let negative = ListSnapshotsRequest { max_entries: -1, ..list() };
    table.refused("list: negative", client.list_snapshots(negative).await, Code::InvalidArgument, "max_entries");
    let token = ListSnapshotsRequest { starting_token: "invalid-token".into(), ..list() };
    table.refused("list: token", client.list_snapshots(token).await, Code::Aborted, "starting_token");
    let away = ListSnapshotsRequest { snapshot_id: SNAPSHOT_ELSEWHERE.into(), ..list() };
    table.refused("list: elsewhere", client.list_snapshots(away).await, Code::Unavailable, "snapshot_id");
    for request in [
        ListSnapshotsRequest { snapshot_id: "nothing".into(), ..list() },
        ListSnapshotsRequest { source_volume_id: "nothing".into(), ..list() },
        ListSnapshotsRequest { source_volume_id: other.clone(), ..list() },
        ListSnapshotsRequest { snapshot_id: snapshot.clone(), source_volume_id: other.clone(), ..list() },
    ] {
        let answer = table.accepted("list: nothing", client.list_snapshots(request).await).unwrap();
        assert!(answer.entries.is_empty());
    }
    table.finish();
}
