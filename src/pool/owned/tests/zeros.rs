//! Volumes that were filled as raw devices give the space of their zeros back.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::pool::record::{VolumeHistory, Zeros};

const SIZE: usize = 16 << 20;

/// A volume of 16 MiB that was filled as a raw device, mostly with zeros; and what it holds.
fn filled(world: &World) -> (VolumeId, Vec<u8>) {
    let request = NewVolume { capacity: CapacityRange::exactly(bytes(SIZE as u64)), ..new_volume("filled") };
    let volume = world.owned.create_volume(&request).unwrap().into_inner();
    world.owned.put_publication(volume.id, staged(VolumeMode::Block)).unwrap();
    let mut content = vec![0; SIZE];
    // The first and the last byte of a granule, and a run that ends in the middle of one.
    content[0] = 1;
    content[3 * 4096 - 1] = 2;
    content[5 << 20..(5 << 20) + 5000].fill(3);
    content[SIZE - 1] = 4;
    world.write(volume.id, 0, &content);
    (volume.id, content)
}

fn staged(mode: VolumeMode) -> Publication {
    Publication { kind: PublicationKind::Staged, mode, path: "/staging".into(), ..publication(&this_boot()) }
}

fn allocated(world: &World, volume: VolumeId) -> u64 {
    world.owned.usage_of(Object::Volume(volume)).unwrap().allocated
}

fn pass(world: &World, volume: VolumeId) -> Pass {
    world.owned.give_back_zeros_of(volume, &AtomicBool::new(false)).unwrap()
}

fn zeros(world: &World, volume: VolumeId) -> Zeros {
    world.owned.volume(volume).unwrap().unwrap().history.zeros
}

#[test]
fn zeros_give_their_space_back_once_and_the_content_stays() {
    let world = World::new();
    let (volume, content) = filled(&world);
    let snapshot = world.cut("before", volume);
    assert_eq!(allocated(&world, volume), SIZE as u64);
    assert!(matches!(pass(&world, volume), Pass::Done { bytes } if bytes > 15 << 20));
    assert!(allocated(&world, volume) <= 6 * 4096, "{}", allocated(&world, volume));
    for object in [Object::Volume(volume), Object::Snapshot(snapshot.id)] {
        assert!(world.read(object, 0, SIZE) == content, "{object}");
    }
    // What is written from now on is what its user wants there.
    world.owned.put_publication(volume, staged(VolumeMode::Block)).unwrap();
    world.write(volume, 0, &content);
    assert_eq!(pass(&world, volume), Pass::NotDue);
    assert_eq!(allocated(&world, volume), SIZE as u64);
    world.assert_tidy();
}

#[test]
fn only_a_volume_that_could_be_written_to_as_a_raw_device_is_looked_at() {
    let world = World::new();
    let volume = world.create("one").id;
    assert_eq!(pass(&world, volume), Pass::NotDue);
    world.owned.put_publication(volume, staged(VolumeMode::Filesystem(FsType::Xfs))).unwrap();
    let reader = Publication { access: Access::ReadOnly, ..staged(VolumeMode::Block) };
    world.owned.put_publication(volume, reader).unwrap();
    world.owned.put_publication(volume, Publication { path: "/target".into(), ..publication(&this_boot()) }).unwrap();
    assert_eq!((zeros(&world, volume), pass(&world, volume)), (Zeros::NotWritten, Pass::NotDue));
    world.owned.put_publication(volume, staged(VolumeMode::Block)).unwrap();
    assert_eq!(zeros(&world, volume), Zeros::Kept);
    assert_eq!(pass(&world, VolumeId::random()), Pass::NotDue);
}

#[test]
fn a_copy_that_was_given_out_as_a_raw_device_is_not_read_for_zeros_that_its_source_keeps() {
    let world = World::new();
    let (volume, _) = filled(&world);
    let snapshot = world.cut("backup", volume);
    for source in [Object::Snapshot(snapshot.id), Object::Volume(volume)] {
        let request = NewVolume { source: Some(source), ..new_volume(&format!("copy of {source}")) };
        let request = NewVolume { capacity: CapacityRange::exactly(bytes(SIZE as u64)), ..request };
        let copy = world.owned.create_volume(&request).unwrap().into_inner().id;
        world.owned.put_publication(copy, staged(VolumeMode::Block)).unwrap();
        assert_eq!(pass(&world, copy), Pass::NotDue, "{source}");
    }
    assert!(matches!(pass(&world, volume), Pass::Done { .. }), "the volume that was filled");
}

