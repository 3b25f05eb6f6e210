//! Deletions that are refused or come to nothing.

use super::*;

#[test]
fn a_published_volume_is_not_deleted_unless_that_was_another_boot() {
    let world = World::new();
    let volume = world.create("one");
    world.owned.put_publication(volume.id, publication(&this_boot())).unwrap();
    world.owned.put_publication(volume.id, publication(&this_boot())).unwrap();
    assert_eq!(world.owned.publications(volume.id).unwrap().len(), 1);
    assert!(matches!(world.owned.delete_volume(volume.id), Err(PoolError::InUse { .. })));
    world.owned.remove_publication(volume.id, &PathBuf::from("/elsewhere")).unwrap();
    world.owned.put_publication(volume.id, publication("an earlier boot")).unwrap();
    world.owned.delete_volume(volume.id).unwrap();
    assert_eq!(world.owned.publications(volume.id).unwrap(), Vec::new());
    assert!(matches!(world.owned.put_publication(volume.id, publication("x")), Err(PoolError::Missing(_))));
    world.owned.delete_volume(volume.id).unwrap();
    world.assert_tidy();
}

#[test]
fn a_volume_that_turns_out_to_be_in_use_is_not_deleted_and_comes_back_into_sight() {
    let world = World::new();
    let volume = world.create("one");
    world.memory.set_hook(Some(Arc::new(move |verb, moment| match (verb, moment) {
        (Verb::Delete, Moment::Before) => Err(PoolError::InUse { object: Object::Volume(volume.id), by: "somebody".to_owned() }),
        _ => Ok(()),
    })));
    assert!(matches!(world.owned.delete_volume(volume.id), Err(PoolError::InUse { .. })));
    assert_eq!(world.owned.volume_by_name(&name("one")).unwrap().unwrap().id, volume.id);
    world.memory.set_hook(None);
    world.assert_tidy();
}
