//! CreateVolume: which pool, in a full one, and by many callers at once.

use std::path::Path;
use std::sync::Arc;

use csi_proto::csi::v1::*;
use tonic::Code;
use windlass::mount::memory::MemoryMounter;
use windlass::pool::memory::{MemoryPool, Moment, Verb as PoolVerb};
use windlass::types::{Access, Object, VolumeHandle};

use crate::WRITER;
use crate::csi_harness::*;
use crate::gate::Gate;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_takes_nothing_new_and_says_which_way_out() {
    let mounter = Arc::new(MemoryMounter::new());
    let memory = Arc::new(MemoryPool::with_capacity(256 << 20));
    let pool = pool_over(&mounter, Arc::clone(&memory));
    let node = Node::with(Arc::new(tempfile::tempdir().unwrap()), mounter, vec![pool], "boot").await;
    let volume = node.volume("a", block(WRITER)).await;
    let handle: VolumeHandle = volume.parse().unwrap();
    let device = node.pools[0].attach(Object::Volume(handle.volume), Access::ReadWrite).unwrap().device;
    fill(&node, &device);
    let mut number = 0;
    let code = loop {
        number += 1;
        match node.snapshot(&format!("s{number}"), &volume).await {
            Ok(_) => {}
            Err(status) => break status.code(),
        }
        assert!(number < 20, "the pool does not fill");
    };
    assert_eq!(code, Code::ResourceExhausted);
    refused(node.create(new_volume("b", block(WRITER))).await, Code::ResourceExhausted);
    let capacity = node.controller.clone().get_capacity(GetCapacityRequest::default()).await.unwrap().into_inner();
    assert_eq!(capacity.available_capacity, 0);
}