#[test]
fn how_a_volume_was_staged_last_is_recorded_beside_what_it_was_made_for() {
    let world = World::new();
    let volume = world.create("one");
    assert_eq!((volume.history, volume.given_as()), (VolumeHistory::default(), volume.mode));
    for mode in [VolumeMode::Block, VolumeMode::Filesystem(FsType::Xfs)] {
        world.owned.put_publication(volume.id, staged(mode)).unwrap();
        world.owned.remove_publication(volume.id, std::path::Path::new("/staging")).unwrap();
        let now = world.owned.volume(volume.id).unwrap().unwrap();
        assert_eq!((now.given_as(), now.mode), (mode, volume.mode));
    }
    let text = serde_json::to_string(&volume).unwrap();
    assert!(!text.contains("history"), "a record of an earlier version reads the same: {text}");
}

#[test]
fn a_volume_in_use_is_left_alone_and_looked_at_when_it_is_let_go_of() {
    let world = World::new();
    let (volume, content) = filled(&world);
    world.owned.attach(Object::Volume(volume), Access::ReadWrite).unwrap();
    assert_eq!(pass(&world, volume), Pass::InUse);
    assert_eq!((zeros(&world, volume), allocated(&world, volume)), (Zeros::Kept, SIZE as u64));
    world.owned.detach(Object::Volume(volume)).unwrap();
    assert!(matches!(pass(&world, volume), Pass::Done { .. }));
    assert!(world.read(Object::Volume(volume), 0, SIZE) == content);
}

#[test]
fn a_pass_that_is_stopped_begins_anew_and_ends_after_a_restart() {
    let mut world = World::new();
    let (volume, content) = filled(&world);
    assert_eq!(world.owned.give_back_zeros_of(volume, &AtomicBool::new(true)).unwrap(), Pass::Interrupted);
    assert_eq!(zeros(&world, volume), Zeros::Kept);
    world.restart();
    assert!(matches!(pass(&world, volume), Pass::Done { .. }));
    assert!(world.read(Object::Volume(volume), 0, SIZE) == content);
    world.assert_tidy();
}

#[test]
fn whoever_wants_the_volume_makes_the_pass_give_way() {
    let world = World::new();
    let (volume, _) = filled(&world);
    let lock = world.owned.locks.lock_yielding(Key::Object(Object::Volume(volume))).unwrap();
    assert_eq!(pass(&world, volume), Pass::Interrupted, "two passes at once");
    std::thread::scope(|scope| {
        let attaching = scope.spawn(|| world.owned.attach(Object::Volume(volume), Access::ReadWrite));
        while !lock.is_wanted() {
            std::thread::yield_now();
        }
        drop(lock);
        attaching.join().unwrap().unwrap();
    });
    assert_eq!(pass(&world, volume), Pass::InUse);
}

#[test]
fn a_watched_pool_gives_back_what_an_earlier_process_left_and_what_is_let_go_of_later() {
    let world = World::new();
    let (left, _) = filled(&world);
    let again = OwnedPool::open(world.memory.clone(), world.catalogue.clone(), world.quiesce.clone()).unwrap().watched().unwrap();
    let given_back = |volume: VolumeId| {
        while again.volume(volume).unwrap().unwrap().history.zeros != Zeros::GivenBack {
            crate::types::poll::pause(Duration::from_millis(5));
        }
    };
    given_back(left);
    let later = again.create_volume(&new_volume("later")).unwrap().into_inner().id;
    again.put_publication(later, staged(VolumeMode::Block)).unwrap();
    again.give_zeros_back_soon(later);
    given_back(later);
    assert!(allocated(&world, left) < MIB);
}
