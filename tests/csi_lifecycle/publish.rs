//! NodePublishVolume, and how publications and stagings come off, also without their pool.

use std::path::Path;

use csi_proto::csi::v1::volume_capability::access_mode::Mode;
use csi_proto::csi::v1::*;
use tonic::Code;
use windlass::mount::Mounter;
use windlass::types::{Access, FormatState, FsType, Object, VolumeHandle};

use crate::csi_harness::*;
use crate::{ALONE, SHARED, WRITER, format_of, staged};

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_publication_of_a_block_volume_leaves_it_unformatted() {
    let node = Node::start().await;
    let (volume, staging) = staged(&node, "raw", block(SHARED)).await;
    let request = NodePublishVolumeRequest { readonly: true, ..publish(&volume, &staging, &node.path("t"), block(SHARED)) };
    node.publish(request).await.unwrap();
    assert_eq!(format_of(&node, &volume), FormatState::Never);
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
    assert_eq!(node.mounted_at(&target), 1, "mounts at `target`");
    assert_eq!(node.mounted_at(&staging), 1, "mounts at `staging`");
    assert_eq!(node.mounted_at(&raw_target), 1, "mounts at `raw_target`");
    for (volume, target, staging) in [(&volume, &target, &staging), (&raw, &raw_target, &raw_staging)] {
        for _ in 0..3 {
            alone.unpublish(volume, target).await.unwrap();
        }
        for _ in 0..3 {
            alone.unstage(volume, staging).await.unwrap();
        }
        assert_eq!(node.device(volume), None, "the device of `volume`");
        assert!(!Path::new(target).exists(), "`target` exists all the same");
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
    assert_eq!(node.mounted_at(&target), 0, "mounts at `target`");
    assert!(!Path::new(&target).exists(), "`target` exists all the same");
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
    assert_eq!(left.len(), 1, "entries of `left`");
    assert_eq!(&left[0].source, &lower, "`left[0].source`");
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
