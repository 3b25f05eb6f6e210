//! Restores that are kept for the next equal one: taken over, in nobody's way, and gone in time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::super::watch::Seen;
use super::*;

fn request(text: &str) -> NewVolume {
    NewVolume { capacity: CapacityRange::exactly(bytes(MIB)), foreign_source: Some("snapshot".to_owned()), ..new_volume(text) }
}

impl World {
    fn begin(&self, request: &NewVolume, on_loss: OnLoss) -> RestoreTarget {
        match self.owned.begin_restore(request, on_loss).unwrap() {
            RestoreStart::Target(target) => target,
            RestoreStart::Existing(volume) => panic!("{volume:?}"),
        }
    }

    /// A restore that was interrupted after it had written `data`.
    fn leave(&self, text: &str, data: &[u8]) -> VolumeId {
        let target = self.begin(&request(text), OnLoss::Keep);
        target.file().write_all_at(data, 0).unwrap();
        let id = target.close();
        self.owned.let_go_restore(id).unwrap();
        id
    }

    fn is_there(&self, id: VolumeId) -> bool {
        self.memory.open(Object::Volume(id), Access::ReadOnly).is_ok()
    }

    fn kept(&self) -> usize {
        self.owned.status().unwrap().kept_restores
    }
}

#[test]
fn an_interrupted_restore_is_taken_over_by_the_next_equal_one_also_after_a_start() {
    for restarted in [false, true] {
        let mut world = World::new();
        let id = world.leave("one", b"part");
        if restarted {
            world.restart();
        }
        // Nobody sees it.
        assert!(world.owned.volumes().unwrap().is_empty() && world.owned.volume_names().unwrap().is_empty());
        assert!(world.owned.volume_by_name(&name("one")).unwrap().is_none());
        assert!(matches!(world.owned.attach(Object::Volume(id), Access::ReadWrite), Err(PoolError::Missing(_))));
        assert!(matches!(world.owned.commit_restore(id), Err(PoolError::Missing(_))));
        world.owned.delete_volume(id).unwrap();
        let status = world.owned.status().unwrap();
        assert_eq!((status.volumes, status.restores, status.kept_restores, status.quarantined.len()), (0, 0, 1, 0));
        assert_eq!(world.owned.kept_names(), [name("one")]);
        assert_eq!(world.owned.kept_restores()[0].1.allocated, 4096);
        let target = world.begin(&request("one"), OnLoss::Keep);
        assert_eq!((target.volume(), target.content(), target.size()), (id, TargetContent::Partial, bytes(MIB)));
        assert!(matches!(world.owned.create_volume(&request("one")), Err(PoolError::Busy(_))), "its name is claimed");
        assert_eq!(world.kept(), 0);
        target.file().write_all_at(b"whole", 0).unwrap();
        let volume = world.owned.commit_restore(target.close()).unwrap();
        assert_eq!((volume.id, volume.format), (id, FormatState::Copied));
        world.restart();
        assert_eq!(world.read(Object::Volume(id), 0, 5), b"whole");
        world.assert_tidy();
    }
}

#[test]
fn a_restore_that_is_taken_over_again_and_again_is_the_same_object() {
    let world = World::new();
    let id = world.leave("one", b"part");
    for _ in 0..3 {
        assert_eq!(world.leave("one", b"more"), id);
    }
    let target = world.begin(&request("one"), OnLoss::Keep);
    world.owned.abort_restore(target.close()).unwrap();
    world.assert_tidy();
    assert!(!world.is_there(id));
    assert_eq!(world.begin(&request("one"), OnLoss::Keep).content(), TargetContent::Zeros);
}

