#![cfg(feature = "root-tests")]
//! Exports and restores by an agent without privilege, over the sockets of a node without network, to an S3 server; and what is left when
//! either is killed in the middle of one. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_types, reason = "the gRPC codes are what the tests look at")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/pair.rs"]
mod pair;
#[path = "support/s3/mod.rs"]
mod s3;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::csi::{Csi, Source, Use, new_snapshot, new_volume};
use common::fixture::{Bench, PoolFileSystem};
use common::process::Process;
use common::program::{run, run_ok, wait_child, windlass};
use common::{GIB, MIB, wait_for};
use csi_proto::csi::v1 as proto;
use hyper::body::Incoming;
use hyper::{Method, Request};
use pair::{Place, endpoint};
use s3::{CREDENTIALS, S3Server, Trouble};
use tokio::runtime::Runtime;
use tonic::Code;

/// Only bounds a hang.
const BOUND: Duration = Duration::from_secs(120);
const SIZE: u64 = 64 * MIB;

/// A node, an agent and a store.
struct Scene {
    place: Place,
    store: S3Server,
    /// The store runs in it.
    _runtime: Runtime,
}

impl Scene {
    fn new(kind: PoolFileSystem) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let store = runtime.block_on(S3Server::start());
        let scene = Self { place: Place::new(Bench::with_pool(kind, GIB)), store, _runtime: runtime };
        run_ok(scene.command(&["repository", "init"]).stdin(Stdio::null()));
        scene
    }

    /// A command with the repository and its credentials in its environment.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = windlass();
        command.args(arguments).envs(CREDENTIALS).env("RESTIC_PASSWORD", "geheim");
        command.env("RESTIC_REPOSITORY", format!("s3:http://{}/backups/volumes", self.store.address()));
        command.env("WINDLASS_CACHE_DIR", "");
        command
    }

    /// The same, asked of the agent.
    fn transfer(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.args(["--output", "json", "--endpoint"]).arg(endpoint(&self.place.agents()));
        command
    }

    /// The JSON that a transfer ends with.
    fn done(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&run_ok(&mut self.transfer(arguments)).text()).unwrap()
    }

    /// An export that has read, and cannot store: the store is too busy for any pack until it is told to behave, and is asked again and again.
    fn stalled_export(&self, snapshot: &str) -> Child {
        self.stalled(&["export", snapshot], |request| request.method() == Method::PUT)
    }

    /// A restore whose hidden volume is there, and that cannot read what is to be in it.
    fn stalled_restore(&self, volume: &str) -> Child {
        let volumes = self.place.bench.pool_directory().join("volumes");
        let count = move || fs::read_dir(&volumes).unwrap().count();
        let before = count();
        self.stalled(&["restore", "--volume", volume], move |request| request.method() == Method::GET && count() > before)
    }

    fn stalled(&self, arguments: &[&str], is_refused: impl Fn(&Request<Incoming>) -> bool + Send + Sync + 'static) -> Child {
        let reached = Arc::new(AtomicBool::new(false));
        let there = Arc::clone(&reached);
        self.store.misbehaves(move |_, request| {
            let is_refused = request.uri().path().contains("/data/") && is_refused(request);
            there.fetch_or(is_refused, Ordering::SeqCst);
            is_refused.then_some(Trouble::Answers(503, "SlowDown"))
        });
        let child = self.transfer(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for("a request that is refused", BOUND, || reached.load(Ordering::SeqCst).then_some(()));
        child
    }

    /// Makes a volume, and what is in it.
    fn volume(&self, csi: &Csi, name: &str) -> (String, Vec<u8>) {
        let volume = csi.make_volume(name, SIZE, Use::Block, &Source::Blank);
        let mut content = vec![0; usize::try_from(SIZE).unwrap()];
        for (at, byte) in content.iter_mut().enumerate().take(24 << 20) {
            *byte = u8::try_from(((at * 2_654_435_761) >> 7) % 251).unwrap();
        }
        content[(60 << 20)..(61 << 20)].fill(7);
        self.write(&volume, &content);
        (volume, content)
    }

    fn on_device<T>(&self, volume: &str, work: impl FnOnce(&File) -> T) -> T {
        let kubelet = self.place.kubelet();
        let paths = kubelet.bring_up(&self.place.bench.root(), "raw", volume, Use::Block);
        let done = work(&OpenOptions::new().read(true).write(true).open(&paths.target).unwrap());
        kubelet.take_down(volume, &paths);
        done
    }

    fn write(&self, volume: &str, content: &[u8]) {
        self.on_device(volume, |device| {
            device.write_all_at(&content[..24 << 20], 0).unwrap();
            device.write_all_at(&content[60 << 20..61 << 20], 60 << 20).unwrap();
            device.sync_all().unwrap();
        });
    }

    fn content(&self, volume: &str) -> Vec<u8> {
        self.on_device(volume, |mut device| {
            let mut content = Vec::new();
            device.read_to_end(&mut content).unwrap();
            content
        })
    }

    /// The Secret of a class.
    fn secrets(&self) -> HashMap<String, String> {
        let location = self.store.location("volumes").to_string();
        let keys = [("RESTIC_REPOSITORY", location.as_str()), ("RESTIC_PASSWORD", "geheim")];
        keys.into_iter().chain(CREDENTIALS).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn named(csi: &Csi, name: &str) -> Option<String> {
        let pools = csi.pools().unwrap();
        pools.into_iter().flat_map(|pool| pool.objects).find(|object| object.name == name).map(|object| object.handle)
    }

    /// What the agent has open of the pool, and of devices, each with the flags of its descriptor.
    fn held(&self, agent: &Process) -> Vec<(PathBuf, u32)> {
        let process = format!("/proc/{}", agent.id());
        let mut held = Vec::new();
        for entry in fs::read_dir(format!("{process}/fd")).unwrap() {
            let entry = entry.unwrap();
            let Ok(file) = fs::read_link(entry.path()) else { continue };
            let is_device = file.starts_with("/dev") && file.as_path() != Path::new("/dev/null");
            if is_device || file.starts_with(self.place.bench.pool_directory()) {
                let about = fs::read_to_string(format!("{process}/fdinfo/{}", entry.file_name().display())).unwrap();
                let flags = about.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim().to_owned();
                held.push((file, u32::from_str_radix(&flags, 8).unwrap()));
            }
        }
        held
    }
}

fn access(flags: u32) -> i32 {
    i32::try_from(flags).unwrap() & nix::libc::O_ACCMODE
}

#[test]
fn what_an_agent_without_privilege_exports_is_restored_byte_for_byte() {
    for kind in [PoolFileSystem::Xfs, PoolFileSystem::Btrfs] {
        let scene = Scene::new(kind);
        let (node, agent) = (scene.place.start_node(), scene.place.start_agent());
        let csi = scene.place.csi();
        let (volume, mut content) = scene.volume(&csi, "data");
        csi.make_snapshot("monday", &volume);
        assert_eq!(scene.done(&["export", "monday"])["mode"], "full");
        content[4096..8192].fill(9);
        scene.write(&volume, &content);
        csi.make_snapshot("tuesday", &volume);
        let second = scene.done(&["export", "tuesday"]);
        assert_eq!(second["mode"], "incremental", "{second}");
        scene.done(&["restore", "--volume", "again"]);
        assert!(scene.content(&Scene::named(&csi, "again").unwrap()) == content, "what was restored is not what was exported");
        assert_eq!(scene.held(&agent), Vec::new());
        agent.stop();
        node.stop();
        assert_eq!(scene.place.bench.attached(), Vec::<String>::new());
    }
}

#[test]
fn an_agent_has_only_what_it_was_handed_open_and_that_as_it_was_handed() {
    let scene = Scene::new(PoolFileSystem::Xfs);
    let (_node, agent) = (scene.place.start_node(), scene.place.start_agent());
    let csi = scene.place.csi();
    let (volume, content) = scene.volume(&csi, "data");
    csi.make_snapshot("cut", &volume);
    let mut export = scene.stalled_export("cut");
    let held = scene.held(&agent);
    let is_the_snapshot = |(file, flags): &(PathBuf, u32)| *file == held[0].0 && access(*flags) == nix::libc::O_RDONLY;
    assert!(!held.is_empty() && held.iter().all(is_the_snapshot), "{held:?}");
    scene.store.behaves();
    assert!(wait_child("the export", &mut export, BOUND).success());
    let mut restore = scene.stalled_restore("again");
    let held = scene.held(&agent);
    assert!(!held.is_empty() && held.iter().all(|(file, _)| *file == held[0].0), "{held:?}");
    scene.store.behaves();
    assert!(wait_child("the restore", &mut restore, BOUND).success());
    assert_eq!(scene.held(&agent), Vec::new());
    assert!(scene.content(&Scene::named(&csi, "again").unwrap()) == content);
}

#[test]
fn a_node_that_is_killed_fails_the_restore_of_its_agent_leaves_nothing_and_serves_it_again() {
    let scene = Scene::new(PoolFileSystem::Xfs);
    let node = scene.place.start_node();
    let mut agent = scene.place.start_agent();
    let csi = scene.place.csi();
    let (volume, content) = scene.volume(&csi, "data");
    csi.make_snapshot("cut", &volume);
    scene.done(&["export", "cut"]);
    let before = scene.place.bench.stored();
    let mut restore = scene.stalled_restore("again");
    node.kill();
    scene.store.behaves();
    let ended = wait_child("the restore", &mut restore, BOUND);
    assert!(!ended.success(), "its target went with the node");
    let node = scene.place.start_node();
    assert_eq!(csi.volume_ids(), [volume.as_str()]);
    wait_for("the pool to hold what it held", BOUND, || (scene.place.bench.stored() == before).then_some(()));
    assert_eq!(scene.held(&agent), Vec::new());
    assert!(agent.runs());
    scene.done(&["restore", "--volume", "again"]);
    assert!(scene.content(&Scene::named(&csi, "again").unwrap()) == content);

    // An export has read what it needs, or has not: either way its snapshot is free when the node is there again.
    scene.write(&volume, &content.iter().map(|byte| byte ^ 0x55).collect::<Vec<_>>());
    let cut = csi.make_snapshot("second", &volume);
    let mut export = scene.stalled_export("second");
    node.kill();
    scene.store.behaves();
    wait_child("the export", &mut export, BOUND);
    let _node = scene.place.start_node();
    csi.drop_snapshot(&cut);
    assert_eq!(scene.held(&agent), Vec::new());
    csi.make_snapshot("third", &volume);
    scene.done(&["export", "third"]);
}

#[test]
fn an_agent_that_is_killed_leaves_neither_lease_nor_target_and_the_kubelet_notices_nothing() {
    let scene = Scene::new(PoolFileSystem::Xfs);
    let (_node, agent) = (scene.place.start_node(), scene.place.start_agent());
    let csi = scene.place.csi();
    let (volume, content) = scene.volume(&csi, "data");
    csi.make_snapshot("cut", &volume);
    scene.done(&["export", "cut"]);
    let kubelet = scene.place.kubelet();
    let paths = kubelet.bring_up(&scene.place.bench.root(), "in-use", &volume, Use::Block);
    let before = scene.place.bench.stored();

    // A target.
    let mut restore = scene.stalled_restore("again");
    assert_ne!(scene.place.bench.stored(), before, "there is a hidden volume");
    agent.kill();
    assert!(!wait_child("the restore", &mut restore, BOUND).success());
    kubelet.probe(proto::ProbeRequest {}).unwrap();
    wait_for("the target to go", BOUND, || (scene.place.bench.stored() == before).then_some(()));
    let agent = scene.place.start_agent();
    let csi = scene.place.csi();
    // The target's file is gone a moment before the operation that deletes it has ended.
    let made = wait_for("its name to be free", BOUND, || {
        match csi.create_volume(new_volume("again", SIZE, Use::Block, &Source::Blank)) {
            Err(status) if status.code() == Code::Aborted => None,
            answered => Some(answered.unwrap()),
        }
    });
    csi.drop_volume(&made.volume.unwrap().volume_id);

    // A lease.
    scene.store.behaves();
    OpenOptions::new().write(true).open(&paths.target).unwrap().write_all_at(&[3; 1 << 20], 0).unwrap();
    let cut = csi.make_snapshot("second", &volume);
    let mut export = scene.stalled_export("second");
    let leased = csi.delete_snapshot(proto::DeleteSnapshotRequest { snapshot_id: cut.clone(), ..Default::default() });
    assert!(leased.is_err(), "a snapshot that is leased was deleted");
    agent.kill();
    assert!(!wait_child("the export", &mut export, BOUND).success());
    let agent = scene.place.start_agent();
    let csi = scene.place.csi();
    let delete = || csi.delete_snapshot(proto::DeleteSnapshotRequest { snapshot_id: cut.clone(), ..Default::default() });
    wait_for("the lease to end", BOUND, || delete().ok());

    scene.store.behaves();
    scene.done(&["restore", "--volume", "again"]);
    assert!(scene.content(&Scene::named(&csi, "again").unwrap()) == content);
    // The volume that was in use all the while is taken down as ever.
    kubelet.take_down(&volume, &paths);
    agent.stop();
    assert_eq!(scene.place.bench.attached(), Vec::<String>::new());
}

#[test]
fn an_agent_that_is_stopped_cancels_its_transfers_and_undoes_them() {
    let scene = Scene::new(PoolFileSystem::Xfs);
    let (_node, agent) = (scene.place.start_node(), scene.place.start_agent());
    let csi = scene.place.csi();
    let (volume, _) = scene.volume(&csi, "data");
    csi.make_snapshot("cut", &volume);
    scene.done(&["export", "cut"]);
    let before = scene.place.bench.stored();
    let mut restore = scene.stalled_restore("again");
    drop(csi);
    agent.stop();
    assert!(!wait_child("the restore", &mut restore, BOUND).success());
    wait_for("the target to go", BOUND, || (scene.place.bench.stored() == before).then_some(()));
    let refused = run(&mut scene.transfer(&["restore", "--volume", "again"]));
    assert_eq!(refused.code, Some(5), "nobody is there: {}", refused.stderr);
}

#[test]
fn a_class_exports_drops_and_restores_through_an_agent_and_the_node_sees_no_secret() {
    let scene = Scene::new(PoolFileSystem::Xfs);
    let (node, agent) = (scene.place.start_node(), scene.place.start_agent());
    let csi = scene.place.csi();
    let (volume, content) = scene.volume(&csi, "data");
    let class = [("repository", "existing"), ("localCopy", "drop")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let request =
        proto::CreateSnapshotRequest { parameters: class.into(), secrets: scene.secrets(), ..new_snapshot("cut", &volume) };
    // Past the agent.
    let refused = Csi::connect(&scene.place.for_agent()).create_snapshot(request.clone()).unwrap_err();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("windlass agent"), "{refused}");
    assert_eq!(csi.snapshot_ids(), Vec::<String>::new());

    let ready = wait_for("the snapshot to be ready", BOUND, || {
        csi.create_snapshot(request.clone()).unwrap().snapshot.filter(|snapshot| snapshot.ready_to_use)
    });
    wait_for("the local copy to be given up", BOUND, || {
        let pools = csi.pools().unwrap();
        let mut objects = pools.iter().flat_map(|pool| &pool.objects).filter(|object| object.kind == "snapshot");
        objects.all(|object| object.handle == ready.snapshot_id && object.allocated_bytes == 0).then_some(())
    });
    // Neither process knows anything of it any more, and the volume is gone.
    agent.kill();
    node.kill();
    let (node, agent) = (scene.place.start_node(), scene.place.start_agent());
    let csi = scene.place.csi();
    csi.drop_volume(&volume);
    let from = new_volume("again", SIZE, Use::Block, &Source::Snapshot(ready.snapshot_id.clone()));
    let without = csi.create_volume(from.clone()).unwrap_err();
    assert_eq!(without.code(), Code::FailedPrecondition, "{without}");
    let from = proto::CreateVolumeRequest { secrets: scene.secrets(), ..from };
    let restored = wait_for("the volume to be restored", BOUND, || match csi.create_volume(from.clone()) {
        Ok(answer) => Some(answer.volume.unwrap().volume_id),
        Err(status) if status.code() == Code::Aborted => None,
        Err(status) => panic!("{status}"),
    });
    assert!(scene.content(&restored) == content, "what was restored is not what was cut");
    let gone = proto::DeleteSnapshotRequest { snapshot_id: ready.snapshot_id.clone(), secrets: scene.secrets() };
    csi.delete_snapshot(gone).unwrap();
    assert_eq!(csi.snapshot_ids(), Vec::<String>::new());
    agent.stop();
    node.stop();
    for name in ["node", "agent"] {
        assert!(!scene.place.logged(name).contains("geheim"), "the {name} has logged a secret");
    }
    assert_eq!(scene.place.bench.attached(), Vec::<String>::new());
}
