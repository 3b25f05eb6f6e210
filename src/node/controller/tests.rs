//! Placement, and what the services of a node say while one of its pools has failed.

use std::sync::Arc;

use csi_proto::csi::v1 as proto;
use csi_proto::windlass::v1 as windlass;
use csi_proto::windlass::v1::pools_server::Pools;
use proto::controller_server::Controller;
use proto::identity_server::Identity;
use proto::node_server::Node;
use proto::volume_capability::access_mode::Mode;
use proto::volume_capability::{AccessMode, AccessType, BlockVolume};
use tonic::{Code, Request};

use crate::csi::NodeName;
use crate::mount::memory::MemoryMounter;
use crate::mount::path::Root;
use crate::node::pools_service::PoolsService;
use crate::node::{NodeLayer, NodeOptions};
use crate::pool::catalogue::Catalogue;
use crate::pool::memory::MemoryPool;
use crate::pool::owned::tests::crash::Disk as CatalogueDisk;
use crate::pool::set::PoolSet;
use crate::pool::set::tests::{Disk, start, start_unwatched, wait_for};
use crate::types::{PoolId, VolumeHandle};

const GIB: i64 = 1 << 30;

fn map(pairs: &[(&str, &str)]) -> std::collections::HashMap<String, String> {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

struct World {
    layer: NodeLayer,
    set: PoolSet,
    _root: tempfile::TempDir,
}

impl World {
    fn new(disks: &[Disk]) -> Self {
        Self::over(start(disks))
    }

    fn over(set: PoolSet) -> Self {
        let root = tempfile::tempdir().unwrap();
        let options = NodeOptions {
            node: NodeName::try_from("here".to_owned()).unwrap(),
            root: Root::open(root.path()).unwrap(),
            boot_id: "boot".to_owned(),
            statistics_timeout: None,
        };
        Self { layer: NodeLayer::new(set.clone(), Arc::new(MemoryMounter::new()), options), set, _root: root }
    }

    async fn create(&self, name: &str) -> Result<VolumeHandle, Code> {
        self.create_with(name, 1 << 20, &[]).await
    }

    async fn create_with(&self, name: &str, bytes: i64, parameters: &[(&str, &str)]) -> Result<VolumeHandle, Code> {
        let capability = proto::VolumeCapability {
            access_type: Some(AccessType::Block(BlockVolume {})),
            access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
        };
        let range = proto::CapacityRange { required_bytes: bytes, limit_bytes: 0 };
        let request = proto::CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(range),
            volume_capabilities: vec![capability],
            parameters: map(parameters),
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
        self.capacity_with(&[]).await
    }

    async fn capacity_with(&self, parameters: &[(&str, &str)]) -> i64 {
        let request = proto::GetCapacityRequest { parameters: map(parameters), ..Default::default() };
        self.layer.get_capacity(Request::new(request)).await.unwrap().into_inner().available_capacity
    }

    async fn expand(&self, volume: VolumeHandle, bytes: i64) -> Result<i64, Code> {
        let capacity_range = Some(proto::CapacityRange { required_bytes: bytes, limit_bytes: 0 });
        let request =
            proto::ControllerExpandVolumeRequest { volume_id: volume.to_string(), capacity_range, ..Default::default() };
        let answer = self.layer.controller_expand_volume(Request::new(request)).await.map_err(|status| status.code())?;
        Ok(answer.into_inner().capacity_bytes)
    }

    /// The service that people ask.
    fn pools(&self) -> PoolsService {
        PoolsService::new(self.set.clone())
    }

    async fn rename(&self, pool: &str, name: &str) -> Result<(), Code> {
        let request =
            windlass::SetPoolPropertiesRequest { pool_id: pool.to_owned(), name: Some(name.to_owned()), ..Default::default() };
        self.pools().set_pool_properties(Request::new(request)).await.map(drop).map_err(|status| status.code())
    }

    async fn set_ratio(&self, ratio: &str) -> Result<(), Code> {
        let request = windlass::SetPoolPropertiesRequest { overprovision_ratio: Some(ratio.to_owned()), ..Default::default() };
        self.pools().set_pool_properties(Request::new(request)).await.map(drop).map_err(|status| status.code())
    }

    async fn pool_keys(&self) -> usize {
        let answer = self.layer.node_get_info(Request::new(proto::NodeGetInfoRequest {})).await.unwrap().into_inner();
        answer.accessible_topology.unwrap().segments.keys().filter(|key| key.contains("/pool-")).count()
    }

    /// Whether the node is ready.
    async fn probe(&self) -> Result<bool, tonic::Status> {
        self.layer.probe(Request::new(proto::ProbeRequest {})).await.map(|answer| answer.into_inner().ready.unwrap())
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
    assert!(world.probe().await.unwrap());

    dying.come_back();
    wait_for(&world.set, "the pool is back", |set| set.pools().len() == 2);
    assert_eq!(world.create("lost").await, Ok(lost));
    assert_eq!((world.pool_keys().await, world.list().await), (2, Ok(2)));
    assert_eq!(world.delete(lost).await, Ok(()));
    world.set.close();
}

#[tokio::test]
async fn a_fixed_offer_is_the_same_for_all_who_ask_and_serves_no_more_than_is_open() {
    let (early, late) = (Disk::new("early"), Disk::new("late"));
    late.die();
    let world = World::new(&[early.clone(), late.clone()]);
    assert!(world.set.is_tried());
    let world = World { layer: world.layer.clone().with_fixed_offer(), ..world };
    assert_eq!(world.layer.offered(), None, "nobody has asked");
    assert_eq!(world.pool_keys().await, 1);
    late.come_back();
    wait_for(&world.set, "the late pool is there", |set| set.pools().len() == 2);
    early.die();
    world.set.suspect(early.id());
    wait_for(&world.set, "the early pool has failed", |set| set.pools().len() == 1);
    assert_eq!(world.layer.offered(), Some(vec![early.id()]));
    assert_eq!(world.pool_keys().await, 1);
    assert_eq!(world.create("data").await.map(|volume| volume.pool), Ok(late.id()));
    world.set.close();
}

#[tokio::test]
async fn a_repository_is_refused_by_name_where_none_is_served() {
    let world = World::new(&[Disk::new("one")]);
    let world = World { layer: world.layer.clone().without_repositories(), ..world };
    let volume = world.create("data").await.unwrap();
    let snapshot = |secrets: &[(&str, &str)]| proto::CreateSnapshotRequest {
        name: "cut".to_owned(),
        source_volume_id: volume.to_string(),
        secrets: map(secrets),
        ..Default::default()
    };
    let repository = [("RESTIC_REPOSITORY", "s3:https://store/bucket"), ("RESTIC_PASSWORD", "hush")];
    let refused = world.layer.create_snapshot(Request::new(snapshot(&repository))).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let text = refused.message();
    assert!(text.contains("RESTIC_REPOSITORY") && text.contains("--no-repositories") && !text.contains("hush"), "{text}");
    // A class that asks for an export would cut what is never ready.
    let class = proto::CreateSnapshotRequest { parameters: map(&[("repository", "existing")]), ..snapshot(&[]) };
    let refused = world.layer.create_snapshot(Request::new(class.clone())).await.unwrap_err();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().starts_with("parameters.repository"), "{refused}");
    // Beneath an agent the class comes without its secret, and a secret means that the agent was passed by.
    let beneath = world.layer.clone().with_repositories_by_agent();
    let refused = beneath.create_snapshot(Request::new(snapshot(&repository))).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let text = refused.message();
    assert!(text.contains("windlass agent") && !text.contains("--no-repositories") && !text.contains("hush"), "{text}");
    let exported = proto::CreateSnapshotRequest { name: "exported".to_owned(), ..class };
    let cut = beneath.create_snapshot(Request::new(exported)).await.unwrap().into_inner().snapshot.unwrap();
    assert!(!cut.ready_to_use);
    world.layer.create_snapshot(Request::new(snapshot(&[("other", "x")]))).await.unwrap();
    let elsewhere = crate::types::SnapshotHandle { pool: PoolId::random(), snapshot: crate::types::SnapshotId::random() };
    let list = |secrets: &[(&str, &str)]| proto::ListSnapshotsRequest {
        snapshot_id: elsewhere.to_string(),
        secrets: map(secrets),
        ..Default::default()
    };
    let code = |answer: Result<_, tonic::Status>| answer.map(|_: tonic::Response<_>| ()).map_err(|status| status.code());
    assert_eq!(code(world.layer.list_snapshots(Request::new(list(&repository))).await), Err(Code::FailedPrecondition));
    assert_eq!(code(world.layer.list_snapshots(Request::new(list(&[]))).await), Err(Code::Unavailable));
    world.set.close();
}

#[tokio::test]
async fn what_is_recorded_is_listed_whole_or_not_at_all() {
    let (one, two) = (Disk::new("one"), Disk::new("two"));
    let world = World::new(&[one.clone(), two.clone()]);
    let volume = world.create("data").await.unwrap();
    let service = world.pools();
    let list = || service.list_records(Request::new(windlass::ListRecordsRequest {}));
    let listed = list().await.unwrap().into_inner().objects;
    assert_eq!(listed.len(), 1);
    let record = &listed[0];
    assert_eq!((record.handle.as_str(), record.kind.as_str(), record.mode.as_str()), (&*volume.to_string(), "volume", "block"));
    assert_eq!((record.access_modes.as_slice(), record.size_bytes), (&["SINGLE_NODE_WRITER".to_owned()][..], 1 << 20));
    two.die();
    world.set.suspect(two.id());
    wait_for(&world.set, "a pool has failed", |set| set.pools().len() == 1);
    assert_eq!(list().await.unwrap_err().code(), Code::Unavailable);
    world.set.close();
}

#[tokio::test]
async fn a_node_without_an_open_pool_is_not_ready_which_is_no_error_and_says_why() {
    let disk = Disk::new("absent");
    disk.die();
    let world = World::new(std::slice::from_ref(&disk));
    assert!(!world.probe().await.unwrap());
    let pools = world.pools().get_pool_status(Request::new(windlass::GetPoolStatusRequest {})).await.unwrap().into_inner().pools;
    assert_eq!((pools[0].state.as_str(), pools[0].problem.as_str()), ("failed", "there is no such disk"));
    assert!(pools[0].path.contains("absent") && !pools[0].retry.is_empty(), "{pools:?}");
    assert_eq!(world.create("data").await, Err(Code::ResourceExhausted), "another node may have room");
    assert_eq!((world.capacity().await, world.pool_keys().await), (0, 0));
    disk.come_back();
    wait_for(&world.set, "the pool is there", |set| set.pools().len() == 1);
    assert!(world.probe().await.unwrap());
    world.create("data").await.unwrap();
    world.set.close();
}

/// A pool whose catalogue finds no space when it is told so.
fn with_catalogue_disk(name: &'static str, bytes: u64) -> (Disk, CatalogueDisk) {
    let beneath = CatalogueDisk::default();
    let catalogue = Catalogue::over(beneath.clone(), PoolId::random()).unwrap();
    (Disk::of(name, MemoryPool::with_capacity(bytes)).with_catalogue(catalogue), beneath)
}

#[tokio::test]
async fn a_node_of_which_no_pool_can_record_a_change_is_unhealthy_until_one_can() {
    let (one, beneath_one) = with_catalogue_disk("one", 8 << 30);
    let (two, beneath_two) = with_catalogue_disk("two", 8 << 30);
    let world = World::over(start_unwatched(&[one.clone(), two.clone()]));
    for (disk, beneath) in [(&one, &beneath_one), (&two, &beneath_two)] {
        assert!(world.probe().await.unwrap());
        beneath.set_room(Some(0));
        assert!(world.set.get(disk.id()).unwrap().check_catalogue().is_ok(), "known from the last commit");
        assert!(
            world.set.get(disk.id()).unwrap().set_properties(|properties| properties.name = "other".parse().unwrap()).is_err()
        );
    }
    let status = world.probe().await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("no pool of this node can record a change"), "{status}");
    beneath_two.set_room(None);
    assert!(world.probe().await.unwrap());
    world.set.close();
}

