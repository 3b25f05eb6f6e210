//! A pool of the first version.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use windlass::mount::image;
use windlass::pool::adopt::AdoptOrder;
use windlass::pool::catalogue::Catalogue;
use windlass::pool::owned::OwnedPool;
use windlass::pool::reflink::adopt;
use windlass::types::{Access, CapacityRange, FsType, Object, SnapshotId, VolumeId};

use crate::root_support::{Sandbox, new_snapshot, new_volume, pattern, sparse_file};
use crate::{BLOCK, open};

#[test]
fn a_pool_that_the_first_version_made_is_recovered_served_and_changed() {
    let sandbox = Sandbox::new();
    // Its volumes have 1 GiB each.
    image::create(&sandbox.path("pool.img"), 4 << 30, FsType::Xfs).unwrap();
    let image = image::open(&sandbox.path("pool.img")).unwrap();
    let directory = image.directory().join("pool");
    for name in ["", "volumes", "snapshots"] {
        fs::create_dir(directory.join(name)).unwrap();
    }
    // A catalogue that commit 1040e21 made, and the files that it says there are.
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pool/catalogue/fixtures/file-1040e21.zst");
    let path = directory.join("catalogue.redb");
    fs::write(&path, zstd::decode_all(File::open(fixture).unwrap()).unwrap()).unwrap();
    let place = |object: Object| match object {
        Object::Volume(id) => directory.join("volumes").join(id.to_string()),
        Object::Snapshot(id) => directory.join("snapshots").join(id.to_string()),
    };
    let recorded = Catalogue::open(&path).unwrap();
    let mut sizes: BTreeMap<Object, u64> = BTreeMap::new();
    sizes.extend(recorded.volumes().unwrap().iter().map(|volume| (Object::Volume(volume.id), volume.size.bytes())));
    let anchored = recorded.anchors().unwrap().into_iter().map(|anchor| anchor.snapshot);
    let snapshots = recorded.snapshots().unwrap().into_iter().chain(anchored);
    sizes.extend(snapshots.map(|snapshot| (Object::Snapshot(snapshot.id), snapshot.size.bytes())));
    let intents = recorded.intents().unwrap();
    assert_eq!(intents.len(), 6);
    let unfinished: Vec<Object> = intents.iter().flat_map(|(_, intent)| intent.objects()).collect();
    assert!(unfinished.len() >= 5 && unfinished.iter().all(|object| !sizes.contains_key(object)), "{unfinished:?}");
    drop(recorded);
    let bytes = pattern(3, 64 * BLOCK);
    for (&object, &size) in &sizes {
        let file = sparse_file(&place(object), size);
        file.write_all_at(&bytes, 4096).unwrap();
    }
    unfinished.iter().for_each(|&object| drop(sparse_file(&place(object), 1 << 20)));

    let assert_whole = |pool: &OwnedPool, objects: &mut dyn Iterator<Item = Object>| {
        for object in objects {
            let device = pool.attach(object, Access::ReadOnly).unwrap().device;
            let mut found = vec![0; bytes.len()];
            File::open(device).unwrap().read_exact_at(&mut found, 4096).unwrap();
            assert!(found == bytes, "{object}");
            pool.detach(object).unwrap();
        }
        let status = pool.status().unwrap();
        assert_eq!((status.quarantined, status.damaged), (vec![], vec![]));
    };
    let pool = open(&directory);
    assert!(
        unfinished.iter().all(|&object| !place(object).exists()),
        "interrupted creations and deletions are undone and finished"
    );
    let live = |pool: &OwnedPool| -> Vec<Object> {
        let volumes = pool.volumes().unwrap().into_iter().map(|volume| Object::Volume(volume.id));
        volumes.chain(pool.snapshots().unwrap().into_iter().map(|snapshot| Object::Snapshot(snapshot.id))).collect()
    };
    assert_eq!(live(&pool).len(), 6);
    assert_whole(&pool, &mut live(&pool).into_iter());
    // Changed in every way, and opened again.
    let [block, ext4] = [1, 2].map(|n| VolumeId::from_bytes([n; 16]));
    let [first, second, orphan] = [11, 12, 13].map(|n| SnapshotId::from_bytes([n; 16]));
    pool.create_snapshots(&[new_snapshot("new", ext4)]).unwrap();
    let mut copy = new_volume("copy-of-old", 1 << 30);
    copy.source = Some(Object::Snapshot(second));
    copy.capacity = CapacityRange::new(None, None).unwrap();
    pool.create_volume(&copy).unwrap();
    pool.create_volume(&new_volume("empty", 4 << 20)).unwrap();
    pool.delete_snapshot(first).unwrap();
    pool.delete_snapshot(orphan).unwrap();
    pool.delete_volume(block).unwrap();
    let before = live(&pool);
    drop(pool);
    let pool = open(&directory);
    assert_eq!(live(&pool), before);
    let empty = pool.volume_by_name(&"empty".to_owned().try_into().unwrap()).unwrap().unwrap();
    assert_whole(&pool, &mut before.into_iter().filter(|object| *object != Object::Volume(empty.id)));
    let lease = pool.lease(second).unwrap();
    assert_eq!(lease.allocated().unwrap().map(|range| range.unwrap().length()).sum::<u64>(), bytes.len() as u64);
    drop(lease);
    drop(pool);
    assert!(fs::metadata(&path).unwrap().len() >= 8 << 20, "the catalogue has space of its own");
    assert!(!adopt(&directory, &AdoptOrder::default()).unwrap().changes());
}
