#![cfg(feature = "root-tests")]
//! Loop devices of other people beside ours: with files that hang, that are gone, and with names in /dev that are not
//! theirs. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/host_rules.rs"]
mod host_rules;
#[path = "support/root_support/mod.rs"]
mod root_support;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::csi::{Csi, Source, Use, capacity, new_volume as request};
use common::fixture::{Bench, PoolFileSystem};
use common::{GIB, MIB, is_mounted_ext4_grown};
use csi_proto::csi::v1 as proto;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use root_support::fuse::Fuse;
use root_support::{Sandbox, attach, new_snapshot, new_volume, sparse_file};
use windlass::block::loop_device::{self, LoopDevice, LoopError};
use windlass::dm::node::DIRECTORY;
use windlass::pool::owned::OwnedPool;
use windlass::pool::quiesce::NothingToHold;
use windlass::pool::reflink::{create_pool, open_pool};
use windlass::pool::thin::names::{Names, Part};
use windlass::types::{Access, CapacityRange, FsType, Object, PoolId, SnapshotId, VolumeId, VolumeSize};

/// Longest time for what takes some milliseconds each.
const BOUND: Duration = Duration::from_secs(30);

/// What `work` returns, unless it takes longer than anything of ours may.
fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(BOUND).unwrap_or_else(|_| panic!("{what} took longer than {BOUND:?}"))
}

/// A life of a volume, from its creation to its end.
fn live(pool: &OwnedPool, name: &str) {
    let volume = pool.create_volume(&new_volume(name, 16 * MIB)).unwrap().into_inner().id;
    let object = Object::Volume(volume);
    let attachment = pool.attach(object, Access::ReadWrite).unwrap();
    assert_eq!(pool.attach(object, Access::ReadWrite).unwrap(), attachment);
    assert_eq!(pool.attachment(object).unwrap(), Some(attachment));
    pool.grow_volume(volume, CapacityRange::exactly(VolumeSize::new(32 * MIB).unwrap())).unwrap();
    let snapshot = pool.create_snapshots(&[new_snapshot(&format!("{name}-cut"), volume)]).unwrap().remove(0).into_inner().id;
    pool.attach(Object::Snapshot(snapshot), Access::ReadOnly).unwrap();
    pool.detach(Object::Snapshot(snapshot)).unwrap();
    pool.delete_snapshot(snapshot).unwrap();
    pool.detach(object).unwrap();
    assert_eq!(pool.attachment(object).unwrap(), None);
    pool.delete_volume(volume).unwrap();
}

/// Somebody else's loop device, made and taken off by losetup.
struct Foreign(PathBuf);

