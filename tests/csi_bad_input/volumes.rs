//! The other calls of the Controller service for volumes.

use std::collections::HashMap;

use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use tonic::Code;

use crate::csi_harness::*;
use crate::{NOT_OURS, WRITER, long, parameters};

#[tokio::test(flavor = "multi_thread")]
async fn volumes() {
    let node = Node::start().await;
    let mut table = Table::default();
    let mut client = node.controller.clone();
    let volume = node.volume("a", mount("ext4", WRITER)).await;

    let delete = |id: &str| DeleteVolumeRequest { volume_id: id.into(), ..Default::default() };
    table.refused("delete: no id", client.delete_volume(delete("")).await, Code::InvalidArgument, "volume_id");
    table.refused("delete: long id", client.delete_volume(delete(&long())).await, Code::InvalidArgument, "volume_id");
    table.refused("delete: elsewhere", client.delete_volume(delete(VOLUME_ELSEWHERE)).await, Code::Unavailable, "volume_id");
    for id in NOT_OURS {
        table.accepted("delete: not ours", client.delete_volume(delete(id)).await);
    }

    let validate = |id: &str, capabilities: Vec<VolumeCapability>| ValidateVolumeCapabilitiesRequest {
        volume_id: id.into(),
        volume_capabilities: capabilities,
        ..Default::default()
    };
    let good = || vec![mount("ext4", WRITER)];
    let result = client.validate_volume_capabilities(validate("", good())).await;
    table.refused("validate: no id", result, Code::InvalidArgument, "volume_id");
    let result = client.validate_volume_capabilities(validate(&volume, vec![])).await;
    table.refused("validate: none", result, Code::InvalidArgument, "volume_capabilities");
    let result = client.validate_volume_capabilities(validate("nothing", good())).await;
    table.refused("validate: unknown", result, Code::NotFound, "volume_id");
    let result = client.validate_volume_capabilities(validate(VOLUME_ELSEWHERE, good())).await;
    table.refused("validate: elsewhere", result, Code::Unavailable, "volume_id");
    for capabilities in [
        vec![mount("xfs", WRITER)],
        vec![mount("", Mode::MultiNodeMultiWriter)],
        vec![mount("", Mode::MultiNodeReaderOnly)],
        vec![mount("", WRITER), mount("", Mode::MultiNodeReaderOnly)],
        vec![VolumeCapability::default()],
    ] {
        let answer = table.accepted("validate", client.validate_volume_capabilities(validate(&volume, capabilities)).await);
        assert!(answer.is_some_and(|answer| answer.confirmed.is_none() && !answer.message.is_empty()));
    }
    // In either mode, and in any access mode that needs no more than what it was made for.
    let writers = [WRITER, Mode::SingleNodeSingleWriter, Mode::SingleNodeMultiWriter, Mode::SingleNodeReaderOnly];
    for capability in writers.into_iter().flat_map(|mode| [mount("", mode), mount("ext4", mode), block(mode)]) {
        let result = client.validate_volume_capabilities(validate(&volume, vec![capability])).await;
        assert!(table.accepted("validate", result).is_some_and(|answer| answer.confirmed.is_some()));
    }
    let other =
        ValidateVolumeCapabilitiesRequest { parameters: parameters(&[("checksum", "true")]), ..validate(&volume, good()) };
    let answer = table.accepted("validate: parameters", client.validate_volume_capabilities(other).await).unwrap();
    assert!(answer.confirmed.is_none() && answer.message.contains("parameters"));
    let answer = table.accepted("validate", client.validate_volume_capabilities(validate(&volume, good())).await).unwrap();
    assert!(answer.confirmed.is_some());

    let get = |id: &str| ControllerGetVolumeRequest { volume_id: id.into() };
    table.refused("get: no id", client.controller_get_volume(get("")).await, Code::InvalidArgument, "volume_id");
    table.refused("get: unknown", client.controller_get_volume(get("nothing")).await, Code::NotFound, "volume_id");
    table.refused("get: elsewhere", client.controller_get_volume(get(VOLUME_ELSEWHERE)).await, Code::Unavailable, "volume_id");

    let list = |max_entries, starting_token: &str| ListVolumesRequest { max_entries, starting_token: starting_token.into() };
    table.refused("list: negative", client.list_volumes(list(-1, "")).await, Code::InvalidArgument, "max_entries");
    table.refused("list: token", client.list_volumes(list(0, "invalid-token")).await, Code::Aborted, "starting_token");
    let answer = table.accepted("list: more than there are", client.list_volumes(list(100, "")).await).unwrap();
    assert_eq!(answer.entries.len(), 1, "entries of `answer.entries`");
    assert_eq!(answer.next_token.as_str(), "", "`answer.next_token`");

    let expand =
        |id: &str, range| ControllerExpandVolumeRequest { volume_id: id.into(), capacity_range: range, ..Default::default() };
    let rows: Vec<(&str, &str, Option<CapacityRange>, Code, &str)> = vec![
        ("no id", "", bytes(1, 0), Code::InvalidArgument, "volume_id"),
        ("no range", &volume, None, Code::InvalidArgument, "capacity_range"),
        ("empty range", &volume, bytes(0, 0), Code::InvalidArgument, "capacity_range"),
        ("negative", &volume, bytes(-1, 0), Code::InvalidArgument, "required_bytes"),
        ("limit below required", &volume, bytes(SIZE * 2, SIZE), Code::OutOfRange, "limit_bytes"),
        ("more than the pool", &volume, bytes(9 << 30, 0), Code::OutOfRange, "the whole pool"),
        ("limit below present", &volume, bytes(0, SIZE / 2), Code::OutOfRange, "limit_bytes"),
        ("too large", &volume, bytes(i64::MAX, 0), Code::OutOfRange, "required_bytes"),
        ("unknown", "nothing", bytes(SIZE, 0), Code::NotFound, "volume_id"),
        ("elsewhere", VOLUME_ELSEWHERE, bytes(SIZE, 0), Code::Unavailable, "volume_id"),
    ];
    for (row, id, range, code, names) in rows {
        table.refused(&format!("expand: {row}"), client.controller_expand_volume(expand(id, range)).await, code, names);
    }
    let shrink = table.accepted("expand: shrink", client.controller_expand_volume(expand(&volume, bytes(4096, 0))).await);
    assert_eq!(shrink.unwrap().capacity_bytes, SIZE);

    let capacity = |parameters, capabilities, place| GetCapacityRequest {
        parameters,
        volume_capabilities: capabilities,
        accessible_topology: place,
    };
    let none = HashMap::new;
    let result = client.get_capacity(capacity(parameters(&[("x", "y")]), vec![], None)).await;
    table.refused("capacity: unknown parameter", result, Code::InvalidArgument, "parameters");
    let zero = [
        capacity(none(), vec![], Some(topology(&[("topology.windlass.dev/node", "node-2")]))),
        capacity(none(), vec![], Some(topology(&[("example.com/zone", "a")]))),
        capacity(none(), vec![block(Mode::MultiNodeMultiWriter)], None),
        capacity(parameters(&[("pool", "/nowhere")]), vec![], None),
    ];
    for request in zero {
        assert_eq!(table.accepted("capacity: nothing", client.get_capacity(request).await).unwrap().available_capacity, 0);
    }
    // Of a protected class it is asked for without a claim, and no pod is scheduled where it is not told.
    let protected =
        [("protect", "hourly"), ("keepDaily", "7"), ("repositorySecret", "${pvc.namespace}/a"), ("restore", "latestOrFail")];
    let told = client.get_capacity(capacity(parameters(&protected), vec![], None)).await;
    assert!(table.accepted("capacity: protected", told).unwrap().available_capacity > 0);
    let sidecar = parameters(&[("csi.storage.k8s.io/fstype", "xfs"), ("csi.storage.k8s.io/pvc/name", "a")]);
    assert!(
        table.accepted("capacity", client.get_capacity(capacity(sidecar, vec![], None)).await).unwrap().available_capacity > 0
    );
    table.finish();
}