#[tokio::test]
async fn a_volume_is_not_placed_on_a_pool_that_cannot_record_it() {
    let (large, beneath) = with_catalogue_disk("large", 64 << 30);
    let small = Disk::of("small", MemoryPool::with_capacity(8 << 30));
    let world = World::over(start_unwatched(&[large.clone(), small.clone()]));
    assert_eq!(world.create("first").await.unwrap().pool, large.id(), "the roomiest");
    let both = world.capacity().await;
    beneath.set_room(Some(0));
    let pool = world.set.get(large.id()).unwrap();
    assert!(pool.set_properties(|properties| properties.name = "other".parse().unwrap()).is_err());
    assert_eq!(world.create("second").await.map(|volume| volume.pool), Ok(small.id()));
    assert!(world.capacity().await < both / 2);
    drop(pool);
    world.set.close();
}

#[tokio::test]
async fn a_class_names_pools_and_the_roomiest_of_that_name_is_taken() {
    let of = |name, gib: u64| Disk::of(name, MemoryPool::with_capacity(gib << 30));
    let (small, large, other) = (of("small", 8), of("large", 16), of("other", 64));
    let world = World::new(&[small.clone(), large.clone(), other.clone()]);
    let fast = [("pool", "fast")];
    assert_eq!(world.create_with("none", GIB, &fast).await, Err(Code::ResourceExhausted), "another node may have one");
    assert_eq!(world.capacity_with(&fast).await, 0);
    for disk in [&small, &large] {
        world.rename(&disk.id().to_string(), "fast").await.unwrap();
    }
    assert_eq!(world.create_with("fast", GIB, &fast).await.unwrap().pool, large.id());
    let label = other.id().label();
    assert_eq!(world.create_with("by-id", GIB, &[("pool", &label)]).await.unwrap().pool, other.id());
    assert_eq!(world.create_with("default", GIB, &[("pool", "default")]).await.unwrap().pool, other.id());
    let both = world.capacity_with(&fast).await;
    assert!(both > 16 * GIB && both < world.capacity().await, "{both}");
    assert_eq!(world.rename("fast", "faster").await, Err(Code::InvalidArgument), "two pools have that name");
    assert_eq!(world.rename("slow", "fast").await, Err(Code::NotFound));
    assert_eq!(world.rename("default", "Not a name").await, Err(Code::InvalidArgument));
    // A name of another time is answered as before: the class is what is compared, not what the pool is called now.
    world.rename(&large.id().to_string(), "slow").await.unwrap();
    assert_eq!(world.create_with("fast", GIB, &fast).await.unwrap().pool, large.id());
    world.set.close();
}

