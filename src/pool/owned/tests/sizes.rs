//! What the record says of sizes, whatever failed.

use super::*;

#[test]
fn a_record_never_says_less_than_the_object_holds() {
    let up_to = |size| CapacityRange::new(Some(size), None).unwrap();
    let grown = |moment| {
        let world = World::new();
        let volume = world.create("one");
        world.fail(Verb::Grow, moment);
        world.owned.grow_volume(volume.id, up_to(8 * MIB)).unwrap_err();
        world.memory.set_hook(None);
        (world, volume.id)
    };
    let size = |world: &World, id| world.owned.volume(id).unwrap().unwrap().size;
    // It failed behind the effect: the record follows at once, whatever is done next.
    let (world, id) = grown(Moment::After);
    assert_eq!(size(&world, id), bytes(8 * MIB));
    assert_eq!(world.cut("snap", id).size, bytes(8 * MIB));
    let lowered = world.owned.grow_volume(id, up_to(2 * MIB)).unwrap();
    assert_eq!((lowered.size, size(&world, id)), (bytes(8 * MIB), bytes(8 * MIB)));
    world.assert_tidy();
    let limited = CapacityRange::new(Some(2 * MIB), Some(4 * MIB)).unwrap();
    assert!(matches!(world.owned.grow_volume(id, limited), Err(PoolError::Size(_))));
    // It failed before it: a smaller growth is a smaller growth.
    let (world, id) = grown(Moment::Before);
    assert_eq!(size(&world, id), bytes(MIB));
    assert_eq!(world.owned.grow_volume(id, up_to(2 * MIB)).unwrap().size, bytes(2 * MIB));
    world.assert_tidy();
}

#[test]
fn a_record_that_an_earlier_version_left_too_small_is_mended_before_a_cut_a_copy_or_a_growth() {
    for then in ["cut", "copy", "grow", "restart"] {
        let mut world = World::new();
        let volume = world.create("one");
        world.memory.grow(volume.id, bytes(8 * MIB)).unwrap();
        match then {
            "cut" => assert_eq!(world.cut("snap", volume.id).size, bytes(8 * MIB)),
            "copy" => {
                let request =
                    NewVolume { source: Some(Object::Volume(volume.id)), capacity: CapacityRange::ANY, ..new_volume("copy") };
                assert_eq!(world.owned.create_volume(&request).unwrap().into_inner().size, bytes(8 * MIB));
            }
            "grow" => {
                let size = world.owned.grow_volume(volume.id, CapacityRange::new(Some(2 * MIB), None).unwrap()).unwrap().size;
                assert_eq!(size, bytes(8 * MIB));
            }
            _ => {
                let smaller = Intent::Grow { volume: volume.id, size: bytes(2 * MIB) };
                world.catalogue.commit("test", |change| change.add_intent(&smaller)).unwrap();
                world.restart();
            }
        }
        assert_eq!(world.owned.volume(volume.id).unwrap().unwrap().size, bytes(8 * MIB), "{then}");
        world.assert_tidy();
    }
}

#[test]
fn a_volume_that_comes_back_from_its_deletion_has_the_size_that_a_failed_growth_gave_it() {
    let world = World::new();
    let volume = world.create("one");
    world.fail(Verb::Grow, Moment::After);
    world.owned.grow_volume(volume.id, CapacityRange::new(Some(8 * MIB), None).unwrap()).unwrap_err();
    // As if the record had not followed: the deletion is begun from the record, and its act finds the volume in use.
    world.catalogue.commit("test", |change| change.put_volume(&volume)).unwrap();
    let object = Object::Volume(volume.id);
    world.memory.set_hook(Some(Arc::new(move |verb, at| match (verb, at) {
        (Verb::Delete, Moment::Before) => Err(PoolError::InUse { object, by: "test".to_owned() }),
        _ => Ok(()),
    })));
    assert!(matches!(world.owned.delete_volume(volume.id), Err(PoolError::InUse { .. })));
    world.memory.set_hook(None);
    assert_eq!(world.owned.volume(volume.id).unwrap().unwrap().size, bytes(8 * MIB));
    assert_eq!(world.catalogue.intents().unwrap().len(), 1, "its device still has to follow");
    world.owned.grow_volume(volume.id, CapacityRange::new(Some(MIB), None).unwrap()).unwrap();
    world.assert_tidy();
}
