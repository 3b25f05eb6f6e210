#![cfg(feature = "thin-tests")]
//! A thin pool whose disk dies while a node serves it, and comes back, beside one that is well.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_types, reason = "the gRPC codes are what the tests look at")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/sanity.rs"]
mod sanity;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;
use std::time::Duration;

use basics::turn;
use common::csi::{Csi, Paths, Source, Use, new_volume, unpublish, unstage};
use common::fixture::{Bench, PoolFileSystem};
use common::node::{Node, NodeOptions};
use common::program::{command, run_ok};
use common::thin_pool::ThinPool;
use common::{GIB, MIB, wait_for};
use csi_proto::csi::v1 as proto;
use tonic::Code;
use windlass::block::device;
use windlass::dm::units::Sectors;
use windlass::dm::{DeviceMapper, DeviceNumber, DmName, DmUuid, FileSystem, Flush, Removal, SuspendOptions, Target, TargetKind};
use windlass::types::Access;

/// A failed pool is tried again at least once a minute, and the machine may be busy.
const BACK_BOUND: Duration = Duration::from_secs(150);
const EXT4: Use = Use::Mount("ext4");

/// A disk that can die and come back, under whatever stands on it. Removed when dropped.
struct MortalDisk {
    dm: DeviceMapper,
    name: DmName,
    beneath: DeviceNumber,
    length: Sectors,
}

impl MortalDisk {
    fn new(bench: &Bench, bytes: u64) -> Self {
        let image = bench.path().join("mortal.img");
        File::create_new(&image).unwrap().set_len(bytes).unwrap();
        let attached = run_ok(command("losetup").args(["--find", "--show"]).arg(&image)).text();
        let (major, minor) = device::number(Path::new(attached.trim())).unwrap();
        let disk = Self {
            dm: DeviceMapper::open().unwrap(),
            name: DmName::new("windlass-test-mortal").unwrap(),
            beneath: DeviceNumber::new(major, minor).unwrap(),
            length: Sectors::from_bytes(bytes).unwrap(),
        };
        let uuid = DmUuid::new("TEST-mortal").unwrap();
        disk.dm.activate(&disk.name, &uuid, Access::ReadWrite, &[disk.well()]).unwrap();
        disk
    }

    fn well(&self) -> Target {
        self.target(TargetKind::Linear { device: self.beneath, offset: Sectors::default() })
    }

    fn target(&self, kind: TargetKind) -> Target {
        Target { start: Sectors::default(), length: self.length, kind }
    }

    /// Its node, which devtmpfs makes.
    fn path(&self) -> PathBuf {
        let number = self.dm.info(&self.name).unwrap().unwrap().number;
        PathBuf::from(format!("/dev/dm-{}", number.minor()))
    }

    fn die(&self) {
        self.replace(self.target(TargetKind::Error));
    }

    fn come_back(&self) {
        self.replace(self.well());
    }

    fn replace(&self, target: Target) {
        self.dm.load(&self.name, Access::ReadWrite, &[target]).unwrap();
        self.dm.suspend(&self.name, SuspendOptions { file_system: FileSystem::Leave, flush: Flush::Wait }).unwrap();
        self.dm.resume(&self.name).unwrap();
    }
}