impl Foreign {
    fn attach(file: &Path) -> Self {
        let output = Command::new("losetup").args(["--find", "--show", "--read-only"]).arg(file).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Self(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()))
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn a_file_system_that_hangs_beneath_a_foreign_loop_device_stops_nothing() {
    let sandbox = Sandbox::new();
    let image = sandbox.pool(FsType::Xfs);
    let directory = image.directory().join("pool");
    create_pool(&directory).unwrap();
    let pool = Arc::new(open_pool(&directory, Arc::new(NothingToHold)).unwrap());
    let folder = sandbox.directory("fuse");
    let mut fuse = Fuse::serve(&folder, "disk.img", 4 * MIB);
    let foreign = Foreign::attach(&folder.join("disk.img"));

    fuse.hang();
    // The device does hang: whoever asks it waits.
    let (sender, asked) = mpsc::channel();
    let asking = std::thread::spawn(move || sender.send(loop_device::beneath(&folder)));
    assert_eq!(asked.recv_timeout(Duration::from_millis(500)).map(drop), Err(mpsc::RecvTimeoutError::Timeout));
    let ours = Arc::clone(&pool);
    in_time("a life beside a file system that hangs", move || live(&ours, "hangs"));
    // A start looks for the image's own device.
    let file = File::open(image.image()).unwrap();
    let found = in_time("the search for the image's device", move || loop_device::find(&file).unwrap());
    assert_eq!(found, [image.device().clone()]);

    fuse.die();
    assert!(matches!(asked.recv_timeout(BOUND).unwrap(), Err(LoopError::Silent { device, .. }) if device == foreign.0));
    asking.join().unwrap().unwrap();
    let ours = Arc::clone(&pool);
    in_time("a life beside a file system that died", move || live(&ours, "died"));
    // A file of two names is looked for among all devices, and one that gives no answer is not it.
    let path = sandbox.path("two-names");
    let file = sparse_file(&path, MIB);
    std::fs::hard_link(&path, sandbox.path("other")).unwrap();
    assert_eq!(loop_device::find(&file).unwrap(), []);
    let device = attach(&File::options().read(true).write(true).open(sandbox.path("other")).unwrap(), Access::ReadWrite);
    assert_eq!(loop_device::find(&file).unwrap(), [device]);
    drop((foreign, pool));
    image.close().unwrap();
}

/// Lives of volumes, as a kubelet and its sidecars ask for them: as a file system and as a device, with a snapshot and a copy of it.
fn live_in_a_cluster(bench: &Bench, csi: &Csi, name: &str) {
    for (kind, usage) in [("files", Use::Mount("ext4")), ("raw", Use::Block)] {
        let name = |part: &str| format!("{name}-{kind}-{part}");
        let volume = csi.make_volume(&name("volume"), 32 * MIB, usage, &Source::Blank);
        let paths = csi.bring_up(&bench.root(), &name("pod"), &volume, usage);
        let at = || paths.target.display().to_string();
        let statistics = proto::NodeGetVolumeStatsRequest { volume_id: volume.clone(), volume_path: at(), ..Default::default() };
        csi.node_get_volume_stats(statistics).unwrap();
        let larger = proto::ControllerExpandVolumeRequest {
            volume_id: volume.clone(),
            capacity_range: Some(capacity(48 * MIB)),
            ..Default::default()
        };
        csi.controller_expand_volume(larger).unwrap();
        let larger = proto::NodeExpandVolumeRequest {
            volume_id: volume.clone(),
            volume_path: at(),
            capacity_range: Some(capacity(48 * MIB)),
            ..Default::default()
        };
        let expanded = csi.node_expand_volume(larger);
        assert!(expanded.is_ok() || !is_mounted_ext4_grown(), "{expanded:?}");
        let snapshot = csi.make_snapshot(&name("snapshot"), &volume);
        let copy = csi.make_volume(&name("copy"), 48 * MIB, usage, &Source::Snapshot(snapshot.clone()));
        let beside = csi.bring_up(&bench.root(), &name("beside"), &copy, usage);
        csi.take_down(&copy, &beside);
        csi.take_down(&volume, &paths);
        csi.drop_snapshot(&snapshot);
        csi.drop_volume(&copy);
        csi.drop_volume(&volume);
    }
    let looked = proto::ControllerGetVolumeRequest { volume_id: "no-such-volume".to_owned() };
    csi.controller_get_volume(looked).unwrap_err();
    assert_eq!((csi.volume_ids().len(), csi.snapshot_ids().len()), (1, 0));
    assert_eq!(csi.pools().unwrap()[0].state, "ready");
}

#[test]
fn every_call_is_answered_beside_a_foreign_loop_device_whose_file_system_hangs_or_died() {
    let bench = Bench::with_pool(PoolFileSystem::Xfs, 2 * GIB);
    let node = bench.start();
    let csi = node.csi();
    let ext4 = Use::Mount("ext4");
    let before = csi.create_volume(request("before", 32 * MIB, ext4, &Source::Blank)).unwrap().volume.unwrap().volume_id;
    let paths = csi.bring_up(&bench.root(), "before", &before, ext4);
    let sandbox = Sandbox::new();
    let folder = sandbox.directory("fuse");
    let mut fuse = Fuse::serve(&folder, "disk.img", 4 * MIB);
    let foreign = Foreign::attach(&folder.join("disk.img"));

    // A call that waits for the file system fails here: the node's deadlines are shorter than those of the client.
    fuse.hang();
    live_in_a_cluster(&bench, &csi, "hangs");
    drop(csi);
    node.stop();
    let node = bench.start();
    let csi = node.csi();
    live_in_a_cluster(&bench, &csi, "started-beside-it");
    fuse.die();
    live_in_a_cluster(&bench, &csi, "died");
    csi.take_down(&before, &paths);
    csi.drop_volume(&before);
    drop(csi);
    node.stop();
    drop((foreign, fuse));
    assert_eq!(bench.attached(), Vec::<String>::new());
}

#[test]
fn what_was_found_before_is_looked_at_again_each_time() {
    let sandbox = Sandbox::new();
    let (path, name) = (sandbox.path("volume"), Path::new("volume"));
    let file = sparse_file(&path, MIB);
    assert_eq!(loop_device::recall(&file, name).unwrap(), None);
    let device = attach(&file, Access::ReadWrite);
    assert_eq!(loop_device::recall(&file, name).unwrap().as_ref(), Some(&device));
    // Behind our back: the device goes, and comes back with another file of that name.
    drop(Foreign(device.path.clone()));
    assert_eq!(loop_device::recall(&file, name).unwrap(), None);
    let other = sparse_file(&sandbox.directory("elsewhere").join("volume"), MIB);
    let reused: Option<LoopDevice> = (0..64).map(|_| attach(&other, Access::ReadWrite)).find_map(|now| {
        let same = now.number == device.number;
        if !same {
            loop_device::detach(&now).unwrap();
        }
        same.then_some(now)
    });
    assert_eq!(loop_device::recall(&file, name).unwrap(), None);
    assert_eq!(loop_device::find(&file).unwrap(), []);
    drop(reused);
}

#[test]
fn the_shipped_rules_keep_the_host_from_every_loop_device_of_a_pool() {
    for fs_type in [FsType::Xfs, FsType::Btrfs] {
        let sandbox = Sandbox::new();
        let image = sandbox.pool(fs_type);
        let directory = image.directory().join("pool");
        create_pool(&directory).unwrap();
        let pool = open_pool(&directory, Arc::new(NothingToHold)).unwrap();
        let volume = pool.create_volume(&new_volume("volume", 16 * MIB)).unwrap().into_inner().id;
        let snapshot = pool.create_snapshots(&[new_snapshot("cut", volume)]).unwrap().remove(0).into_inner().id;
        for (object, access) in [(Object::Volume(volume), Access::ReadWrite), (Object::Snapshot(snapshot), Access::ReadOnly)] {
            let node = pool.attach(object, access).unwrap().device;
            let name = node.file_name().unwrap().to_str().unwrap();
            let backing = std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).unwrap();
            assert!(host_rules::udev_leaves_alone(name, "loop/backing_file", backing.trim_end()), "{backing}");
            assert!(host_rules::lvm_leaves_out(node.to_str().unwrap()), "{}", node.display());
            pool.detach(object).unwrap();
        }
        drop(pool);
        image.close().unwrap();
    }
    assert!(!host_rules::udev_leaves_alone("loop0", "loop/backing_file", "/srv/disk.img"));
    assert!(!host_rules::lvm_leaves_out("/dev/sda"));
}

