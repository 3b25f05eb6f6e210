//! NodeStageVolume and NodeUnstageVolume.

use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use tonic::Code;
use windlass::mount::Mounter;

use crate::csi_harness::*;
use crate::{NOT_OURS, WRITER, big_map, flags};

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
    assert_eq!(node.device(&volume), None, "the device of `volume`");
    assert_eq!(node.device(&raw), None, "the device of `raw`");
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
