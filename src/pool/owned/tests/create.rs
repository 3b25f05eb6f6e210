//! Creations, copies and refusals.

use super::*;

#[test]
fn a_repeated_creation_is_answered_from_the_record() {
    let world = World::new();
    let Outcome::Created(volume) = world.owned.create_volume(&new_volume("one")).unwrap() else { panic!() };
    assert_eq!((volume.size, volume.format), (bytes(MIB), FormatState::Never));
    let grown = world.owned.grow_volume(volume.id, CapacityRange::new(Some(4 * MIB), None).unwrap()).unwrap();
    assert_eq!(world.owned.create_volume(&new_volume("one")).unwrap(), Outcome::Existing(grown));
    let other = NewVolume { mode: VolumeMode::Block, ..new_volume("one") };
    assert!(matches!(world.owned.create_volume(&other), Err(PoolError::NameTaken { .. })));
    world.assert_tidy();
}

#[test]
fn volumes_and_snapshots_have_names_of_their_own() {
    let world = World::new();
    let volume = world.create("same");
    let snapshot = world.cut("same", volume.id);
    assert_eq!(world.owned.snapshot_by_name(&name("same")).unwrap(), Some(snapshot));
    assert_eq!(world.owned.volume_by_name(&name("same")).unwrap(), Some(volume));
}

#[test]
fn blocks_are_of_the_size_that_was_asked_for_and_copies_have_their_sources() {
    let world = World::new();
    let in_blocks = |value: &str, request: NewVolume| NewVolume {
        parameters: BTreeMap::from([(LogicalBlockSize::PARAMETER.to_owned(), value.to_owned())]),
        ..request
    };
    let make = |request: &NewVolume| world.owned.create_volume(request).map(|outcome| outcome.into_inner());
    assert_eq!(make(&new_volume("own")).unwrap().logical_block_size, LogicalBlockSize::B4096);
    let small = make(&in_blocks("512", new_volume("small"))).unwrap();
    assert_eq!(small.logical_block_size, LogicalBlockSize::B512);
    let snapshot = world.cut("snap", small.id);
    assert_eq!(snapshot.logical_block_size, LogicalBlockSize::B512);
    for (name, source) in [("clone", Object::Volume(small.id)), ("copy", Object::Snapshot(snapshot.id))] {
        let copy = NewVolume { source: Some(source), ..new_volume(name) };
        assert!(matches!(make(&in_blocks("4096", copy.clone())), Err(PoolError::Unsupported(_))));
        assert_eq!(make(&copy).unwrap().logical_block_size, LogicalBlockSize::B512);
    }
}

#[test]
fn a_copy_of_what_was_never_formatted_is_itself_never_formatted() {
    let world = World::new();
    let volume = world.create("one");
    let early = world.cut("early", volume.id);
    let from = |text: &str, source| NewVolume { capacity: CapacityRange::ANY, source: Some(source), ..new_volume(text) };
    let copy = |text: &str, source| world.owned.create_volume(&from(text, source)).unwrap().into_inner();
    let (clone, restored) = (copy("a", Object::Volume(volume.id)), copy("b", Object::Snapshot(early.id)));
    let again = copy("c", Object::Volume(restored.id));
    for volume in [&clone, &restored, &again] {
        assert_eq!(volume.format, FormatState::Never);
        assert_eq!(world.owned.volume(volume.id).unwrap().as_ref(), Some(volume));
    }
    for (number, state) in [FormatState::Formatting, FormatState::Content].into_iter().enumerate() {
        world.owned.set_format(volume.id, state).unwrap();
        assert_eq!(copy(&format!("v{number}"), Object::Volume(volume.id)).format, FormatState::Copied);
        let late = world.cut(&format!("s{number}"), volume.id);
        assert_eq!(copy(&format!("r{number}"), Object::Snapshot(late.id)).format, FormatState::Copied);
    }
    // What the earlier snapshot holds has not changed since.
    assert_eq!(copy("d", Object::Snapshot(early.id)).format, FormatState::Never);
}

#[test]
fn what_is_given_out_while_it_is_copied_is_taken_for_content() {
    let world = World::new();
    let volume = world.create("one");
    for (verb, text) in [(Verb::Snapshot, "s"), (Verb::Copy, "c")] {
        let source = if verb == Verb::Copy { world.create("two") } else { volume.clone() };
        let (catalogue, id) = (world.catalogue.clone(), source.id);
        // Between the plan and the cut somebody publishes it, and writes.
        world.memory.set_hook(Some(Arc::new(move |called, at| {
            if (called, at) == (verb, Moment::Before) {
                catalogue.commit("test", |change| {
                    let mut volume = change.volume(id)?.unwrap();
                    volume.format = FormatState::Content;
                    change.put_volume(&volume)
                })?;
            }
            Ok(())
        })));
        let format = match verb {
            Verb::Copy => {
                let request = NewVolume { capacity: CapacityRange::ANY, source: Some(Object::Volume(id)), ..new_volume(text) };
                world.owned.create_volume(&request).unwrap().into_inner().format
            }
            _ => world.cut(text, id).format,
        };
        world.memory.set_hook(None);
        assert_ne!(format, FormatState::Never, "{verb:?}");
    }
}