#[test]
fn the_shipped_rules_keep_the_host_from_every_device_of_a_thin_pool() {
    let names = Names::new(PoolId::random());
    let objects = [Part::Object(Object::Volume(VolumeId::random())), Part::Object(Object::Snapshot(SnapshotId::random()))];
    for part in [Part::Catalogue, Part::Metadata, Part::Data, Part::Pool].into_iter().chain(objects) {
        let (name, uuid) = (names.name(part).unwrap().to_string(), names.uuid(part).unwrap().to_string());
        assert!(host_rules::udev_leaves_alone("dm-7", "dm/uuid", &uuid), "{uuid}");
        for directory in ["/dev/mapper", DIRECTORY] {
            assert!(host_rules::lvm_leaves_out(&format!("{directory}/{name}")), "{directory}/{name}");
        }
    }
    assert!(!host_rules::udev_leaves_alone("dm-7", "dm/uuid", "LVM-abc"));
    assert!(!host_rules::lvm_leaves_out("/dev/mapper/vg-root"));
}

/// Set in the process that has a /dev of its own.
const OWN_DEV: &str = "WINDLASS_TEST_OWN_DEV";

#[test]
fn a_name_in_dev_that_is_another_devices_costs_that_device_only() {
    if std::env::var_os(OWN_DEV).is_none() {
        let name = "a_name_in_dev_that_is_another_devices_costs_that_device_only";
        let mut again = Command::new("unshare");
        again.args(["--mount", "--propagation", "private"]).arg(std::env::current_exe().unwrap()).args(["--exact", name]);
        assert!(again.env(OWN_DEV, "1").status().unwrap().success());
        return;
    }
    let sandbox = Sandbox::new();
    let file = sparse_file(&sandbox.path("volume"), MIB);
    // The name of every loop device that is there is somebody else's.
    mount(Some("none"), "/dev", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let somebody_else = makedev(1, 1);
    mknod("/dev/loop-control", SFlag::S_IFCHR, mode, makedev(10, 237)).unwrap();
    let mut taken = Vec::new();
    for entry in std::fs::read_dir("/sys/block").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("loop") {
            mknod(Path::new("/dev").join(&name).as_path(), SFlag::S_IFBLK, mode, somebody_else).unwrap();
            taken.push(name);
        }
    }
    let device = attach(&file, Access::ReadWrite);
    assert!(!taken.contains(&format!("loop{}", device.number)), "{device:?} of {taken:?}");
    assert_eq!(loop_device::find(&file).unwrap(), std::slice::from_ref(&device));
    // What cannot be looked at may be the file's own device: no second one is made.
    std::fs::remove_file(&device.path).unwrap();
    mknod(device.path.as_path(), SFlag::S_IFBLK, mode, somebody_else).unwrap();
    let hidden = loop_device::find(&file);
    std::fs::remove_file(&device.path).unwrap();
    loop_device::detach(&loop_device::find(&file).unwrap()[0]).unwrap();
    assert!(matches!(hidden, Err(LoopError::WrongNode(path)) if path == device.path));
}
