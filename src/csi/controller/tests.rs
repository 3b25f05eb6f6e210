//! What the services of a node say while one of its pools has failed.

use std::sync::Arc;

use csi_proto::csi::v1 as proto;
use proto::controller_server::Controller;
use proto::identity_server::Identity;
use proto::node_server::Node;
use proto::volume_capability::access_mode::Mode;
use proto::volume_capability::{AccessMode, AccessType, BlockVolume};
use tonic::{Code, Request};

use crate::csi::{NodeLayer, NodeName, NodeOptions};
use crate::mount::memory::MemoryMounter;
use crate::mount::path::Root;
use crate::pool::set::PoolSet;
use crate::pool::set::tests::{Disk, start, wait_for};
use crate::types::VolumeHandle;

struct World {
    layer: NodeLayer,
    set: PoolSet,
    _root: tempfile::TempDir,
}

impl World {
    fn new(disks: &[Disk]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let options = NodeOptions {
            node: NodeName::try_from("here".to_owned()).unwrap(),
            root: Root::open(root.path()).unwrap(),
            boot_id: "boot".to_owned(),
            statistics_timeout: None,
        };
        let set = start(disks);
        Self { layer: NodeLayer::new(set.clone(), Arc::new(MemoryMounter::new()), options), set, _root: root }
    }

    async fn create(&self, name: &str) -> Result<VolumeHandle, Code> {
        let capability = proto::VolumeCapability {
            access_type: Some(AccessType::Block(BlockVolume {})),
            access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
        };
        let range = proto::CapacityRange { required_bytes: 1 << 20, limit_bytes: 0 };
        let request = proto::CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(range),
            volume_capabilities: vec![capability],
            ..Default::default()
        };
        let answer = self.layer.create_volume(Request::new(request)).await.map_err(|status| status.code())?;
        Ok(answer.into_inner().volume.unwrap().volume_id.parse().unwrap())
    }

    async fn delete(&self, volume: VolumeHandle) -> Result<(), Code> {
        let request = proto::DeleteVolumeRequest { volume_id: volume.to_string(), ..Default::default() };
        self.layer.delete_volume(Request::new(request)).await.map(drop).map_err(|status| status.code())
    }

    async fn capacity(&self) -> i64 {
        let answer = self.layer.get_capacity(Request::new(proto::GetCapacityRequest::default())).await;
        answer.unwrap().into_inner().available_capacity
    }

    async fn pool_keys(&self) -> usize {
        let answer = self.layer.node_get_info(Request::new(proto::NodeGetInfoRequest {})).await.unwrap().into_inner();
        answer.accessible_topology.unwrap().segments.keys().filter(|key| key.contains("/pool-")).count()
    }

    async fn probe(&self) -> Result<(), tonic::Status> {
        self.layer.probe(Request::new(proto::ProbeRequest {})).await.map(drop)
    }

    async fn list(&self) -> Result<usize, Code> {
        let answer = self.layer.list_volumes(Request::new(proto::ListVolumesRequest::default())).await;
        answer.map(|answer| answer.into_inner().entries.len()).map_err(|status| status.code())
    }
}

#[tokio::test]
async fn a_failed_pool_takes_no_part_and_its_volumes_are_unavailable_until_it_is_back() {
    let (dying, well) = (Disk::new("dying"), Disk::new("well"));
    let world = World::new(&[dying.clone(), well.clone()]);
    // The first of equals.
    let lost = world.create("lost").await.unwrap();
    assert_eq!(lost.pool, dying.id());
    let both = world.capacity().await;
    assert_eq!((world.pool_keys().await, world.list().await), (2, Ok(1)));

    dying.die();
    world.set.suspect(dying.id());
    wait_for(&world.set, "the pool has failed", |set| set.pools().len() == 1);
    assert_eq!(world.create("new").await.map(|volume| volume.pool), Ok(well.id()));
    assert_eq!(world.create("lost").await, Err(Code::Unavailable), "a second volume of its name must not be made");
    assert_eq!(world.delete(lost).await, Err(Code::Unavailable));
    assert_eq!(world.list().await, Err(Code::Unavailable));
    assert!(world.capacity().await <= both / 2);
    assert_eq!(world.pool_keys().await, 1);
    world.probe().await.unwrap();

    dying.come_back();
    wait_for(&world.set, "the pool is back", |set| set.pools().len() == 2);
    assert_eq!(world.create("lost").await, Ok(lost));
    assert_eq!((world.pool_keys().await, world.list().await), (2, Ok(2)));
    assert_eq!(world.delete(lost).await, Ok(()));
    world.set.close();
}

#[tokio::test]
async fn a_node_without_an_open_pool_says_why_it_is_unhealthy() {
    let disk = Disk::new("absent");
    disk.die();
    let world = World::new(std::slice::from_ref(&disk));
    let status = world.probe().await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("absent") && status.message().contains("there is no such disk"), "{status}");
    assert_eq!(world.create("data").await, Err(Code::ResourceExhausted), "another node may have room");
    assert_eq!((world.capacity().await, world.pool_keys().await), (0, 0));
    disk.come_back();
    wait_for(&world.set, "the pool is there", |set| set.pools().len() == 1);
    world.probe().await.unwrap();
    world.create("data").await.unwrap();
    world.set.close();
}
