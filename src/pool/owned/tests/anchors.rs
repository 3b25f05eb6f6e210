//! Deleted snapshots that are kept: what they answer, and when they go.

use super::super::watch::Seen;
use super::*;
use crate::pool::record::Consumer;
use crate::types::RangeStream;

fn repository(text: &str) -> Consumer {
    Consumer::Repository(text.repeat(32))
}

fn export(snapshot: &Snapshot, repository: &str) -> ExportRecord {
    ExportRecord {
        repository: repository.repeat(32),
        volume: snapshot.source,
        snapshot: snapshot.id,
        repository_snapshot: "cd".repeat(32),
        size: snapshot.size,
        chunk_size: MIB,
        finished: Timestamp::now(),
    }
}

fn ranges(stream: RangeStream) -> Vec<ByteRange> {
    stream.collect::<io::Result<_>>().unwrap()
}

fn block(number: u64) -> ByteRange {
    ByteRange::new(number * 4096, 4096).unwrap()
}

impl World {
    fn anchored(&self) -> Vec<SnapshotId> {
        let mut anchors = self.owned.anchors().unwrap();
        anchors.sort_by_key(|anchor| anchor.snapshot.serial);
        anchors.iter().map(|anchor| anchor.snapshot.id).collect()
    }

    fn changed(&self, base: SnapshotId, target: SnapshotId) -> Result<Vec<ByteRange>, PoolError> {
        self.owned.lease(target).unwrap().changed_since(base).map(ranges)
    }

    /// Cut, used and deleted.
    fn leave_anchor(&self, text: &str, volume: VolumeId, consumer: &Consumer) -> Snapshot {
        let snapshot = self.cut(text, volume);
        self.owned.record_use(snapshot.id, consumer.clone()).unwrap();
        self.owned.delete_snapshot(snapshot.id).unwrap();
        snapshot
    }

    fn stored(&self, id: SnapshotId) -> bool {
        self.memory.open(Object::Snapshot(id), Access::ReadOnly).is_ok()
    }
}

#[test]
fn a_used_snapshot_that_is_deleted_is_out_of_sight_and_still_a_base() {
    let mut world = World::new();
    let volume = world.create("one");
    world.write(volume.id, 0, &[1; 4096]);
    let base = world.leave_anchor("snap", volume.id, &Consumer::MetadataClient);
    assert_eq!(world.anchored(), [base.id]);
    assert!(world.owned.snapshots().unwrap().is_empty());
    assert_eq!(world.owned.snapshot(base.id).unwrap(), None);
    assert_eq!(world.owned.snapshot_by_name(&base.name).unwrap(), None);
    assert!(matches!(world.owned.lease(base.id), Err(PoolError::Missing(_))));
    assert!(matches!(world.owned.attach(Object::Snapshot(base.id), Access::ReadOnly), Err(PoolError::Missing(_))));
    let from = NewVolume { source: Some(Object::Snapshot(base.id)), ..new_volume("copy") };
    assert!(matches!(world.owned.create_volume(&from), Err(PoolError::SourceMissing(_))));
    assert!(matches!(world.owned.record_use(base.id, Consumer::Source), Err(PoolError::Missing(_))));
    world.owned.delete_snapshot(base.id).unwrap();
    world.write(volume.id, 8192, &[2; 4096]);
    // Its name is free, and another snapshot has another id.
    let target = world.cut("snap", volume.id);
    assert_ne!(target.id, base.id);
    assert_eq!(world.changed(base.id, target.id).unwrap(), [block(2)]);
    world.restart();
    world.assert_tidy();
    assert_eq!(world.changed(base.id, target.id).unwrap(), [block(2)]);
    let status = world.owned.status().unwrap();
    assert_eq!((status.snapshots, status.anchors), (1, 1));
    let states = world.owned.anchor_status().unwrap();
    assert_eq!((states.len(), states[0].anchor.snapshot.id, states[0].usage.allocated), (1, base.id, 4096));
    let stranger = world.create("two");
    let stranger = world.cut("stranger", stranger.id);
    assert!(matches!(world.changed(base.id, stranger.id), Err(PoolError::Missing(_))));
}

#[test]
fn a_snapshot_that_nobody_used_is_gone_when_it_is_deleted() {
    let world = World::new();
    let volume = world.create("one");
    let (base, target) = (world.cut("base", volume.id), world.cut("target", volume.id));
    world.owned.delete_snapshot(base.id).unwrap();
    assert!(!world.stored(base.id));
    assert!(matches!(world.changed(base.id, target.id), Err(PoolError::Missing(_))));
    assert!(matches!(world.owned.record_use(base.id, Consumer::MetadataClient), Err(PoolError::Missing(_))));
    world.assert_tidy();
}

