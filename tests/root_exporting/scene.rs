//! A pool, the node over it, and a store that outlives both.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use csi_proto::csi::v1 as proto;
use csi_proto::windlass::v1::transfers_client::TransfersClient;
use csi_proto::windlass::v1::{ListTransfersRequest, TransferProgress, TransferState};
use tokio::runtime::Runtime;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use windlass::repository::{self, BlobKind, Id, KdfCost, Password, Repository, connect};

use crate::common::csi::{Csi, Source, Use, new_snapshot, new_volume};
use crate::common::fixture::{Bench, PoolFileSystem};
use crate::common::node::{Node, NodeOptions};
use crate::common::program::{command, run_ok};
use crate::common::wait_for;
use crate::s3::{self, S3Server};

/// Only bounds a hang.
pub const BOUND: Duration = Duration::from_secs(180);
const PASSWORD: &str = "geheim";
/// The repository.
pub const EXPORTS: &str = "exports";

/// See above. In the order in which they go.
pub struct Scene {
    pub node: Option<Node>,
    pub bench: Bench,
    pub store: S3Server,
    /// The store runs in it.
    runtime: Runtime,
}

impl Scene {
    /// With a node that runs.
    pub fn new(kind: PoolFileSystem, bytes: u64) -> Self {
        let scene = Self::over(Bench::with_pool(kind, bytes));
        let node = Node::start(&scene.options());
        Self { node: Some(node), ..scene }
    }