#[test]
fn what_is_asked_for_differently_deletes_it_and_is_refused_nothing() {
    type Ask = fn(&World);
    fn restore(world: &World, request: &NewVolume, on_loss: OnLoss) {
        let target = world.begin(request, on_loss);
        assert_eq!(target.content(), TargetContent::Zeros);
        let mut data = [1; 4];
        target.file().read_exact_at(&mut data, 0).unwrap();
        assert_eq!(data, [0; 4]);
        world.owned.commit_restore(target.close()).unwrap();
    }
    let asks: [(&str, Ask); 5] = [
        ("another snapshot", |world| restore(world, &NewVolume { foreign_source: None, ..request("one") }, OnLoss::Keep)),
        ("another mode", |world| restore(world, &NewVolume { mode: VolumeMode::Block, ..request("one") }, OnLoss::Keep)),
        ("another size", |world| {
            let capacity = CapacityRange::exactly(bytes(2 * MIB));
            restore(world, &NewVolume { capacity, ..request("one") }, OnLoss::Keep);
        }),
        ("one that is not to be kept", |world| restore(world, &request("one"), OnLoss::Delete)),
        ("an empty volume", |world| drop(world.owned.create_volume(&new_volume("one")).unwrap())),
    ];
    for (what, ask) in asks {
        let mut world = World::new();
        let id = world.leave("one", b"part");
        ask(&world);
        assert!(!world.is_there(id), "{what}");
        assert_eq!(world.owned.volumes().unwrap().len(), 1, "{what}");
        world.assert_tidy();
        world.restart();
        world.assert_tidy();
    }
}

#[test]
fn a_commit_under_the_name_of_a_kept_restore_deletes_that() {
    let world = World::new();
    let id = world.leave("one", b"part");
    let target = world.begin(&new_volume("two"), OnLoss::Delete);
    world.owned.commit_restore_as(target.close(), name("one")).unwrap();
    assert!(!world.is_there(id));
    world.assert_tidy();
}

#[test]
fn what_resists_its_deletion_keeps_no_name_and_goes_later() {
    let world = World::new();
    let id = world.leave("one", b"part");
    world.fail(Verb::Delete, Moment::Before);
    world.create("one");
    assert!(world.is_there(id));
    world.memory.set_hook(None);
    world.create("two");
    assert!(!world.is_there(id));
    world.assert_tidy();
}

#[test]
fn nobody_who_held_it_can_write_to_it_when_it_is_taken_over() {
    let mut world = World::new();
    let target = world.begin(&request("one"), OnLoss::Keep);
    let (id, kept) = (target.volume(), target.file().try_clone().unwrap());
    drop(target);
    for _ in 0..2 {
        assert!(matches!(world.owned.let_go_restore(id), Err(PoolError::InUse { .. })));
        assert_eq!((world.kept(), world.owned.status().unwrap().restores), (0, 1));
    }
    // Nor where it was this process that died.
    world.restart();
    assert_eq!(world.kept(), 1);
    let target = world.begin(&request("one"), OnLoss::Keep);
    assert!(target.volume() != id && target.content() == TargetContent::Zeros);
    kept.write_all_at(b"mine", 0).unwrap();
    world.owned.commit_restore(target.close()).unwrap();
    world.assert_tidy();
}

#[test]
fn one_that_lost_its_size_or_its_object_begins_anew() {
    let mut world = World::new();
    for restarted in [false, true] {
        for lost in [false, true] {
            let id = world.leave("one", b"part");
            match lost {
                true => world.memory.delete(Object::Volume(id)).unwrap(),
                false => world.memory.open(Object::Volume(id), Access::ReadWrite).unwrap().set_len(MIB / 2).unwrap(),
            }
            if restarted {
                world.restart();
                assert_eq!(world.kept(), 0, "undone by the start");
            }
            let target = world.begin(&request("one"), OnLoss::Keep);
            assert_eq!(target.content(), TargetContent::Zeros);
            world.owned.abort_restore(target.close()).unwrap();
            world.assert_tidy();
        }
    }
}