/// Writes to all of a volume's memory.
fn fill(node: &Node, device: &Path) {
    assert!(node.pools[0].status().unwrap().usage.available() > 0);
    let file = std::fs::OpenOptions::new().write(true).open(device).unwrap();
    let block = vec![7_u8; 1 << 20];
    for number in 0..SIZE.unsigned_abs() >> 20 {
        std::os::unix::fs::FileExt::write_all_at(&file, &block, number << 20).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_call_on_an_object_is_aborted_and_the_work_outlives_its_caller() {
    let mounter = Arc::new(MemoryMounter::new());
    let memory = Arc::new(MemoryPool::default());
    let node = Arc::new(
        Node::with(
            Arc::new(tempfile::tempdir().unwrap()),
            Arc::clone(&mounter),
            vec![pool_over(&mounter, Arc::clone(&memory))],
            "boot",
        )
        .await,
    );
    let gate = Arc::new(Gate::default());
    let waiting = Arc::clone(&gate);
    memory.set_hook(Some(Arc::new(move |verb, moment| {
        if (verb, moment) == (PoolVerb::Create, Moment::Before) {
            waiting.wait_here();
        }
        Ok(())
    })));
    let caller = Arc::clone(&node);
    let first = tokio::spawn(async move { caller.create(new_volume("a", mount("ext4", WRITER))).await });
    let arrived = Arc::clone(&gate);
    tokio::task::spawn_blocking(move || arrived.wait_for_arrival()).await.unwrap();
    refused(node.create(new_volume("a", mount("ext4", WRITER))).await, Code::Aborted);
    // The caller goes away; the work does not.
    first.abort();
    let _ = first.await;
    refused(node.create(new_volume("a", mount("ext4", WRITER))).await, Code::Aborted);
    gate.open();
    let mut attempts = 0;
    let made = loop {
        match node.create(new_volume("a", mount("ext4", WRITER))).await {
            Ok(volume) => break volume,
            Err(status) => assert_eq!(status.code(), Code::Aborted),
        }
        attempts += 1;
        assert!(attempts < 10_000, "the work did not end");
        tokio::task::yield_now().await;
    };
    assert_eq!(node.pools[0].volumes().unwrap().len(), 1);
    memory.set_hook(None);
    node.delete(&made.volume_id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_at_once_make_one_volume() {
    let node = Arc::new(Node::start().await);
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let node = Arc::clone(&node);
            tokio::spawn(async move { node.create(new_volume("a", mount("ext4", WRITER))).await })
        })
        .collect();
    let mut made = Vec::new();
    for call in calls {
        match call.await.unwrap() {
            Ok(volume) => made.push(volume.volume_id),
            Err(status) => assert_eq!(status.code(), Code::Aborted),
        }
    }
    made.dedup();
    assert_eq!(made.len(), 1, "entries of `made`");
    assert_eq!(node.pools[0].volumes().unwrap().len(), 1, "entries of `node.pools[0].volumes()`");
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_are_chosen_by_parameter_source_topology_and_room() {
    let mounter = Arc::new(MemoryMounter::new());
    let pools = vec![pool(&mounter, 4 << 30), pool(&mounter, 16 << 30)];
    let (small, large) = (pools[0].id().label(), pools[1].id().label());
    let node = Node::with(Arc::new(tempfile::tempdir().unwrap()), mounter, pools, "boot").await;
    let key = |pool: &str| format!("topology.windlass.dev/pool-{pool}");
    let of = |volume: &Volume| volume.accessible_topology[0].segments.keys().next().unwrap().clone();

    let info = node.node.clone().node_get_info(NodeGetInfoRequest {}).await.unwrap().into_inner();
    let whole = info.accessible_topology.unwrap();
    assert_eq!(info.node_id.as_str(), NODE, "`info.node_id`");
    assert_eq!(whole.segments.len(), 3, "entries of `whole.segments`");

    let base = |name: &str| new_volume(name, mount("ext4", WRITER));
    assert_eq!(of(&node.create(base("a")).await.unwrap()), key(&large));
    let parameter = CreateVolumeRequest { parameters: [("pool".to_owned(), small.clone())].into(), ..base("b") };
    let in_small = node.create(parameter.clone()).await.unwrap();
    assert_eq!(of(&in_small), key(&small), "`of(&in_small)`");
    assert_eq!(in_small.accessible_topology.len(), 1, "entries of `in_small.accessible_topology`");
    let term = |pool: &str| topology(&[(key(pool).as_str(), "true")]);
    let require = |requisite: Vec<Topology>, preferred: Vec<Topology>| Some(TopologyRequirement { requisite, preferred });
    let request =
        CreateVolumeRequest { accessibility_requirements: require(vec![whole.clone()], vec![term(&small)]), ..base("c") };
    assert_eq!(of(&node.create(request).await.unwrap()), key(&small));
    let request = CreateVolumeRequest { accessibility_requirements: require(vec![term(&small)], vec![]), ..base("d") };
    assert_eq!(of(&node.create(request).await.unwrap()), key(&small));
    let clone = CreateVolumeRequest { volume_content_source: from_volume(&in_small.volume_id), ..base("e") };
    assert_eq!(of(&node.create(clone.clone()).await.unwrap()), key(&small));
    // The source's pool is the only one it can be.
    let request =
        CreateVolumeRequest { accessibility_requirements: require(vec![term(&large)], vec![]), name: "f".into(), ..clone };
    refused(node.create(request).await, Code::ResourceExhausted);
    let request = CreateVolumeRequest { accessibility_requirements: require(vec![term(&large)], vec![]), ..parameter };
    refused(node.create(request).await, Code::AlreadyExists);

    let capacity = |place| GetCapacityRequest { accessible_topology: place, ..Default::default() };
    let mut client = node.controller.clone();
    let all = client.get_capacity(capacity(Some(whole))).await.unwrap().into_inner();
    let one = client.get_capacity(capacity(Some(term(&small)))).await.unwrap().into_inner();
    assert!(one.available_capacity < all.available_capacity && one.available_capacity > 0);
    assert_eq!(one.maximum_volume_size, Some(one.available_capacity / 4096 * 4096));
}
