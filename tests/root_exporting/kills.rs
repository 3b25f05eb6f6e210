//! The node is killed again and again in the middle of the same export.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hyper::Method;

use crate::common::fixture::PoolFileSystem;
use crate::common::node::Node;
use crate::common::{GIB, MIB, wait_for};
use crate::s3::Trouble;
use crate::scene::{BOUND, EXPORTS, Scene, noise};

const SIZE: u64 = 64 * MIB;

/// The request that is not answered, and during which the node is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// The Nth that stores an object of this folder.
    Stores(&'static str, u64),
    /// The first removal after the snapshot was stored: it is in the repository, and nobody has recorded that.
    LetsGoOfItsLock,
}

const MOMENTS: [Moment; 10] = [
    Moment::Stores("/locks/", 1),
    Moment::Stores("/data/", 1),
    Moment::Stores("/data/", 2),
    Moment::Stores("/data/", 1),
    Moment::Stores("/locks/", 1),
    Moment::Stores("/index/", 1),
    Moment::Stores("/index/", 1),
    Moment::Stores("/snapshots/", 1),
    Moment::Stores("/snapshots/", 1),
    Moment::LetsGoOfItsLock,
];

impl Scene {
    /// From now on the store says nothing from this moment on; returns what becomes true then.
    fn stalls_at(&self, moment: Moment) -> Arc<AtomicBool> {
        let reached = Arc::new(AtomicBool::new(false));
        let (there, stored) = (Arc::clone(&reached), AtomicU64::new(0));
        self.store.misbehaves(move |_, request| {
            let is_put = |folder| request.method() == Method::PUT && request.uri().path().contains(folder);
            let is_now = match moment {
                Moment::Stores(folder, number) => is_put(folder) && stored.fetch_add(1, Ordering::SeqCst) + 1 >= number,
                Moment::LetsGoOfItsLock if is_put("/snapshots/") => {
                    stored.fetch_add(1, Ordering::SeqCst);
                    false
                }
                Moment::LetsGoOfItsLock => request.method() == Method::DELETE && stored.load(Ordering::SeqCst) > 0,
            };
            there.fetch_or(is_now, Ordering::SeqCst);
            is_now.then_some(Trouble::Stalls)
        });
        reached
    }
}

#[test]
fn an_export_whose_node_is_killed_ten_times_is_in_the_repository_once() {
    let mut scene = Scene::new(PoolFileSystem::Xfs, GIB);
    scene.repository(EXPORTS);
    let bytes = noise(4, 18 << 20);
    let volume = scene.volume("data", SIZE, &bytes);
    let request = scene.request("cut", &volume, "drop", EXPORTS);
    let mut handles = Vec::new();
    for moment in MOMENTS {
        println!("killed at {moment:?}");
        let reached = scene.stalls_at(moment);
        let answer = scene.csi().create_snapshot(request.clone()).unwrap().snapshot.unwrap();
        assert!(!answer.ready_to_use);
        handles.push(answer.snapshot_id);
        wait_for("the moment to come", BOUND, || reached.load(Ordering::SeqCst).then_some(()));
        scene.node.take().unwrap().kill();
        scene.store.behaves();
        scene.node = Some(Node::start(&scene.options()));
    }
    assert!(handles.iter().all(|handle| *handle == handles[0]), "{handles:?}");
    assert_eq!(scene.held(EXPORTS).into_values().collect::<Vec<_>>(), [1], "the last one had stored it");
    assert!(!scene.is_given_up(&handles[0]), "nothing is given up before it is recorded who has it");

    let ready = scene.until_ready(&request);
    scene.until_given_up(&ready.snapshot_id);
    assert_eq!(scene.held(EXPORTS).into_iter().collect::<Vec<_>>(), [(ready.snapshot_id.clone(), 1)]);
    scene.check(EXPORTS);
    let restored = scene.restore("again", SIZE, &ready.snapshot_id, EXPORTS);
    let found = scene.content(&restored);
    assert!(found.starts_with(&bytes) && found[bytes.len()..].iter().all(|byte| *byte == 0));
    scene.delete(&ready.snapshot_id, EXPORTS);
    assert_eq!(scene.held(EXPORTS).len(), 0);
    for gone in [&restored, &volume] {
        scene.csi().drop_volume(gone);
    }
    scene.node.take().unwrap().stop();
    assert_eq!(scene.bench.attached(), Vec::<String>::new());
}