impl Drop for MortalDisk {
    fn drop(&mut self) {
        let removed = self.dm.remove(&self.name, Removal::Now);
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

/// Two pools, the mortal one first, and a node over them.
struct Ground {
    // In the order in which they go.
    csi: Csi,
    node: Node,
    pool: ThinPool,
    disk: MortalDisk,
    bench: Bench,
    _turn: MutexGuard<'static, ()>,
}

impl Ground {
    fn new() -> Self {
        let turn = turn();
        let bench = Bench::with_pool(PoolFileSystem::Thin, 16 * GIB);
        let disk = MortalDisk::new(&bench, GIB);
        let pool = ThinPool::create(&disk.path());
        let node = Node::start(&NodeOptions { pools: vec![disk.path(), bench.pool()], ..bench.options() });
        let csi = node.csi();
        assert_eq!(states(&csi), ["ready"; 2]);
        Self { csi, node, pool, disk, bench, _turn: turn }
    }

    /// A volume in the mortal pool.
    fn volume(&self, name: &str, usage: Use) -> String {
        let parameters = [("pool".to_owned(), self.pool.id.clone())].into();
        let request = proto::CreateVolumeRequest { parameters, ..new_volume(name, 32 * MIB, usage, &Source::Blank) };
        self.csi.create_volume(request).unwrap().volume.unwrap().volume_id
    }

    fn bring_up(&self, volume: &str, usage: Use) -> Paths {
        self.csi.bring_up(&self.bench.root(), "pod", volume, usage)
    }

    fn wait_for_states(&self, wanted: &[&str]) {
        wait_for(&format!("pools that are {wanted:?}"), BACK_BOUND, || (states(&self.csi) == wanted).then_some(()));
    }

    /// What a kubelet does, which calls again until it is done.
    fn take_down(&self, volume: &str, paths: &Paths) {
        wait_for("the volume to be unpublished", BACK_BOUND, || self.csi.node_unpublish_volume(unpublish(volume, paths)).ok());
        wait_for("the volume to be unstaged", BACK_BOUND, || self.csi.node_unstage_volume(unstage(volume, paths)).ok());
        paths.remove();
    }

    fn end(self) {
        let Self { csi, node, pool, disk, bench, _turn } = self;
        assert_eq!(csi.volume_ids(), [""; 0]);
        drop(csi);
        node.stop();
        assert_eq!(pool.attached(), [""; 0]);
        drop((pool, disk, bench));
    }
}

fn states(csi: &Csi) -> Vec<String> {
    csi.pools().unwrap().into_iter().map(|pool| pool.state).collect()
}

fn write(path: &Path, text: &str) {
    let mut file = File::create(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_disk_that_dies_at_run_time_costs_its_pool_alone_and_its_volumes_work_again_when_it_is_back() {
    let ground = Ground::new();
    let (csi, bench) = (&ground.csi, &ground.bench);
    let (idle, used) = (ground.volume("idle", EXT4), ground.volume("used", EXT4));
    let paths = ground.bring_up(&idle, EXT4);
    write(&paths.target.join("file"), "idle");
    ground.take_down(&idle, &paths);
    let paths = ground.bring_up(&used, EXT4);
    write(&paths.target.join("file"), "used");

    ground.disk.die();
    // Somebody writes: the kernel notices, and gives the pool up.
    let written =
        File::create(paths.target.join("lost")).and_then(|mut file| file.write_all(b"lost").and_then(|()| file.sync_all()));
    assert!(written.is_err(), "a write to a dead disk");
    ground.wait_for_states(&["failed", "ready"]);
    let request = proto::DeleteVolumeRequest { volume_id: idle.clone(), ..Default::default() };
    assert_eq!(csi.delete_volume(request).unwrap_err().code(), Code::Unavailable);
    let in_well = csi.make_volume("in-well", 32 * MIB, EXT4, &Source::Blank);
    csi.drop_volume(&in_well);
    // All but the lists, which would lack what the failed pool holds.
    sanity::passes(bench, &sanity::Endpoints::one(ground.node.endpoint()), "mount", Some("ListVolumes|ListSnapshots"));

    // Back, but what is mounted of it holds the pool that failed in the kernel: it is no use until that is unmounted.
    ground.disk.come_back();
    wait_for("a problem that says who uses the pool", BACK_BOUND, || {
        csi.pools().unwrap()[0].problem.contains("is in use").then_some(())
    });
    ground.take_down(&used, &paths);
    ground.wait_for_states(&["ready", "ready"]);
    for (volume, text) in [(&idle, "idle"), (&used, "used")] {
        let paths = ground.bring_up(volume, EXT4);
        assert_eq!(fs::read_to_string(paths.target.join("file")).unwrap(), text);
        write(&paths.target.join("more"), "more");
        ground.take_down(volume, &paths);
        csi.drop_volume(volume);
    }
    ground.end();
}

#[test]
fn volumes_of_a_pool_that_failed_are_taken_down_while_its_disk_is_dead_and_deleted_when_it_is_back() {
    let ground = Ground::new();
    let volumes = [(ground.volume("files", EXT4), EXT4), (ground.volume("raw", Use::Block), Use::Block)];
    let up: Vec<Paths> =
        volumes.iter().map(|(volume, usage)| ground.csi.bring_up(&ground.bench.root(), volume, volume, *usage)).collect();
    write(&up[0].target.join("file"), "files");
    ground.disk.die();
    let raw = File::options().write(true).open(&up[1].target).unwrap();
    assert!((&raw).write_all(&[1; 4096]).and_then(|()| raw.sync_all()).is_err(), "a write to a dead disk");
    drop(raw);
    ground.wait_for_states(&["failed", "ready"]);
    for ((volume, _), paths) in volumes.iter().zip(&up) {
        ground.take_down(volume, paths);
    }
    assert_eq!(ground.pool.attached(), [""; 0]);

    ground.disk.come_back();
    ground.wait_for_states(&["ready", "ready"]);
    let paths = ground.bring_up(&volumes[0].0, EXT4);
    assert_eq!(fs::read_to_string(paths.target.join("file")).unwrap(), "files");
    ground.take_down(&volumes[0].0, &paths);
    volumes.iter().for_each(|(volume, _)| ground.csi.drop_volume(volume));
    ground.end();
}
