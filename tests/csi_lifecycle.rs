//! Volumes and snapshots from their creation to their end, each call repeated, across restarts, reboots and races.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly, wherever it does")]

mod csi_harness;

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use csi_harness::*;
use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use tonic::Code;
use windlass::mount::memory::{Failure, MemoryMounter, Verb};
use windlass::mount::{FileSystemStats, Formatting, MountEntry, MountError, MountRequest, MountedFileSystem, Mounter, Probe};
use windlass::pool::memory::{MemoryPool, Moment, Verb as PoolVerb};
use windlass::types::{Access, FormatState, FsType, Object, SnapshotHandle, VolumeHandle};

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
    assert_eq!((node.mounted_at(&staging), node.mounter.count(Verb::MakeFileSystem)), (1, 1));
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
    assert_eq!((node.mounted_at(&target), node.mounted_at(&staging)), (1, 0));
    assert!(Path::new(&target).is_file());
    // Given out writable: from now on it has content, whatever a probe says.
    assert_eq!(format_of(&node, &volume), FormatState::Content);
    refused(node.publish(publish(&volume, &staging, &node.path("second"), capability())).await, Code::FailedPrecondition);
    let request = NodePublishVolumeRequest { readonly: true, ..publish(&volume, &staging, &target, capability()) };
    refused(node.publish(request).await, Code::AlreadyExists);
    for path in [&staging, &target] {
        let request = NodeGetVolumeStatsRequest { volume_id: volume.clone(), volume_path: path.clone(), ..Default::default() };
        let usage = node.node.clone().node_get_volume_stats(request).await.unwrap().into_inner().usage;
        assert_eq!((usage.len(), usage[0].total), (1, SIZE));
    }
    refused(node.unstage(&volume, &staging).await, Code::FailedPrecondition);
    for _ in 0..3 {
        node.unpublish(&volume, &target).await.unwrap();
    }
    for _ in 0..3 {
        node.unstage(&volume, &staging).await.unwrap();
    }
    assert_eq!((node.device(&volume), Path::new(&target).exists()), (None, false));
    node.delete(&volume).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_publication_of_a_block_volume_leaves_it_unformatted() {
    let node = Node::start().await;
    let (volume, staging) = staged(&node, "raw", block(SHARED)).await;
    let request = NodePublishVolumeRequest { readonly: true, ..publish(&volume, &staging, &node.path("t"), block(SHARED)) };
    node.publish(request).await.unwrap();
    assert_eq!(format_of(&node, &volume), FormatState::Never);
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
    assert_eq!((again.mounted_at(&target), again.mounted_at(&staging)), (1, 1));
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
async fn what_a_pool_left_behind_is_taken_down_without_it() {
    let node = Node::start().await;
    let (volume, staging) = staged(&node, "a", mount("ext4", SHARED)).await;
    let (raw, raw_staging) = staged(&node, "raw", block(WRITER)).await;
    let (target, raw_target) = (node.path("target"), node.path("device"));
    node.publish(publish(&volume, &staging, &target, mount("ext4", SHARED))).await.unwrap();
    node.publish(publish(&raw, &raw_staging, &raw_target, block(WRITER))).await.unwrap();

    // The disk is in another machine.
    let alone = Node::without_pools(&node).await;
    refused(alone.stage(&volume, &staging, mount("ext4", SHARED)).await, Code::Unavailable);
    // Whose a mount is, can be told all the same.
    refused(alone.unpublish(&raw, &target).await, Code::FailedPrecondition);
    refused(alone.unstage(&raw, &staging).await, Code::FailedPrecondition);
    refused(alone.unstage(&raw, &raw_staging).await, Code::FailedPrecondition);
    assert_eq!((node.mounted_at(&target), node.mounted_at(&staging), node.mounted_at(&raw_target)), (1, 1, 1));
    for (volume, target, staging) in [(&volume, &target, &staging), (&raw, &raw_target, &raw_staging)] {
        for _ in 0..3 {
            alone.unpublish(volume, target).await.unwrap();
        }
        for _ in 0..3 {
            alone.unstage(volume, staging).await.unwrap();
        }
        assert_eq!((node.device(volume), Path::new(target).exists()), (None, false));
    }
    assert!(node.mounter.mounts().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_their_pool_two_staging_paths_come_off_in_either_order() {
    let node = Node::start().await;
    let (volume, one) = staged(&node, "a", mount("ext4", SHARED)).await;
    let two = node.staging("two");
    node.stage(&volume, &two, mount("ext4", SHARED)).await.unwrap();
    let alone = Node::without_pools(&node).await;
    // Nobody can tell that the other is no publication.
    refused(alone.unstage(&volume, &one).await, Code::FailedPrecondition);
    refused(alone.unstage(&volume, &one).await, Code::FailedPrecondition);
    alone.unstage(&volume, &two).await.unwrap();
    alone.unstage(&volume, &one).await.unwrap();
    assert_eq!(node.device(&volume), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_device_that_is_gone_can_be_unpublished() {
    let node = Node::start().await;
    let (volume, staging) = staged(&node, "a", block(WRITER)).await;
    let (other, _) = staged(&node, "b", block(WRITER)).await;
    let target = node.path("device");
    node.publish(publish(&volume, &staging, &target, block(WRITER))).await.unwrap();
    let handle: VolumeHandle = volume.parse().unwrap();
    // Nobody has it open, so an administrator can.
    node.pools[0].detach(Object::Volume(handle.volume)).unwrap();
    refused(node.unpublish(&other, &target).await, Code::FailedPrecondition);
    node.unpublish(&volume, &target).await.unwrap();
    assert_eq!((node.mounted_at(&target), Path::new(&target).exists()), (0, false));
    node.unstage(&volume, &staging).await.unwrap();
    node.delete(&volume).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_mounted_beneath_a_volume_stays() {
    let node = Node::start().await;
    let (below, _) = staged(&node, "below", mount("ext4", WRITER)).await;
    let (above, staging) = staged(&node, "above", mount("ext4", WRITER)).await;
    // A mount of the second lies at the target above one of the first.
    let target = node.staging("target");
    let (lower, upper) = (node.device(&below).unwrap(), node.device(&above).unwrap());
    for device in [&lower, &upper] {
        node.mounter.mount_by_others(device, Path::new(&target), FsType::Ext4);
    }
    assert_eq!(node.mounted_at(&target), 2);
    // The first is not to be seen, so it is refused; of the second, its own mount goes, and no other.
    refused(node.unpublish(&below, &target).await, Code::FailedPrecondition);
    refused(node.unpublish(&above, &target).await, Code::FailedPrecondition);
    let left = node.mounter.mounts().unwrap();
    let left: Vec<_> = left.iter().filter(|entry| entry.mount_point == Path::new(&target)).collect();
    assert_eq!((left.len(), &left[0].source), (1, &lower));
    node.unpublish(&below, &target).await.unwrap();
    node.unstage(&above, &staging).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_target_is_for_those_who_share() {
    let node = Node::start().await;
    for (mode, allowed) in [(WRITER, false), (ALONE, false), (SHARED, true), (Mode::SingleNodeReaderOnly, true)] {
        let name = mode.as_str_name();
        for capability in [mount("ext4", mode), block(mode)] {
            let name = format!("{name}-{}", matches!(capability.access_type, Some(volume_capability::AccessType::Block(_))));
            let (volume, staging) = staged(&node, &name, capability.clone()).await;
            let at = |target: &str| publish(&volume, &staging, target, capability.clone());
            let (one, two) = (node.path(&format!("{name}-1")), node.path(&format!("{name}-2")));
            node.publish(at(&one)).await.unwrap();
            node.publish(at(&one)).await.unwrap();
            match allowed {
                true => node.publish(at(&two)).await.unwrap(),
                false => refused(node.publish(at(&two)).await, Code::FailedPrecondition),
            }
            node.unpublish(&volume, &one).await.unwrap();
            node.publish(at(&two)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_get_read_only_mounts() {
    let node = Node::start().await;
    let (volume, staging) = staged(&node, "a", mount("ext4", Mode::SingleNodeReaderOnly)).await;
    let target = node.path("target");
    node.publish(publish(&volume, &staging, &target, mount("ext4", Mode::SingleNodeReaderOnly))).await.unwrap();
    let (shared, shared_staging) = staged(&node, "b", mount("ext4", SHARED)).await;
    let read_only = node.path("read-only");
    let request =
        NodePublishVolumeRequest { readonly: true, ..publish(&shared, &shared_staging, &read_only, mount("ext4", SHARED)) };
    node.publish(request).await.unwrap();
    let access = |path: &str| {
        let mounts = node.mounter.mounts().unwrap();
        mounts.iter().find(|entry| entry.mount_point == Path::new(path)).unwrap().access()
    };
    for path in [&staging, &target, &read_only] {
        assert_eq!(access(path), Access::ReadOnly);
    }
    assert_eq!(access(&shared_staging), Access::ReadWrite);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_staging_paths_of_one_volume_stand_side_by_side() {
    let node = Node::start().await;
    let (volume, one) = staged(&node, "a", mount("ext4", SHARED)).await;
    let two = node.staging("two");
    node.stage(&volume, &two, mount("ext4", SHARED)).await.unwrap();
    node.unstage(&volume, &one).await.unwrap();
    assert!(node.device(&volume).is_some());
    assert_eq!((node.mounted_at(&one), node.mounted_at(&two)), (0, 1));
    node.unstage(&volume, &two).await.unwrap();
    assert_eq!(node.device(&volume), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_keeps_its_time_size_and_id_and_outlives_its_source() {
    let node = Node::start().await;
    let (volume, staging) = staged(&node, "a", mount("ext4", WRITER)).await;
    let snapshot = node.snapshot("s", &volume).await.unwrap();
    assert!(snapshot.ready_to_use && snapshot.creation_time.is_some());
    assert_eq!((snapshot.size_bytes, snapshot.source_volume_id.as_str()), (SIZE, volume.as_str()));
    assert_eq!((node.mounter.count(Verb::Freeze), node.mounter.count(Verb::Thaw)), (1, 1));
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
async fn a_larger_copy_is_grown_when_it_is_staged() {
    let node = Node::start().await;
    let (volume, _) = staged(&node, "a", mount("btrfs", SHARED)).await;
    let source = node.device(&volume).unwrap();
    let snapshot = node.snapshot("s", &volume).await.unwrap().snapshot_id;
    for (name, content, capability) in [
        ("restored", from_snapshot(&snapshot), mount("", SHARED)),
        ("cloned", from_volume(&volume), mount("btrfs", SHARED)),
        ("readers", from_snapshot(&snapshot), mount("", Mode::MultiNodeReaderOnly)),
    ] {
        let same_size = CreateVolumeRequest {
            volume_content_source: content.clone(),
            ..new_volume(&format!("{name}-same"), capability.clone())
        };
        let same_size = CreateVolumeRequest { capacity_range: None, ..same_size };
        let size = node.create(same_size).await.unwrap().capacity_bytes;
        let request = CreateVolumeRequest {
            volume_content_source: content.clone(),
            capacity_range: bytes(size * 2, 0),
            ..new_volume(name, capability.clone())
        };
        let copy = node.create(request.clone()).await.unwrap();
        assert_eq!(node.create(request).await.unwrap(), copy);
        assert_eq!((copy.capacity_bytes, &copy.content_source), (size * 2, &content));
        let device = share_content(&node, &source, &copy.volume_id);
        // Larger than the double's default.
        node.mounter.set_device_size(&device, 4 << 30);
        assert_eq!(format_of(&node, &copy.volume_id), FormatState::Copied);
        let path = node.staging(name);
        let renewed = node.mounter.count(Verb::RenewIdentity);
        node.stage(&copy.volume_id, &path, capability.clone()).await.unwrap();
        assert_eq!(node.mounter.file_system_size(&device), 4 << 30);
        // Beside its source, by an identity of its own, which it gets once.
        node.unstage(&copy.volume_id, &path).await.unwrap();
        node.stage(&copy.volume_id, &path, capability.clone()).await.unwrap();
        assert_eq!(node.mounter.count(Verb::RenewIdentity), renewed + 1);
    }
    assert_eq!(node.mounter.count(Verb::MakeFileSystem), 1);
    let readers = node.mounter.mounts().unwrap();
    let readers = readers.iter().find(|entry| entry.mount_point == Path::new(&node.path("readers"))).unwrap();
    assert_eq!(readers.access(), Access::ReadOnly);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mode_may_change_between_source_and_copy_but_a_copy_of_content_is_never_formatted() {
    let node = Node::start().await;
    let (raw, staging) = staged(&node, "raw", block(WRITER)).await;
    node.publish(publish(&raw, &staging, &node.path("device"), block(WRITER))).await.unwrap();
    let raw_snapshot = node.snapshot("raw", &raw).await.unwrap().snapshot_id;
    let request =
        CreateVolumeRequest { volume_content_source: from_snapshot(&raw_snapshot), ..new_volume("fs", mount("ext4", WRITER)) };
    let file_system = node.create(request).await.unwrap().volume_id;
    refused(node.stage(&file_system, &node.staging("fs"), mount("ext4", WRITER)).await, Code::FailedPrecondition);
    assert_eq!((node.mounter.count(Verb::MakeFileSystem), node.device(&file_system)), (0, None));

    let (volume, _) = staged(&node, "a", mount("ext4", WRITER)).await;
    let request = CreateVolumeRequest { volume_content_source: from_volume(&volume), ..new_volume("block", block(WRITER)) };
    let copy = node.create(request).await.unwrap().volume_id;
    let path = node.staging("block");
    node.stage(&copy, &path, block(WRITER)).await.unwrap();
    node.publish(publish(&copy, &path, &node.path("t"), block(WRITER))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_a_volume_that_was_never_used_are_formatted_like_it() {
    let node = Node::start().await;
    let unused = node.volume("unused", mount("ext4", WRITER)).await;
    let snapshot = node.snapshot("s", &unused).await.unwrap().snapshot_id;
    for (number, content) in [from_snapshot(&snapshot), from_volume(&unused)].into_iter().enumerate() {
        let name = format!("copy-{number}");
        let request = CreateVolumeRequest { volume_content_source: content, ..new_volume(&name, mount("ext4", WRITER)) };
        let copy = node.create(request).await.unwrap().volume_id;
        node.stage(&copy, &node.staging(&name), mount("ext4", WRITER)).await.unwrap();
        assert_eq!((node.mounter.count(Verb::MakeFileSystem), format_of(&node, &copy)), (number + 1, FormatState::Content));
    }
    // What is found on it all the same is nobody's to write over.
    let request = CreateVolumeRequest { volume_content_source: from_volume(&unused), ..new_volume("odd", mount("ext4", WRITER)) };
    let odd = node.create(request).await.unwrap().volume_id;
    let handle: VolumeHandle = odd.parse().unwrap();
    let device = node.pools[0].attach(Object::Volume(handle.volume), Access::ReadWrite).unwrap().device;
    for content in [Probe::Other("LVM".into()), Probe::FileSystem(FsType::Ext4)] {
        node.mounter.set_content(&device, content);
        refused(node.stage(&odd, &node.staging("odd"), mount("ext4", WRITER)).await, Code::FailedPrecondition);
    }
    assert_eq!(node.mounter.count(Verb::MakeFileSystem), 2);
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
        assert_eq!((usage.len(), usage[0].total), (1, SIZE));
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
    assert_eq!((node.mounter.count(Verb::MakeFileSystem), format_of(&node, &volume)), (0, FormatState::Content));

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
    assert_eq!((node.mounter.count(Verb::MakeFileSystem), format_of(&node, &blank)), (before + 1, FormatState::Content));
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_alone_get_a_device_that_cannot_be_written_to() {
    let node = Node::start().await;
    let (volume, staging) = staged(&node, "raw", block(WRITER)).await;
    node.unstage(&volume, &staging).await.unwrap();
    node.stage(&volume, &staging, block(Mode::SingleNodeReaderOnly)).await.unwrap();
    let handle: VolumeHandle = volume.parse().unwrap();
    let attachment = node.pools[0].attachment(Object::Volume(handle.volume)).unwrap().unwrap();
    assert_eq!(attachment.access, Access::ReadOnly);
    node.publish(publish(&volume, &staging, &node.path("t"), block(Mode::SingleNodeReaderOnly))).await.unwrap();
    assert_eq!(format_of(&node, &volume), FormatState::Never);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_call_left_behind_is_never_told_by_a_final_code() {
    let node = Node::start().await;
    let capability = || mount("ext4", WRITER);
    let (volume, path, target) = (node.volume("a", capability()).await, node.staging("a"), node.path("t"));
    // Mounted, and then neither grown nor unmounted: somebody looks into it.
    node.mounter.fail_next(Verb::Grow, Failure::Io(std::io::ErrorKind::Other));
    for _ in 0..2 {
        node.mounter.fail_next(Verb::Unmount, Failure::Busy);
    }
    refused(node.stage(&volume, &path, capability()).await, Code::Unavailable);
    assert_eq!(node.mounted_at(&path), 1);
    // The repetition finds it mounted, and unused; what cannot grow mounted does so unmounted.
    node.mounter.fail_next(Verb::Grow, Failure::Program);
    node.mounter.fail_next(Verb::Grow, Failure::Program);
    node.stage(&volume, &path, capability()).await.unwrap();
    assert_eq!((node.mounted_at(&path), node.mounter.count(Verb::GrowUnmounted)), (1, 1));

    node.mounter.fail_next(Verb::Bind, Failure::Io(std::io::ErrorKind::Other));
    let request = || publish(&volume, &path, &target, capability());
    refused(node.publish(request()).await, Code::Internal);
    node.publish(request()).await.unwrap();
    // In use it stays as it is, and staged.
    node.mounter.fail_next(Verb::Grow, Failure::Program);
    node.stage(&volume, &path, capability()).await.unwrap();
    assert_eq!((node.mounted_at(&path), node.mounted_at(&target)), (1, 1));

    node.mounter.fail_next(Verb::Unmount, Failure::Io(std::io::ErrorKind::Other));
    refused(node.unpublish(&volume, &target).await, Code::Unavailable);
    node.unpublish(&volume, &target).await.unwrap();
    node.unstage(&volume, &path).await.unwrap();
    node.delete(&volume).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn doubt_is_never_formatted_away() {
    let node = Node::start().await;
    let volume = node.volume("a", mount("ext4", WRITER)).await;
    let handle: VolumeHandle = volume.parse().unwrap();
    let path = node.staging("a");
    let stage = || node.stage(&volume, &path, mount("ext4", WRITER));
    let device = node.pools[0].attach(Object::Volume(handle.volume), Access::ReadWrite).unwrap().device;
    for content in [Probe::Other("LVM".into()), Probe::FileSystem(FsType::Xfs), Probe::FileSystem(FsType::Ext4)] {
        node.mounter.set_content(&device, content);
        refused(stage().await, Code::FailedPrecondition);
    }
    node.mounter.set_content(&device, Probe::Blank);
    node.mounter.fail_next(Verb::Probe, Failure::Io(std::io::ErrorKind::Other));
    refused(stage().await, Code::Internal);
    assert_eq!((node.mounter.count(Verb::MakeFileSystem), format_of(&node, &volume)), (0, FormatState::Never));

    // An attempt that was cut short may be made again.
    node.mounter.fail_next(Verb::MakeFileSystem, Failure::Program);
    refused(stage().await, Code::Internal);
    assert_eq!((format_of(&node, &volume), node.device(&volume)), (FormatState::Formatting, None));
    node.mounter.set_content(&device, Probe::FileSystem(FsType::Ext4));
    stage().await.unwrap();
    assert_eq!(format_of(&node, &volume), FormatState::Content);
    node.unstage(&volume, &path).await.unwrap();
    node.mounter.set_content(&device, Probe::Blank);
    refused(stage().await, Code::FailedPrecondition);
    assert_eq!(node.mounter.count(Verb::MakeFileSystem), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_step_leaves_nothing_and_the_repetition_succeeds() {
    let node = Node::start().await;
    let capability = || mount("ext4", WRITER);
    let (volume, path, target) = (node.volume("a", capability()).await, node.staging("a"), node.path("t"));
    let other = std::io::ErrorKind::Other;
    for verb in [Verb::Probe, Verb::MakeFileSystem, Verb::Mount, Verb::Grow] {
        node.mounter.fail_next(verb, Failure::Io(other));
        refused(node.stage(&volume, &path, capability()).await, Code::Internal);
        assert_eq!((node.device(&volume), node.mounted_at(&path)), (None, 0), "{verb:?}");
    }
    node.stage(&volume, &path, capability()).await.unwrap();
    node.mounter.fail_next(Verb::Bind, Failure::Io(other));
    let request = || publish(&volume, &path, &target, capability());
    refused(node.publish(request()).await, Code::Internal);
    assert!(!Path::new(&target).exists());
    node.publish(request()).await.unwrap();

    node.mounter.fail_next(Verb::Unmount, Failure::Busy);
    refused(node.unpublish(&volume, &target).await, Code::FailedPrecondition);
    assert_eq!(node.mounted_at(&target), 1);
    node.unpublish(&volume, &target).await.unwrap();
    node.mounter.fail_next(Verb::Unmount, Failure::Busy);
    refused(node.unstage(&volume, &path).await, Code::FailedPrecondition);
    assert!(node.device(&volume).is_some());
    node.unstage(&volume, &path).await.unwrap();
    node.delete(&volume).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_grow_mounted_grows_before_anybody_uses_it() {
    let node = Node::start().await;
    for (name, access_mode) in [("writer", WRITER), ("reader", Mode::MultiNodeReaderOnly)] {
        let (volume, _) = staged(&node, &format!("{name}-source"), mount("ext4", WRITER)).await;
        let source = node.device(&volume).unwrap();
        let request =
            CreateVolumeRequest { volume_content_source: from_volume(&volume), ..new_volume(name, mount("", access_mode)) };
        let copy = node.create(request).await.unwrap().volume_id;
        let device = share_content(&node, &source, &copy);
        node.mounter.set_device_size(&device, 4 << 30);
        node.mounter.fail_next(Verb::Grow, Failure::Program);
        let path = node.staging(name);
        node.stage(&copy, &path, mount("ext4", access_mode)).await.unwrap();
        assert_eq!((node.mounted_at(&path), node.mounter.file_system_size(&device)), (1, 4 << 30));
    }
    assert_eq!(node.mounter.count(Verb::GrowUnmounted), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_gave_up_is_not_given_out_and_is_checked_when_nobody_uses_it() {
    for word in ["emergency_ro", "shutdown"] {
        let node = Node::start().await;
        let capability = || mount("ext4", SHARED);
        let (volume, staging) = staged(&node, "a", capability()).await;
        let device = node.device(&volume).unwrap();
        let target = node.path("pods/a/mount");
        let request = || publish(&volume, &staging, &target, capability());
        node.publish(request()).await.unwrap();
        node.mounter.add_super_option(&device, word);
        refused(node.publish(request()).await, Code::FailedPrecondition);
        let other = node.path("pods/b/mount");
        refused(node.publish(publish(&volume, &staging, &other, capability())).await, Code::FailedPrecondition);
        for path in [&staging, &target] {
            let stats = NodeGetVolumeStatsRequest { volume_id: volume.clone(), volume_path: path.clone(), ..Default::default() };
            refused(node.node.clone().node_get_volume_stats(stats).await, Code::Internal);
        }
        refused(node.stage(&volume, &staging, capability()).await, Code::FailedPrecondition);
        assert_eq!(node.mounted_at(&target), 1, "in use: left alone");
        refused(node.stage(&volume, &node.staging("second"), capability()).await, Code::FailedPrecondition);

        node.unpublish(&volume, &target).await.unwrap();
        let checks = node.mounter.count(Verb::Check);
        node.mounter.fail_next(Verb::Check, Failure::Unsound);
        refused(node.stage(&volume, &staging, capability()).await, Code::FailedPrecondition);
        assert_eq!((node.mounted_at(&staging), node.device(&volume)), (0, None), "refused, and nothing left");
        node.stage(&volume, &staging, capability()).await.unwrap();
        assert_eq!(node.mounter.count(Verb::Check), checks + 2);
        node.publish(request()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_not_empty_is_removed() {
    let node = Node::start().await;
    let volume = node.volume("a", mount("ext4", WRITER)).await;
    let (directory, file) = (node.staging("full"), node.path("file"));
    std::fs::write(format!("{directory}/precious"), "x").unwrap();
    std::fs::write(&file, "precious").unwrap();
    for path in [&directory, &file] {
        refused(node.unpublish(&volume, path).await, Code::FailedPrecondition);
        assert!(Path::new(path).exists());
    }
}

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
            assert_eq!((answer.capacity_bytes, answer.node_expansion_required), (expected, true));
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

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_stable_while_volumes_come_and_go() {
    let node = Node::start().await;
    let mut ids = Vec::new();
    for number in 0..7 {
        ids.push(node.volume(&format!("v{number}"), mount("ext4", WRITER)).await);
        node.snapshot(&format!("s{number}"), &ids[number]).await.unwrap();
    }
    ids.sort_by_key(|id| id.parse::<VolumeHandle>().unwrap());
    let mut client = node.controller.clone();
    let mut seen: Vec<String> = Vec::new();
    let mut token = String::new();
    loop {
        let page = client.list_volumes(ListVolumesRequest { max_entries: 2, starting_token: token }).await.unwrap().into_inner();
        assert!(page.entries.len() <= 2);
        seen.extend(page.entries.into_iter().map(|entry| entry.volume.unwrap().volume_id));
        token = page.next_token;
        if token.is_empty() {
            break;
        }
        // The entry that the token names goes away.
        node.delete(seen.last().unwrap()).await.unwrap();
    }
    assert_eq!(seen, ids);
    let (mut count, mut token) = (0, String::new());
    loop {
        let request = ListSnapshotsRequest { max_entries: 3, starting_token: token, ..Default::default() };
        let page = client.list_snapshots(request).await.unwrap().into_inner();
        count += page.entries.len();
        token = page.next_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(count, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_takes_nothing_new_and_says_which_way_out() {
    let mounter = Arc::new(MemoryMounter::new());
    let memory = Arc::new(MemoryPool::with_capacity(256 << 20));
    let pool = pool_over(&mounter, Arc::clone(&memory));
    let node = Node::with(Arc::new(tempfile::tempdir().unwrap()), mounter, vec![pool], "boot").await;
    let volume = node.volume("a", block(WRITER)).await;
    let handle: VolumeHandle = volume.parse().unwrap();
    let device = node.pools[0].attach(Object::Volume(handle.volume), Access::ReadWrite).unwrap().device;
    fill(&node, &device);
    let mut number = 0;
    let code = loop {
        number += 1;
        match node.snapshot(&format!("s{number}"), &volume).await {
            Ok(_) => {}
            Err(status) => break status.code(),
        }
        assert!(number < 20, "the pool does not fill");
    };
    assert_eq!(code, Code::ResourceExhausted);
    refused(node.create(new_volume("b", block(WRITER))).await, Code::ResourceExhausted);
    let capacity = node.controller.clone().get_capacity(GetCapacityRequest::default()).await.unwrap().into_inner();
    assert_eq!(capacity.available_capacity, 0);
}

/// Writes to all of a volume's memory.
fn fill(node: &Node, device: &Path) {
    assert!(node.pools[0].status().unwrap().usage.available() > 0);
    let file = std::fs::OpenOptions::new().write(true).open(device).unwrap();
    let block = vec![7_u8; 1 << 20];
    for number in 0..SIZE.unsigned_abs() >> 20 {
        std::os::unix::fs::FileExt::write_all_at(&file, &block, number << 20).unwrap();
    }
}

/// A gate that a verb of the pool waits at.
#[derive(Default)]
struct Gate {
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    fn wait_here(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 = true;
        self.changed.notify_all();
        while !state.1 {
            state = self.changed.wait(state).unwrap();
        }
    }

    fn wait_for_arrival(&self) {
        let mut state = self.state.lock().unwrap();
        while !state.0 {
            state = self.changed.wait(state).unwrap();
        }
    }

    fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_call_on_an_object_is_aborted_and_the_work_outlives_its_caller() {
    let mounter = Arc::new(MemoryMounter::new());
    let memory = Arc::new(MemoryPool::default());
    let node = Arc::new(
        Node::with(
            Arc::new(tempfile::tempdir().unwrap()),
            Arc::clone(&mounter),
            vec![pool_over(&mounter, Arc::clone(&memory))],
            "boot",
        )
        .await,
    );
    let gate = Arc::new(Gate::default());
    let waiting = Arc::clone(&gate);
    memory.set_hook(Some(Arc::new(move |verb, moment| {
        if (verb, moment) == (PoolVerb::Create, Moment::Before) {
            waiting.wait_here();
        }
        Ok(())
    })));
    let caller = Arc::clone(&node);
    let first = tokio::spawn(async move { caller.create(new_volume("a", mount("ext4", WRITER))).await });
    let arrived = Arc::clone(&gate);
    tokio::task::spawn_blocking(move || arrived.wait_for_arrival()).await.unwrap();
    refused(node.create(new_volume("a", mount("ext4", WRITER))).await, Code::Aborted);
    // The caller goes away; the work does not.
    first.abort();
    let _ = first.await;
    refused(node.create(new_volume("a", mount("ext4", WRITER))).await, Code::Aborted);
    gate.open();
    let mut attempts = 0;
    let made = loop {
        match node.create(new_volume("a", mount("ext4", WRITER))).await {
            Ok(volume) => break volume,
            Err(status) => assert_eq!(status.code(), Code::Aborted),
        }
        attempts += 1;
        assert!(attempts < 10_000, "the work did not end");
        tokio::task::yield_now().await;
    };
    assert_eq!(node.pools[0].volumes().unwrap().len(), 1);
    memory.set_hook(None);
    node.delete(&made.volume_id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_at_once_make_one_volume() {
    let node = Arc::new(Node::start().await);
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let node = Arc::clone(&node);
            tokio::spawn(async move { node.create(new_volume("a", mount("ext4", WRITER))).await })
        })
        .collect();
    let mut made = Vec::new();
    for call in calls {
        match call.await.unwrap() {
            Ok(volume) => made.push(volume.volume_id),
            Err(status) => assert_eq!(status.code(), Code::Aborted),
        }
    }
    made.dedup();
    assert_eq!((made.len(), node.pools[0].volumes().unwrap().len()), (1, 1));
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

#[tokio::test(flavor = "multi_thread")]
async fn pools_are_chosen_by_parameter_source_topology_and_room() {
    let mounter = Arc::new(MemoryMounter::new());
    let pools = vec![pool(&mounter, 4 << 30), pool(&mounter, 16 << 30)];
    let (small, large) = (pools[0].id().label(), pools[1].id().label());
    let node = Node::with(Arc::new(tempfile::tempdir().unwrap()), mounter, pools, "boot").await;
    let key = |pool: &str| format!("topology.windlass.dev/pool-{pool}");
    let of = |volume: &Volume| volume.accessible_topology[0].segments.keys().next().unwrap().clone();

    let info = node.node.clone().node_get_info(NodeGetInfoRequest {}).await.unwrap().into_inner();
    let whole = info.accessible_topology.unwrap();
    assert_eq!((info.node_id.as_str(), whole.segments.len()), (NODE, 3));

    let base = |name: &str| new_volume(name, mount("ext4", WRITER));
    assert_eq!(of(&node.create(base("a")).await.unwrap()), key(&large));
    let parameter = CreateVolumeRequest { parameters: [("pool".to_owned(), small.clone())].into(), ..base("b") };
    let in_small = node.create(parameter.clone()).await.unwrap();
    assert_eq!((of(&in_small), in_small.accessible_topology.len()), (key(&small), 1));
    let term = |pool: &str| topology(&[(key(pool).as_str(), "true")]);
    let require = |requisite: Vec<Topology>, preferred: Vec<Topology>| Some(TopologyRequirement { requisite, preferred });
    let request =
        CreateVolumeRequest { accessibility_requirements: require(vec![whole.clone()], vec![term(&small)]), ..base("c") };
    assert_eq!(of(&node.create(request).await.unwrap()), key(&small));
    let request = CreateVolumeRequest { accessibility_requirements: require(vec![term(&small)], vec![]), ..base("d") };
    assert_eq!(of(&node.create(request).await.unwrap()), key(&small));
    let clone = CreateVolumeRequest { volume_content_source: from_volume(&in_small.volume_id), ..base("e") };
    assert_eq!(of(&node.create(clone.clone()).await.unwrap()), key(&small));
    // The source's pool is the only one it can be.
    let request =
        CreateVolumeRequest { accessibility_requirements: require(vec![term(&large)], vec![]), name: "f".into(), ..clone };
    refused(node.create(request).await, Code::ResourceExhausted);
    let request = CreateVolumeRequest { accessibility_requirements: require(vec![term(&large)], vec![]), ..parameter };
    refused(node.create(request).await, Code::AlreadyExists);

    let capacity = |place| GetCapacityRequest { accessible_topology: place, ..Default::default() };
    let mut client = node.controller.clone();
    let all = client.get_capacity(capacity(Some(whole))).await.unwrap().into_inner();
    let one = client.get_capacity(capacity(Some(term(&small)))).await.unwrap().into_inner();
    assert!(one.available_capacity < all.available_capacity && one.available_capacity > 0);
    assert_eq!(one.maximum_volume_size, Some(one.available_capacity / 4096 * 4096));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_serving_also_beside_an_idle_connection_and_removes_the_socket() {
    use tokio_util::sync::CancellationToken;
    use windlass::csi::server::{self, PrivateSocket};
    let node = Node::start().await;
    let path = node.directory.path().join("stopped.sock");
    let stop = CancellationToken::new();
    let socket = PrivateSocket::bind(&path).unwrap();
    let serving = tokio::spawn(server::serve(socket, windlass::node::routes(&node.layer), stop.clone()));
    let mut client = client_of(&path).await;
    client.probe(ProbeRequest {}).await.unwrap();
    stop.cancel();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), serving).await;
    ended.unwrap().unwrap().unwrap();
    assert!(!path.exists());
    assert!(client.probe(ProbeRequest {}).await.is_err());
}

/// A mount table whose file systems do not answer.
struct Hung {
    inner: Arc<MemoryMounter>,
    gate: Arc<Gate>,
}

macro_rules! delegate {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self, $($argument: $type),*) -> Result<$result, MountError> { self.inner.$name($($argument),*) })*
    };
}

impl Mounter for Hung {
    delegate! {
        mounts() -> Vec<MountEntry>;
        device_number(device: &Path) -> (u32, u32);
        probe(device: &Path) -> Probe;
        make_file_system(device: &Path, fs_type: FsType, over: Formatting) -> ();
        check(device: &Path, fs_type: FsType) -> ();
        mount(request: &MountRequest) -> ();
        bind(source: &Path, target: &Path, access: Access, options: &[String]) -> ();
        unmount(target: &Path) -> ();
        grow(device: &Path, mount_point: &Path, fs_type: FsType) -> ();
        grow_unmounted(device: &Path, fs_type: FsType) -> ();
        renew_identity(device: &Path, fs_type: FsType) -> ();
        open_mounted(device: &Path) -> Option<Arc<dyn MountedFileSystem>>;
        flush_device(device: &Path) -> ();
    }

    fn stats(&self, path: &Path) -> Result<FileSystemStats, MountError> {
        self.gate.wait_here();
        self.inner.stats(path)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_that_does_not_answer_holds_up_nothing_else() {
    use csi_proto::csi::v1::node_server::Node as _;
    let node = Node::start().await;
    let (volume, staging) = staged(&node, "a", mount("ext4", WRITER)).await;
    let gate = Arc::new(Gate::default());
    let hung = Hung { inner: Arc::clone(&node.mounter), gate: Arc::clone(&gate) };
    let options = windlass::node::NodeOptions {
        node: NODE.to_owned().try_into().unwrap(),
        root: windlass::mount::path::Root::open(&node.directory.path().join("kubelet")).unwrap(),
        boot_id: windlass::mount::boot_id().unwrap(),
        statistics_timeout: Some(std::time::Duration::from_millis(50)),
    };
    let layer = windlass::node::NodeLayer::new(node.pools.clone(), Arc::new(hung), options);
    let look = || {
        let request = NodeGetVolumeStatsRequest { volume_id: volume.clone(), volume_path: staging.clone(), ..Default::default() };
        layer.node_get_volume_stats(tonic::Request::new(request))
    };
    refused(look().await, Code::DeadlineExceeded);
    // A second look does not pile up on the first, and nothing else waits for it.
    refused(look().await, Code::DeadlineExceeded);
    let request = NodeExpandVolumeRequest { volume_id: volume.clone(), volume_path: staging.clone(), ..Default::default() };
    layer.node_expand_volume(tonic::Request::new(request)).await.unwrap();
    gate.open();
    let mut attempts = 0;
    while let Err(status) = look().await {
        assert_eq!(status.code(), Code::DeadlineExceeded);
        attempts += 1;
        assert!(attempts < 10_000, "the first look did not end");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plugin_says_what_it_can() {
    let node = Node::start().await;
    let mut identity = node.identity.clone();
    let info = identity.get_plugin_info(GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.name, "csi.windlass.dev");
    assert!(!info.vendor_version.is_empty());
    assert_eq!(identity.probe(ProbeRequest {}).await.unwrap().into_inner().ready, Some(true));
    let capabilities = identity.get_plugin_capabilities(GetPluginCapabilitiesRequest {}).await.unwrap().into_inner();
    assert_eq!(capabilities.capabilities.len(), 4);
    let controller = node.controller.clone().controller_get_capabilities(ControllerGetCapabilitiesRequest {}).await;
    assert_eq!(controller.unwrap().into_inner().capabilities.len(), 10);
    let capabilities = node.node.clone().node_get_capabilities(NodeGetCapabilitiesRequest {}).await;
    assert_eq!(capabilities.unwrap().into_inner().capabilities.len(), 4);
}