#[test]
fn hourly_snapshots_between_two_daily_backups_leave_the_base_of_the_second_alone() {
    let mut world = World::new();
    let volume = world.create("one");
    world.write(volume.id, 0, &[1; 4096]);
    let first = world.cut("daily-1", volume.id);
    world.owned.put_export(&export(&first, "ab")).unwrap();
    world.owned.delete_snapshot(first.id).unwrap();
    let mut rotation = Vec::new();
    for hour in 0..24_u64 {
        world.write(volume.id, (1 + hour) * 4096, &[2; 4096]);
        rotation.push(world.cut(&format!("hourly-{hour}"), volume.id));
        if rotation.len() > 6 {
            world.owned.delete_snapshot(rotation.remove(0).id).unwrap();
        }
        if hour == 12 {
            world.restart();
        }
    }
    assert_eq!(world.anchored(), [first.id]);
    let second = world.cut("daily-2", volume.id);
    let exported = world.owned.export(&"ab".repeat(32), volume.id).unwrap().unwrap();
    assert_eq!(exported.snapshot, first.id);
    assert_eq!(world.changed(exported.snapshot, second.id).unwrap(), [ByteRange::new(4096, 24 * 4096).unwrap()]);
    // The second backup takes the place of the first.
    world.owned.put_export(&export(&second, "ab")).unwrap();
    assert!(!world.stored(first.id));
    world.owned.delete_snapshot(second.id).unwrap();
    assert_eq!(world.anchored(), [second.id]);
    world.assert_tidy();
}

#[test]
fn each_consumer_has_its_last_snapshot_and_a_volume_no_more_than_the_limit() {
    let world = World::new();
    let (volume, other) = (world.create("one"), world.create("two"));
    let elsewhere = world.leave_anchor("elsewhere", other.id, &repository("aa"));
    let first = world.leave_anchor("first", volume.id, &repository("aa"));
    let second = world.leave_anchor("second", volume.id, &repository("bb"));
    let third = world.leave_anchor("third", volume.id, &repository("aa"));
    assert_eq!(world.anchored(), [elsewhere.id, second.id, third.id]);
    assert!(!world.stored(first.id));
    let more: Vec<SnapshotId> =
        ["cc", "dd", "ee"].iter().map(|text| world.leave_anchor(text, volume.id, &repository(text)).id).collect();
    assert_eq!(world.anchored(), [elsewhere.id, third.id, more[0], more[1], more[2]]);
    // An export to one that reads the other's as well.
    let both = world.cut("both", volume.id);
    for text in ["aa", "cc", "dd"] {
        world.owned.record_use(both.id, repository(text)).unwrap();
    }
    assert_eq!(world.anchored(), [elsewhere.id, more[2]]);
    world.assert_tidy();
}

#[test]
fn a_volume_without_anchors_leaves_none() {
    let world = World::new();
    let parameters = BTreeMap::from([("deltaAnchors".to_owned(), "0".to_owned())]);
    let volume = world.owned.create_volume(&NewVolume { parameters, ..new_volume("one") }).unwrap().into_inner();
    let base = world.cut("base", volume.id);
    world.owned.put_export(&export(&base, "ab")).unwrap();
    world.owned.record_use(base.id, Consumer::MetadataClient).unwrap();
    world.owned.delete_snapshot(base.id).unwrap();
    assert!(!world.stored(base.id));
    assert_eq!(world.anchored(), []);
    world.assert_tidy();
}

#[test]
fn a_snapshot_that_a_volume_was_made_from_is_kept_until_another_is() {
    let world = World::new();
    let volume = world.create("one");
    let [first, second] = ["first", "second"].map(|text| world.cut(text, volume.id));
    let copy = |snapshot: &Snapshot, text: &str| {
        let request = NewVolume { source: Some(Object::Snapshot(snapshot.id)), ..new_volume(text) };
        world.owned.create_volume(&request).unwrap();
    };
    copy(&first, "copy");
    world.owned.delete_snapshot(first.id).unwrap();
    assert_eq!(world.anchored(), [first.id]);
    copy(&second, "another");
    assert_eq!(world.anchored(), []);
    world.assert_tidy();
}

