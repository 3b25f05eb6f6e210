#![cfg(feature = "thin-tests")]
//! Pools of the embedded sort on logged disks: the workload whose power `root_power_cut` then cuts.
// vm: disks=640M,2G,640M,2G,1G,2G memory=2048 limit=600 keep

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/power_cut/mod.rs"]
mod power_cut;

use std::path::{Path, PathBuf};

use power_cut::log::WriteLog;
use power_cut::mark::Marker;
use power_cut::scene::{Scene, run};
use power_cut::workload::{Workload, perform};
use windlass::types::Object;

/// Runs the workload, with a mark after each operation, and takes everything down in order.
fn runs_on_a_logged_disk(scene: Scene) {
    let disks = std::env::var("WINDLASS_VM_DISKS").expect("WINDLASS_VM_DISKS is set in the virtual machine");
    let disks: Vec<&str> = disks.split(':').collect();
    let (disk, log) = (disks[scene.disk_number()], disks[scene.disk_number() + 1]);
    let name = format!("windlass-test-logged-{}", scene.name());
    let table = format!("0 {} log-writes {disk} {log}", scene.disk() / 512);
    run("dmsetup", &["create", &name, "--table", &table], &[]);
    let device = PathBuf::from(format!("/dev/mapper/{name}"));
    let directory = tempfile::tempdir().unwrap();
    scene.format(&device);
    scene.mount(&device, directory.path());
    scene.create(directory.path());

    let marker = Marker::open(&device, scene.marks()).unwrap();
    let opened = scene.open(directory.path());
    marker.mark(0).unwrap();
    for (number, operation) in (1..).zip(Workload::new(scene.seed(), scene.checksums()).take(scene.operations())) {
        perform(&opened.pool, &operation).unwrap_or_else(|error| panic!("operation {number}, {operation:?}: {error}"));
        marker.mark(number).unwrap();
    }
    drop(marker);

    for volume in opened.pool.volumes().unwrap() {
        opened.pool.detach(Object::Volume(volume.id)).unwrap();
    }
    opened.close();
    run("umount", &[], &[directory.path()]);
    run("dmsetup", &["remove", &name], &[]);
    let entries = WriteLog::open(Path::new(log)).unwrap().entries().len();
    println!("{}: {} operations, {entries} entries in the log", scene.name(), scene.operations());
    assert!(entries > scene.operations());
}

#[test]
fn a_pool_on_xfs_runs_on_a_logged_disk() {
    runs_on_a_logged_disk(Scene::Xfs);
}

#[test]
fn a_pool_on_btrfs_runs_on_a_logged_disk() {
    runs_on_a_logged_disk(Scene::Btrfs);
}

#[test]
fn a_pool_image_runs_on_a_logged_disk() {
    runs_on_a_logged_disk(Scene::Image);
}
