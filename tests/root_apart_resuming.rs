#![cfg(feature = "root-tests")]
//! CreateVolume from a repository, of which the agent or the node dies or is stopped in the middle: the next call goes on with what is there, and
//! asks the store for the rest only. Needs root.

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
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::csi::{Csi, Source, Use, new_snapshot, new_volume};
use common::fixture::{Bench, PoolFileSystem};
use common::process::Process;
use common::program::{run_ok, windlass};
use common::{GIB, MIB, wait_for};
use csi_proto::csi::v1 as proto;
use csi_proto::windlass::v1::TransferState;
use hyper::body::Incoming;
use hyper::{Method, Request};
use pair::Place;
use rand::{Rng, SeedableRng};
use s3::{CREDENTIALS, S3Server, Trouble};
use tokio::runtime::Runtime;
use tonic::{Code, Status};

/// Only bounds a hang.
const BOUND: Duration = Duration::from_secs(120);
const SIZE: u64 = 64 * MIB;
/// Of it holds noise, which is stored as it is.
const NOISE: u64 = 40 * MIB;
/// What the store gives before it is too busy for more.
const GIVEN: u64 = 24 * MIB;
/// What the node logs of a restore that goes on.
const TAKEN_OVER: &str = "restore goes on with what an earlier one has written";
/// What of that is certainly in the target when the restore is interrupted.
const WRITTEN: u64 = 8 * MIB;

/// A snapshot that only a repository has, and a node and an agent that may restore it.
struct Scene {
    place: Place,
    store: S3Server,
    snapshot: String,
    content: Vec<u8>,
    /// The store runs in it.
    _runtime: Runtime,
}

impl Scene {
    fn new(kind: PoolFileSystem) -> (Self, Process, Process) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let store = runtime.block_on(S3Server::start());
        let place = Place::new(Bench::with_pool(kind, GIB));
        let mut content = vec![0; usize::try_from(SIZE).unwrap()];
        rand::rngs::StdRng::seed_from_u64(7).fill_bytes(&mut content[..usize::try_from(NOISE).unwrap()]);
        let mut scene = Self { place, store, snapshot: String::new(), content, _runtime: runtime };
        let mut init = windlass();
        init.args(["repository", "init"]).envs(scene.secrets()).env("WINDLASS_CACHE_DIR", "").stdin(Stdio::null());
        run_ok(&mut init);
        let (node, agent) = (scene.place.start_node(), scene.place.start_agent());
        let csi = scene.place.csi();
        let volume = csi.make_volume("data", SIZE, Use::Block, &Source::Blank);
        scene.on_device(&volume, |device| {
            device.write_all_at(&scene.content[..usize::try_from(NOISE).unwrap()], 0).unwrap();
            device.sync_all().unwrap();
        });
        let class = [("repository", "existing"), ("localCopy", "drop")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let request =
            proto::CreateSnapshotRequest { parameters: class.into(), secrets: scene.secrets(), ..new_snapshot("cut", &volume) };
        let ready = wait_for("the snapshot to be ready", BOUND, || {
            csi.create_snapshot(request.clone()).unwrap().snapshot.filter(|snapshot| snapshot.ready_to_use)
        });
        wait_for("the local copy to be given up", BOUND, || {
            let pools = csi.pools().unwrap();
            let mut snapshots = pools.iter().flat_map(|pool| &pool.objects).filter(|object| object.kind == "snapshot");
            snapshots.all(|object| object.allocated_bytes == 0).then_some(())
        });
        csi.drop_volume(&volume);
        scene.snapshot = ready.snapshot_id;
        (scene, node, agent)
    }

    /// The Secret of a class.
    fn secrets(&self) -> HashMap<String, String> {
        let location = self.store.location("volumes").to_string();
        let keys = [("RESTIC_REPOSITORY", location.as_str()), ("RESTIC_PASSWORD", "geheim")];
        keys.into_iter().chain(CREDENTIALS).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn on_device<T>(&self, volume: &str, work: impl FnOnce(&File) -> T) -> T {
        let kubelet = self.place.kubelet();
        let paths = kubelet.bring_up(&self.place.bench.root(), "raw", volume, Use::Block);
        let done = work(&OpenOptions::new().read(true).write(true).open(&paths.target).unwrap());
        kubelet.take_down(volume, &paths);
        done
    }

    /// What the provisioner asks for, again and again.
    fn create(&self, csi: &Csi, name: &str) -> Result<String, Status> {
        let request = new_volume(name, SIZE, Use::Block, &Source::Snapshot(self.snapshot.clone()));
        let answer = csi.create_volume(proto::CreateVolumeRequest { secrets: self.secrets(), ..request })?;
        Ok(answer.volume.unwrap().volume_id)
    }

    /// Counts the bytes of packs that are asked for from now on; beyond so many the store is too busy.
    fn gives(&self, most: u64) -> Arc<AtomicU64> {
        let asked = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&asked);
        self.store.misbehaves(move |_, request| {
            let bytes = pack_bytes(request)?;
            (counted.fetch_add(bytes, Ordering::SeqCst) + bytes > most).then_some(Trouble::Answers(503, "SlowDown"))
        });
        asked
    }

    /// Begins a restore, and returns when it has written something and gets no more.
    fn interrupted(&self, csi: &Csi, name: &str) {
        self.gives(GIVEN);
        wait_for("the restore to write", BOUND, || {
            match self.create(csi, name) {
                Err(status) if status.code() == Code::Aborted => {}
                answered => panic!("{answered:?}"),
            }
            let mut running = csi.transfers().unwrap().into_iter().filter(|one| one.state() == TransferState::Running);
            running.any(|one| one.bytes_done >= SIZE - NOISE + WRITTEN).then_some(())
        });
        assert_eq!(csi.volume_ids(), Vec::<String>::new(), "{name} is seen half");
    }