#[test]
fn anchors_are_evicted_oldest_first_before_anything_new_is_refused() {
    let world = World::over(MemoryPool::with_capacity(16 * MIB), Arc::new(NothingToHold));
    let request = NewVolume { capacity: CapacityRange::exactly(bytes(8 * MIB)), ..new_volume("one") };
    let volume = world.owned.create_volume(&request).unwrap().into_inner();
    // Of memory, snapshots are full copies: 4 MiB for the volume and for each.
    world.write(volume.id, 0, &vec![7; 4 * MIB as usize]);
    let anchors: Vec<SnapshotId> =
        ["aa", "bb"].iter().map(|text| world.leave_anchor(text, volume.id, &repository(text)).id).collect();
    world.write(volume.id, 4 * MIB, &vec![7; 3 * MIB as usize]);
    assert_eq!(world.owned.status().unwrap().usage.available(), 0);
    assert!(world.owned.available_bytes().unwrap() > 0, "what can be evicted is there for new volumes");
    let new = world.create("two");
    assert_eq!(world.anchored(), [anchors[1]]);
    world.write(volume.id, 7 * MIB, &vec![7; MIB as usize]);
    world.write(new.id, 0, &vec![7; MIB as usize]);
    world.write(new.id, 0, &vec![7; MIB as usize]);
    let snapshot = world.cut("snapshot", new.id);
    assert_eq!(world.anchored(), [anchors[1]], "there was room");
    let third = world.create("three");
    world.write(third.id, 0, &vec![7; MIB as usize]);
    assert_eq!(world.owned.status().unwrap().usage.available(), 0);
    // One that is read is passed over, and nothing is promised for it.
    let reader = world.owned.locks.pin(anchors[1]).unwrap();
    assert!(matches!(world.owned.create_volume(&new_volume("four")), Err(PoolError::NoSpace(_))));
    drop(reader);
    world.create("four");
    assert_eq!(world.anchored(), []);
    assert!(world.owned.snapshot(snapshot.id).unwrap().is_some(), "snapshots are never evicted");
    world.assert_tidy();
}

#[test]
fn anchors_of_a_deleted_volume_stay_while_a_snapshot_of_it_does() {
    let world = World::new();
    let volume = world.create("one");
    world.write(volume.id, 0, &[1; 4096]);
    let base = world.leave_anchor("base", volume.id, &repository("ab"));
    world.write(volume.id, 4096, &[1; 4096]);
    let last = world.cut("last", volume.id);
    world.owned.delete_volume(volume.id).unwrap();
    assert_eq!(world.changed(base.id, last.id).unwrap(), [block(1)]);
    world.owned.record_use(last.id, Consumer::MetadataClient).unwrap();
    world.owned.delete_snapshot(last.id).unwrap();
    assert_eq!(world.anchored(), []);
    assert!(!world.stored(base.id) && !world.stored(last.id));
    world.assert_tidy();
}

#[test]
fn anchors_of_a_volume_without_snapshots_go_with_it() {
    let world = World::new();
    let volume = world.create("one");
    let base = world.leave_anchor("base", volume.id, &repository("ab"));
    world.owned.delete_volume(volume.id).unwrap();
    assert!(!world.stored(base.id));
    world.assert_tidy();
}

#[test]
fn an_anchor_that_is_read_is_evicted_after_the_reader_is_done() {
    let world = World::new();
    let volume = world.create("one");
    let base = world.leave_anchor("base", volume.id, &repository("ab"));
    world.write(volume.id, 0, &[1; 4096]);
    let target = world.cut("target", volume.id);
    let changed = world.owned.lease(target.id).unwrap().changed_since(base.id).unwrap();
    world.owned.record_use(target.id, repository("ab")).unwrap();
    assert_eq!(world.anchored(), [base.id]);
    assert_eq!(ranges(changed), [block(0)]);
    world.owned.delete_snapshot(target.id).unwrap();
    assert_eq!(world.anchored(), [target.id]);
    assert!(!world.stored(base.id));
    world.assert_tidy();
}

#[test]
fn an_eviction_that_fails_fails_nothing_else_and_is_finished_by_the_next_start() {
    for moment in [Moment::Before, Moment::After] {
        let mut world = World::new();
        let volume = world.create("one");
        let base = world.leave_anchor("base", volume.id, &repository("ab"));
        let target = world.cut("target", volume.id);
        world.fail(Verb::Delete, moment);
        world.owned.record_use(target.id, repository("ab")).unwrap();
        world.owned.delete_snapshot(target.id).unwrap();
        assert_eq!(world.anchored(), [target.id]);
        let later = world.cut("later", volume.id);
        assert!(matches!(world.changed(base.id, later.id), Err(PoolError::Missing(_))), "out of sight");
        world.restart();
        assert!(!world.stored(base.id));
        assert_eq!(world.anchored(), [target.id]);
        world.assert_tidy();
    }
}