    /// Without a node.
    pub fn over(bench: Bench) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let store = runtime.block_on(S3Server::start());
        Self { node: None, bench, store, runtime }
    }

    /// How the node is started: it caches nothing, so that one start does what another does.
    pub fn options(&self) -> NodeOptions {
        let mut options = self.bench.start_armable_options();
        options.environment.push(("WINDLASS_CACHE_DIR".to_owned(), String::new()));
        options
    }

    /// The pool with all that is in it is lost; there is another, empty one.
    pub fn replace_pool(&mut self, kind: PoolFileSystem, bytes: u64) {
        self.node.take().unwrap().stop();
        self.bench = Bench::with_pool(kind, bytes);
        self.node = Some(Node::start(&self.options()));
    }

    pub fn csi(&self) -> Csi {
        self.node.as_ref().unwrap().csi()
    }

    /// The Secret of a class whose repository is at this prefix.
    pub fn secrets(&self, prefix: &str) -> HashMap<String, String> {
        let location = self.store.location(prefix).to_string();
        let keys = [("RESTIC_REPOSITORY", location.as_str()), ("RESTIC_PASSWORD", PASSWORD)];
        keys.into_iter().chain(s3::CREDENTIALS).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// Makes a repository.
    pub fn repository(&self, prefix: &str) {
        let store = connect(&self.store.location(prefix), &self.store.credentials()).unwrap();
        self.runtime.block_on(Repository::init(store, &Password::new(PASSWORD).unwrap(), KdfCost::TEST)).unwrap();
    }

    /// How many snapshots the repository holds of each handle.
    pub fn held(&self, prefix: &str) -> BTreeMap<String, usize> {
        let store = connect(&self.store.location(prefix), &self.store.credentials()).unwrap();
        let snapshots: Vec<repository::StoredSnapshot> = self.runtime.block_on(async {
            Repository::open(store, &Password::new(PASSWORD).unwrap()).await.unwrap().snapshots().await.unwrap()
        });
        let mut held = BTreeMap::new();
        for stored in snapshots {
            let handle = stored.snapshot.tags.iter().find_map(|tag| tag.strip_prefix("handle=")).unwrap();
            *held.entry(handle.to_owned()).or_default() += 1;
        }
        held
    }

    /// How many chunks of `bytes` the index of the repository names.
    pub fn indexed(&self, prefix: &str, bytes: &[u8], chunk: usize) -> u64 {
        let store = connect(&self.store.location(prefix), &self.store.credentials()).unwrap();
        let index = self.runtime.block_on(async {
            Repository::open(store, &Password::new(PASSWORD).unwrap()).await.unwrap().load_index().await.unwrap()
        });
        let is_there = |chunk: &&[u8]| index.get(BlobKind::Data, &Id::of(chunk)).unwrap().is_some();
        bytes.chunks(chunk).filter(is_there).count() as u64
    }

    /// Stock restic finds the repository sound.
    pub fn check(&self, prefix: &str) {
        let restic = |arguments: &[&str]| {
            let folder = self.store.file(prefix);
            run_ok(command("restic").args(["--no-cache", "--repo"]).arg(folder).args(arguments).env("RESTIC_PASSWORD", PASSWORD))
        };
        // It knows nothing of a node's death, and respects its lock for half an hour.
        restic(&["unlock", "--remove-all"]);
        restic(&["check", "--read-data"]);
    }

    /// A raw volume that holds `bytes` at its beginning.
    pub fn volume(&self, name: &str, size: u64, bytes: &[u8]) -> String {
        let volume = self.csi().make_volume(name, size, Use::Block, &Source::Blank);
        self.write(&volume, 0, bytes);
        volume
    }

    fn on_device<T>(&self, volume: &str, work: impl FnOnce(File) -> T) -> T {
        let csi = self.csi();
        let paths = csi.bring_up(&self.bench.root(), "raw", volume, Use::Block);
        let done = work(OpenOptions::new().read(true).write(true).open(&paths.target).unwrap());
        csi.take_down(volume, &paths);
        done
    }

    pub fn write(&self, volume: &str, offset: u64, bytes: &[u8]) {
        self.on_device(volume, |device| {
            device.write_all_at(bytes, offset).unwrap();
            device.sync_all().unwrap();
        });
    }

    pub fn content(&self, volume: &str) -> Vec<u8> {
        self.on_device(volume, |mut device| {
            let mut content = Vec::new();
            device.read_to_end(&mut content).unwrap();
            content
        })
    }

    /// The first bytes of a volume.
    pub fn beginning(&self, volume: &str, bytes: usize) -> Vec<u8> {
        self.on_device(volume, |device| {
            let mut content = vec![0; bytes];
            device.read_exact_at(&mut content, 0).unwrap();
            content
        })
    }

    /// What the sidecar asks for.
    pub fn request(&self, name: &str, volume: &str, local_copy: &str, prefix: &str) -> proto::CreateSnapshotRequest {
        let class = [("repository", "existing"), ("localCopy", local_copy)];
        let parameters = class.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        proto::CreateSnapshotRequest { parameters, secrets: self.secrets(prefix), ..new_snapshot(name, volume) }
    }

    /// Asks again as a sidecar does, until the snapshot is ready.
    pub fn until_ready(&self, request: &proto::CreateSnapshotRequest) -> proto::Snapshot {
        let csi = self.csi();
        wait_for("the snapshot to be ready", BOUND, || match csi.create_snapshot(request.clone()) {
            Ok(answer) => answer.snapshot.filter(|snapshot| snapshot.ready_to_use),
            Err(status) if matches!(status.code(), Code::Unavailable | Code::Aborted) => None,
            Err(status) => panic!("{status}"),
        })
    }

    /// The same, until it is refused.
    pub fn until_refused(&self, request: &proto::CreateSnapshotRequest) -> Status {
        let csi = self.csi();
        wait_for("the snapshot to be refused", BOUND, || match csi.create_snapshot(request.clone()) {
            Ok(answer) => {
                assert!(!answer.snapshot.unwrap().ready_to_use);
                None
            }
            Err(status) => Some(status),
        })
    }

    /// Whether the pool has no bytes for a snapshot to be read. An anchor of it counts by itself.
    pub fn is_given_up(&self, snapshot: &str) -> bool {
        let pools = self.csi().pools().unwrap();
        let mut objects = pools.iter().flat_map(|pool| &pool.objects).filter(|object| object.handle == snapshot);
        objects.find(|object| object.kind == "snapshot").unwrap().allocated_bytes == 0
    }

    /// Waits until that is so, and all that is to be done for it has been done.
    pub fn until_given_up(&self, snapshot: &str) {
        let is_under_way = |one: &TransferProgress| matches!(one.state(), TransferState::Pending | TransferState::Running);
        wait_for("the local copy to be given up", BOUND, || {
            (self.is_given_up(snapshot) && !self.transfers().iter().any(is_under_way)).then_some(())
        });
    }

    /// Makes a volume from a snapshot as the provisioner does, by a restore if need be; its id.
    pub fn restore(&self, name: &str, size: u64, snapshot: &str, prefix: &str) -> String {
        self.until_restored(new_volume(name, size, Use::Block, &Source::Snapshot(snapshot.to_owned())), prefix)
    }

    /// Makes a volume by any request.
    pub fn until_restored(&self, request: proto::CreateVolumeRequest, prefix: &str) -> String {
        let request = proto::CreateVolumeRequest { secrets: self.secrets(prefix), ..request };
        let csi = self.csi();
        wait_for("the volume to be restored", BOUND, || match csi.create_volume(request.clone()) {
            Ok(answer) => Some(answer.volume.unwrap().volume_id),
            Err(status) if status.code() == Code::Aborted => None,
            Err(status) => panic!("{status}"),
        })
    }

    /// Deletes as a sidecar does.
    pub fn delete(&self, snapshot: &str, prefix: &str) {
        let csi = self.csi();
        let request = proto::DeleteSnapshotRequest { snapshot_id: snapshot.to_owned(), secrets: self.secrets(prefix) };
        wait_for("the snapshot to be deleted", BOUND, || match csi.delete_snapshot(request.clone()) {
            Ok(_) => Some(()),
            Err(status) if status.code() == Code::Aborted => None,
            Err(status) => panic!("{status}"),
        });
    }

    /// All transfers that the node knows, the newest first.
    pub fn transfers(&self) -> Vec<TransferProgress> {
        let endpoint = self.node.as_ref().unwrap().endpoint();
        self.runtime.block_on(async {
            let channel = Endpoint::from_shared(endpoint).unwrap().connect().await.unwrap();
            TransfersClient::new(channel).list_transfers(ListTransfersRequest {}).await.unwrap().into_inner().transfers
        })
    }
}

/// Bytes that neither compress nor repeat, the same for the same seed.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    use rand::{Rng, SeedableRng};
    let mut noise = vec![0; bytes];
    rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut noise);
    noise
}
