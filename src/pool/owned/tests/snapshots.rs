//! Snapshots: cut together, leased, attached, exported.

use super::*;

#[test]
fn a_snapshot_keeps_its_answer_when_its_volume_grows_and_goes() {
    let world = World::new();
    let volume = world.create("one");
    world.write(volume.id, 4096, b"at the cut");
    let snapshot = world.cut("snap", volume.id);
    world.write(volume.id, 4096, b"thereafter");
    world.owned.grow_volume(volume.id, CapacityRange::new(Some(2 * MIB), None).unwrap()).unwrap();
    let again = world.owned.create_snapshots(&[new_snapshot("snap", volume.id)]).unwrap();
    assert_eq!(again, vec![Outcome::Existing(snapshot.clone())]);
    world.owned.delete_volume(volume.id).unwrap();
    let again = world.owned.create_snapshots(&[new_snapshot("snap", volume.id)]).unwrap();
    assert_eq!(again, vec![Outcome::Existing(snapshot.clone())]);
    assert_eq!(world.read(Object::Snapshot(snapshot.id), 4096, 10), b"at the cut");
    let other = world.owned.create_snapshots(&[new_snapshot("other", volume.id)]);
    assert!(matches!(other, Err(PoolError::SourceMissing(_))));
}

#[test]
fn a_set_is_cut_at_one_time_and_exists_as_a_whole() {
    let world = World::new();
    let (one, two) = (world.create("one"), world.create("two"));
    let set = [new_snapshot("a", one.id), new_snapshot("b", two.id)];
    let made: Vec<Snapshot> = world.owned.create_snapshots(&set).unwrap().into_iter().map(Outcome::into_inner).collect();
    assert_eq!(made[0].created, made[1].created);
    assert_eq!((made[0].source, made[1].source), (one.id, two.id));
    let again = world.owned.create_snapshots(&set).unwrap();
    assert_eq!(again, made.iter().cloned().map(Outcome::Existing).collect::<Vec<_>>());
    let wider = [new_snapshot("a", one.id), new_snapshot("c", two.id)];
    assert!(matches!(world.owned.create_snapshots(&wider), Err(PoolError::NameTaken { .. })));
    let twice = [new_snapshot("d", one.id), new_snapshot("d", two.id)];
    assert!(matches!(world.owned.create_snapshots(&twice), Err(PoolError::NameTaken { .. })));
    assert_eq!(world.owned.create_snapshots(&[]).unwrap(), Vec::new());
    world.assert_tidy();
}

#[test]
fn a_leased_snapshot_cannot_be_deleted_and_tells_what_is_in_it() {
    let world = World::new();
    let volume = world.create("one");
    world.write(volume.id, 0, &[1; 4096]);
    let first = world.cut("first", volume.id);
    world.write(volume.id, 8192, &[2; 4096]);
    let second = world.cut("second", volume.id);
    let (lease, other) = (world.owned.lease(second.id).unwrap(), world.owned.lease(second.id).unwrap());
    assert_eq!((lease.size(), lease.snapshot().id), (bytes(MIB), second.id));
    let block = |offset| ByteRange::new(offset, 4096).unwrap();
    let collect = |ranges: crate::types::RangeStream| ranges.collect::<io::Result<Vec<_>>>().unwrap();
    assert_eq!(collect(lease.allocated().unwrap()), vec![block(0), block(8192)]);
    let changed = lease.changed_since(first.id).unwrap();
    assert!(matches!(world.owned.delete_snapshot(first.id), Err(PoolError::InUse { .. })), "the base of a running stream");
    assert_eq!(collect(changed), vec![block(8192)]);
    world.owned.delete_snapshot(first.id).unwrap();
    assert!(matches!(lease.changed_since(first.id), Err(PoolError::Missing(_))));
    let stranger = world.create("two");
    let stranger = world.cut("stranger", stranger.id);
    assert!(matches!(lease.changed_since(stranger.id), Err(PoolError::Unsupported(_))));
    drop(lease);
    assert!(matches!(world.owned.delete_snapshot(second.id), Err(PoolError::InUse { .. })));
    drop(other);
    world.owned.delete_snapshot(second.id).unwrap();
    world.owned.delete_snapshot(second.id).unwrap();
    assert!(matches!(world.owned.lease(second.id), Err(PoolError::Missing(_))));
    world.assert_tidy();
}

#[test]
fn a_snapshot_is_attached_for_reading_only() {
    let world = World::new();
    let volume = world.create("one");
    let object = Object::Snapshot(world.cut("snap", volume.id).id);
    assert!(matches!(world.owned.attach(object, Access::ReadWrite), Err(PoolError::Unsupported(_))));
    let attachment = world.owned.attach(object, Access::ReadOnly).unwrap();
    assert_eq!(world.owned.attach(object, Access::ReadOnly).unwrap(), attachment);
    world.owned.detach(object).unwrap();
    assert_eq!(world.owned.attachment(object).unwrap(), None);
    world.owned.detach(Object::Volume(VolumeId::random())).unwrap();
}

#[test]
fn export_records_live_as_long_as_something_of_the_volume_does() {
    let world = World::new();
    let volume = world.create("one");
    let snapshot = world.cut("snap", volume.id);
    let export = ExportRecord {
        repository: "ab".repeat(32),
        volume: volume.id,
        snapshot: snapshot.id,
        repository_snapshot: "cd".repeat(32),
        size: volume.size,
        chunk_size: MIB,
        finished: Timestamp::now(),
    };
    world.owned.put_export(&export).unwrap();
    world.owned.delete_volume(volume.id).unwrap();
    assert_eq!(world.owned.exports(volume.id).unwrap(), vec![export.clone()]);
    assert_eq!(world.owned.export(&export.repository, volume.id).unwrap(), Some(export.clone()));
    world.owned.delete_snapshot(snapshot.id).unwrap();
    assert_eq!(world.owned.exports(volume.id).unwrap(), Vec::new());
    assert!(matches!(world.owned.put_export(&export), Err(PoolError::Missing(_))));
}
