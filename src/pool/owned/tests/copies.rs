//! Snapshots whose bytes are in a repository: what they answer, when the local copy goes, and what is left of it.

use super::super::watch::Seen;
use super::*;
use crate::types::{ExportTask, LocalCopy, RangeStream, TaskState};

const REPOSITORY: &str = "abababab";

/// A request of a class that asks for an export, with this policy.
fn for_export(text: &str, source: VolumeId, policy: &str) -> NewSnapshot {
    let parameters = [("repository", "existing"), ("localCopy", policy)].map(|(key, value)| (key.to_owned(), value.to_owned()));
    NewSnapshot { parameters: parameters.into(), ..new_snapshot(text, source) }
}

fn record(snapshot: &Snapshot) -> ExportRecord {
    ExportRecord {
        repository: REPOSITORY.to_owned(),
        volume: snapshot.source,
        snapshot: snapshot.id,
        repository_snapshot: "cd".repeat(32),
        size: snapshot.size,
        chunk_size: MIB,
        finished: Timestamp::now(),
    }
}

fn task(state: TaskState) -> ExportTask {
    let task = ExportTask::new("s3:https://host/bucket".to_owned(), Timestamp { seconds: 7, nanoseconds: 0 });
    ExportTask { repository: Some(REPOSITORY.to_owned()), state, ..task }
}

fn ranges(stream: RangeStream) -> Vec<ByteRange> {
    stream.collect::<io::Result<_>>().unwrap()
}

impl World {
    fn cut_for_export(&self, text: &str, source: VolumeId, policy: &str) -> Snapshot {
        self.owned.create_snapshots(&[for_export(text, source, policy)]).unwrap().remove(0).into_inner()
    }

    /// Cut and exported as its class asks.
    fn exported(&self, text: &str, source: VolumeId, policy: &str) -> Snapshot {
        let snapshot = self.cut_for_export(text, source, policy);
        self.owned.put_task(snapshot.id, &task(TaskState::Running)).unwrap();
        self.owned.put_export(&record(&snapshot)).unwrap();
        self.owned.snapshot(snapshot.id).unwrap().unwrap()
    }

    fn is_stored(&self, id: SnapshotId) -> bool {
        self.memory.open(Object::Snapshot(id), Access::ReadOnly).is_ok()
    }
}

#[test]
fn a_snapshot_of_an_exporting_class_is_ready_when_its_own_repository_holds_it() {
    let mut world = World::new();
    let volume = world.create("one");
    assert!(world.cut("local", volume.id).is_ready(), "a local one is complete at the cut");
    let snapshot = world.cut_for_export("snap", volume.id, "keep");
    assert!(!snapshot.is_ready());
    let ready = |world: &World| world.owned.snapshot(snapshot.id).unwrap().unwrap().is_ready();
    for state in [
        TaskState::Pending,
        TaskState::Running,
        TaskState::failed("the bucket is missing", Timestamp { seconds: 8, nanoseconds: 0 }),
    ] {
        world.owned.put_task(snapshot.id, &task(state.clone())).unwrap();
        world.restart();
        assert_eq!(world.owned.snapshot(snapshot.id).unwrap().unwrap().copies.task, Some(task(state)));
        assert!(!ready(&world));
    }
    world.owned.put_export(&ExportRecord { repository: "another".to_owned(), ..record(&snapshot) }).unwrap();
    assert!(!ready(&world), "somebody exported it elsewhere");
    world.owned.put_export(&record(&snapshot)).unwrap();
    assert!(ready(&world));
    world.restart();
    assert!(ready(&world));
    let missing = world.owned.put_task(SnapshotId::random(), &task(TaskState::Pending));
    assert!(matches!(missing, Err(PoolError::Missing(_))), "{missing:?}");
}