#[tokio::test]
async fn a_pool_promises_no_more_than_its_ratio_times_its_size() {
    let world = World::new(&[Disk::of("two", MemoryPool::with_capacity(2 << 30))]);
    world.set_ratio("2").await.unwrap();
    assert_eq!(world.set_ratio("0.5").await, Err(Code::InvalidArgument));
    let mut made = Vec::new();
    for number in 0..12 {
        match world.create_with(&format!("volume-{number}"), 2 * GIB, &[]).await {
            Ok(volume) => made.push(volume),
            Err(code) => assert_eq!(code, Code::ResourceExhausted),
        }
    }
    assert_eq!(made.len(), 2);
    assert_eq!(world.capacity().await, 0);
    // What was promised is kept, and answered again.
    assert_eq!(world.create_with("volume-0", 2 * GIB, &[]).await, Ok(made[0]));
    world.delete(made[1]).await.unwrap();
    assert!((1..=2 * GIB).contains(&world.capacity().await));
    let small = world.create_with("small", GIB, &[]).await.unwrap();
    assert_eq!(world.expand(small, 2 * GIB).await, Ok(2 * GIB));
    world.delete(made[0]).await.unwrap();
    let other = world.create_with("other", 3 * GIB / 2, &[]).await.unwrap();
    assert_eq!(world.create_with("third", GIB, &[]).await, Err(Code::ResourceExhausted));
    world.set_ratio("1").await.unwrap();
    assert_eq!(world.expand(other, 2 * GIB).await, Err(Code::ResourceExhausted), "it may be raised again");
    world.set_ratio("3").await.unwrap();
    assert_eq!(world.expand(other, 2 * GIB).await, Ok(2 * GIB));
    assert_eq!(
        world.expand(other, 3 * GIB).await,
        Err(Code::OutOfRange),
        "the whole pool is smaller, and a volume does not move"
    );
    world.set.close();
}

