//! The node is killed in the middle of an export, and goes on from the last index file: what that names is not read again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hyper::Method;

use crate::common::fixture::{Bench, PoolFileSystem};
use crate::common::node::{Node, NodeOptions};
use crate::common::{GIB, MIB, wait_for};
use crate::s3::Trouble;
use crate::scene::{BOUND, EXPORTS, Scene, noise};

const SIZE: u64 = 128 * MIB;
const WRITTEN: u64 = 96 * MIB;
const CHUNK: u64 = 256 << 10;
/// Each leaves a pack at least, of 8 or 16 MiB.
const KILLS: usize = 3;

/// How the node is started: it keeps a cache, and names each pack as soon as it is stored.
fn options(scene: &Scene, cache: &std::path::Path) -> NodeOptions {
    let mut options = scene.bench.start_armable_options();
    options.environment.push(("WINDLASS_CACHE_DIR".to_owned(), cache.display().to_string()));
    options.environment.push(("WINDLASS_INDEX_SECONDS".to_owned(), "0".to_owned()));
    options
}

#[test]
fn an_export_whose_node_is_killed_reads_again_only_what_no_index_names() {
    let cache = tempfile::tempdir().unwrap();
    let mut scene = Scene::over(Bench::with_pool(PoolFileSystem::Xfs, GIB));
    scene.node = Some(Node::start(&options(&scene, cache.path())));
    scene.repository(EXPORTS);
    let bytes = noise(4, WRITTEN as usize);
    let volume = scene.volume("data", SIZE, &bytes);
    let request = scene.request("cut", &volume, "keep", EXPORTS);
    let mut before = 0;
    for kill in 1..=KILLS {
        // When the second index file comes, the first has been stored.
        let (stored, reached) = (AtomicU64::new(0), Arc::<AtomicBool>::default());
        let there = Arc::clone(&reached);
        scene.store.misbehaves(move |_, request| {
            let is_index = request.method() == Method::PUT && request.uri().path().contains("/index/");
            let is_now = is_index && stored.fetch_add(1, Ordering::SeqCst) > 0;
            there.fetch_or(is_now, Ordering::SeqCst);
            is_now.then_some(Trouble::Stalls)
        });
        assert!(!scene.csi().create_snapshot(request.clone()).unwrap().snapshot.unwrap().ready_to_use);
        wait_for("the second index file", BOUND, || reached.load(Ordering::SeqCst).then_some(()));
        scene.node.take().unwrap().kill();
        scene.store.behaves();
        let durable = scene.indexed(EXPORTS, &bytes, CHUNK as usize);
        println!("killed the {kill}. time: {} MiB are durable", durable * CHUNK / MIB);
        assert!(durable > before);
        before = durable;
        scene.node = Some(Node::start(&options(&scene, cache.path())));
    }
    let ready = scene.until_ready(&request);
    let last = scene.transfers().into_iter().find_map(|transfer| transfer.export_result).unwrap();
    println!("the last attempt read {} MiB of {}", last.data_bytes / MIB, WRITTEN / MIB);
    assert!(last.data_bytes <= WRITTEN - before * CHUNK + MIB, "{last:?}");
    assert_eq!(scene.held(EXPORTS).into_iter().collect::<Vec<_>>(), [(ready.snapshot_id.clone(), 1)]);
    scene.check(EXPORTS);
    let restored = scene.restore("again", SIZE, &ready.snapshot_id, EXPORTS);
    assert!(scene.beginning(&restored, bytes.len()) == bytes);
    scene.delete(&ready.snapshot_id, EXPORTS);
    for gone in [&restored, &volume] {
        scene.csi().drop_volume(gone);
    }
    scene.node.take().unwrap().stop();
    assert_eq!(scene.bench.attached(), Vec::<String>::new());
}