#[test]
fn without_a_local_copy_a_snapshot_is_listed_is_not_damaged_and_refuses_to_be_read() {
    let mut world = World::new();
    let volume = world.create("one");
    world.write(volume.id, 0, &[1; 4096]);
    let snapshot = world.cut_for_export("snap", volume.id, "keep");
    let object = Object::Snapshot(snapshot.id);
    let only = world.owned.give_up_local_copy(snapshot.id);
    assert!(matches!(only, Err(PoolError::Unsupported(_))), "{only:?}");
    world.owned.put_task(snapshot.id, &task(TaskState::Running)).unwrap();
    world.owned.put_export(&record(&snapshot)).unwrap();
    let lease = world.owned.lease(snapshot.id).unwrap();
    assert!(matches!(world.owned.give_up_local_copy(snapshot.id), Err(PoolError::InUse { .. })));
    drop(lease);
    world.owned.give_up_local_copy(snapshot.id).unwrap();
    world.owned.give_up_local_copy(snapshot.id).unwrap();
    for _ in 0..2 {
        world.assert_tidy();
        let listed = world.owned.snapshots().unwrap();
        let [known] = listed.as_slice() else { panic!("{listed:?}") };
        assert_eq!((known.id, known.size, known.created), (snapshot.id, snapshot.size, snapshot.created));
        assert_eq!((known.copies.local, known.copies.exports.len(), known.is_ready()), (LocalCopy::GivenUp, 1, true));
        assert_eq!(world.owned.status().unwrap().damaged, Vec::<String>::new());
        let again = world.owned.create_snapshots(&[for_export("snap", volume.id, "keep")]).unwrap();
        assert_eq!(again, [Outcome::Existing(known.clone())]);
        let refused = world.owned.lease(snapshot.id).map(drop).unwrap_err();
        assert!(matches!(refused, PoolError::GivenUp(_)) && refused.to_string().contains("restore it"), "{refused}");
        assert!(matches!(world.owned.attach(object, Access::ReadOnly), Err(PoolError::GivenUp(_))));
        let copy = NewVolume { source: Some(object), ..new_volume("copy") };
        assert!(matches!(world.owned.create_volume(&copy), Err(PoolError::GivenUp(_))));
        let usage = world.owned.usage_of(object).unwrap();
        assert_eq!((usage.allocated, usage.exclusive), (0, 0));
        world.restart();
    }
    world.owned.delete_snapshot(snapshot.id).unwrap();
    assert!(world.owned.snapshots().unwrap().is_empty());
    assert!(matches!(world.owned.give_up_local_copy(snapshot.id), Err(PoolError::Missing(_))));
    world.owned.delete_volume(volume.id).unwrap();
    world.assert_tidy();
    assert!(!world.is_stored(snapshot.id), "its anchor went with the volume");
}

#[test]
fn what_is_left_of_a_local_copy_is_the_base_of_the_next_export_also_after_the_snapshot_was_deleted() {
    let mut world = World::new();
    let volume = world.create("one");
    world.write(volume.id, 0, &[1; 4096]);
    let first = world.exported("first", volume.id, "drop");
    world.owned.give_up_local_copy(first.id).unwrap();
    world.write(volume.id, 8192, &[2; 4096]);
    let second = world.exported("second", volume.id, "keep");
    // Its export to the same repository makes the first no base any more.
    assert!(!world.is_stored(first.id));
    assert!(matches!(world.owned.lease(second.id).unwrap().changed_since(first.id), Err(PoolError::Missing(_))));

    world.owned.give_up_local_copy(second.id).unwrap();
    world.write(volume.id, 4096, &[3; 4096]);
    let third = world.cut("third", volume.id);
    let changed = |world: &World| ranges(world.owned.lease(third.id).unwrap().changed_since(second.id).unwrap());
    let expected = [ByteRange::new(4096, 4096).unwrap()];
    assert_eq!(changed(&world), expected);
    world.restart();
    assert_eq!(changed(&world), expected);
    world.owned.delete_snapshot(second.id).unwrap();
    assert_eq!(world.owned.snapshot(second.id).unwrap(), None);
    assert_eq!(changed(&world), expected, "an anchor outlives its snapshot's record");
    world.restart();
    world.assert_tidy();
    assert_eq!(changed(&world), expected);
}

