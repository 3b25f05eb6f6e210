//! A pool with many snapshots: what its start reads.

use super::*;
use crate::pool::Found;
use crate::pool::record::{Anchor, Consumer};
use crate::types::PoolId;

const VOLUMES: usize = 200;
const SNAPSHOTS: usize = 10_000;

#[test]
fn a_start_with_ten_thousand_snapshots_and_two_hundred_anchored_volumes_reads_each_record_a_few_times() {
    let world = World::new();
    let volume = world.create("pattern");
    let pattern = world.cut("pattern", volume.id);
    let volumes: Vec<Volume> =
        (0..VOLUMES).map(|n| Volume { id: VolumeId::random(), name: name(&format!("v{n}")), ..volume.clone() }).collect();
    let snapshot = |n: usize, text: &str| Snapshot {
        id: SnapshotId::random(),
        name: name(&format!("{text}{n}")),
        source: volumes[n % VOLUMES].id,
        serial: n as u64 + 1,
        ..pattern.clone()
    };
    let snapshots: Vec<Snapshot> = (VOLUMES..VOLUMES + SNAPSHOTS).map(|n| snapshot(n, "s")).collect();
    let anchors: Vec<Anchor> = (0..VOLUMES)
        .map(|n| {
            let used_by = [Consumer::Repository("ab".repeat(32))].into();
            Anchor { snapshot: Snapshot { used_by, ..snapshot(n, "a") }, deleted: Timestamp::now() }
        })
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalogue.redb");
    let catalogue = Catalogue::create(&path, PoolId::random()).unwrap();
    catalogue
        .commit("test", |change| {
            volumes.iter().try_for_each(|volume| change.put_volume(volume))?;
            snapshots.iter().try_for_each(|snapshot| change.put_snapshot(snapshot))?;
            anchors.iter().try_for_each(|anchor| change.put_anchor(anchor))
        })
        .unwrap();
    drop(catalogue);
    let memory = MemoryPool::default();
    let found = |object| Found::Object { object, size: volume.size.bytes() };
    let ids = snapshots.iter().chain(anchors.iter().map(|anchor| &anchor.snapshot)).map(|snapshot| Object::Snapshot(snapshot.id));
    memory.set_found(Some(volumes.iter().map(|volume| Object::Volume(volume.id)).chain(ids).map(found).collect()));

    let (before, begun) = (Catalogue::records_read(), std::time::Instant::now());
    let owned = OwnedPool::open(Arc::new(memory), Catalogue::open(&path).unwrap(), Arc::new(NothingToHold)).unwrap();
    let read = Catalogue::records_read() - before;
    // For whoever wants to know; nothing is asserted of it.
    println!("opened in {:?}, {read} records read", begun.elapsed());
    let records = volumes.len() + snapshots.len() + anchors.len();
    assert!((records..3 * records).contains(&read), "{read} of {records}");
    let status = owned.status().unwrap();
    assert_eq!((status.volumes, status.snapshots, status.anchors), (VOLUMES, SNAPSHOTS, VOLUMES));
    assert_eq!((status.quarantined, status.damaged), (vec![], vec![]));
}
