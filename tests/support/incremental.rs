//! Incremental exports of a pool, bases present and deleted: whatever is written to the volume, the increment dumps as the
//! snapshot's bytes, by stock restic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use csi_proto::windlass::v1 as proto;
use csi_proto::windlass::v1::TransferState;
use csi_proto::windlass::v1::transfers_server::Transfers as _;
use futures::StreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonic::Request;
use windlass::agent::Transfers;
use windlass::node::blocks::PoolBlocks;
use windlass::pool::owned::OwnedPool;
use windlass::repository::{Environment, KdfCost, Location, Password, Repository, connect};
use windlass::types::{
    Access, ByteRange, CapacityRange, DataChecksum, NewVolume, Object, SnapshotHandle, SnapshotId, VolumeHandle, VolumeId,
    VolumeSize,
};

use crate::basics::{new_snapshot, new_volume};
use crate::common::GIB;
use crate::common::fixture::{Bench, PoolFileSystem};
use crate::common::open::OpenPool;
use crate::common::program::{built_tool, command, run_ok};
use crate::random_volumes::free;
use crate::root_support::pattern;

const PASSWORD: &str = "geheim";
const CHUNK: u64 = 256 << 10;
const ROUNDS: u64 = 12;

fn size(bytes: u64) -> VolumeSize {
    VolumeSize::new(bytes).unwrap()
}

/// A node's transfers over a pool, one volume of it, and a repository.
struct Transferring {
    pool: Arc<OwnedPool>,
    transfers: Transfers,
    volume: VolumeId,
    repository: PathBuf,
}

impl Transferring {
    async fn new(pool: Arc<OwnedPool>, repository: PathBuf, checksum: DataChecksum, bytes: u64) -> Self {
        let location = Location::Local(repository.clone());
        let store = connect(&location, &Environment::new()).unwrap();
        Repository::init(store, &Password::new(PASSWORD).unwrap(), KdfCost::TEST).await.unwrap();
        let request = NewVolume { checksum, ..new_volume("source", bytes) };
        let volume = pool.create_volume(&request).unwrap().into_inner().id;
        let transfers = Transfers::new(Arc::new(PoolBlocks::new(vec![Arc::clone(&pool)])), "bench");
        Self { pool, transfers, volume, repository }
    }

    fn cut(&self, name: &str) -> SnapshotId {
        self.pool.create_snapshots(&[new_snapshot(name, self.volume)]).unwrap().remove(0).into_inner().id
    }

    async fn export(&self, snapshot: SnapshotId) -> proto::ExportResult {
        let request = proto::StartExportRequest {
            snapshot_id: SnapshotHandle { pool: self.pool.id(), snapshot }.to_string(),
            repository: Some(proto::RepositoryAccess {
                location: self.repository.display().to_string(),
                password: PASSWORD.to_owned(),
                ..Default::default()
            }),
            chunk_size_bytes: CHUNK,
            ..Default::default()
        };
        let transfer_id = self.transfers.start_export(Request::new(request)).await.unwrap().into_inner().transfer_id;
        let request = Request::new(proto::WatchTransferRequest { transfer_id });
        let states: Vec<_> = self.transfers.watch_transfer(request).await.unwrap().into_inner().collect().await;
        let last = states.last().unwrap().as_ref().unwrap();
        assert_eq!(last.state(), TransferState::Succeeded, "{}", last.message);
        last.export_result.clone().unwrap()
    }

    fn bytes(&self, snapshot: SnapshotId) -> Vec<u8> {
        let lease = self.pool.lease(snapshot).unwrap();
        let mut bytes = vec![0; usize::try_from(lease.size().bytes()).unwrap()];
        lease.file().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn dump(&self, snapshot: &str) -> Vec<u8> {
        let handle = VolumeHandle { pool: self.pool.id(), volume: self.volume };
        let path = format!("/{handle}/volume.img");
        let mut restic = command(built_tool("restic"));
        restic.args(["--no-cache", "--repo"]).arg(&self.repository).args(["dump", snapshot, &path]);
        run_ok(restic.env("RESTIC_PASSWORD", PASSWORD)).stdout
    }
}

/// A chain of increments, each compared with the snapshot that it was made of.
pub async fn increments_are_what_the_snapshots_hold(kind: PoolFileSystem, checksum: DataChecksum, seed: u64) {
    let bench = Bench::with_pool(kind, GIB);
    let mut bytes = 12 << 20;
    let opened = OpenPool::new(&bench, kind);
    let side = Transferring::new(Arc::clone(&opened.pool), bench.path().join("repository"), checksum, bytes).await;
    let mut random = StdRng::seed_from_u64(seed);
    let mut last: Option<SnapshotId> = None;
    for round in 0..ROUNDS {
        // Through the device, as a pod would: the page cache, the device, and what is beneath.
        let attachment = side.pool.attach(Object::Volume(side.volume), Access::ReadWrite).unwrap();
        let device = OpenOptions::new().read(true).write(true).open(&attachment.device).unwrap();
        let mut written = 0;
        for _ in 0..random.random_range(0..12) {
            let length = random.random_range(1..200_000_u64);
            let offset = random.random_range(0..bytes - length);
            match random.random_range(0..4) {
                0 => free(&device, ByteRange::new(offset & !4095, (length | 4095) + 1).unwrap()),
                1 => device.write_all_at(&vec![0; length as usize], offset).unwrap(),
                _ => device.write_all_at(&pattern(seed * 1000 + written, length as usize), offset).unwrap(),
            }
            written += 1;
        }
        device.sync_all().unwrap();
        drop(device);
        if random.random_range(0..2) == 0 {
            side.pool.detach(Object::Volume(side.volume)).unwrap();
        }
        if round == 5 {
            bytes += 3 << 20;
            side.pool.grow_volume(side.volume, CapacityRange::exactly(size(bytes))).unwrap();
        }
        let snapshot = side.cut(&format!("round-{round}"));
        // Every other base is deleted and lives on as an anchor.
        if let Some(base) = last.filter(|_| round % 2 == 0) {
            side.pool.delete_snapshot(base).unwrap();
        }
        let result = side.export(snapshot).await;
        let mode = if last.is_some() { "incremental" } else { "full" };
        assert_eq!(result.mode, mode, "{kind:?} {checksum:?} round {round}: {}", result.full_reason);
        let dumped = side.dump(&result.repository_snapshot);
        let is_same = dumped == side.bytes(snapshot);
        assert!(is_same, "{kind:?} {checksum:?} round {round} with {written} changes: the dump differs");
        last = Some(snapshot);
    }
    side.pool.detach(Object::Volume(side.volume)).unwrap();
}
