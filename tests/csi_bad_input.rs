//! Every wrong request has its code, and words that name the field.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly, wherever it does")]

mod csi_harness;

use std::collections::HashMap;

use csi_harness::*;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use tonic::Code;
use windlass::mount::Mounter;

const WRITER: Mode = Mode::SingleNodeWriter;
const NOT_OURS: [&str; 4] = ["fake-vol-id", "../../etc/passwd", "v-x-y", "pvc/1"];

fn long() -> String {
    "x".repeat(129)
}

fn big_map() -> HashMap<String, String> {
    HashMap::from([("key".to_owned(), "x".repeat(4096))])
}

fn parameters(entries: &[(&str, &str)]) -> HashMap<String, String> {
    entries.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn flags(flags: &[&str]) -> VolumeCapability {
    let mount =
        volume_capability::MountVolume { mount_flags: flags.iter().map(|&flag| flag.to_owned()).collect(), ..Default::default() };
    VolumeCapability { access_type: Some(volume_capability::AccessType::Mount(mount)), access_mode: mode(WRITER) }
}

#[tokio::test(flavor = "multi_thread")]
async fn create_volume() {
    let node = Node::start().await;
    let mut table = Table::default();
    let existing = node.volume("existing", mount("ext4", WRITER)).await;
    let snapshot = node.snapshot("snap", &existing).await.unwrap().snapshot_id;
    let base = || new_volume("new", mount("", WRITER));
    let with = |capability: VolumeCapability| new_volume("new", capability);
    let none = VolumeCapability::default();

    use Code::{AlreadyExists, InvalidArgument, NotFound, OutOfRange, ResourceExhausted, Unavailable};
    let rows: Vec<(&str, CreateVolumeRequest, Code, &str)> = vec![
        ("no name", CreateVolumeRequest { name: String::new(), ..base() }, InvalidArgument, "name"),
        ("long name", CreateVolumeRequest { name: long(), ..base() }, InvalidArgument, "name"),
        ("control character", CreateVolumeRequest { name: "a\u{7f}".into(), ..base() }, InvalidArgument, "name"),
        ("NUL", CreateVolumeRequest { name: "a\0b".into(), ..base() }, InvalidArgument, "name"),
        (
            "no capabilities",
            CreateVolumeRequest { volume_capabilities: vec![], ..base() },
            InvalidArgument,
            "volume_capabilities",
        ),
        (
            "no access mode",
            with(VolumeCapability { access_mode: None, ..mount("", WRITER) }),
            InvalidArgument,
            "volume_capabilities[0].access_mode",
        ),
        ("UNKNOWN access mode", with(mount("", Mode::Unknown)), InvalidArgument, "access_mode"),
        (
            "undefined access mode",
            with(VolumeCapability { access_mode: Some(volume_capability::AccessMode { mode: 99 }), ..mount("", WRITER) }),
            InvalidArgument,
            "access_mode",
        ),
        ("no access type", with(VolumeCapability { access_mode: mode(WRITER), ..none }), InvalidArgument, "access_type"),
        ("unknown file system", with(mount("ntfs", WRITER)), InvalidArgument, "fs_type"),
        ("large mount flags", with(flags(&[&"x".repeat(5000)])), InvalidArgument, "mount_flags"),
        ("writers on several nodes", with(mount("", Mode::MultiNodeMultiWriter)), InvalidArgument, "access_mode"),
        ("a writer beside nodes", with(block(Mode::MultiNodeSingleWriter)), InvalidArgument, "access_mode"),
        ("readers of nothing", with(mount("", Mode::MultiNodeReaderOnly)), InvalidArgument, "access_mode"),
        (
            "block and mount",
            CreateVolumeRequest { volume_capabilities: vec![mount("", WRITER), block(WRITER)], ..base() },
            InvalidArgument,
            "volume_capabilities",
        ),
        ("negative size", CreateVolumeRequest { capacity_range: bytes(-1, 0), ..base() }, InvalidArgument, "required_bytes"),
        ("negative limit", CreateVolumeRequest { capacity_range: bytes(0, -1), ..base() }, InvalidArgument, "limit_bytes"),
        ("empty range", CreateVolumeRequest { capacity_range: bytes(8192, 4096), ..base() }, OutOfRange, "limit_bytes"),
        ("too large", CreateVolumeRequest { capacity_range: bytes(i64::MAX, 0), ..base() }, OutOfRange, "required_bytes"),
        ("smaller than mkfs takes", CreateVolumeRequest { capacity_range: bytes(0, 4096), ..base() }, OutOfRange, "size"),
        (
            "smaller than XFS takes",
            CreateVolumeRequest { capacity_range: bytes(1 << 20, 2 << 20), ..with(mount("xfs", WRITER)) },
            OutOfRange,
            "size",
        ),
        ("not alignable", CreateVolumeRequest { capacity_range: bytes(SIZE + 1, SIZE + 1), ..base() }, OutOfRange, "size"),
        (
            "unknown parameter",
            CreateVolumeRequest { parameters: parameters(&[("fsType", "ext4")]), ..base() },
            InvalidArgument,
            "fsType",
        ),
        (
            "bad value",
            CreateVolumeRequest { parameters: parameters(&[("checksum", "maybe")]), ..base() },
            InvalidArgument,
            "parameters.checksum",
        ),
        (
            "bad pool",
            CreateVolumeRequest { parameters: parameters(&[("pool", "P")]), ..base() },
            InvalidArgument,
            "parameters.pool",
        ),
        (
            "pool name of another node",
            CreateVolumeRequest { parameters: parameters(&[("pool", "nowhere")]), ..base() },
            ResourceExhausted,
            "parameters.pool",
        ),
        (
            "pool of another node",
            CreateVolumeRequest { parameters: parameters(&[("pool", "/nowhere")]), ..base() },
            ResourceExhausted,
            "parameters.pool",
        ),
        ("large parameters", CreateVolumeRequest { parameters: big_map(), ..base() }, InvalidArgument, "parameters"),
        ("large secrets", CreateVolumeRequest { secrets: big_map(), ..base() }, InvalidArgument, "secrets"),
        (
            "mutable parameter",
            CreateVolumeRequest { mutable_parameters: parameters(&[("iops", "5")]), ..base() },
            InvalidArgument,
            "mutable_parameters",
        ),
        (
            "two file systems",
            CreateVolumeRequest {
                parameters: parameters(&[("csi.storage.k8s.io/fstype", "xfs")]),
                ..with(mount("ext4", WRITER))
            },
            InvalidArgument,
            "fstype",
        ),
        (
            "same name, other size",
            CreateVolumeRequest { capacity_range: bytes(SIZE * 2, 0), ..existing_request() },
            AlreadyExists,
            "existing",
        ),
        ("same name, other mode", new_volume("existing", block(WRITER)), AlreadyExists, "existing"),
        ("same name, other file system", new_volume("existing", mount("xfs", WRITER)), AlreadyExists, "existing"),
        (
            "same name, other access",
            new_volume("existing", mount("ext4", Mode::SingleNodeMultiWriter)),
            AlreadyExists,
            "existing",
        ),
        (
            "same name, other parameters",
            CreateVolumeRequest { parameters: parameters(&[("checksum", "false")]), ..existing_request() },
            AlreadyExists,
            "existing",
        ),
        (
            "same name, other source",
            CreateVolumeRequest { volume_content_source: from_snapshot(&snapshot), ..existing_request() },
            AlreadyExists,
            "existing",
        ),
        (
            "same name, other topology",
            CreateVolumeRequest { accessibility_requirements: elsewhere(), ..existing_request() },
            AlreadyExists,
            "existing",
        ),
        (
            "source of no kind",
            CreateVolumeRequest { volume_content_source: Some(VolumeContentSource::default()), ..base() },
            InvalidArgument,
            "volume_content_source",
        ),
        (
            "empty snapshot",
            CreateVolumeRequest { volume_content_source: from_snapshot(""), ..base() },
            InvalidArgument,
            "snapshot_id",
        ),
        ("empty volume", CreateVolumeRequest { volume_content_source: from_volume(""), ..base() }, InvalidArgument, "volume_id"),
        (
            "foreign snapshot",
            CreateVolumeRequest { volume_content_source: from_snapshot("nothing"), ..base() },
            NotFound,
            "snapshot_id",
        ),
        (
            "foreign volume",
            CreateVolumeRequest { volume_content_source: from_volume("nothing"), ..base() },
            NotFound,
            "volume_id",
        ),
        (
            "snapshot elsewhere",
            CreateVolumeRequest { volume_content_source: from_snapshot(SNAPSHOT_ELSEWHERE), ..base() },
            Unavailable,
            "snapshot_id",
        ),
        (
            "smaller than its source",
            CreateVolumeRequest { capacity_range: bytes(SIZE / 2, 0), volume_content_source: from_snapshot(&snapshot), ..base() },
            OutOfRange,
            "required_bytes",
        ),
        (
            "another file system than its source",
            CreateVolumeRequest { volume_content_source: from_volume(&existing), ..with(mount("xfs", WRITER)) },
            InvalidArgument,
            "fs_type",
        ),
        (
            "topology of another node",
            CreateVolumeRequest { accessibility_requirements: elsewhere(), ..base() },
            ResourceExhausted,
            "requisite",
        ),
        (
            "foreign topology key",
            CreateVolumeRequest { accessibility_requirements: requisite(&[("example.com/zone", "a")]), ..base() },
            ResourceExhausted,
            "requisite",
        ),
    ];
    for (row, request, code, names) in rows {
        table.refused(row, node.controller.clone().create_volume(request).await, code, names);
    }
    table.finish();
    // None of them made anything.
    let list = node.controller.clone().list_volumes(ListVolumesRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.entries.len(), 1);
}

fn existing_request() -> CreateVolumeRequest {
    new_volume("existing", mount("ext4", WRITER))
}

fn requisite(entries: &[(&str, &str)]) -> Option<TopologyRequirement> {
    Some(TopologyRequirement { requisite: vec![topology(entries)], preferred: vec![] })
}

fn elsewhere() -> Option<TopologyRequirement> {
    requisite(&[("topology.windlass.dev/node", "node-2")])
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_were_deleted_are_not_found() {
    let node = Node::start().await;
    let volume = node.volume("a", mount("ext4", WRITER)).await;
    let snapshot = node.snapshot("s", &volume).await.unwrap().snapshot_id;
    node.delete_snapshot(&snapshot).await.unwrap();
    node.delete(&volume).await.unwrap();
    for source in [from_snapshot(&snapshot), from_volume(&volume)] {
        let request = CreateVolumeRequest { volume_content_source: source, ..new_volume("b", mount("", WRITER)) };
        refused(node.create(request).await, Code::NotFound);
    }
    refused(node.snapshot("t", &volume).await, Code::NotFound);
}

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
    assert_eq!((answer.entries.len(), answer.next_token.as_str()), (1, ""));

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
    let sidecar = parameters(&[("csi.storage.k8s.io/fstype", "xfs"), ("csi.storage.k8s.io/pvc/name", "a")]);
    assert!(
        table.accepted("capacity", client.get_capacity(capacity(sidecar, vec![], None)).await).unwrap().available_capacity > 0
    );
    table.finish();
}

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

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_advertised_is_not_implemented() {
    let node = Node::start().await;
    let mut table = Table::default();
    let (mut controller, mut client) = (node.controller.clone(), node.node.clone());
    let code = Code::Unimplemented;
    table.refused("publish", controller.controller_publish_volume(ControllerPublishVolumeRequest::default()).await, code, "");
    table.refused(
        "unpublish",
        controller.controller_unpublish_volume(ControllerUnpublishVolumeRequest::default()).await,
        code,
        "",
    );
    table.refused("modify", controller.controller_modify_volume(ControllerModifyVolumeRequest::default()).await, code, "");
    table.refused("health", controller.controller_get_volume_health(ControllerGetVolumeHealthRequest::default()).await, code, "");
    let result = controller.controller_list_volume_health(ControllerListVolumeHealthRequest::default()).await;
    table.refused("list health", result, code, "");
    table.refused("node health", client.node_get_volume_health(NodeGetVolumeHealthRequest::default()).await, code, "");
    table.refused("storage health", client.node_get_storage_health(NodeGetStorageHealthRequest::default()).await, code, "");
    table.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn node_stage_and_unstage() {
    let node = Node::start().await;
    let mut table = Table::default();
    let mut client = node.node.clone();
    let volume = node.volume("a", mount("ext4", WRITER)).await;
    let raw = node.volume("raw", block(WRITER)).await;
    let read_only = node.volume("read-only", mount("ext4", Mode::SingleNodeReaderOnly)).await;
    let path = node.staging("staging");
    let capability = || mount("ext4", WRITER);
    std::os::unix::fs::symlink(&path, node.path("link")).unwrap();

    use Code::{FailedPrecondition, InvalidArgument, NotFound, Unavailable};
    let rows: Vec<(&str, NodeStageVolumeRequest, Code, &str)> = vec![
        ("no id", stage("", &path, capability()), InvalidArgument, "volume_id"),
        ("no path", stage(&volume, "", capability()), InvalidArgument, "staging_target_path"),
        ("relative path", stage(&volume, "a/b", capability()), InvalidArgument, "staging_target_path"),
        ("NUL in the path", stage(&volume, "/a\0b", capability()), InvalidArgument, "staging_target_path"),
        ("parent in the path", stage(&volume, &format!("{path}/../x"), capability()), InvalidArgument, "staging_target_path"),
        ("outside of the root", stage(&volume, "/etc", capability()), InvalidArgument, "staging_target_path"),
        ("symbolic link", stage(&volume, &node.path("link"), capability()), InvalidArgument, "staging_target_path"),
        ("missing directory", stage(&volume, &node.path("none"), capability()), FailedPrecondition, "staging_target_path"),
        (
            "no capability",
            NodeStageVolumeRequest { volume_capability: None, ..stage(&volume, &path, capability()) },
            InvalidArgument,
            "volume_capability",
        ),
        (
            "no access mode",
            stage(&volume, &path, VolumeCapability { access_mode: None, ..capability() }),
            InvalidArgument,
            "access_mode",
        ),
        ("unknown", stage("nothing", &path, capability()), NotFound, "volume_id"),
        ("elsewhere", stage(VOLUME_ELSEWHERE, &path, capability()), Unavailable, "volume_id"),
        (
            "readers of several nodes",
            stage(&volume, &path, mount("ext4", Mode::MultiNodeReaderOnly)),
            FailedPrecondition,
            "access_mode",
        ),
        ("other file system", stage(&volume, &path, mount("xfs", WRITER)), FailedPrecondition, "access_type"),
        ("writer of what was made for readers", stage(&read_only, &path, capability()), FailedPrecondition, "access_mode"),
        ("denied flag", stage(&volume, &path, flags(&["loop"])), InvalidArgument, "mount_flags"),
        (
            "large context",
            NodeStageVolumeRequest { volume_context: big_map(), ..stage(&volume, &path, capability()) },
            InvalidArgument,
            "volume_context",
        ),
    ];
    for (row, request, code, names) in rows {
        table.refused(&format!("stage: {row}"), client.node_stage_volume(request).await, code, names);
    }
    // None of them left a device or a mount.
    assert_eq!((node.device(&volume), node.device(&raw)), (None, None));
    assert!(node.mounter.mounts().is_ok_and(|mounts| mounts.is_empty()));

    node.stage(&volume, &path, capability()).await.unwrap();
    for (row, other) in [("block", block(WRITER)), ("flags", flags(&["noatime"])), ("file system", mount("xfs", WRITER))] {
        let result = client.node_stage_volume(stage(&volume, &path, other)).await;
        table.refused(&format!("stage again: other {row}"), result, Code::AlreadyExists, "volume_id");
    }
    for (row, id, here, other) in [("raw device", &volume, "raw", block(WRITER)), ("file system", &raw, "mounted", capability())]
    {
        if row == "file system" {
            node.stage(&raw, &node.staging("raw-first"), block(WRITER)).await.unwrap();
        }
        let result = client.node_stage_volume(stage(id, &node.staging(here), other)).await;
        table.refused(&format!("stage: also as a {row}"), result, FailedPrecondition, "access_type");
    }
    let second = node.volume("b", capability()).await;
    let result = client.node_stage_volume(stage(&second, &path, capability())).await;
    table.refused("stage: occupied", result, FailedPrecondition, "staging_target_path");

    let unstage = |id: &str, path: &str| NodeUnstageVolumeRequest { volume_id: id.into(), staging_target_path: path.into() };
    table.refused("unstage: no id", client.node_unstage_volume(unstage("", &path)).await, InvalidArgument, "volume_id");
    let result = client.node_unstage_volume(unstage(&volume, "")).await;
    table.refused("unstage: no path", result, InvalidArgument, "staging_target_path");
    let result = client.node_unstage_volume(unstage(VOLUME_ELSEWHERE, &path)).await;
    table.refused("unstage: elsewhere, and something else is there", result, FailedPrecondition, "staging_target_path");
    let result = client.node_unstage_volume(unstage(VOLUME_ELSEWHERE, &node.staging("empty"))).await;
    table.accepted("unstage: elsewhere, and nothing is there", result);
    let result = client.node_unstage_volume(unstage(&second, &path)).await;
    table.refused("unstage: of another volume", result, FailedPrecondition, "staging_target_path");
    for id in NOT_OURS {
        table.accepted("unstage: not ours", client.node_unstage_volume(unstage(id, &path)).await);
    }
    table.finish();
    assert_eq!(node.mounted_at(&path), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn node_publish_and_unpublish() {
    let node = Node::start().await;
    let mut table = Table::default();
    let mut client = node.node.clone();
    let capability = || mount("ext4", WRITER);
    let volume = node.volume("a", capability()).await;
    let unstaged = node.volume("b", capability()).await;
    let (staging, target) = (node.staging("staging"), node.path("target"));
    node.stage(&volume, &staging, capability()).await.unwrap();
    let directory = node.staging("elsewhere");
    std::os::unix::fs::symlink(&directory, node.path("link")).unwrap();

    use Code::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable};
    let base = || publish(&volume, &staging, &target, capability());
    let at = |target: &str| publish(&volume, &staging, target, capability());
    let rows: Vec<(&str, NodePublishVolumeRequest, Code, &str)> = vec![
        ("no id", publish("", &staging, &target, capability()), InvalidArgument, "volume_id"),
        ("no target", at(""), InvalidArgument, "target_path"),
        ("relative target", at("x"), InvalidArgument, "target_path"),
        ("outside of the root", at("/tmp/x"), InvalidArgument, "target_path"),
        ("symbolic link", at(&node.path("link")), InvalidArgument, "target_path"),
        ("link on the way", at(&format!("{}/x", node.path("link"))), InvalidArgument, "target_path"),
        ("missing parent", at(&format!("{}/none/x", directory)), FailedPrecondition, "target_path"),
        ("no capability", NodePublishVolumeRequest { volume_capability: None, ..base() }, InvalidArgument, "volume_capability"),
        ("no staging path", publish(&volume, "", &target, capability()), FailedPrecondition, "staging_target_path"),
        ("not staged", publish(&unstaged, &staging, &target, capability()), FailedPrecondition, "staging_target_path"),
        (
            "empty staging directory",
            publish(&volume, &directory, &target, capability()),
            FailedPrecondition,
            "staging_target_path",
        ),
        ("unknown", publish("nothing", &staging, &target, capability()), NotFound, "volume_id"),
        ("elsewhere", publish(VOLUME_ELSEWHERE, &staging, &target, capability()), Unavailable, "volume_id"),
        ("raw, of a file system", publish(&volume, &staging, &target, block(WRITER)), FailedPrecondition, "staging_target_path"),
        ("other file system", publish(&volume, &staging, &target, mount("xfs", WRITER)), FailedPrecondition, "access_type"),
        (
            "readers of several nodes",
            publish(&volume, &staging, &target, mount("ext4", Mode::MultiNodeReaderOnly)),
            FailedPrecondition,
            "access_mode",
        ),
        ("denied flag", publish(&volume, &staging, &target, flags(&["remount"])), InvalidArgument, "mount_flags"),
    ];
    for (row, request, code, names) in rows {
        table.refused(&format!("publish: {row}"), client.node_publish_volume(request).await, code, names);
    }
    assert!(!std::path::Path::new(&target).exists());

    node.publish(base()).await.unwrap();
    let result = client.node_publish_volume(NodePublishVolumeRequest { readonly: true, ..base() }).await;
    table.refused("publish again: read-only", result, AlreadyExists, "volume_id");
    let result = client.node_publish_volume(at(&node.path("second"))).await;
    table.refused("publish: a second target", result, FailedPrecondition, "access_mode");

    let unpublish = |id: &str, path: &str| NodeUnpublishVolumeRequest { volume_id: id.into(), target_path: path.into() };
    table.refused("unpublish: no id", client.node_unpublish_volume(unpublish("", &target)).await, InvalidArgument, "volume_id");
    table.refused(
        "unpublish: no path",
        client.node_unpublish_volume(unpublish(&volume, "")).await,
        InvalidArgument,
        "target_path",
    );
    let result = client.node_unpublish_volume(unpublish(VOLUME_ELSEWHERE, &target)).await;
    table.refused("unpublish: elsewhere, and something else is there", result, FailedPrecondition, "target_path");
    let empty = node.staging("empty");
    let result = client.node_unpublish_volume(unpublish(VOLUME_ELSEWHERE, &empty)).await;
    table.accepted("unpublish: elsewhere, and nothing is there", result);
    assert!(!std::path::Path::new(&empty).exists());
    let result = client.node_unpublish_volume(unpublish(VOLUME_ELSEWHERE, "/etc")).await;
    table.refused("unpublish: elsewhere, outside of the root", result, InvalidArgument, "target_path");
    let result = client.node_unpublish_volume(unpublish(&unstaged, &target)).await;
    table.refused("unpublish: of another volume", result, FailedPrecondition, "target_path");
    for id in NOT_OURS {
        table.accepted("unpublish: not ours", client.node_unpublish_volume(unpublish(id, &target)).await);
    }
    assert_eq!(node.mounted_at(&target), 1);

    refused(node.delete(&volume).await, FailedPrecondition);
    refused(node.unstage(&volume, &staging).await, FailedPrecondition);
    table.finish();
}

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

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_given_no_pools_is_well_and_makes_nothing() {
    let mounter = std::sync::Arc::new(windlass::mount::memory::MemoryMounter::new());
    let directory = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let node = Node::with(directory, mounter, vec![], "boot").await;
    assert_eq!(node.identity.clone().probe(ProbeRequest {}).await.unwrap().into_inner().ready, Some(true));
    refused(node.create(new_volume("a", mount("", WRITER))).await, Code::ResourceExhausted);
    let capacity = node.controller.clone().get_capacity(GetCapacityRequest::default()).await.unwrap().into_inner();
    assert_eq!(capacity.available_capacity, 0);
    assert!(node.identity.clone().get_plugin_info(GetPluginInfoRequest {}).await.is_ok());
}