    /// Asks until there is a volume, which is whole; what the store was asked for meanwhile. Deletes it.
    fn completed(&self, csi: &Csi, name: &str) -> u64 {
        let asked = self.gives(u64::MAX);
        let volume = wait_for("the volume to be restored", BOUND, || match self.create(csi, name) {
            Ok(volume) => Some(volume),
            // Internal: of a restore whose node went away, told once.
            Err(status) if [Code::Aborted, Code::Unavailable, Code::Internal].contains(&status.code()) => None,
            Err(status) => panic!("{status}"),
        });
        self.on_device(&volume, |mut device| {
            let mut content = Vec::new();
            device.read_to_end(&mut content).unwrap();
            assert!(content == self.content, "{name} is not what was cut");
        });
        csi.drop_volume(&volume);
        asked.load(Ordering::SeqCst)
    }

    fn kept(csi: &Csi) -> usize {
        csi.pools().unwrap().iter().flat_map(|pool| &pool.objects).filter(|object| object.kind == "restore").count()
    }
}

/// How many bytes of a pack a request is for; `None` when it is for something else.
fn pack_bytes(request: &Request<Incoming>) -> Option<u64> {
    if request.method() != Method::GET || !request.uri().path().contains("/data/") {
        return None;
    }
    let range = request.headers().get("range").expect("a whole pack is asked for").to_str().unwrap();
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    Some(last.parse::<u64>().unwrap() + 1 - first.parse::<u64>().unwrap())
}

/// What happens to the node and its agent.
#[derive(Debug, Clone, Copy)]
enum Interruption {
    AgentKilled,
    NodeKilled,
    AgentStopped,
    BothKilled,
    BothStopped,
}

impl Interruption {
    fn happen(self, scene: &Scene, (node, agent): (Process, Process)) -> (Process, Process) {
        match self {
            Self::AgentKilled => {
                agent.kill();
                (node, scene.place.start_agent())
            }
            Self::AgentStopped => {
                agent.stop();
                (node, scene.place.start_agent())
            }
            Self::NodeKilled => {
                node.kill();
                (scene.place.start_node(), agent)
            }
            Self::BothKilled => {
                node.kill();
                agent.kill();
                (scene.place.start_node(), scene.place.start_agent())
            }
            Self::BothStopped => {
                agent.stop();
                node.stop();
                (scene.place.start_node(), scene.place.start_agent())
            }
        }
    }
}

#[test]
fn a_restore_goes_on_after_its_agent_or_its_node_has_ended_in_the_middle_of_it() {
    use Interruption::{AgentKilled, AgentStopped, BothKilled, BothStopped, NodeKilled};
    for kind in [PoolFileSystem::Xfs, PoolFileSystem::Btrfs] {
        let (scene, mut node, mut agent) = Scene::new(kind);
        let before = scene.place.bench.stored();
        let whole = scene.completed(&scene.place.csi(), "undisturbed");
        assert!(whole >= NOISE, "{whole} bytes are less than the noise");
        let mut gone_on = 0;
        for interruption in [AgentKilled, AgentStopped, NodeKilled, BothKilled, BothStopped] {
            let csi = scene.place.csi();
            scene.interrupted(&csi, "restored");
            drop(csi);
            (node, agent) = interruption.happen(&scene, (node, agent));
            let csi = scene.place.csi();
            assert_eq!(csi.volume_ids(), Vec::<String>::new(), "{interruption:?}");
            let asked = scene.completed(&csi, "restored");
            println!("{interruption:?} on {kind:?}: {asked} of {whole} bytes were asked for again");
            assert!(asked <= whole - WRITTEN / 2, "{interruption:?} on {kind:?}: {asked} of {whole} bytes were asked for again");
            gone_on += 1;
            assert_eq!(scene.place.logged("node").matches(TAKEN_OVER).count(), gone_on, "{interruption:?}: it began anew");
            assert_eq!(
                (Scene::kept(&csi), scene.place.bench.stored()),
                (0, before.clone()),
                "{interruption:?}: something is left"
            );
        }
        agent.stop();
        node.stop();
        assert_eq!(scene.place.bench.attached(), Vec::<String>::new());
    }
}

#[test]
fn what_is_kept_is_told_of_and_gone_when_another_volume_gets_its_name() {
    let (scene, _node, agent) = Scene::new(PoolFileSystem::Xfs);
    let before = scene.place.bench.stored();
    let csi = scene.place.csi();
    scene.interrupted(&csi, "restored");
    drop(csi);
    agent.kill();
    let _agent = scene.place.start_agent();
    let csi = scene.place.csi();
    let status = wait_for("the target to be kept", BOUND, || {
        let object = csi.pools().unwrap().into_iter().flat_map(|pool| pool.objects).find(|object| object.kind == "restore");
        object.map(|object| (object.name, object.allocated_bytes))
    });
    assert!(status.0 == "restored" && status.1 >= WRITTEN, "{status:?}");
    let volume = csi.make_volume("restored", SIZE, Use::Block, &Source::Blank);
    assert_eq!(Scene::kept(&csi), 0);
    csi.drop_volume(&volume);
    assert_eq!(scene.place.bench.stored(), before);
}