#[test]
fn an_anchor_whose_data_is_cut_short_or_gone_is_never_compared_with() {
    for gone in [false, true] {
        let mut world = World::new();
        let volume = world.create("one");
        let base = world.leave_anchor("base", volume.id, &repository("ab"));
        let live = world.cut("live", volume.id);
        let target = world.cut("target", volume.id);
        for id in [base.id, live.id] {
            let object = Object::Snapshot(id);
            if gone {
                world.memory.delete(object).unwrap();
            } else {
                world.memory.open(object, Access::ReadWrite).unwrap().set_len(4096).unwrap();
            }
        }
        world.restart();
        assert!(matches!(world.changed(base.id, target.id), Err(PoolError::Missing(_))));
        assert!(matches!(world.changed(live.id, target.id), Err(PoolError::Io { .. })));
        assert!(!world.stored(base.id));
        // A damaged snapshot leaves no anchor.
        world.owned.record_use(live.id, Consumer::MetadataClient).unwrap();
        world.owned.delete_snapshot(live.id).unwrap();
        assert_eq!(world.anchored(), []);
        world.assert_tidy();
    }
}

#[test]
fn an_eviction_that_failed_is_repeated_when_room_is_wanted() {
    let world = World::over(MemoryPool::with_capacity(16 * MIB), Arc::new(NothingToHold));
    let request = NewVolume { capacity: CapacityRange::exactly(bytes(12 * MIB)), ..new_volume("one") };
    let volume = world.owned.create_volume(&request).unwrap().into_inner();
    world.write(volume.id, 0, &vec![7; 7 * MIB as usize]);
    let base = world.leave_anchor("base", volume.id, &repository("ab"));
    world.write(volume.id, 7 * MIB, &vec![7; MIB as usize]);
    world.fail(Verb::Delete, Moment::Before);
    assert!(matches!(world.owned.create_volume(&new_volume("two")), Err(PoolError::NoSpace(_))));
    assert_eq!(world.anchored(), []);
    assert!(world.stored(base.id));
    world.memory.set_hook(None);
    world.create("two");
    assert!(!world.stored(base.id));
    world.assert_tidy();
}

#[test]
fn writers_are_given_anchors_one_at_a_time_until_they_have_more_than_the_reserve() {
    let world = World::over(MemoryPool::with_capacity(20 * MIB), Arc::new(NothingToHold));
    let request = NewVolume { capacity: CapacityRange::exactly(bytes(16 * MIB)), ..new_volume("one") };
    let volume = world.owned.create_volume(&request).unwrap().into_inner();
    world.write(volume.id, 0, &vec![7; 4 * MIB as usize]);
    let [copied, daily, weekly] =
        [Consumer::Source, repository("aa"), repository("bb")].map(|by| world.leave_anchor("base", volume.id, &by).id);
    // 16 MiB of 20 are taken, 2 are the reserve.
    let mut seen = Seen::default();
    world.owned.look(&mut seen);
    assert_eq!(world.anchored(), [copied, daily, weekly]);
    // A writer comes down to the reserve.
    world.write(volume.id, 4 * MIB, &vec![7; 2 * MIB as usize]);
    world.owned.look(&mut seen);
    assert_eq!(world.anchored(), [daily, weekly], "a copy's goes before a backup's, though it is younger than none");
    world.owned.look(&mut seen);
    assert_eq!(world.anchored(), [daily, weekly], "that was enough");
    world.write(volume.id, 6 * MIB, &vec![7; 4 * MIB as usize]);
    // The oldest is read.
    let reader = world.owned.locks.pin(daily).unwrap();
    world.owned.look(&mut seen);
    assert_eq!(world.anchored(), [daily]);
    world.owned.look(&mut seen);
    world.write(volume.id, 10 * MIB, &vec![7; 4 * MIB as usize]);
    for _ in 0..3 {
        world.owned.look(&mut seen);
        assert_eq!(world.anchored(), [daily]);
    }
    drop(reader);
    world.owned.look(&mut seen);
    assert_eq!(world.anchored(), []);
    world.assert_tidy();
}

