//! NodeStageVolume: what is formatted, grown, checked and left alone, and what a failed step leaves.

use std::path::Path;

use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use tonic::Code;
use windlass::mount::memory::{Failure, Verb};
use windlass::mount::{Mounter, Probe};
use windlass::types::{Access, FormatState, FsType, Object, VolumeHandle};

use crate::csi_harness::*;
use crate::{SHARED, WRITER, format_of, share_content, staged};

#[tokio::test(flavor = "multi_thread")]
async fn two_staging_paths_of_one_volume_stand_side_by_side() {
    let node = Node::start().await;
    let (volume, one) = staged(&node, "a", mount("ext4", SHARED)).await;
    let two = node.staging("two");
    node.stage(&volume, &two, mount("ext4", SHARED)).await.unwrap();
    node.unstage(&volume, &one).await.unwrap();
    assert!(node.device(&volume).is_some());
    assert_eq!(node.mounted_at(&one), 0, "mounts at `one`");
    assert_eq!(node.mounted_at(&two), 1, "mounts at `two`");
    node.unstage(&volume, &two).await.unwrap();
    assert_eq!(node.device(&volume), None);
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
        assert_eq!(copy.capacity_bytes, size * 2, "`copy.capacity_bytes`");
        assert_eq!(&copy.content_source, &content, "`copy.content_source`");
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
    assert_eq!(node.mounter.count(Verb::MakeFileSystem), 0, "calls of `MakeFileSystem`");
    assert_eq!(node.device(&file_system), None, "the device of `file_system`");

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
        assert_eq!(node.mounter.count(Verb::MakeFileSystem), number + 1, "calls of `MakeFileSystem`");
        assert_eq!(format_of(&node, &copy), FormatState::Content, "the format state of `copy`");
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
    assert_eq!(node.mounted_at(&path), 1, "mounts at `path`");
    assert_eq!(node.mounter.count(Verb::GrowUnmounted), 1, "calls of `GrowUnmounted`");

    node.mounter.fail_next(Verb::Bind, Failure::Io(std::io::ErrorKind::Other));
    let request = || publish(&volume, &path, &target, capability());
    refused(node.publish(request()).await, Code::Internal);
    node.publish(request()).await.unwrap();
    // In use it stays as it is, and staged.
    node.mounter.fail_next(Verb::Grow, Failure::Program);
    node.stage(&volume, &path, capability()).await.unwrap();
    assert_eq!(node.mounted_at(&path), 1, "mounts at `path`");
    assert_eq!(node.mounted_at(&target), 1, "mounts at `target`");

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
    assert_eq!(node.mounter.count(Verb::MakeFileSystem), 0, "calls of `MakeFileSystem`");
    assert_eq!(format_of(&node, &volume), FormatState::Never, "the format state of `volume`");

    // An attempt that was cut short may be made again.
    node.mounter.fail_next(Verb::MakeFileSystem, Failure::Program);
    refused(stage().await, Code::Internal);
    assert_eq!(format_of(&node, &volume), FormatState::Formatting, "the format state of `volume`");
    assert_eq!(node.device(&volume), None, "the device of `volume`");
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
        assert_eq!(node.device(&volume), None, "the device of `volume`; {verb:?}");
        assert_eq!(node.mounted_at(&path), 0, "mounts at `path`; {verb:?}");
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
        assert_eq!(node.mounted_at(&path), 1, "mounts at `path`");
        assert_eq!(node.mounter.file_system_size(&device), 4 << 30, "`node.mounter.file_system_size(&device)`");
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
        assert_eq!(node.mounted_at(&staging), 0, "mounts at `staging`; refused, and nothing left");
        assert_eq!(node.device(&volume), None, "the device of `volume`; refused, and nothing left");
        node.stage(&volume, &staging, capability()).await.unwrap();
        assert_eq!(node.mounter.count(Verb::Check), checks + 2);
        node.publish(request()).await.unwrap();
    }
}