#[test]
fn a_creation_that_could_not_be_taken_back_is_no_final_failure() {
    for made in [Verb::Create, Verb::Snapshot, Verb::Copy] {
        let mut world = World::new();
        let volume = world.create("one");
        world.memory.set_hook(Some(Arc::new(move |verb, at| match (verb, at) {
            (verb, Moment::After) if verb == made => Err(PoolError::Unsupported("for good".into())),
            (Verb::Delete, Moment::Before) => Err(PoolError::io("delete", io::Error::other("test"))),
            _ => Ok(()),
        })));
        let from = |source| NewVolume { capacity: CapacityRange::ANY, source, ..new_volume("two") };
        let failed = match made {
            Verb::Snapshot => world.owned.create_snapshots(&[new_snapshot("snap", volume.id)]).map(drop),
            Verb::Copy => world.owned.create_volume(&from(Some(Object::Volume(volume.id)))).map(drop),
            _ => world.owned.create_volume(&from(None)).map(drop),
        };
        assert!(matches!(&failed, Err(PoolError::Unfinished(cause)) if cause.to_string() == "for good"), "{made:?}: {failed:?}");
        world.restart();
        world.assert_tidy();
    }
}

#[test]
fn a_copy_is_at_least_as_large_as_its_source_and_never_formatted() {
    let world = World::new();
    let volume = world.create("one");
    // Given out to be written to, as whoever writes has recorded.
    world.owned.set_format(volume.id, FormatState::Content).unwrap();
    world.write(volume.id, 0, b"content");
    let snapshot = world.cut("snap", volume.id);
    let from = |text: &str, source, capacity| NewVolume { capacity, source: Some(source), ..new_volume(text) };
    let copy = world.owned.create_volume(&from("copy", Object::Snapshot(snapshot.id), CapacityRange::ANY)).unwrap().into_inner();
    assert_eq!((copy.size, copy.format), (bytes(MIB), FormatState::Copied));
    assert_eq!(world.read(Object::Volume(copy.id), 0, 7), b"content");
    let larger = CapacityRange::new(Some(3 * MIB), None).unwrap();
    let copy = world.owned.create_volume(&from("larger", Object::Volume(volume.id), larger)).unwrap().into_inner();
    assert_eq!(copy.size, bytes(3 * MIB));
    let limited = CapacityRange::new(None, Some(MIB / 2)).unwrap();
    let smaller = world.owned.create_volume(&from("smaller", Object::Snapshot(snapshot.id), limited));
    assert!(matches!(smaller, Err(PoolError::Size(_))));
    let gone = Object::Snapshot(SnapshotId::random());
    assert!(matches!(world.owned.create_volume(&from("orphan", gone, CapacityRange::ANY)), Err(PoolError::SourceMissing(_))));
    let checked = NewVolume { checksum: DataChecksum::On, ..from("checked", Object::Snapshot(snapshot.id), CapacityRange::ANY) };
    assert!(matches!(world.owned.create_volume(&checked), Err(PoolError::Unsupported(_))));
    world.assert_tidy();
}

#[test]
fn a_second_operation_on_a_name_or_object_is_refused_while_the_first_runs() {
    let world = Arc::new(World::new());
    let volume = world.create("one");
    let inner = Arc::downgrade(&world);
    let checks = Arc::new(AtomicUsize::new(0));
    let counter = checks.clone();
    // Asked from within the operations themselves: the verb is running.
    world.memory.set_hook(Some(Arc::new(move |verb, moment| {
        let world = inner.upgrade().unwrap();
        let busy = |result: Result<(), PoolError>| {
            assert!(matches!(result, Err(PoolError::Busy(_))), "{verb:?}: {result:?}");
            counter.fetch_add(1, Ordering::SeqCst);
        };
        match (verb, moment) {
            (Verb::Create, Moment::Before) => {
                busy(world.owned.create_volume(&new_volume("two")).map(drop));
                busy(world.owned.begin_restore(&new_volume("two"), OnLoss::Delete).map(drop));
            }
            (Verb::Snapshot, Moment::Before) => {
                busy(world.owned.create_snapshots(&[new_snapshot("snap", volume.id)]).map(drop));
                busy(world.owned.delete_volume(volume.id));
                busy(world.owned.attach(Object::Volume(volume.id), Access::ReadOnly).map(drop));
                busy(world.owned.grow_volume(volume.id, CapacityRange::new(Some(8 * MIB), None).unwrap()).map(drop));
            }
            _ => {}
        }
        Ok(())
    })));
    world.create("two");
    world.cut("snap", volume.id);
    assert_eq!(checks.load(Ordering::SeqCst), 6);
    world.memory.set_hook(None);
    world.assert_tidy();
}