#[test]
fn a_watch_and_what_gives_zeros_back_end_with_their_pool() {
    let world = World::new();
    let again = OwnedPool::open(world.memory.clone(), world.catalogue.clone(), world.quiesce.clone()).unwrap().watched().unwrap();
    let held = Arc::strong_count(&world.memory);
    drop(again);
    assert_eq!(Arc::strong_count(&world.memory), held - 3, "the pool's reference and one of each thread");
}

#[test]
fn an_anchor_that_could_not_be_reduced_is_reduced_with_the_next_change() {
    let mut world = World::new();
    let volume = world.create("one");
    world.fail(Verb::Condense, Moment::Before);
    let base = world.leave_anchor("snap", volume.id, &Consumer::MetadataClient);
    assert_eq!(world.anchored(), [base.id], "it is deleted all the same");
    let reduced = Arc::new(AtomicUsize::new(0));
    let count = |world: &World| {
        let reduced = Arc::clone(&reduced);
        world.memory.set_hook(Some(Arc::new(move |verb, moment| {
            if (verb, moment) == (Verb::Condense, Moment::After) {
                reduced.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })));
    };
    count(&world);
    world.create("two");
    assert_eq!(reduced.load(Ordering::Relaxed), 1);
    world.create("three");
    assert_eq!(reduced.load(Ordering::Relaxed), 1, "once is enough");
    // Likewise by a start, whatever earlier ones could do.
    world.fail(Verb::Condense, Moment::Before);
    world.owned = OwnedPool::open(world.memory.clone(), world.catalogue.clone(), world.quiesce.clone()).unwrap();
    count(&world);
    world.create("four");
    assert_eq!(reduced.load(Ordering::Relaxed), 2);
    world.restart();
    world.assert_tidy();
}

#[test]
fn nothing_of_before_the_history_was_broken_is_a_base() {
    let mut world = World::new();
    let volume = world.create("one");
    let anchor = world.leave_anchor("anchor", volume.id, &Consumer::MetadataClient);
    let before = world.cut("before", volume.id);
    world.owned.put_export(&export(&before, "ab")).unwrap();
    world.write(volume.id, 4096, &[2; 4096]);
    let target = world.cut("target", volume.id);
    assert_eq!(world.changed(anchor.id, target.id).unwrap(), [block(1)]);
    assert_eq!(world.changed(before.id, target.id).unwrap(), [block(1)]);

    world.catalogue.commit("test", |change| change.break_history()).unwrap();
    world.restart();
    for base in [before.id, target.id] {
        assert!(matches!(world.changed(base, target.id), Err(PoolError::Unsupported(_))), "{base}");
    }
    assert_eq!(world.anchored(), [], "what tells nothing any more is not kept");
    assert!(matches!(world.changed(anchor.id, target.id), Err(PoolError::Missing(_))));
    world.owned.delete_snapshot(before.id).unwrap();
    assert_eq!(world.anchored(), [], "nor does it become an anchor");

    // From here on all is as ever.
    let base = world.leave_anchor("new", volume.id, &repository("ab"));
    world.write(volume.id, 8192, &[3; 4096]);
    let target = world.cut("newer", volume.id);
    assert_eq!(world.changed(base.id, target.id).unwrap(), [block(2)]);
    world.restart();
    world.assert_tidy();
    assert_eq!(world.changed(base.id, target.id).unwrap(), [block(2)]);
}

#[test]
fn a_start_reads_each_record_a_few_times_and_a_deletion_those_of_its_volume_however_many_there_are() {
    let mut world = World::new();
    let (volumes, each) = (20, 15);
    let mut last = None;
    for number in 0..volumes {
        let volume = world.create(&format!("volume-{number}"));
        world.leave_anchor(&format!("anchor-{number}"), volume.id, &Consumer::Source);
        for cut in 0..each {
            last = Some(world.cut(&format!("snapshot-{number}-{cut}"), volume.id));
        }
    }
    let records = volumes * (1 + 1 + each);
    let before = Catalogue::records_read();
    world.restart();
    let read = Catalogue::records_read() - before;
    // One look at all of them for each volume with an anchor would be 6,000.
    assert!(read >= records && read < 3 * records, "{read} of {records}");
    let before = Catalogue::records_read();
    world.owned.delete_snapshot(last.unwrap().id).unwrap();
    let read = Catalogue::records_read() - before;
    assert!(read < 4 * each, "{read} of {records}");
}
