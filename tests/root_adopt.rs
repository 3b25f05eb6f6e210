#![cfg(feature = "root-tests")]
//! Pools of files whose catalogue is lost, damaged or of an earlier moment, on real XFS and Btrfs. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "support/basics.rs"]
mod basics;
#[path = "support/common/mod.rs"]
mod common;
#[path = "support/root_support/mod.rs"]
mod root_support;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::csi::{Source, Use};
use common::fixture::{Bench, PoolFileSystem};
use common::program::{run, windlass};
use common::{GIB, MIB};
use root_support::{Sandbox, new_snapshot, new_volume, pattern};
use windlass::mount::image;
use windlass::pool::PoolError;
use windlass::pool::adopt::{AdoptOrder, AdoptReport, Decision, Listed, Origin, Unrecorded};
use windlass::pool::catalogue::Catalogue;
use windlass::pool::intent::Intent;
use windlass::pool::owned::OwnedPool;
use windlass::pool::quiesce::NothingToHold;
use windlass::pool::record::{Consumer, Snapshot, Volume};
use windlass::pool::reflink::{adopt, create_pool, open_pool};
use windlass::types::{Access, FormatState, FsType, Object, PoolId, VolumeId};

const CATALOGUE: &str = "catalogue.redb";
const COPY: &str = "catalogue.copy";
/// Bytes of a volume that are written.
const WRITTEN: usize = 1 << 20;

fn open(directory: &Path) -> OwnedPool {
    open_pool(directory, Arc::new(NothingToHold)).unwrap()
}

