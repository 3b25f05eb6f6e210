//! NodePublishVolume and NodeUnpublishVolume.

use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use tonic::Code;

use crate::csi_harness::*;
use crate::{NOT_OURS, WRITER, flags};

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
