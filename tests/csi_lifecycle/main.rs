//! Volumes and snapshots from their creation to their end, each call repeated, across restarts, reboots and races.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly, wherever it does")]

#[path = "../support/csi_harness.rs"]
mod csi_harness;

mod create;
mod expand;
mod gate;
mod list;
mod publish;
mod serve;
mod snapshot;
mod stage;

use std::path::Path;

use csi_harness::*;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use tonic::Code;
use windlass::mount::memory::Verb;
use windlass::mount::{Mounter, Probe};
use windlass::types::{Access, FormatState, FsType, Object, VolumeHandle};

const WRITER: Mode = Mode::SingleNodeWriter;
const SHARED: Mode = Mode::SingleNodeMultiWriter;
const ALONE: Mode = Mode::SingleNodeSingleWriter;

/// A volume with a file system, staged at `name`.
async fn staged(node: &Node, name: &str, capability: VolumeCapability) -> (String, String) {
    let (volume, path) = (node.volume(name, capability.clone()).await, node.staging(name));
    node.stage(&volume, &path, capability).await.unwrap();
    (volume, path)
}

/// Puts the source's content on the copy's device, as a real pool does.
fn share_content(node: &Node, source: &Path, copy: &str) -> std::path::PathBuf {
    let handle: VolumeHandle = copy.parse().unwrap();
    let device = node.pools[0].attach(Object::Volume(handle.volume), Access::ReadWrite).unwrap().device;
    node.mounter.copy_content(source, &device);
    device
}

