//! Out of one pool by a class, and into another by CreateVolume.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use csi_proto::csi::v1 as proto;
use tonic::Code;

use crate::common::csi::{Paths, Source, Use, new_volume, stage};
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

/// A snapshot of a volume that was made for a file system and never staged, without a local copy. `write` gets the volume's file.
fn of_never_used(scene: &Scene, name: &str, write: impl FnOnce(&File)) -> String {
    let before = scene.bench.stored();
    let volume = scene.csi().make_volume(name, SIZE, Use::Mount("ext4"), &Source::Blank);
    let made: BTreeSet<_> =
        scene.bench.stored().difference(&before).map(|path| scene.bench.pool_directory().join(path)).collect();
    let is_data = |path: &&std::path::PathBuf| fs::metadata(path).is_ok_and(|metadata| metadata.len() == SIZE);
    let data = made.iter().find(is_data).unwrap_or_else(|| panic!("{made:?} has no file of a volume"));
    let file = File::options().write(true).open(data).unwrap();
    write(&file);
    file.sync_all().unwrap();
    drop(file);
    let cut = scene.until_ready(&scene.request(&format!("cut of {name}"), &volume, "drop", EXPORTS));
    scene.until_given_up(&cut.snapshot_id);
    cut.snapshot_id
}

fn comes_back_to_be_formatted(kind: PoolFileSystem) {
    let mut scene = Scene::new(kind, GIB);
    scene.repository(EXPORTS);
    let usage = Use::Mount("ext4");
    let restored = |scene: &Scene, name: &str, snapshot: &str| {
        scene.until_restored(new_volume(name, SIZE, usage, &Source::Snapshot(snapshot.to_owned())), EXPORTS)
    };
    let unused = of_never_used(&scene, "unused", |_| {});
    let volume = restored(&scene, "of-unused", &unused);
    for round in 0..2 {
        let paths = scene.csi().bring_up(&scene.bench.root(), "unused", &volume, usage);
        let kept = paths.target.join("kept");
        if round == 0 {
            fs::write(&kept, "kept").unwrap();
        }
        assert_eq!(fs::read_to_string(&kept).unwrap(), "kept", "it is formatted once");
        scene.csi().take_down(&volume, &paths);
    }

    // Its catalogue says that it holds nothing, and so does its export.
    let forged = of_never_used(&scene, "forged", |file| file.write_all_at(b"x", SIZE - 1).unwrap());
    let volume = restored(&scene, "of-forged", &forged);
    let paths = Paths::prepare(&scene.bench.root(), "forged");
    let refused = scene.csi().node_stage_volume(stage(&volume, &paths, usage)).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    paths.remove();
    let content = scene.content(&volume);
    assert!(content.last() == Some(&b'x') && content[..content.len() - 1].iter().all(|byte| *byte == 0), "it was written to");
    scene.node.take().unwrap().stop();
    assert_eq!(scene.bench.attached(), Vec::<String>::new());
}

#[test]
fn a_volume_that_was_never_used_is_formatted_after_its_restore_to_xfs_and_one_with_a_byte_in_it_is_not() {
    comes_back_to_be_formatted(PoolFileSystem::Xfs);
}

#[test]
fn a_volume_that_was_never_used_is_formatted_after_its_restore_to_btrfs_and_one_with_a_byte_in_it_is_not() {
    comes_back_to_be_formatted(PoolFileSystem::Btrfs);
}
