//! Out of one pool by a class, and into another by CreateVolume.

use csi_proto::csi::v1 as proto;
use tonic::Code;

use crate::common::csi::{Source, Use, new_volume};
use crate::common::fixture::PoolFileSystem;
use crate::common::{GIB, MIB};
use crate::scene::{EXPORTS, Scene, noise};

const SIZE: u64 = 64 * MIB;

fn comes_back(kind: PoolFileSystem) {
    let mut scene = Scene::new(kind, GIB);
    scene.repository(EXPORTS);
    let mut content = vec![0; SIZE as usize];
    content[..20 << 20].copy_from_slice(&noise(1, 20 << 20));
    content[50 << 20..51 << 20].fill(7);
    let volume = scene.volume("data", SIZE, &content[..20 << 20]);
    scene.write(&volume, 50 << 20, &content[50 << 20..51 << 20]);
    let before = scene.bench.stored();

    let request = scene.request("monday", &volume, "drop", EXPORTS);
    let cut = scene.csi().create_snapshot(request.clone()).unwrap().snapshot.unwrap();
    assert!(!cut.ready_to_use, "the call that cuts is answered at once");
    let monday = scene.until_ready(&request);
    assert_eq!(monday, proto::Snapshot { ready_to_use: true, ..cut }, "all else is as it was");
    scene.until_given_up(&monday.snapshot_id);
    let base = scene.bench.stored();
    let of_monday: Vec<_> = base.difference(&before).collect();
    assert!(!of_monday.is_empty(), "what the next export is compared with is kept");
    let source = Source::Snapshot(monday.snapshot_id.clone());
    let unread = scene.csi().create_volume(new_volume("copy", SIZE, Use::Block, &source)).unwrap_err();
    assert_eq!(unread.code(), Code::FailedPrecondition, "without the Secret: {unread}");

    // The next one reads only what changed, and nothing is left of the first.
    let at_first = content.clone();
    content[8 << 20..9 << 20].copy_from_slice(&noise(2, 1 << 20));
    scene.write(&volume, 8 << 20, &content[8 << 20..9 << 20]);
    let tuesday = scene.until_ready(&scene.request("tuesday", &volume, "drop", EXPORTS));
    scene.until_given_up(&tuesday.snapshot_id);
    let exports: Vec<_> = scene.transfers().into_iter().filter_map(|transfer| transfer.export_result).collect();
    let modes: Vec<_> = exports.iter().map(|result| (result.mode.as_str(), result.data_bytes <= 2 * MIB)).collect();
    assert!(modes.len() == 2 && modes.contains(&("incremental", true)) && modes.contains(&("full", false)), "{exports:?}");
    let now = scene.bench.stored();
    assert!(of_monday.iter().all(|file| !now.contains(*file)), "{of_monday:?} of {now:?}");

    // Volume and pool are lost.
    scene.replace_pool(kind, GIB);
    for (name, snapshot, expected) in [("of-monday", &monday, &at_first), ("of-tuesday", &tuesday, &content)] {
        let restored = scene.restore(name, SIZE, &snapshot.snapshot_id, EXPORTS);
        assert!(scene.content(&restored) == *expected, "{name} is not what was cut");
    }
    let larger = scene.restore("larger", 2 * SIZE, &tuesday.snapshot_id, EXPORTS);
    let found = scene.content(&larger);
    assert_eq!(found.len() as u64, 2 * SIZE);
    assert!(found.starts_with(&content) && found[content.len()..].iter().all(|byte| *byte == 0));
    scene.check(EXPORTS);
    scene.node.take().unwrap().stop();
    assert_eq!(scene.bench.attached(), Vec::<String>::new());
}

#[test]
fn what_a_class_exports_from_xfs_comes_back_byte_for_byte_in_another_pool() {
    comes_back(PoolFileSystem::Xfs);
}

#[test]
fn what_a_class_exports_from_btrfs_comes_back_byte_for_byte_in_another_pool() {
    comes_back(PoolFileSystem::Btrfs);
}
