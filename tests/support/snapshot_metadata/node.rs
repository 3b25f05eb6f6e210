//! A node that the test looks beneath.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use csi_proto::csi::v1::controller_client::ControllerClient;
use csi_proto::csi::v1::node_client::NodeClient;
use csi_proto::csi::v1::*;
use rand::rngs::StdRng;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;
use windlass::csi::server::{self, PrivateSocket};
use windlass::node::routes;
use windlass::pool::owned::OwnedPool;
use windlass::types::{Access, Object, SnapshotHandle, VolumeHandle};

use crate::common::fixture::{Bench, PoolFileSystem};
use crate::common::open::OpenPool;
use crate::csi_harness::{self, NODE, bytes, new_volume};
use crate::metadata_client::{Ask, Client, applied, list_in_pieces};
use crate::random_volumes::{self, Way};

/// A node over one pool, served on a socket.
pub struct Node {
    pub socket: PathBuf,
    pub pool: Arc<OwnedPool>,
    pub opened: OpenPool,
    pub root: PathBuf,
    pub node: NodeClient<Channel>,
    pub metadata: Client,
    controller: ControllerClient<Channel>,
    checksum: &'static str,
}

impl Node {
    pub async fn start(bench: &Bench, kind: PoolFileSystem, checksum: &'static str) -> Self {
        let opened = OpenPool::new(bench, kind);
        let layer = opened.layer(NODE);
        let path = bench.path().join("csi.sock");
        let socket = PrivateSocket::bind(&path).unwrap();
        tokio::spawn(server::serve(socket, routes(&layer), CancellationToken::new()));
        let channel = csi_harness::channel(&path).await;
        Self {
            socket: path,
            pool: Arc::clone(&opened.pool),
            opened,
            root: bench.root(),
            node: NodeClient::new(channel.clone()),
            metadata: Client::new(channel.clone()),
            controller: ControllerClient::new(channel),
            checksum,
        }
    }

    pub async fn create(
        &self,
        name: &str,
        size: u64,
        capability: VolumeCapability,
        source: Option<VolumeContentSource>,
    ) -> String {
        let request = CreateVolumeRequest {
            capacity_range: bytes(size as i64, 0),
            volume_content_source: source,
            parameters: [("checksum".to_owned(), self.checksum.to_owned())].into(),
            ..new_volume(name, capability)
        };
        self.controller.clone().create_volume(request).await.unwrap().into_inner().volume.unwrap().volume_id
    }

    pub async fn cut(&self, name: &str, volume: &str) -> String {
        let request = CreateSnapshotRequest { name: name.into(), source_volume_id: volume.into(), ..Default::default() };
        self.controller.clone().create_snapshot(request).await.unwrap().into_inner().snapshot.unwrap().snapshot_id
    }

    /// A stream that was given up holds its snapshots until the server hears of it.
    pub async fn delete_snapshot(&self, snapshot: &str) {
        let mut interval = tokio::time::interval(Duration::from_millis(5));
        let deadline = Instant::now() + Duration::from_secs(30);
        let request = || DeleteSnapshotRequest { snapshot_id: snapshot.into(), ..Default::default() };
        while let Err(status) = self.controller.clone().delete_snapshot(request()).await {
            assert!(matches!(status.code(), Code::FailedPrecondition | Code::Aborted), "{status}");
            assert!(Instant::now() < deadline, "the snapshot stays in use: {status}");
            interval.tick().await;
        }
    }

    pub async fn grow(&self, volume: &str, size: u64) {
        let request = ControllerExpandVolumeRequest {
            volume_id: volume.into(),
            capacity_range: bytes(size as i64, 0),
            ..Default::default()
        };
        self.controller.clone().controller_expand_volume(request).await.unwrap();
    }

    pub fn object(volume: &str) -> Object {
        Object::Volume(volume.parse::<VolumeHandle>().unwrap().volume)
    }

    pub fn attach(&self, volume: &str) -> PathBuf {
        self.pool.attach(Self::object(volume), Access::ReadWrite).unwrap().device
    }

    /// One change of a volume's content, by its device or, when it has none, by the file beneath. Where there is no file either,
    /// it has a device for that long.
    pub fn change(&self, volume: &str, bytes: &mut [u8], random: &mut StdRng) {
        let object = Self::object(volume);
        if let Some(attachment) = self.pool.attachment(object).unwrap() {
            return random_volumes::change(&Way::Device(&attachment.device), bytes, random);
        }
        let id = volume.parse::<VolumeHandle>().unwrap().volume;
        if let Some(file) = self.opened.file_of(id) {
            return random_volumes::change(&Way::File(&file), bytes, random);
        }
        random_volumes::change(&Way::Device(&self.attach(volume)), bytes, random);
        self.pool.detach(object).unwrap();
    }

    /// The bytes of a snapshot, never by way of its loop device.
    pub fn read(&self, snapshot: &str) -> Vec<u8> {
        let lease = self.pool.lease(snapshot.parse::<SnapshotHandle>().unwrap().snapshot).unwrap();
        let mut bytes = vec![0; lease.size().bytes() as usize];
        lease.file().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// That what the service says turns the base into the target, and nothing into it.
    pub async fn check(&self, base: &str, target: &str, random: &mut StdRng) {
        let (base_bytes, target_bytes) = (self.read(base), self.read(target));
        let ranges = list_in_pieces(&self.socket, Ask::Delta { base, target }, random).await;
        assert!(applied(&base_bytes, &target_bytes, &ranges) == target_bytes, "something changed and was not said: {ranges:?}");
        let ranges = list_in_pieces(&self.socket, Ask::Allocated(target), random).await;
        assert!(applied(&[], &target_bytes, &ranges) == target_bytes, "something is allocated and was not said: {ranges:?}");
    }
}