#[test]
fn an_hour_is_long_enough() {
    let mut world = World::new();
    let begun = Instant::now();
    let id = world.leave("one", b"part");
    world.owned.delete_overdue_restores(begun + OnLoss::KEPT_FOR - Duration::from_secs(1));
    assert_eq!(world.kept(), 1);
    // It begins anew with the process, and with each attempt.
    world.restart();
    let target = world.begin(&request("one"), OnLoss::Keep);
    world.owned.delete_overdue_restores(Instant::now() + 2 * OnLoss::KEPT_FOR);
    world.owned.let_go_restore(target.close()).unwrap();
    assert_eq!(world.kept(), 1);
    world.fail(Verb::Delete, Moment::Before);
    world.owned.delete_overdue_restores(Instant::now() + OnLoss::KEPT_FOR);
    assert!(world.kept() == 0 && world.is_there(id), "its data resists");
    world.memory.set_hook(None);
    world.owned.check_catalogue().unwrap();
    assert!(!world.is_there(id));
    world.assert_tidy();
}

#[test]
fn the_ones_that_were_kept_for_longest_go_when_there_are_too_many() {
    let mut world = World::new();
    let ids: Vec<VolumeId> = (0..OnLoss::MOST_KEPT + 3).map(|number| world.leave(&format!("pvc-{number}"), b"part")).collect();
    assert_eq!(world.kept(), OnLoss::MOST_KEPT);
    assert_eq!(ids.iter().map(|id| world.is_there(*id)).position(|is_there| is_there), Some(3));
    // Those that were being made when the process died count too.
    let target = world.begin(&request("another"), OnLoss::Keep);
    world.restart();
    assert_eq!(world.kept(), OnLoss::MOST_KEPT);
    assert!(world.is_there(target.volume()) && !world.is_there(ids[3]));
}

#[test]
fn they_give_way_to_new_volumes_and_to_writers() {
    let wide = |text: &str, mib: u64| NewVolume { capacity: CapacityRange::exactly(bytes(mib * MIB)), ..new_volume(text) };
    // Of 64 MiB a tenth is the reserve.
    let world = World::over(MemoryPool::with_capacity(64 * MIB), Arc::new(NothingToHold));
    let keep = |text: &str| {
        let target = world.begin(&wide(text, 20), OnLoss::Keep);
        target.file().write_all_at(&vec![1; 20 << 20], 0).unwrap();
        let id = target.close();
        world.owned.let_go_restore(id).unwrap();
        id
    };
    let (first, second) = (keep("one"), keep("two"));
    let other = world.owned.create_volume(&wide("three", 30)).unwrap().into_inner();
    world.write(other.id, 0, &vec![1; 20 << 20]);
    // Told before anybody asks for it.
    assert!(world.owned.room_for_volumes().unwrap() > 0);
    world.owned.create_volume(&wide("four", 1)).unwrap();
    assert!(!world.is_there(first) && world.is_there(second), "one of them is enough");
    world.write(other.id, 20 << 20, &vec![1; 10 << 20]);
    let third = world.owned.create_volume(&wide("five", 10)).unwrap().into_inner();
    world.write(third.id, 0, &vec![1; 8 << 20]);
    world.owned.look(&mut Seen::default());
    assert!(!world.is_there(second), "a writer came to the reserve");
    world.assert_tidy();
}

#[test]
fn what_was_promised_to_them_is_promised_to_whoever_asks() {
    let world = World::new();
    let total = world.owned.status().unwrap().usage.total;
    world.owned.set_properties(|properties| properties.overprovision_ratio = "1".parse().unwrap()).unwrap();
    let capacity = |share: u64| CapacityRange::exactly(VolumeSize::at_least(total / share).unwrap());
    let large = |text: &str| NewVolume { capacity: capacity(2), ..new_volume(text) };
    let target = world.begin(&large("one"), OnLoss::Keep);
    let id = target.close();
    world.owned.let_go_restore(id).unwrap();
    world.owned.create_volume(&large("two")).unwrap();
    assert!(world.is_there(id), "both fit");
    assert!(world.owned.room_for_volumes().unwrap() > 0);
    let third = world.owned.create_volume(&NewVolume { capacity: capacity(4), ..new_volume("three") }).unwrap().into_inner();
    assert!(!world.is_there(id));
    let target = world.begin(&request("four"), OnLoss::Keep);
    world.owned.let_go_restore(target.close()).unwrap();
    world.owned.grow_volume(third.id, capacity(2)).unwrap();
    assert_eq!(world.kept(), 0);
    world.assert_tidy();
}