#[test]
fn a_full_pool_refuses_new_things_and_keeps_the_old() {
    let world = World::over(MemoryPool::with_capacity(16 * MIB), Arc::new(NothingToHold));
    let huge = NewVolume { capacity: CapacityRange::exactly(bytes(17 * MIB)), ..new_volume("huge") };
    assert!(matches!(world.owned.create_volume(&huge), Err(PoolError::NoSpace(_))));
    let roomy = NewVolume { capacity: CapacityRange::exactly(bytes(16 * MIB)), ..new_volume("one") };
    let volume = world.owned.create_volume(&roomy).unwrap().into_inner();
    world.write(volume.id, 0, &vec![7; 15 * MIB as usize]);
    let usage = world.owned.status().unwrap().usage;
    assert_eq!(usage, PoolUsage::new(16 * MIB, MIB));
    assert!(matches!(world.owned.create_volume(&new_volume("two")), Err(PoolError::NoSpace(_))));
    assert!(matches!(world.owned.begin_restore(&new_volume("two"), OnLoss::Delete), Err(PoolError::NoSpace(_))));
    assert!(matches!(world.owned.create_snapshots(&[new_snapshot("s", volume.id)]), Err(PoolError::NoSpace(_))));
    // What exists is still answered, used and deleted.
    assert_eq!(world.owned.create_volume(&roomy).unwrap(), Outcome::Existing(volume.clone()));
    assert!(matches!(world.owned.begin_restore(&roomy, OnLoss::Delete).unwrap(), RestoreStart::Existing(_)));
    world.owned.attach(Object::Volume(volume.id), Access::ReadWrite).unwrap();
    world.owned.delete_volume(volume.id).unwrap();
    world.create("two");
    world.assert_tidy();
}

#[test]
fn the_reserve_is_two_percent_but_a_gibibyte_where_that_is_not_much() {
    const GIB: u64 = 1 << 30;
    for (total, reserve) in [(GIB, GIB / 10), (20 * GIB, GIB), (50 * GIB, GIB), (100 * GIB, 2 * GIB), (0, 0)] {
        assert_eq!(PoolUsage::reserve_of(total), reserve, "{total}");
    }
}

#[test]
fn failed_acts_leave_nothing_of_creations_and_are_repeated_for_the_rest() {
    for moment in [Moment::Before, Moment::After] {
        let world = World::new();
        let volume = world.create("one");
        let snapshot = world.cut("snap", volume.id);
        let copy = NewVolume { source: Some(Object::Volume(volume.id)), ..new_volume("copy") };
        world.fail(Verb::Create, moment);
        assert!(world.owned.create_volume(&new_volume("two")).is_err());
        assert!(world.owned.begin_restore(&new_volume("two"), OnLoss::Delete).is_err());
        world.fail(Verb::Copy, moment);
        assert!(world.owned.create_volume(&copy).is_err());
        world.fail(Verb::Snapshot, moment);
        assert!(world.owned.create_snapshots(&[new_snapshot("new", volume.id)]).is_err());
        world.memory.set_hook(None);
        world.assert_tidy();
        let larger = CapacityRange::new(Some(2 * MIB), None).unwrap();
        world.fail(Verb::Grow, moment);
        assert!(world.owned.grow_volume(volume.id, larger).is_err());
        world.memory.set_hook(None);
        assert_eq!(world.owned.grow_volume(volume.id, larger).unwrap().size, bytes(2 * MIB));
        world.fail(Verb::Delete, moment);
        assert!(world.owned.delete_snapshot(snapshot.id).is_err());
        assert!(world.owned.delete_volume(volume.id).is_err());
        assert!(world.owned.volume(volume.id).unwrap().is_none(), "out of sight");
        world.memory.set_hook(None);
        world.owned.delete_snapshot(snapshot.id).unwrap();
        world.owned.delete_volume(volume.id).unwrap();
        world.assert_tidy();
    }
}

#[test]
fn a_format_state_is_kept_and_goes_one_way() {
    let mut world = World::new();
    let volume = world.create("one");
    world.owned.set_format(volume.id, FormatState::Formatting).unwrap();
    world.restart();
    assert_eq!(world.owned.volume(volume.id).unwrap().unwrap().format, FormatState::Formatting);
    world.owned.set_format(volume.id, FormatState::Content).unwrap();
    assert!(matches!(world.owned.set_format(volume.id, FormatState::Formatting), Err(PoolError::Unsupported(_))));
    let missing = VolumeId::random();
    assert!(matches!(world.owned.set_format(missing, FormatState::Content), Err(PoolError::Missing(_))));
}