#[tokio::test]
async fn the_names_of_kubernetes_are_kept_and_never_compared() {
    let world = World::new(&[Disk::new("one")]);
    let named = |pvc: &'static str| {
        [
            ("csi.storage.k8s.io/pvc/name", pvc),
            ("csi.storage.k8s.io/pvc/namespace", "shop"),
            ("csi.storage.k8s.io/pv/name", "pvc-1"),
        ]
    };
    let volume = world.create_with("pvc-1", GIB, &named("data")).await.unwrap();
    assert_eq!(world.create_with("pvc-1", GIB, &named("other")).await, Ok(volume));
    let request = proto::CreateSnapshotRequest {
        name: "cut".to_owned(),
        source_volume_id: volume.to_string(),
        parameters: map(&[
            ("csi.storage.k8s.io/volumesnapshot/name", "nightly"),
            ("csi.storage.k8s.io/volumesnapshot/namespace", "shop"),
            ("csi.storage.k8s.io/volumesnapshotcontent/name", "snapcontent-1"),
        ]),
        ..Default::default()
    };
    world.layer.create_snapshot(Request::new(request.clone())).await.unwrap();
    let renamed = proto::CreateSnapshotRequest { parameters: map(&[]), ..request };
    world.layer.create_snapshot(Request::new(renamed)).await.unwrap();
    let status = world.pools().get_pool_status(Request::new(windlass::GetPoolStatusRequest {})).await.unwrap().into_inner();
    let known: Vec<_> = status.pools[0]
        .objects
        .iter()
        .map(|object| [&object.pvc, &object.pv, &object.volume_snapshot, &object.volume_snapshot_content].map(String::as_str))
        .collect();
    assert_eq!(known, [["shop/data", "pvc-1", "", ""], ["shop/data", "pvc-1", "shop/nightly", "snapcontent-1"]]);
    world.set.close();
}