#[test]
fn wherever_the_process_dies_while_one_gives_way_the_same_request_succeeds_after_the_start() {
    type Ask = fn(&World) -> Result<(), PoolError>;
    let asks: [Ask; 2] = [
        |world| world.owned.create_volume(&new_volume("one")).map(drop),
        |world| match world.owned.begin_restore(&NewVolume { mode: VolumeMode::Block, ..request("one") }, OnLoss::Keep)? {
            RestoreStart::Target(target) => world.owned.commit_restore(target.close()).map(drop),
            RestoreStart::Existing(_) => Ok(()),
        },
    ];
    for ask in asks {
        for (verb, moment) in [Verb::Detach, Verb::Delete, Verb::Create]
            .into_iter()
            .flat_map(|verb| [(verb, Moment::Before), (verb, Moment::After)])
        {
            let mut world = World::new();
            let id = world.leave("one", b"part");
            world.memory.set_hook(Some(Arc::new(
                move |called, at| {
                    if (called, at) == (verb, moment) { panic!("killed here") } else { Ok(()) }
                },
            )));
            assert!(catch_unwind(AssertUnwindSafe(|| ask(&world))).is_err(), "{verb:?}");
            world.restart();
            assert!(world.owned.volumes().unwrap().is_empty());
            ask(&world).unwrap();
            assert_eq!(world.owned.volumes().unwrap().len(), 1);
            assert!(!world.is_there(id));
            world.assert_tidy();
        }
    }
}

#[test]
fn what_a_commit_that_failed_has_done_is_known_before_a_target_is_kept() {
    let mut full = 0;
    for fits in 0.. {
        let disk = crash::Disk::default();
        let mut world = World::new();
        world.catalogue = Catalogue::over(disk.clone(), PoolId::random()).unwrap();
        world.restart();
        let target = world.begin(&request("one"), OnLoss::Keep);
        let id = target.close();
        disk.set_room(Some(fits));
        let committed = world.owned.commit_restore(id);
        if !disk.was_full() {
            committed.unwrap();
            break;
        }
        full += 1;
        assert!(matches!(committed, Ok(_) | Err(PoolError::Catalogue(_))), "{committed:?}");
        assert!(committed.is_ok() || world.owned.let_go_restore(id).is_err(), "nothing is known yet");
        disk.set_room(None);
        world.owned.let_go_restore(id).unwrap();
        match world.owned.begin_restore(&request("one"), OnLoss::Keep).unwrap() {
            RestoreStart::Existing(volume) => assert_eq!(volume.id, id),
            RestoreStart::Target(target) => {
                assert_eq!((target.volume(), target.content()), (id, TargetContent::Partial));
                world.owned.commit_restore(target.close()).unwrap();
            }
        }
        world.owned.delete_overdue_restores(Instant::now() + 2 * OnLoss::KEPT_FOR);
        assert!(world.is_there(id));
        world.assert_tidy();
    }
    assert!(full > 2, "{full}");
}

#[test]
fn what_may_have_been_deleted_is_given_to_nobody() {
    let mut full = 0;
    for fits in 0.. {
        let disk = crash::Disk::default();
        let mut world = World::new();
        world.catalogue = Catalogue::over(disk.clone(), PoolId::random()).unwrap();
        world.restart();
        world.leave("one", b"part");
        disk.set_room(Some(fits));
        world.owned.delete_overdue_restores(Instant::now() + OnLoss::KEPT_FOR);
        if !disk.was_full() {
            break;
        }
        full += 1;
        disk.set_room(None);
        let target = world.begin(&request("one"), OnLoss::Keep);
        target.file().write_all_at(b"whole", 0).unwrap();
        let volume = world.owned.commit_restore(target.close()).unwrap();
        world.owned.delete_overdue_restores(Instant::now() + 2 * OnLoss::KEPT_FOR);
        world.create("two");
        assert_eq!(world.read(Object::Volume(volume.id), 0, 5), b"whole");
        world.assert_tidy();
    }
    assert!(full > 2, "{full}");
}