fn format_of(node: &Node, volume: &str) -> FormatState {
    let handle: VolumeHandle = volume.parse().unwrap();
    node.pools[0].volume(handle.volume).unwrap().unwrap().format
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_lives_and_every_call_may_be_repeated() {
    let node = Node::start().await;
    let capability = || mount("xfs", WRITER);
    let request = CreateVolumeRequest { capacity_range: bytes(512 << 20, 0), ..new_volume("a", capability()) };
    let created = node.create(request.clone()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(node.create(request.clone()).await.unwrap(), created);
    }
    let volume = created.volume_id;
    let (staging, target) = (node.staging("staging"), node.path("target"));
    for _ in 0..3 {
        node.stage(&volume, &staging, capability()).await.unwrap();
    }
    assert_eq!(node.mounted_at(&staging), 1, "mounts at `staging`");
    assert_eq!(node.mounter.count(Verb::MakeFileSystem), 1, "calls of `MakeFileSystem`");
    assert_eq!(format_of(&node, &volume), FormatState::Content);
    for _ in 0..3 {
        node.publish(publish(&volume, &staging, &target, capability())).await.unwrap();
    }
    assert_eq!(node.mounted_at(&target), 1);
    for path in [&staging, &target] {
        let request = NodeGetVolumeStatsRequest { volume_id: volume.clone(), volume_path: path.clone(), ..Default::default() };
        let usage = node.node.clone().node_get_volume_stats(request).await.unwrap().into_inner().usage;
        assert_eq!(usage.len(), 2);
        assert!(usage.iter().all(|usage| usage.total > 0 && usage.used >= 0 && usage.available >= 0));
    }
    let listed = node.controller.clone().list_volumes(ListVolumesRequest::default()).await.unwrap().into_inner();
    // Belongs to drivers that publish in the controller.
    assert_eq!(listed.entries[0].status, None);
    refused(node.delete(&volume).await, Code::FailedPrecondition);

    for _ in 0..3 {
        node.unpublish(&volume, &target).await.unwrap();
    }
    assert!(!Path::new(&target).exists());
    refused(node.delete(&volume).await, Code::FailedPrecondition);
    for _ in 0..3 {
        node.unstage(&volume, &staging).await.unwrap();
    }
    assert_eq!(node.device(&volume), None);
    for _ in 0..3 {
        node.delete(&volume).await.unwrap();
    }
    node.unpublish(&volume, &target).await.unwrap();
    node.unstage(&volume, &staging).await.unwrap();
    assert!(node.mounter.mounts().unwrap().is_empty());
    assert!(node.pools[0].volumes().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_block_volume_lives_and_its_mounts_never_stack() {
    let node = Node::start().await;
    let capability = || block(WRITER);
    let (volume, staging) = staged(&node, "raw", capability()).await;
    assert_eq!(format_of(&node, &volume), FormatState::Never);
    let target = node.path("device");
    for _ in 0..3 {
        node.stage(&volume, &staging, capability()).await.unwrap();
        node.publish(publish(&volume, &staging, &target, capability())).await.unwrap();
    }
    assert_eq!(node.mounted_at(&target), 1, "mounts at `target`");
    assert_eq!(node.mounted_at(&staging), 0, "mounts at `staging`");
    assert!(Path::new(&target).is_file());
    // Given out writable: from now on it has content, whatever a probe says.
    assert_eq!(format_of(&node, &volume), FormatState::Content);
    refused(node.publish(publish(&volume, &staging, &node.path("second"), capability())).await, Code::FailedPrecondition);
    let request = NodePublishVolumeRequest { readonly: true, ..publish(&volume, &staging, &target, capability()) };
    refused(node.publish(request).await, Code::AlreadyExists);
    for path in [&staging, &target] {
        let request = NodeGetVolumeStatsRequest { volume_id: volume.clone(), volume_path: path.clone(), ..Default::default() };
        let usage = node.node.clone().node_get_volume_stats(request).await.unwrap().into_inner().usage;
        assert_eq!(usage.len(), 1, "entries of `usage`");
        assert_eq!(usage[0].total, SIZE, "`usage[0].total`");
    }
    refused(node.unstage(&volume, &staging).await, Code::FailedPrecondition);
    for _ in 0..3 {
        node.unpublish(&volume, &target).await.unwrap();
    }
    for _ in 0..3 {
        node.unstage(&volume, &staging).await.unwrap();
    }
    assert_eq!(node.device(&volume), None, "the device of `volume`");
    assert!(!Path::new(&target).exists(), "`target` exists all the same");
    node.delete(&volume).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_process_changes_nothing() {
    let node = Node::start().await;
    let (volume, staging) = staged(&node, "a", mount("ext4", WRITER)).await;
    let target = node.path("target");
    let request = || publish(&volume, &staging, &target, mount("ext4", WRITER));
    node.publish(request()).await.unwrap();
    drop(node.stage(&volume, &staging, mount("ext4", WRITER)).await);
    let boot = windlass::mount::boot_id().unwrap();
    // Another socket, for the name of the first is taken while it is served.
    let again = Node::with_socket(&node, "second.sock", &boot).await;
    again.publish(request()).await.unwrap();
    again.stage(&volume, &staging, mount("ext4", WRITER)).await.unwrap();
    refused(again.publish(publish(&volume, &staging, &node.path("t2"), mount("ext4", WRITER))).await, Code::FailedPrecondition);
    assert_eq!(again.mounted_at(&target), 1, "mounts at `target`");
    assert_eq!(again.mounted_at(&staging), 1, "mounts at `staging`");
    again.unpublish(&volume, &target).await.unwrap();
    again.unstage(&volume, &staging).await.unwrap();
    again.delete(&volume).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_another_boot_records_are_void_and_nothing_is_formatted_again() {
    let node = Node::start().await;
    let capability = || mount("ext4", ALONE);
    let (volume, staging) = staged(&node, "a", capability()).await;
    let (raw, raw_staging) = staged(&node, "raw", block(ALONE)).await;
    let target = node.path("target");
    node.publish(publish(&volume, &staging, &target, capability())).await.unwrap();
    // The machine reboots: mounts and devices are gone, the content is not.
    let content = node.device(&volume).unwrap();
    node.mounter.reboot();
    for id in [&volume, &raw] {
        let handle: VolumeHandle = id.parse().unwrap();
        node.pools[0].detach(Object::Volume(handle.volume)).unwrap();
    }
    let after = node.restarted("another-boot").await;
    refused(after.publish(publish(&volume, &staging, &target, capability())).await, Code::FailedPrecondition);
    refused(after.publish(publish(&raw, &raw_staging, &target, block(ALONE))).await, Code::FailedPrecondition);
    let request = NodeGetVolumeStatsRequest { volume_id: volume.clone(), volume_path: staging.clone(), ..Default::default() };
    refused(after.node.clone().node_get_volume_stats(request).await, Code::NotFound);

    after.stage(&volume, &staging, capability()).await.unwrap();
    assert_eq!(after.mounter.count(Verb::MakeFileSystem), 1);
    assert_eq!(after.device(&volume), Some(content));
    // The target of before counts no more against the one allowed.
    let second = after.path("target-2");
    after.publish(publish(&volume, &staging, &second, capability())).await.unwrap();
    after.unpublish(&volume, &target).await.unwrap();
    assert!(!Path::new(&target).exists());
    after.unpublish(&volume, &second).await.unwrap();
    after.unstage(&volume, &staging).await.unwrap();
    after.delete(&volume).await.unwrap();
    // Staged before the boot only, so free to go.
    after.delete(&raw).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_volume_is_a_raw_device_and_a_file_system_in_turn() {
    let node = Node::start().await;
    // As a restore of a backup does it: a volume made for a raw device gets the bytes of a file system.
    let volume = node.volume("a", block(WRITER)).await;
    let raw = async |number: u32| {
        let (staging, target) = (node.path(&format!("raw-{number}")), node.path(&format!("device-{number}")));
        std::fs::create_dir_all(&staging).unwrap();
        node.stage(&volume, &staging, block(WRITER)).await.unwrap();
        node.publish(publish(&volume, &staging, &target, block(WRITER))).await.unwrap();
        // Not both at a time, whatever the path.
        let other = node.staging("other");
        refused(node.stage(&volume, &other, mount("xfs", WRITER)).await, Code::FailedPrecondition);
        let device = node.device(&volume).unwrap();
        let request = NodeGetVolumeStatsRequest { volume_id: volume.clone(), volume_path: target.clone(), ..Default::default() };
        let usage = node.node.clone().node_get_volume_stats(request).await.unwrap().into_inner().usage;
        assert_eq!(usage.len(), 1, "entries of `usage`");
        assert_eq!(usage[0].total, SIZE, "`usage[0].total`");
        (staging, target, device)
    };
    let (staging, target, device) = raw(1).await;
    node.mounter.set_content(&device, Probe::FileSystem(FsType::Xfs));
    node.unpublish(&volume, &target).await.unwrap();
    node.unstage(&volume, &staging).await.unwrap();
    assert_eq!(node.device(&volume), None);

    // With and without the file system's name.
    for capability in [mount("", WRITER), mount("xfs", WRITER)] {
        let (staging, target) = (node.staging("mounted"), node.path("target"));
        for _ in 0..2 {
            node.stage(&volume, &staging, capability.clone()).await.unwrap();
            node.publish(publish(&volume, &staging, &target, capability.clone())).await.unwrap();
        }
        refused(node.stage(&volume, &node.staging("other"), block(WRITER)).await, Code::FailedPrecondition);
        for path in [&staging, &target] {
            let request =
                NodeGetVolumeStatsRequest { volume_id: volume.clone(), volume_path: path.clone(), ..Default::default() };
            let usage = node.node.clone().node_get_volume_stats(request).await.unwrap().into_inner().usage;
            assert_eq!(usage.len(), 2);
            let grown = node.mounter.count(Verb::Grow);
            let request = NodeExpandVolumeRequest { volume_id: volume.clone(), volume_path: path.clone(), ..Default::default() };
            node.node.clone().node_expand_volume(request).await.unwrap();
            assert_eq!(node.mounter.count(Verb::Grow), grown + 1);
        }
        node.unpublish(&volume, &target).await.unwrap();
        node.unstage(&volume, &staging).await.unwrap();
    }
    // Another file system than it holds.
    refused(node.stage(&volume, &node.staging("mounted"), mount("ext4", WRITER)).await, Code::FailedPrecondition);
    assert_eq!(node.device(&volume), None);
    let (staging, target, _) = raw(2).await;
    node.unpublish(&volume, &target).await.unwrap();
    node.unstage(&volume, &staging).await.unwrap();
    assert_eq!(node.mounter.count(Verb::MakeFileSystem), 0, "calls of `MakeFileSystem`");
    assert_eq!(format_of(&node, &volume), FormatState::Content, "the format state of `volume`");

    // One that was made for a file system, given out raw before it was ever mounted.
    let (made, staging) = staged(&node, "made", mount("xfs", WRITER)).await;
    node.unstage(&made, &staging).await.unwrap();
    node.stage(&made, &staging, block(WRITER)).await.unwrap();
    node.publish(publish(&made, &staging, &node.path("raw-of-made"), block(WRITER))).await.unwrap();
    // And a blank one, made for a raw device and asked for as a file system, is formatted once.
    let blank = node.volume("blank", block(WRITER)).await;
    let before = node.mounter.count(Verb::MakeFileSystem);
    for _ in 0..2 {
        node.stage(&blank, &node.staging("blank"), mount("", WRITER)).await.unwrap();
    }
    assert_eq!(node.mounter.count(Verb::MakeFileSystem), before + 1, "calls of `MakeFileSystem`");
    assert_eq!(format_of(&node, &blank), FormatState::Content, "the format state of `blank`");
}
