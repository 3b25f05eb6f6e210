//! No room for the lists of an export.

use std::fs::{File, create_dir, remove_file};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use tonic::Code;

use crate::common::fixture::{Bench, PoolFileSystem};
use crate::common::node::Node;
use crate::common::program::{command, run_ok};
use crate::common::{GIB, wait_for};
use crate::scene::{BOUND, EXPORTS, Scene, noise};

/// Its list of chunks is longer than what stays in memory.
const SIZE: u64 = 40 * GIB;
const POOL: u64 = 64 * GIB;

fn used(directory: &Path) -> u64 {
    let space = statvfs(directory).unwrap();
    (space.blocks() - space.blocks_free()) * space.fragment_size()
}

fn mounted(scene: &Scene, name: &str, size: &str) -> PathBuf {
    let directory = scene.bench.path().join(name);
    create_dir(&directory).unwrap();
    run_ok(command("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&directory));
    directory
}

/// Fills a file system to the last byte, by this file.
fn fill(file: &Path) {
    let mut filler = File::create_new(file).unwrap();
    let block = vec![1; 1 << 20];
    let full = loop {
        if let Err(error) = filler.write_all(&block) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
}

#[test]
fn a_full_scratch_directory_is_told_leaves_nothing_and_is_recovered_from() {
    let mut scene = Scene::over(Bench::empty());
    // A pool that is larger than the disks of some machines, and nearly empty.
    let disk = mounted(&scene, "disk", "1t");
    let scratch = mounted(&scene, "scratch", "64m");
    let filler = scratch.join("somebody-elses");
    fill(&filler);
    let image = disk.join("pool.img");
    scene.bench.create_pool(&image, PoolFileSystem::Xfs, POOL);
    let mut options = scene.options();
    options.pools = vec![image];
    options.environment.push(("WINDLASS_SCRATCH_DIR".to_owned(), scratch.display().to_string()));
    scene.node = Some(Node::start(&options));
    scene.repository(EXPORTS);
    let bytes = noise(3, 1 << 20);
    let volume = scene.volume("data", SIZE, &bytes);
    // An id lies where its chunk's number says: the list is as long as the volume.
    scene.write(&volume, SIZE - bytes.len() as u64, &bytes);
    let mut request = scene.request("cut", &volume, "drop", EXPORTS);
    request.parameters.insert("chunkSize".to_owned(), "256Ki".to_owned());

    let refused = scene.until_refused(&request);
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert_eq!(refused.message(), "export: the agent has no room left for its lists (WINDLASS_SCRATCH_DIR)");
    assert_eq!(scene.until_refused(&request).message(), refused.message(), "an event for each new text");
    let ids = scene.csi().snapshot_ids();
    assert_eq!(ids.len(), 1, "the cut is there");
    assert_eq!(scene.held(EXPORTS).len(), 0);

    remove_file(&filler).unwrap();
    assert_eq!(used(&scratch), 0, "lists are left");
    let ready = scene.until_ready(&request);
    assert_eq!(ids, std::slice::from_ref(&ready.snapshot_id));
    scene.until_given_up(&ready.snapshot_id);
    wait_for("the lists to go", BOUND, || (used(&scratch) == 0).then_some(()));
    scene.check(EXPORTS);

    let restored = scene.restore("again", SIZE, &ready.snapshot_id, EXPORTS);
    assert!(scene.beginning(&restored, bytes.len()) == bytes);
    for gone in [&restored, &volume] {
        scene.csi().drop_volume(gone);
    }
    scene.delete(&ready.snapshot_id, EXPORTS);
    scene.node.take().unwrap().stop();
}