#[tokio::test]
async fn a_volume_restored_from_elsewhere_repeats_its_answer_with_its_source() {
    use crate::pool::owned::RestoreStart;
    use crate::types::{
        AccessMode as Recorded, CapacityRange, NewVolume, OnLoss, PoolId, SnapshotHandle, SnapshotId, VolumeMode, VolumeSize,
    };

    let world = World::new(&[Disk::new("one")]);
    let pool = world.layer.pools().remove(0);
    let elsewhere = SnapshotHandle { pool: PoolId::random(), snapshot: SnapshotId::random() };
    let deleted_here = SnapshotHandle { pool: pool.id(), snapshot: SnapshotId::random() };
    for (name, source) in [("from-elsewhere", elsewhere), ("from-a-repository", deleted_here)] {
        let size = VolumeSize::at_least(1 << 20).unwrap();
        let restored = NewVolume {
            name: name.to_owned().try_into().unwrap(),
            capacity: CapacityRange::exactly(size),
            minimum: size,
            mode: VolumeMode::Block,
            access_modes: vec![Recorded::SingleNodeWriter],
            mount_flags: Vec::new(),
            parameters: Default::default(),
            checksum: Default::default(),
            source: None,
            foreign_source: Some(source.to_string()),
            kubernetes: Default::default(),
        };
        let RestoreStart::Target(target) = pool.begin_restore(&restored, OnLoss::Delete).unwrap() else { panic!("it is new") };
        let restored = pool.commit_restore(target.close()).unwrap();
        let asked = |source: Option<SnapshotHandle>| {
            let snapshot = |handle: SnapshotHandle| {
                use proto::volume_content_source::{SnapshotSource, Type};
                Type::Snapshot(SnapshotSource { snapshot_id: handle.to_string() })
            };
            let capability = proto::VolumeCapability {
                access_type: Some(AccessType::Block(BlockVolume {})),
                access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
            };
            proto::CreateVolumeRequest {
                name: name.to_owned(),
                volume_capabilities: vec![capability],
                volume_content_source: source.map(|handle| proto::VolumeContentSource { r#type: Some(snapshot(handle)) }),
                ..Default::default()
            }
        };
        for _ in 0..2 {
            let answer = world.layer.create_volume(Request::new(asked(Some(source)))).await.unwrap().into_inner().volume.unwrap();
            assert_eq!(answer.content_source, asked(Some(source)).volume_content_source);
            assert_eq!(answer.volume_id, VolumeHandle { pool: pool.id(), volume: restored.id }.to_string());
        }
        let other = SnapshotHandle { snapshot: SnapshotId::random(), ..source };
        for different in [None, Some(other)] {
            let refused = world.layer.create_volume(Request::new(asked(different))).await.unwrap_err();
            assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
        }
    }
    drop(pool);
    world.set.close();
}

#[tokio::test]
async fn what_another_pool_can_do_is_asked_of_that_pool() {
    let roomy = Disk::of("roomy", MemoryPool::with_capacity(64 << 30).without_checksums());
    let able = Disk::new("able");
    let world = World::new(&[roomy.clone(), able.clone()]);
    let checksum = [("checksum", "true")];
    assert_eq!(world.create_with("plain", GIB, &[]).await.unwrap().pool, roomy.id());
    assert_eq!(world.create_with("checked", GIB, &checksum).await.unwrap().pool, able.id());
    assert!(world.capacity_with(&checksum).await <= 8 * GIB);
    able.die();
    world.set.suspect(able.id());
    wait_for(&world.set, "the pool has failed", |set| set.pools().len() == 1);
    assert_eq!(world.create_with("another", GIB, &checksum).await, Err(Code::ResourceExhausted), "another node may have one");
    assert_eq!(world.capacity_with(&checksum).await, 0);
    world.set.close();
}