#[test]
fn what_nobody_came_to_drop_is_dropped_by_the_next_start_and_nothing_else_is() {
    let mut world = World::new();
    let volume = world.create("one");
    let [kept, lazy, dropped] = ["keep", "untilPressure", "drop"].map(|policy| world.exported(policy, volume.id, policy));
    let unfinished = world.cut_for_export("unfinished", volume.id, "drop");
    world.owned.put_task(unfinished.id, &task(TaskState::Running)).unwrap();
    world.restart();
    let local = |snapshot: &Snapshot| world.owned.snapshot(snapshot.id).unwrap().unwrap().copies.local;
    assert_eq!([&kept, &lazy, &unfinished].map(local), [LocalCopy::Kept; 3]);
    assert_eq!(local(&dropped), LocalCopy::GivenUp);
    world.assert_tidy();
}

#[test]
fn a_pool_that_runs_low_gives_up_the_oldest_exported_copies_and_never_one_that_is_to_be_kept() {
    let world = World::over(MemoryPool::with_capacity(20 * MIB), Arc::new(NothingToHold));
    let request = NewVolume { capacity: CapacityRange::exactly(bytes(16 * MIB)), ..new_volume("one") };
    let volume = world.owned.create_volume(&request).unwrap().into_inner();
    world.write(volume.id, 0, &vec![7; 4 * MIB as usize]);
    let kept = world.exported("kept", volume.id, "keep");
    let older = world.exported("older", volume.id, "untilPressure");
    let newer = world.exported("newer", volume.id, "untilPressure");
    let local = |snapshot: &Snapshot| world.owned.snapshot(snapshot.id).unwrap().unwrap().copies.local;
    // 16 MiB of 20 are taken, 2 are the reserve. A writer comes down to it.
    let mut seen = Seen::default();
    world.owned.look(&mut seen);
    assert_eq!(local(&older), LocalCopy::Kept);
    world.write(volume.id, 4 * MIB, &vec![7; 2 * MIB as usize]);
    world.owned.look(&mut seen);
    assert_eq!([&kept, &older, &newer].map(local), [LocalCopy::Kept, LocalCopy::GivenUp, LocalCopy::Kept]);
    assert!(!world.is_stored(older.id), "what is kept as an anchor frees nothing");
    // A request asks for room too, and the newest one's anchor goes with it.
    world.write(volume.id, 6 * MIB, &vec![7; 4 * MIB as usize]);
    let room = world.owned.available_bytes().unwrap();
    assert!(room > 0, "what can be given up counts");
    world.owned.create_volume(&new_volume("two")).unwrap();
    assert_eq!([&kept, &newer].map(local), [LocalCopy::Kept, LocalCopy::GivenUp]);
    assert!(world.is_stored(kept.id));
    world.assert_tidy();
}

#[test]
fn a_local_copy_whose_deletion_fails_goes_with_the_next_try() {
    let mut world = World::new();
    let volume = world.create("one");
    let first = world.exported("first", volume.id, "keep");
    world.exported("second", volume.id, "keep");
    world.fail(Verb::Delete, Moment::Before);
    assert!(world.owned.give_up_local_copy(first.id).is_err());
    assert!(matches!(world.owned.lease(first.id), Err(PoolError::GivenUp(_))), "nobody reads what may be half gone");
    world.memory.set_hook(None);
    assert!(world.is_stored(first.id));
    world.owned.give_up_local_copy(first.id).unwrap();
    assert!(!world.is_stored(first.id));
    world.assert_tidy();

    // Likewise when the snapshot itself is deleted then.
    let third = world.exported("third", volume.id, "keep");
    world.exported("fourth", volume.id, "keep");
    world.fail(Verb::Delete, Moment::Before);
    assert!(world.owned.give_up_local_copy(third.id).is_err());
    world.memory.set_hook(None);
    world.owned.delete_snapshot(third.id).unwrap();
    assert!(!world.is_stored(third.id));
    world.assert_tidy();
    world.restart();
    world.assert_tidy();
}