fn refusal(directory: &Path) -> String {
    match open_pool(directory, Arc::new(NothingToHold)) {
        Err(PoolError::CatalogueLost(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn shown() -> AdoptOrder {
    AdoptOrder::default()
}

fn made(unrecorded: Unrecorded) -> AdoptOrder {
    AdoptOrder { pool: None, unrecorded, decision: Decision::Made }
}

fn volume(pool: &OwnedPool, name: &str) -> Volume {
    pool.create_volume(&new_volume(name, 64 * MIB)).unwrap().into_inner()
}

fn cut(pool: &OwnedPool, name: &str, source: VolumeId) -> Snapshot {
    pool.create_snapshots(&[new_snapshot(name, source)]).unwrap().remove(0).into_inner()
}

fn write(pool: &OwnedPool, id: VolumeId, seed: u64) {
    let device = pool.attach(Object::Volume(id), Access::ReadWrite).unwrap().device;
    let file = OpenOptions::new().write(true).open(device).unwrap();
    file.write_all_at(&pattern(seed, WRITTEN), 4096 * seed).unwrap();
    file.sync_all().unwrap();
    pool.set_format(id, FormatState::Content).unwrap();
    drop(file);
    pool.detach(Object::Volume(id)).unwrap();
}

fn content(pool: &OwnedPool, object: Object) -> Vec<u8> {
    let device = pool.attach(object, Access::ReadOnly).unwrap().device;
    let mut bytes = vec![0; 2 * WRITTEN];
    File::open(device).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    pool.detach(object).unwrap();
    bytes
}

fn contents(pool: &OwnedPool) -> Vec<(Object, Vec<u8>)> {
    let volumes = pool.volumes().unwrap().into_iter().map(|volume| Object::Volume(volume.id));
    let snapshots = pool.snapshots().unwrap().into_iter().map(|snapshot| Object::Snapshot(snapshot.id));
    volumes.chain(snapshots).map(|object| (object, content(pool, object))).collect()
}

fn objects(listed: &[Listed]) -> BTreeSet<Object> {
    listed.iter().map(|one| one.object).collect()
}

/// A pool with a written volume, one that was never formatted, a copy, snapshots that were used, and an anchor; not open.
struct Scene {
    directory: PathBuf,
    id: PoolId,
    written: Volume,
    used: Snapshot,
    fresh: Volume,
    before: Vec<(Object, Vec<u8>)>,
}

impl Scene {
    fn new(directory: &Path) -> Self {
        create_pool(directory).unwrap();
        let pool = open(directory);
        let written = volume(&pool, "written");
        write(&pool, written.id, 1);
        let anchored = cut(&pool, "anchored", written.id);
        pool.record_use(anchored.id, Consumer::Repository("aa".repeat(32))).unwrap();
        write(&pool, written.id, 2);
        let used = cut(&pool, "used", written.id);
        pool.record_use(used.id, Consumer::MetadataClient).unwrap();
        pool.delete_snapshot(anchored.id).unwrap();
        let mut copy = new_volume("copy", 64 * MIB);
        copy.source = Some(Object::Snapshot(used.id));
        let copy = pool.create_volume(&copy).unwrap().into_inner();
        write(&pool, copy.id, 3);
        let fresh = volume(&pool, "fresh");
        assert_eq!((fresh.format, pool.anchors().unwrap().len()), (FormatState::Never, 1));
        let before = contents(&pool);
        Self { directory: directory.to_owned(), id: pool.id(), written, used, fresh, before }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Everything is as it was, and the pool works.
    fn assert_whole(&self, pool: &OwnedPool) {
        assert_eq!(pool.id(), self.id);
        assert!(contents(pool) == self.before, "bytes differ, or an object is missing or new");
        let status = pool.status().unwrap();
        assert_eq!((status.quarantined, status.damaged, status.anchors), (vec![], vec![], 0));
        let (written, fresh) = (pool.volume(self.written.id).unwrap().unwrap(), pool.volume(self.fresh.id).unwrap().unwrap());
        assert_eq!((written.name, fresh.name), (self.written.name.clone(), self.fresh.name.clone()));
        assert_eq!(fresh.format, FormatState::Content, "it may have been written to since the copy was made");
        assert_eq!(pool.snapshot_by_name(&self.used.name).unwrap().unwrap().id, self.used.id);
        // What changed since is told between new snapshots, and never from one that was adopted.
        let (first, second) = (cut(pool, "first", self.written.id), cut(pool, "second", self.written.id));
        let lease = pool.lease(second.id).unwrap();
        let refused = lease.changed_since(self.used.id).err();
        assert!(matches!(refused, Some(PoolError::Unsupported(_))), "{refused:?}");
        assert_eq!(lease.changed_since(first.id).unwrap().count(), 0);
        drop(lease);
        for snapshot in [first, second] {
            pool.delete_snapshot(snapshot.id).unwrap();
        }
    }
}

/// Damages the catalogue at a path.
type Damage = fn(&Path);

#[test]
fn a_lost_or_damaged_catalogue_is_made_again_from_its_copy_on_order_only() {
    for fs_type in [FsType::Xfs, FsType::Btrfs] {
        let sandbox = Sandbox::new();
        let image = sandbox.pool(fs_type);
        let scene = Scene::new(&image.directory().join("pool"));
        let damages: [(&str, Damage); 4] = [
            ("deleted", |path| fs::remove_file(path).unwrap()),
            ("cut off", |path| OpenOptions::new().write(true).open(path).unwrap().set_len(70_000).unwrap()),
            ("garbage", |path| fs::write(path, pattern(9, 3 << 20)).unwrap()),
            ("empty", |path| fs::write(path, "").unwrap()),
        ];
        for (what, damage) in damages {
            damage(&scene.path(CATALOGUE));
            let (catalogue, copy) = (fs::read(scene.path(CATALOGUE)).ok(), fs::read(scene.path(COPY)).unwrap());
            assert!(refusal(&scene.directory).contains("windlass pool adopt"), "{fs_type}, {what}");
            assert!(matches!(create_pool(&scene.directory), Err(PoolError::Format(_))), "{fs_type}, {what}");
            let report = adopt(&scene.directory, &shown()).unwrap();
            assert!(report.catalogue.is_some() && report.copy.is_none() && report.changes(), "{report:?}");
            assert!(matches!(report.origin, Origin::Copy(_)), "{report:?}");
            assert_eq!((report.pool, report.decision), (scene.id, Decision::Shown));
            assert_eq!(objects(&report.kept), scene.before.iter().map(|(object, _)| *object).collect(), "{fs_type}, {what}");
            assert!(report.missing.is_empty() && report.left.is_empty() && report.adopted.is_empty(), "{report:?}");
            assert!(fs::read(scene.path(CATALOGUE)).ok() == catalogue, "{fs_type}, {what}: looking changed it");
            assert!(fs::read(scene.path(COPY)).unwrap() == copy);
            let report = adopt(&scene.directory, &made(Unrecorded::LeftAlone)).unwrap();
            assert_eq!(report.decision, Decision::Made);
            if let Some(damaged) = catalogue {
                assert!(fs::read(scene.path("catalogue.replaced")).unwrap() == damaged, "kept for whoever looks into it");
            }
            scene.assert_whole(&open(&scene.directory));
            assert!(!adopt(&scene.directory, &shown()).unwrap().changes(), "nothing is left to do");
        }
    }
}

#[test]
fn a_catalogue_of_an_earlier_moment_is_refused_before_its_intents_delete_what_was_acknowledged() {
    let sandbox = Sandbox::new();
    let image = sandbox.pool(FsType::Xfs);
    let scene = Scene::new(&image.directory().join("pool"));
    let earlier = sandbox.path("earlier");
    fs::copy(scene.path(CATALOGUE), &earlier).unwrap();
    let pool = open(&scene.directory);
    let late = volume(&pool, "late");
    write(&pool, late.id, 4);
    let late_content = content(&pool, Object::Volume(late.id));
    drop(pool);
    // As it was while that volume was being made.
    let intent = Intent::CreateVolume { volume: late.clone(), holds: Vec::new() };
    Catalogue::open(&earlier).unwrap().commit("test", |change| change.add_intent(&intent)).unwrap();
    fs::copy(&earlier, scene.path(CATALOGUE)).unwrap();
    let text = refusal(&scene.directory);
    assert!(text.contains("earlier moment") && text.contains("windlass pool adopt"), "{text}");
    let report = adopt(&scene.directory, &made(Unrecorded::LeftAlone)).unwrap();
    assert!(matches!(report.origin, Origin::Copy(_)) && report.left.is_empty() && report.missing.is_empty(), "{report:?}");
    let pool = open(&scene.directory);
    assert!(content(&pool, Object::Volume(late.id)) == late_content);
    pool.delete_volume(late.id).unwrap();
    scene.assert_whole(&pool);
}

#[test]
fn of_a_copy_of_an_earlier_moment_what_came_later_is_recorded_only_when_it_is_asked_for() {
    for fs_type in [FsType::Xfs, FsType::Btrfs] {
        let sandbox = Sandbox::new();
        let image = sandbox.pool(fs_type);
        let scene = Scene::new(&image.directory().join("pool"));
        let earlier = fs::read(scene.path(COPY)).unwrap();
        let pool = open(&scene.directory);
        let late = volume(&pool, "late");
        write(&pool, late.id, 4);
        let snapshot = cut(&pool, "late", late.id);
        let expected = content(&pool, Object::Volume(late.id));
        pool.grow_volume(scene.written.id, windlass::types::CapacityRange::new(Some(96 * MIB), None).unwrap()).unwrap();
        pool.delete_volume(scene.fresh.id).unwrap();
        drop(pool);
        fs::write(scene.path(COPY), earlier).unwrap();
        fs::remove_file(scene.path(CATALOGUE)).unwrap();
        let [volume, cut] = [Object::Volume(late.id), Object::Snapshot(snapshot.id)];
        let report = adopt(&scene.directory, &shown()).unwrap();
        assert_eq!(objects(&report.missing), BTreeSet::from([Object::Volume(scene.fresh.id)]), "{fs_type}");
        assert_eq!((objects(&report.left), report.adopted.len()), (BTreeSet::from([volume, cut]), 0), "{fs_type}");
        // Something else than what is there is a mistake, and nothing is done.
        let mistaken = made(Unrecorded::These(BTreeSet::from([[7; 16]])));
        assert_eq!(adopt(&scene.directory, &mistaken).unwrap().decision, Decision::Shown);
        assert!(!scene.path(CATALOGUE).exists());
        adopt(&scene.directory, &made(Unrecorded::These(BTreeSet::from([*late.id.as_bytes()])))).unwrap();
        let pool = open(&scene.directory);
        let adopted = pool.volume(late.id).unwrap().unwrap();
        assert_eq!((adopted.name.as_str(), adopted.size), (format!("adopted-{}", late.id).as_str(), late.size));
        assert_eq!(adopted.format, FormatState::Content);
        assert!(content(&pool, volume) == expected, "{fs_type}");
        assert_eq!(pool.volume(scene.written.id).unwrap().unwrap().size.bytes(), 96 * MIB, "as large as its data");
        assert_eq!(pool.volume(scene.fresh.id).unwrap(), None);
        // The other is in quarantine still, and neither deleted nor said to be.
        assert_eq!(pool.status().unwrap().quarantined, vec![cut.to_string()]);
        assert!(matches!(pool.delete_snapshot(snapshot.id), Err(PoolError::InUse { .. })));
        drop(pool);
        // A sound catalogue gets the rest, and keeps all that it has.
        let report = adopt(&scene.directory, &made(Unrecorded::All)).unwrap();
        assert_eq!((report.origin, objects(&report.adopted)), (Origin::Catalogue, BTreeSet::from([cut])));
        let pool = open(&scene.directory);
        assert!(content(&pool, cut) == expected, "{fs_type}");
        let mut copy = new_volume("from-adopted", 64 * MIB);
        copy.source = Some(cut);
        let copy = pool.create_volume(&copy).unwrap().into_inner();
        assert!(content(&pool, Object::Volume(copy.id)) == expected);
        assert_eq!(pool.status().unwrap().quarantined, Vec::<String>::new());
    }
}

#[test]
fn without_a_copy_the_order_must_say_which_pool_it_is() {
    let sandbox = Sandbox::new();
    let image = sandbox.pool(FsType::Xfs);
    let scene = Scene::new(&image.directory().join("pool"));
    for name in [CATALOGUE, COPY] {
        fs::write(scene.path(name), "garbage").unwrap();
    }
    let told = |pool| AdoptOrder { pool, ..made(Unrecorded::All) };
    assert!(matches!(adopt(&scene.directory, &told(None)), Err(PoolError::CatalogueLost(_))));
    let report = adopt(&scene.directory, &told(Some(scene.id))).unwrap();
    assert_eq!(report.origin, Origin::Nowhere);
    // The anchor too, which nobody knows to be one.
    assert_eq!(report.adopted.len(), scene.before.len() + 1);
    let pool = open(&scene.directory);
    assert_eq!(pool.id(), scene.id);
    for (object, bytes) in &scene.before {
        assert!(content(&pool, *object) == *bytes, "{object}");
    }
    drop(pool);
    let other = adopt(&scene.directory, &told(Some(PoolId::random())));
    assert!(matches!(other, Err(PoolError::Format(_))), "{other:?}");
}

#[test]
fn the_copy_follows_what_is_deleted_in_a_pool_without_a_free_block() {
    for fs_type in [FsType::Xfs, FsType::Btrfs] {
        let sandbox = Sandbox::new();
        let image = sandbox.pool(fs_type);
        let scene = Scene::new(&image.directory().join("pool"));
        let pool = open(&scene.directory);
        let more: Vec<Volume> = (0..20).map(|n| volume(&pool, &format!("more-{n}"))).collect();
        drop(pool);
        fill(image.directory());
        let pool = open(&scene.directory);
        more.iter().for_each(|volume| pool.delete_volume(volume.id).unwrap());
        drop(pool);
        // Moved to another file system, as one is told to when there is no room for a new one.
        fs::copy(scene.path(CATALOGUE), sandbox.path("elsewhere")).unwrap();
        fs::remove_file(scene.path(CATALOGUE)).unwrap();
        let report: AdoptReport = adopt(&scene.directory, &shown()).unwrap();
        assert_eq!(objects(&report.kept), scene.before.iter().map(|(object, _)| *object).collect(), "{fs_type}");
        assert!(report.missing.is_empty() && report.left.is_empty(), "{fs_type}: {report:?}");
    }
}

/// Takes every block that a writer can get.
fn fill(directory: &Path) {
    for round in 0..3 {
        let Ok(file) = File::create(directory.join(format!("filler-{round}"))) else { break };
        let mut offset = 0;
        for piece in [MIB as usize, 4096] {
            let bytes = vec![0xee; piece];
            while file.write_all_at(&bytes, offset).is_ok() && file.sync_data().is_ok() {
                offset += piece as u64;
            }
        }
    }
}

#[test]
fn the_command_shows_first_and_a_node_serves_what_it_took_over() {
    let bench = Bench::with_pool(PoolFileSystem::Xfs, GIB);
    let node = bench.start();
    let id = node.csi().make_volume("data", 64 * MIB, Use::Block, &Source::Blank);
    let paths = node.csi().bring_up(&bench.root(), "data", &id, Use::Block);
    let bytes = pattern(5, WRITTEN);
    let device = OpenOptions::new().write(true).open(&paths.target).unwrap();
    device.write_all_at(&bytes, 0).unwrap();
    device.sync_all().unwrap();
    drop(device);
    let snapshot = node.csi().make_snapshot("cut", &id);
    node.csi().take_down(&id, &paths);
    let adopt = |arguments: &[&str]| run(windlass().args(["pool", "adopt", "--image"]).arg(bench.image()).args(arguments));
    assert_eq!(adopt(&[]).code, Some(4), "a node serves it");
    node.stop();
    let damaged = image::open(&bench.image()).unwrap();
    fs::write(damaged.directory().join(CATALOGUE), "garbage").unwrap();
    damaged.close().unwrap();
    drop(damaged);
    let text = adopt(&[]).success().text();
    println!("{text}");
    assert!(text.contains("nothing was changed; --confirm does it") && text.contains("data"), "{text}");
    let refused = run(windlass().args(["pool", "adopt"]).arg(bench.image()).arg("--confirm"));
    assert_eq!(refused.code, Some(2), "an image is no directory");
    assert_eq!(adopt(&["--object", &VolumeId::random().to_string(), "--confirm"]).code, Some(3));
    let done = adopt(&["--confirm", "--output", "json"]).success().text();
    let done: serde_json::Value = serde_json::from_str(&done).unwrap();
    assert_eq!((&done["done"], &done["records_from"]), (&true.into(), &"copy".into()), "{done}");
    let node = bench.start();
    let csi = node.csi();
    assert_eq!((csi.volume_ids(), csi.snapshot_ids()), (vec![id.clone()], vec![snapshot]));
    let paths = csi.bring_up(&bench.root(), "data", &id, Use::Block);
    let mut found = vec![0; WRITTEN];
    File::open(&paths.target).unwrap().read_exact_at(&mut found, 0).unwrap();
    assert!(found == bytes);
    csi.make_snapshot("after", &id);
    csi.take_down(&id, &paths);
    node.stop();
}
