//! CreateVolume.

use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use tonic::Code;

use crate::csi_harness::*;
use crate::{WRITER, big_map, elsewhere, flags, long, parameters, requisite};

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
